"""Cells and functions sent to a Flyte backend, whose containers are processes."""

from __future__ import annotations

import time

import pytest

from tests import leaks
from tests.flyte_backend.running import Running, backend
from tests.notebook import Notebook, notebook

DECLARE = """\
import asyncio, dataclasses, datetime, os
import flyte, flyte_jupyter
import numpy as np, pandas as pd
env = flyte.TaskEnvironment(name="env", image="registry/image:1")
"""
HELPERS = """\
import deep

class Shifted:
    def __init__(self, value):
        self.value = deep.one(value)

def twice(x):
    return 2 * x
"""


def write_modules(folder) -> None:
    (folder / "helpers.py").write_text(HELPERS)
    (folder / "deep.py").write_text("def one(x):\n    return x + 1\n")
    (folder / "pack" / "inner").mkdir(parents=True)
    (folder / "pack" / "__init__.py").write_text("SEVEN = 7\n")
    (folder / "pack" / "inner" / "failing.py").write_text("def fail():\n    return 1 / 0\n")


@pytest.fixture(scope="module")
def flyte_backend(tmp_path_factory) -> Running:
    with backend(tmp_path_factory.mktemp("backend")) as running:
        yield running


@pytest.fixture(scope="module")
def book(flyte_backend, tmp_path_factory) -> Notebook:
    """A notebook that is configured for it, with modules beside it."""
    folder = tmp_path_factory.mktemp("book")
    write_modules(folder)
    with notebook(folder, flyte_backend.init, DECLARE) as book:
        yield book


def send(body: str, options: str = "", environment: str = "env") -> str:
    return f"%%flyte_task {environment} --on flyte {options}\n{body}"


def call(expression: str) -> str:
    name, _, rest = expression.partition("(")
    inside = rest.removesuffix(")")
    arguments = f"{name}, {inside}" if inside else name
    return f"flyte_jupyter.run({arguments}, on='flyte').result()"


def page_of(cell) -> dict[str, str]:
    """Return what the display of a run shows in the end."""
    return (cell.of("display_data", "update_display_data"))[-1]["data"]


# -- values -----------------------------------------------------------------------------------


def test_a_cell_runs_there_with_what_it_reads_and_brings_back_what_is_asked_for(book):
    book.run("x, name = 20, 'there'\ndef helper(v):\n    return v + 1")
    cell = book.run(send("print('hello', name)\ny = helper(x)\ny", "-o y"))
    assert cell.stdout == "hello there\n"
    assert cell.result == "21"
    assert book.value("y") == 21


def test_the_container_has_nothing_of_this_package(book):
    book.run(send("import sys\nfound = 'flyte_jupyter' in sys.modules", "-o found"))
    assert book.value("found") is False


def last_spec(flyte_backend, book):
    run = book.value("flyte_jupyter.session().runs[-1].link.rsplit('/')[-1]")
    return flyte_backend.specs()[f"{run}/a0"].task_template


def test_inputs_have_the_types_of_their_values(book, flyte_backend):
    book.run("""\
from flyteidl2.core.types_pb2 import SimpleType
whole, real, text, yes, nothing = 3, 1.5, 'a', True, None
when, how_long = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), \
datetime.timedelta(seconds=3)
many, named, mixed, large = [1, 2], {'z': 1.5, 'a': 2.5}, [1, 'a'], 2**70
naive = datetime.datetime(2026, 7, 2, 12)
east = naive.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
numpy_number, empty, times = np.float64(2.5), [], [naive]
frame = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})
odd_frame = pd.DataFrame({'a': [1, 2]}, index=[5, 6])
dated = pd.DataFrame({'d': pd.to_datetime(['2026-01-01']), 'c': pd.Categorical(['x'])})
array, big = np.arange(3), np.arange(100_000)""")
    names = (
        "whole, real, text, yes, nothing, when, how_long, many, named, mixed, large, naive, east, "
        "numpy_number, empty, times, dated, frame, odd_frame, array, big"
    )
    book.run(send(f"same = [{names}]", "-o same"))
    before, after = book.value(f"repr([{names}])"), book.value("repr(same)")
    assert after == before
    assert book.value("bool((same[-1] == big).all()), same[-4].equals(frame)") == (True, True)
    types = {
        variable.key: variable.value.type
        for variable in last_spec(flyte_backend, book).interface.inputs.variables
    }
    simple = {name: kind.simple for name, kind in types.items()}
    assert [simple[n] for n in ("whole", "real", "text", "yes")] == [1, 2, 3, 4]
    assert [simple[n] for n in ("when", "how_long")] == [5, 6]
    assert types["many"].collection_type.simple == 1
    assert types["frame"].HasField("structured_dataset_type")
    assert types["big"].HasField("blob")
    book.run("[dated_after] = [each for each in same if getattr(each, 'shape', 0) == (1, 2)]")
    assert book.value("dated_after.dtypes.equals(dated.dtypes)") is True
    for pickled in ("mixed", "large", "odd_frame", "array", "naive", "east", "named", "dated"):
        tags = {v.structure.tag for v in types[pickled].union_type.variants}
        assert tags == {"FlytePickle"}, pickled


def test_outputs_have_the_types_of_their_values(book):
    book.run("@dataclasses.dataclass\nclass Conf:\n    rate: float")
    body = """\
whole, text, nothing, conf = 3, 'a', None, Conf(0.5)
big = np.arange(100_000)
frame = pd.DataFrame({'a': [1]})"""
    book.run(send(body, "-o whole,text,nothing -o conf,big,frame"))
    assert book.value("(whole, text, nothing, conf.rate)") == (3, "a", None, 0.5)
    assert book.value("type(conf) is Conf, int(big.sum()), frame.shape") == (
        True,
        4999950000,
        (1, 1),
    )


def test_functions_get_and_give_what_they_declare(book):
    book.run("""\
@dataclasses.dataclass
class Scale:
    by: float

@env.task
def scaled(df: pd.DataFrame, scale: Scale, big: np.ndarray, more: int = 2) -> pd.DataFrame:
    return df * scale.by + big.sum() + more

@env.task
async def both(x: int) -> tuple[int, str]:
    return x, "a"

@env.task
def bare(x, big):
    return {"x": x, "shape": big.shape}""")
    frame = "pd.DataFrame({'a': [1.0, 2.0]})"
    found = book.value(call(f"scaled({frame}, Scale(2.0), np.ones(50_000))") + "['a'].tolist()")
    assert found == [50004.0, 50006.0]
    assert book.value(call("both(3)")) == (3, "a")
    assert book.value(call("bare(3, big=np.ones(50_000))")) == {"x": 3, "shape": (50000,)}


def test_files_travel(book, tmp_path):
    (tmp_path / "data.txt").write_text("text")
    book.run("""\
from flyte.io import File

@env.task
async def read(file: File) -> int:
    async with file.open("rb") as data:
        return len(bytes(await data.read()))""")
    assert book.value(call(f"read(await File.from_local({str(tmp_path / 'data.txt')!r}))")) == 4


def test_what_is_sent_is_what_there_was_then(book):
    book.run("conf, many, rate = {'lr': 1}, [1], 1\n\ndef rated():\n    return rate")
    first = send("import time\nfound = conf['lr'], many, rated()", "--bg frozen -o found")
    book.run(f"get_ipython().run_cell({first!r})\nconf['lr'] = 99\nmany.append(2)\nrate = 99")
    assert book.value("await frozen") == (1, [1], 1)


def test_what_cannot_be_pickled_is_named_on_either_side(book):
    book.run("lock = __import__('threading').Lock()")
    error = book.fail(send("lock"))
    assert (error.name, "`lock` cannot be sent: a lock" in error.value) == ("CaptureError", True)
    error = book.fail(send("numbers = (i for i in range(3))", "-o numbers"))
    assert error.value.startswith("`numbers` cannot be sent back: a generator")


# -- code -------------------------------------------------------------------------------------


def test_local_modules_travel_as_they_are_now(book, tmp_path):
    folder = book.value("os.getcwd()")
    book.run("import helpers")
    assert book.run(send("helpers.Shifted(helpers.twice(3)).value")).result == "7"
    book.run(f"open('{folder}/deep.py', 'w').write('def one(x):\\n    return x + 100\\n')")
    assert book.run(send("import helpers\nhelpers.Shifted(1).value")).result == "101"


def test_local_modules_come_before_those_of_the_image(book, tmp_path):
    (tmp_path / "deep.py").write_text("STALE = True\n")
    (tmp_path / "helpers.py").write_text("STALE = True\n")
    book.run(
        f"old = flyte.TaskEnvironment(name='old', image='r/i:1', "
        f"env_vars={{'PYTHONPATH': {str(tmp_path)!r}}})"
    )
    body = "import sys, helpers, deep\nhasattr(deep, 'STALE'), {path!r} in sys.path"
    assert book.run(send(body.format(path=str(tmp_path)), "", "old")).result == "(False, True)"


def test_code_means_there_what_it_means_here(book):
    body = "class A:\n    x: int\nkind = A.__annotations__['x']"
    book.run(send(body, "-o kind"))
    assert book.value("kind is int") is True
    folder = book.value("os.getcwd()")
    book.run(f"open('{folder}/marked.py', 'wb').write(b'\\xef\\xbb\\xbfword = 1')")
    book.run(f"open('{folder}/western.py', 'wb').write(b'# coding: latin-1\\nword = \"\\xe9\"')")
    book.run(f"open('{folder}/random.py', 'w').write('MINE = True')\nimport random")
    book.run(f"os.symlink('nowhere', '{folder}/pack/.#lock.py')")
    body = "import marked, western, random, pack\nword = western.word, hasattr(random, 'MINE')"
    book.run(send(body, "-o word"))
    assert book.value("word") == ("\xe9", book.value("hasattr(random, 'MINE')"))


def test_processes_that_a_task_starts_find_local_modules(book):
    body = """\
import subprocess, sys, helpers
asked = [sys.executable, "-c", "import helpers; print(helpers.twice(4))"]
said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout"""
    book.run(send(body, "-o said"))
    assert book.value("said") == "8\n"


def test_local_modules_go_by_value_to_workers_of_a_cluster(book):
    book.run("""\
from flyteplugins.dask import Dask
workers = flyte.TaskEnvironment(name="workers", image="registry/image:1", plugin_config=Dask())""")
    body = """\
import cloudpickle, subprocess, sys, helpers, os
data = cloudpickle.dumps(helpers.twice)
code = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read())(4))"
elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
ran = subprocess.run(
    [sys.executable, "-c", code], input=data, capture_output=True, env=elsewhere, cwd="/"
)
said, one = ran.stdout.decode(), helpers.Shifted(1)"""
    book.run(send(body, "-o said,one", "workers"))
    book.run("import helpers")
    assert book.value("said, type(one) is helpers.Shifted") == ("8\n", True)


def test_a_decorated_task_has_its_modules(book):
    book.run("""\
import functools, helpers

@env.task
async def inner_part(x: int) -> int:
    return helpers.twice(x)

def decorated(task):
    execute = task.execute

    async def around(*args, **kwargs):
        print("around")
        return await execute(*args, **kwargs)

    task.execute = around
    return task

wrapped = decorated(inner_part)""")
    cell = book.run(call("wrapped(4)"))
    assert (cell.result, cell.stdout) == ("8", "around\n")


def test_a_class_of_the_users_is_taken_for_nothing_else(book):
    book.run("""\
class Box:
    def __init__(self, value):
        self.value = value

@env.task
def boxing() -> Box:
    return Box(3)""")
    book.run("given = " + call("boxing()"))
    assert book.value("type(given) is Box, given.value") == (True, 3)


def test_the_same_cell_has_the_same_version_for_flytes_cache(book, flyte_backend):
    book.run(
        "cached = flyte.TaskEnvironment(name='cached', image='r/i:1', cache='auto')\n"
        "def used(x):\n    return x + 1"
    )
    versions = set()
    for _ in range(2):
        book.run(send("y = used(3)\ny", "-o y", "cached"))
        versions.add(last_spec(flyte_backend, book).metadata.discovery_version)
    assert len(versions) == 1


def test_packages_travel_whole_and_show_their_lines(book):
    error = book.fail(send("from pack.inner import failing\nimport pack\nfailing.fail()"))
    assert error.name == "ZeroDivisionError"
    assert "return 1 / 0" in error.traceback
    assert "line 4, in <module>" in error.traceback


def test_a_cell_may_await_and_display(book):
    body = """\
class Rich:
    def _repr_html_(self):
        return "<b>rich</b>"
display(Rich(), "plain")
slept = await asyncio.sleep(0.01, 3)
Rich()"""
    cell = book.run(send(body, "-o slept"))
    assert cell.stdout == "'plain'\n"
    assert cell.displays[-1]["text/html"] == "<b>rich</b>"
    assert cell.of("execute_result")[-1]["data"]["text/html"] == "<b>rich</b>"
    assert book.value("slept") == 3
    assert book.run(send("1 + 1;")).result == ""


def test_tasks_call_tasks_of_other_environments_there(book, flyte_backend):
    book.run("""\
import helpers
other = flyte.TaskEnvironment(name="other", image="registry/other:1")

@other.task
async def inner(x: int) -> int:
    import pack
    return helpers.twice(x) + pack.SEVEN

@other.task
def plain(x: int) -> int:
    return x + 1

parents = flyte.TaskEnvironment(name="parents", image="registry/image:1", depends_on=[other])

@parents.task
async def outer(n: int) -> list[int]:
    return list(await asyncio.gather(*[inner(i) for i in range(n)]))

@parents.task
def plain_outer(n: int) -> int:
    return plain(n) + 1""")
    assert book.value(call("outer(n=2)")) == [7, 9]
    assert book.value(call("plain_outer(3)")) == 5
    cell = book.run(send("found = await inner(5)\nfound", "-o found"))
    assert cell.result == "17"
    images = {
        spec.task_template.id.name: spec.task_template.container.image
        for spec in flyte_backend.specs().values()
    }
    assert images["other.inner"] == "registry/other:1"
    assert images["env.cell"] == "registry/image:1"


def test_what_an_environment_declares_goes_with_it(book, flyte_backend):
    book.run("""\
from flyteplugins.dask import Dask, WorkerGroup
cluster = flyte.TaskEnvironment(
    name="cluster", image="registry/dask:1", resources=flyte.Resources(cpu=1),
    plugin_config=Dask(workers=WorkerGroup(number_of_workers=3)),
)""")
    book.run(send("1", "--timeout 120 --retries 2 --name counted", "cluster"))
    template = last_spec(flyte_backend, book)
    assert (template.type, template.id.name) == ("dask", "cluster.counted")
    assert template.custom["workers"]["numberOfWorkers"] == 3
    assert template.metadata.timeout.seconds == 120
    assert template.metadata.retries.retries == 2


def test_context_and_reports_are_as_they_are_here(book):
    book.run("""\
@env.task(report=True)
async def reporting(on: str) -> str:
    import flyte.report
    await flyte.report.replace.aio("<h1>all well</h1>")
    await flyte.report.flush.aio()
    return f"{on} {flyte.get_custom_context()}\"""")
    cell = book.run(
        "flyte_jupyter.with_runcontext({'a': 'b'}, on='flyte').run(reporting, 'x').result()"
    )
    assert cell.result == "\"x {'a': 'b'}\""
    assert "<h1>all well</h1>" in cell.displays[-1]["text/html"]


def test_telemetry_is_off_in_both_places(book):
    # The tests' own setting is one that the user has made.
    body = "import os\nfound = os.environ.get('DO_NOT_TRACK')"
    book.run(send(body, "-o found"))
    assert book.value("found, os.environ['DO_NOT_TRACK']") == ("1", "1")


def test_no_more_goes_than_is_needed(book, flyte_backend, tmp_path):
    book.run("import pack\nunused = pack\ntoken = 'not-for-others'\n\ndef used():\n    return 3")
    book.run(send("import sys, linecache\nfound = str(linecache.cache), used()", "-o found"))
    assert book.value("'not-for-others' in found[0], 'def used' in found[0]") == (False, True)
    body = "import sys\nfound = [path for path in sys.path if 'flyte-luggage' in path]"
    book.run(send(body, "-o found"))
    assert book.value("found") == []
    book.run(send(f"import helpers\n{body}\nfound = len(found)", "-o found"))
    assert book.value("found") == 1


# -- how it is seen ---------------------------------------------------------------------------


def test_phases_and_the_console_page_are_shown(book):
    cell = book.run(send("1"))
    shown = [c["data"]["text/plain"] for c in cell.of("display_data", "update_display_data")]
    assert shown[0] == "env.cell on Flyte: sending"
    assert "env.cell on Flyte: running" in " ".join(shown)
    page = page_of(cell)
    assert "succeeded" in page["text/html"]
    assert "/project/project/runs/r-cell-" in page["text/html"]


def test_lines_arrive_while_it_runs_and_are_kept(book):
    cell = book.submit(send("import time\nprint('in')\ntime.sleep(2)\nprint('out')"))
    book.until_printed(cell, "in\n")
    assert not cell.done
    book.wait(cell)
    assert cell.stdout == "in\nout\n"
    assert book.run("%flyte logs").result.splitlines() == ["in", "out"]
    listed = book.run("%flyte runs -n 1").result
    assert "env on Flyte" in listed
    assert "succeeded" in listed
    assert "/runs/r-cell-" in listed


def test_a_log_that_is_late_or_breaks_off_is_read_all_the_same(book):
    assert book.run(send("print('in')", "--name late")).stdout == "in\n"
    body = "import time\nprint('in')\ntime.sleep(2)\nprint('out')"
    assert book.run(send(body, "--name broken")).stdout == "in\nout\n"


def test_a_flood_is_bounded_and_kept_whole(book):
    cell = book.run(send("for n in range(100_000):\n    print(n, 'x' * 40)"))
    assert len(cell.stdout) < 3_000_000
    assert "are only in %flyte logs" in cell.stderr
    assert cell.stdout.rstrip().endswith("99999 " + "x" * 40)
    assert book.value("len(flyte_jupyter.session().runs[-1].log())") > 4_600_000


def test_errors_are_those_of_the_task(book):
    book.run("class Mine(Exception):\n    pass")
    error = book.fail(send("def f(q):\n    raise Mine(f'not {q}')\nf(3)"))
    assert (error.name, error.value) == ("Mine", "not 3")
    assert "line 3, in f" in error.traceback
    assert "raise Mine" in error.traceback
    assert book.fail(send("{}['a']")).value == "'a'"
    book.run("class Bad(ValueError):\n    pass")
    assert book.fail(send("raise Bad('so')")).name == "Bad"
    error = book.fail(send("import sys\nsys.exit(3)"))
    assert (error.name, "exit code 3" in error.value) == ("RemoteError", True)
    error = book.fail(send("import os\nos._exit(5)"))
    assert "exit code 5" in error.value
    error = book.fail(send("for never in []:\n    pass", "-o never"))
    assert (error.name, "has not bound `never`" in error.value) == ("NameError", True)


def test_errors_that_are_more_than_a_text_are_told(book):
    error = book.fail(send("raise ExceptionGroup('several', [ValueError('one')])"))
    assert (error.name, "several" in error.value) == ("RemoteError", True)
    assert "ValueError: one" in error.traceback
    text = "x\\n\\nTraceback (most recent call last):\\nno"
    error = book.fail(send(f"raise ValueError('{text}') from KeyError(3)"))
    assert error.value == text.replace("\\n", "\n")
    assert "KeyError: 3" in error.traceback
    book.run(send("raise StopIteration(3)", "--bg stopping"))
    assert "StopIteration" in book.fail("await stopping").value
    error = book.fail(send("b'\\xff'.decode('utf-8')"))
    assert "UnicodeDecodeError" in error.value


def test_what_a_task_prints_is_not_taken_for_the_sdks(book):
    body = """\
import json
print("[flyte] mine")
print(json.dumps({"is_flyte_internal": "yes", "message": 3}))
print("a\\rb")
import flyte
flyte.logger.warning("logged")"""
    lines = book.run(send(body)).stdout.split("\n")
    printed = ["[flyte] mine", '{"is_flyte_internal": "yes", "message": 3}', "a\rb"]
    assert lines == [*printed, "WARNING logged", ""]


def test_attempts_are_counted(book, tmp_path):
    mark = tmp_path / "mark"
    body = f"""\
import os
if not os.path.exists({str(mark)!r}):
    open({str(mark)!r}, "w").close()
    raise ValueError("the first")
"the second\""""
    cell = book.run(send(body, "--retries 1"))
    assert cell.result == "'the second'"
    assert book.value("flyte_jupyter.session().runs[-1].attempts") == 2


def test_time_limits_are_the_deployments(book):
    error = book.fail(send("import time\ntime.sleep(60)", "--timeout 1.5"))
    assert error.name == "TaskTimeout"


# -- stopping ---------------------------------------------------------------------------------


def phase_of(book) -> str:
    """Return what the deployment says of the last run."""
    name = book.value("flyte_jupyter.session().runs[-1].link.rsplit('/')[-1]")
    return book.value(f"(await flyte.remote.Run.get.aio(name={name!r})).phase.value")


def test_an_interrupt_aborts_the_run(book):
    cell = book.submit(send("import time\nprint('in')\ntime.sleep(600)"))
    book.until_printed(cell, "in\n")
    book.interrupt()
    assert book.wait(cell).error.name == "KeyboardInterrupt"
    assert not cell.stderr
    assert phase_of(book) == "aborted"
    assert book.value("flyte_jupyter.session().runs[-1].state") == "cancelled"


def test_an_interrupt_while_it_is_sent_leaves_no_run(book, flyte_backend):
    book.run("from flyte.models import ActionPhase")
    for moment in (0.0, 0.03, 0.06, 0.1, 0.2):
        cell = book.submit(send("import time\nprint('in')\ntime.sleep(600)", "--name stopped"))
        book.until(lambda cell=cell: cell.displays)
        book.pump(int(moment * 1000))
        book.interrupt()
        assert book.wait(cell).error.name == "KeyboardInterrupt"
        assert not cell.stderr
    runs = [name.partition("/")[0] for name in flyte_backend.specs() if "stopped" in name]
    for name in runs:
        phase = f"(await flyte.remote.Run.get.aio(name={name!r})).phase.value"
        assert book.value(phase) == "aborted"


def phase_by_name(book, name: str) -> str:
    return book.value(f"(await flyte.remote.Run.get.aio(name={name!r})).phase.value")


def submit_slow(book, flyte_backend):
    """Submit a cell that is asked for, and not taken yet; return it and its run's name there."""
    cell = book.submit(send("import time\ntime.sleep(600)", "--name slow"))
    book.until(lambda: len(flyte_backend.asked_for()) == 1)
    return cell, flyte_backend.asked_for()[0]


def test_an_interrupt_of_what_is_slow_to_be_taken_aborts_it(book, flyte_backend):
    cell, name = submit_slow(book, flyte_backend)
    book.interrupt()
    flyte_backend.let_in(name)
    assert book.wait(cell).error.name == "KeyboardInterrupt"
    assert not cell.stderr
    assert phase_by_name(book, name) == "aborted"


def test_a_second_interrupt_ends_the_wait_at_once(book, flyte_backend):
    cell, name = submit_slow(book, flyte_backend)
    book.interrupt()
    time.sleep(0.3)
    book.interrupt()
    # How the notebook shows that is left open: the second may come while it shows the first.
    book.wait(cell)
    book.until(lambda: book.value("flyte_jupyter.session().runs[-1].state") == "cancelled")
    flyte_backend.let_in(name)
    book.until(lambda: f"{name}/a0" in flyte_backend.specs())
    book.until(lambda: phase_by_name(book, name) == "aborted")


def test_a_run_that_is_cancelled_at_once_is_not_sent(book, flyte_backend):
    body = "for _ in range(5):\n"
    body += "    r = flyte_jupyter.run(waiting, on='flyte')\n    r.cancel()\n"
    body += "    try:\n        r.result()\n    except KeyboardInterrupt:\n        pass"
    book.run("@env.task\nasync def waiting() -> None:\n    await asyncio.sleep(600)")
    book.run(body)
    sent = {name.partition("/")[0] for name in flyte_backend.specs() if "waiting" in name}
    for name in sent:
        phase = f"(await flyte.remote.Run.get.aio(name={name!r})).phase.value"
        assert book.value(phase) == "aborted"


def test_background_runs_can_be_awaited_and_cancelled(book):
    book.run(send("import time\nx = 3", "--bg first -o x"))
    assert book.value("await first") == 3
    book.run(send("import time\ntime.sleep(600)", "--bg second"))
    book.until(lambda: book.value("second.state") == "running")
    assert "aborted" not in book.run("second").result
    assert "http" in book.value("second._repr_html_()")
    assert book.fail("second.cancel()\nsecond.result()").name == "KeyboardInterrupt"
    assert phase_of(book) == "aborted"


def test_a_run_that_is_aborted_there_says_so(book):
    cell = book.submit(send("import time\nprint('in')\ntime.sleep(600)", "--bg other_run"))
    book.wait(cell)
    book.until(lambda: book.value("other_run.state") == "running")
    book.run(
        "(await flyte.remote.Run.get.aio(name=other_run.link.rsplit('/')[-1])).abort('no room')"
    )
    error = book.fail("other_run.result()")
    assert (error.name, "was aborted on Flyte: no room" in error.value) == ("DeploymentError", True)


def test_a_run_goes_on_when_the_kernel_ends(flyte_backend, tmp_path):
    mark = tmp_path / "mark"
    with notebook(tmp_path, flyte_backend.init, DECLARE) as book:
        body = f"import time\ntime.sleep(2)\nopen({str(mark)!r}, 'w').close()"
        book.run(send(body, "--bg left"))
        book.until(lambda: book.value("left.state") == "running")
        assert not mark.exists()
    assert leaks.until(mark.exists)


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (send("%time 1"), "plain Python: a magic or a shell command in line 1"),
        (send("!ls"), "plain Python"),
        (send("z = 1", "-r z"), "nothing stays on a Flyte deployment"),
        (send("displayed = 1", "-o displayed"), "`displayed` cannot come back"),
        (send("1", "--ranks all"), "--ranks is for clusters here"),
        (send("1", "", "nowhere"), "nowhere"),
        ("%%flyte_task env --on mars\n1", "--on"),
        ("flyte_jupyter.run(env, on='flyte')", "only a task can be run"),
    ],
)
def test_what_a_deployment_has_not_is_one_line(book, cell, says):
    error = book.fail(cell)
    assert says in error.value
    assert len(error.traceback.splitlines()) == 1


def test_a_function_can_be_sent_nowhere_else(book):
    book.run("@env.task\nasync def one() -> int:\n    return 1")
    assert "'mars'" in book.fail("flyte_jupyter.run(one, on='mars')").value


def test_an_image_that_nothing_can_build_is_not_taken_for_built(book):
    book.run(
        "layers = flyte.TaskEnvironment(name='layers', "
        "image=flyte.Image.from_debian_base().with_pip_packages('attrs'))"
    )
    book.run("os.environ['PATH'], path = '', os.environ['PATH']")
    try:
        error = book.fail(send("1", "", "layers"))
    finally:
        book.run("os.environ['PATH'] = path")
    assert error.name == "ImageError"
    assert "Docker is not installed" in error.value


def test_a_deployment_that_does_not_answer_is_one_line(tmp_path):
    init = (
        "flyte.init(endpoint='http://127.0.0.1:9', insecure=True, org='o', project='p', domain='d')"
    )
    with notebook(tmp_path, DECLARE, init) as book:
        cell = book.submit(send("1"))
        book.wait(cell)
        assert cell.error.name == "DeploymentError"
        assert "Flyte did not take the run" in cell.error.value
        assert "not sent" in page_of(cell)["text/plain"]


def test_without_a_configuration_one_line_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with notebook(tmp_path, DECLARE) as book:
        error = book.fail(send("1"))
        assert error.name == "DeploymentError"
        assert "flyte.init_from_config()" in error.value


def test_the_file_of_the_command_line_is_a_configuration(flyte_backend, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"admin:\n  endpoint: {flyte_backend.endpoint}\n  insecure: true\n"
        "task:\n  org: org\n  project: project\n  domain: development\n"
    )
    monkeypatch.setenv("FLYTECTL_CONFIG", str(config))
    with notebook(tmp_path, DECLARE) as book:
        assert book.run(send("6 * 7")).result == "42"
