"""Task functions of the notebook, run on their environment's cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import GRACEFUL
from tests.notebook import notebook

FUNCTIONS = """\
import asyncio, os, pathlib, sys, time
import flyte
import flyte_jupyter
env = flyte.TaskEnvironment(name="plain")

@env.task
async def doubled(x: int) -> int:
    return 2 * x

@env.task
def added(x: int, y: int = 1) -> int:
    return x + y
"""
DASK = """\
import flyte, flyte_jupyter
from flyteplugins.dask import Dask, WorkerGroup
image = "auto"
def transform(x):
    import os
    return x + 1, os.getpid()
"""
SPEC = """\
# Define the Dask cluster configuration
dask_config = Dask(
    workers=WorkerGroup(number_of_workers=4)
)

# Create a task environment that enables Dask
env = flyte.TaskEnvironment(
    name="dask_env",
    plugin_config=dask_config,
    image=image,
)

# Any task in this environment has access to the Dask cluster
@env.task
async def process_data(data: list) -> list:
    from distributed import Client

    client = Client()  # Automatically connects to the provisioned cluster
    futures = client.map(transform, data)
    return client.gather(futures)
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    with notebook(tmp_path_factory.mktemp("functions"), FUNCTIONS) as book:
        yield book


def declared(book, code):
    """Declare a task `f` in a cell of its own."""
    book.run(code if "@" in code else f"@env.task\n{code}")


def test_the_example_of_the_spec_runs_as_it_is_printed(tmp_path):
    with notebook(tmp_path, DASK, SPEC) as book:
        book.run("got = await flyte_jupyter.run(process_data, data=list(range(20)))")
        assert book.value("[x for x, _ in got]") == list(range(1, 21))
        assert book.value("len({pid for _, pid in got})") >= 2


@pytest.mark.parametrize(
    "call",
    [
        "await flyte_jupyter.run(doubled, 21)",
        "flyte_jupyter.run(doubled, x=21).result()",
        "await flyte_jupyter.run(added, 41)",
        "flyte_jupyter.run(added, 40, y=2).result()",
        "(await asyncio.gather(*[flyte_jupyter.run(doubled, n) for n in (7, 21)]))[1]",
    ],
)
def test_a_call_gives_the_value(book, call):
    assert book.value(call) == 42


def test_values_cross_as_they_are(book):
    book.run("import numpy")
    declared(book, "def f(array, things):\n    array[0] = 7\n    return array, things, os.getpid()")
    book.run("mine, things = numpy.zeros(10**6), {'a': {1, 2}, 'f': doubled}")
    book.run("theirs, back, pid = await flyte_jupyter.run(f, mine, things)")
    assert book.value("(float(mine[0]), float(theirs[0]), back['a'], pid == os.getpid())") == (
        0,
        7,
        {1, 2},
        False,
    )
    book.run("theirs[1] = 8")


def test_the_function_prints_in_the_cell_that_calls_and_knows_its_context(book):
    declared(book, "def f():\n    print(flyte.ctx().action.name, '\u00e4')\n    return __name__")
    cell = book.run("await flyte_jupyter.run(f)")
    assert cell.stdout.startswith("f-")
    assert cell.stdout.endswith("\u00e4\n")


def test_a_function_that_is_no_coroutine_may_run_a_loop_of_its_own(book):
    declared(book, "def f():\n    async def g(): return 42\n    return asyncio.run(g())")
    assert book.value("await flyte_jupyter.run(f)") == 42


def test_helpers_are_fresh_after_each_edit(book):
    book.run("def helper(): return 1")
    declared(book, "def f(): return helper()")
    assert book.value("await flyte_jupyter.run(f)") == 1
    book.run("def helper(): return 2")
    assert book.value("await flyte_jupyter.run(f)") == 2


@pytest.fixture
def beside(book):
    """Write a module beside the notebook."""
    folder = Path(book.value("os.getcwd()"))

    def write(name, text):
        (folder / f"{name}.py").write_text(text)

    return write


def test_a_local_module_is_fresh_after_each_edit(book, beside):
    beside("fj_helpers", "def clean(x):\n    return x + 1\n")
    book.run("from fj_helpers import clean")
    declared(book, "def f(x): return clean(x)")
    assert book.value("await flyte_jupyter.run(f, 1)") == 2
    beside("fj_helpers", "def clean(x):\n    return x + 100\n")
    cell = book.run("await flyte_jupyter.run(f, 1)")
    assert cell.result == "101"
    assert "fj_helpers has changed and was reloaded." in cell.stderr


def test_a_task_of_a_local_module_is_its_present_one(book, beside):
    text = "import flyte\nenv = flyte.TaskEnvironment(name='beside')\n"
    text += "@env.task\ndef train(x):\n    return x, {}\n"
    beside("fj_tasks", text.format("1"))
    book.run("import fj_tasks\nfrom fj_tasks import env as beside_env, train")
    assert book.value("await flyte_jupyter.run(train, 1)") == (1, 1)
    beside("fj_tasks", text.format("'second'"))
    book.run("pass")
    assert book.run("await flyte_jupyter.run(train, 1)").result == "(1, 'second')"
    assert book.run("await flyte_jupyter.run(fj_tasks.train, 1)").result == "(1, 'second')"


def test_the_users_own_exception_is_raised_with_the_remote_traceback(book):
    book.run("class Own(Exception): pass")
    declared(book, "def f(x):\n    if x:\n        raise Own('no', x)")
    error = book.fail("await flyte_jupyter.run(f, 3)")
    assert error.name == "Own"
    assert "----> 4         raise Own('no', x)" in error.traceback
    assert "functions.py" not in error.traceback
    book.run(
        "try:\n    flyte_jupyter.run(f, 3).result()\n"
        "except Own as e:\n    caught = e.args, e.__cause__"
    )
    assert book.value("caught[0]") == ("no", 3)
    assert "raise Own('no', x)" in book.value("str(caught[1])")


def test_exit_is_an_error_of_the_task_and_nothing_hangs(book):
    declared(book, "def f(): sys.exit(3)")
    error = book.fail("await flyte_jupyter.run(f)")
    assert error.name == "RemoteError"
    assert "the task called sys.exit(): exit code 3" in error.value


@pytest.mark.parametrize(
    "kind", ["def f():\n    {}time.sleep(600)", "async def f():\n    {}await asyncio.sleep(600)"]
)
@pytest.mark.parametrize("wait", ["await run", "run.result()"])
def test_an_interrupt_of_the_wait_stops_the_function(book, kind, wait):
    declared(book, kind.format("print('in', flush=True); "))
    cell = book.submit(f"run = flyte_jupyter.run(f)\n{wait}")
    book.until_printed(cell, "in\n")
    book.interrupt()
    assert book.wait(cell).error.name in ("KeyboardInterrupt", "CancelledError")
    book.run("for _ in range(500):\n    if run.done: break\n    await asyncio.sleep(0.02)")
    assert book.value("run.state") == "cancelled"


def test_cancel_stops_the_function(book):
    declared(book, "def f():\n    print('in', flush=True)\n    time.sleep(600)")
    cell = book.submit(
        "run = flyte_jupyter.run(f)\nwhile not run.log(): await asyncio.sleep(0.02)\nrun.cancel()\n"
        "try: run.result()\nexcept KeyboardInterrupt: print('stopped')"
    )
    assert "stopped" in book.wait(cell).stdout


def test_retries_back_off_and_a_final_error_ends_them(book, tmp_path):
    tally = tmp_path / "tally"
    book.run(f"tally = {str(tally)!r}\nfrom datetime import timedelta")
    declared(
        book,
        "@env.task(retries=flyte.RetryStrategy(count=3, backoff=flyte.Backoff("
        "base=timedelta(milliseconds=100), factor=2, cap=timedelta(seconds=1))))\n"
        "def f(last):\n    with open(tally, 'a') as file: print(time.time(), file=file)\n"
        "    if len(open(tally).readlines()) < last: raise ValueError\n    return 'done'",
    )
    assert book.value("await flyte_jupyter.run(f, 3)") == "done"
    first, second, third = map(float, tally.read_text().split())
    assert second - first >= 0.1
    assert third - second >= 0.2
    tally.unlink()
    declared(
        book,
        "@env.task(retries=3)\ndef f():\n    with open(tally, 'a') as file: print(1, file=file)\n"
        "    raise flyte.errors.NonRecoverableError('of no use')",
    )
    assert "of no use" in book.fail("await flyte_jupyter.run(f)").value
    assert tally.read_text() == "1\n"


def test_time_limits(book):
    declared(book, "@env.task(timeout=1)\ndef f(): time.sleep(600)")
    error = book.fail("await flyte_jupyter.run(f)")
    assert (error.name, "longer than its 1 s" in error.value) == ("TaskTimeout", True)
    declared(
        book,
        "@env.task(timeout=flyte.Timeout(deadline=1), retries=9)\n"
        "def f():\n    time.sleep(0.3)\n    raise ValueError",
    )
    error = book.fail("await flyte_jupyter.run(f)")
    assert (error.name, "longer than its 1 s" in error.value) == ("TaskTimeout", True)
    declared(
        book,
        "from datetime import timedelta\nlate = flyte.TaskEnvironment(name='late')\n"
        "@late.task(timeout=flyte.Timeout(max_queued_time=timedelta(milliseconds=1)))\n"
        "def f(): return 1",
    )
    error = book.fail("await flyte_jupyter.run(f)")
    assert (error.name, "waited longer than its 0.001 s" in error.value) == ("TaskTimeout", True)


def test_a_time_limit_of_an_attempt_leaves_the_others(book, tmp_path):
    tally = tmp_path / "tally"
    book.run(f"tally = {str(tally)!r}")
    declared(
        book,
        "@env.task(timeout=1, retries=2)\n"
        "def f(stubborn):\n    with open(tally, 'a') as file: print(1, file=file)\n"
        "    while len(open(tally).readlines()) < 2:\n"
        "        try: time.sleep(600)\n"
        "        except KeyboardInterrupt:\n            if not stubborn: raise\n"
        "    return 'done'",
    )
    cell = book.run("got = await flyte_jupyter.run(f, False)")
    assert "ran longer than its 1 s; 2 more attempts" in cell.stderr
    assert book.value("got") == "done"
    tally.unlink()
    # One whose driver had to be replaced counts as one attempt, too.
    book.run("%config FlyteJupyter.interrupt_grace = 0.2")
    assert book.value("await flyte_jupyter.run(f, True)") == "done"
    book.run("%config FlyteJupyter.interrupt_grace = 10")


def test_a_cached_result_is_used_until_a_helper_changes(book, tmp_path):
    book.run(
        f"tally = {str(tmp_path / 'tally')!r}\n"
        f"%config FlyteJupyter.cache_folder = {str(tmp_path / 'cache')!r}"
    )
    book.run("def helper(): return 1")
    declared(
        book,
        "@env.task(cache=flyte.Cache('auto', ignored_inputs=('where',)))\n"
        "def f(x, where):\n    open(where, 'a').write('.')\n    return x + helper()",
    )
    call = "flyte_jupyter.run(f, {}, where=tally)"
    assert book.value(f"await {call.format(1)}") == 2
    cell = book.run(f"run = {call.format(1)}\nprint(await run, run.state)")
    assert cell.stdout == "2 cached\n"
    assert book.value(f"await {call.format(2)}") == 3
    book.run("def helper(): return 10")
    assert book.value(f"await {call.format(1)}") == 11
    assert (tmp_path / "tally").read_text() == "..."


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            "flyte_jupyter.run(added)",
            "added cannot be called like that: missing a required argument",
        ),
        ("flyte_jupyter.run(added, 1, z=2)", "unexpected keyword argument 'z'"),
        ("flyte_jupyter.run(len, 1)", "only a task can be run"),
        ("flyte_jupyter.run(env)", "this is an environment"),
        ("flyte_jupyter.run(doubled, (i for i in ()))", "generator"),
    ],
)
def test_a_wrong_call_is_one_line_and_nothing_runs(book, call, said):
    error = book.fail(call)
    assert said in error.value
    assert "\n" not in error.value


def test_who_calls_an_async_task_from_a_plain_one_is_told_what_to_write(book):
    declared(book, "def f(): return doubled(1)")
    failure = book.fail("await flyte_jupyter.run(f)")
    assert "asyncio.run()" in failure.value
    assert "\n" not in failure.value


def test_a_plain_task_may_be_called_from_an_async_one(book):
    declared(book, "async def f(): return [added(1), await added.aio(2), added(3)]")
    assert book.value("flyte_jupyter.run(f).result()") == [2, 3, 4]


def test_a_plain_task_that_an_async_one_calls_is_interrupted(book):
    book.run("import time")
    declared(book, "def sleeps():\n    print('asleep', flush=True)\n    time.sleep(600)")
    declared(book, "async def f(): return sleeps()")
    cell = book.submit("flyte_jupyter.run(f).result()")
    book.until_printed(cell, "asleep")
    book.interrupt()
    book.wait(cell)
    assert cell.error.name == "KeyboardInterrupt"
    assert book.value("flyte_jupyter.run(added, 1).result()") == 2


def test_a_task_whose_environment_is_gone_says_so(book):
    book.run("other = flyte.TaskEnvironment(name='other')\n@other.task\ndef f(): pass\ndel other")
    book.run("import cloudpickle\nf = cloudpickle.loads(cloudpickle.dumps(f))  # its link is cut")
    error = book.fail("flyte_jupyter.run(f)")
    assert "the environment of f is gone" in error.value


def test_a_run_shows_itself(book):
    cell = book.run("run = flyte_jupyter.run(doubled, 1)\nrun.result()\nrun")
    assert "<Run doubled-" in cell.result
    assert "in plain: succeeded" in cell.result
    assert "succeeded" in cell.of("execute_result")[-1]["data"]["text/html"]
    assert "doubled-" in book.run("%flyte runs").result


def test_a_report_is_shown_below_the_cell_and_brought_up_to_date(book):
    declared(
        book,
        "@env.task(report=True)\nasync def f():\n"
        "    await flyte.report.log.aio('<b>one</b>', do_flush=True)\n"
        "    await flyte.report.log.aio('<b>two</b>')",
    )
    cell = book.run("await flyte_jupyter.run(f)")
    first, last = cell.of("display_data", "update_display_data")
    assert first["transient"] == last["transient"]
    assert "&lt;b&gt;one&lt;/b&gt;" in first["data"]["text/html"]
    assert "two" not in first["data"]["text/html"]
    assert "&lt;b&gt;two&lt;/b&gt;" in last["data"]["text/html"]
    declared(book, "def f():\n    flyte.report.replace('<i>all</i>', do_flush=True)")
    (shown,) = book.run("await flyte_jupyter.run(f)").displays
    assert "all" in shown["text/html"]


def test_checkpoints_outlive_an_attempt(book):
    declared(
        book,
        "@env.task(retries=1)\ndef f():\n    checkpoint = flyte.ctx().checkpoint\n"
        "    before = checkpoint.load_sync()\n"
        "    if before is None or not before.exists() or not before.is_file():\n"
        "        checkpoint.save_sync(b'step 1')\n        raise ValueError\n"
        "    return before.read_bytes()",
    )
    assert book.value("await flyte_jupyter.run(f)") == b"step 1"


TRACED = """if True:
    def note(what):
        with open(tally, "a") as file: print(what, file=file)
    @flyte.trace
    async def step(x: int) -> int:
        note("step")
        return x + 1
    @flyte.trace
    def plain_step(x: int) -> int:
        note("plain_step")
        return 2 * x
    @flyte.trace
    async def steps(n: int):
        for each in range(n):
            yield each
    @flyte.trace
    async def fails_first() -> int:
        note("fails_first")
        if open(tally).read().count("fails_first") < 2: raise ValueError("the first attempt")
        return 5
    @env.task(retries=1)
    async def traced() -> list:
        done = [await step(1), await step(1), plain_step(4), [each async for each in steps(2)]]
        return [*done, await fails_first()]"""


def test_a_retry_runs_no_traced_step_again_that_had_returned(book, tmp_path):
    book.run(f"tally = {str(tmp_path / 'tally')!r}\n{TRACED}")
    for _ in range(2):  # another run has nothing of the one before
        (tmp_path / "tally").write_text("")
        assert book.value("await flyte_jupyter.run(traced)") == [2, 2, 8, [0, 1], 5]
        noted = (tmp_path / "tally").read_text().split()
        assert noted == ["step", "step", "plain_step", "fails_first", "fails_first"]


def test_the_group_of_a_call_is_listed(book):
    declared(
        book, "async def f():\n    with flyte.group('sweep'):\n        return await doubled(2)"
    )
    assert book.value("await flyte_jupyter.run(f)") == 4
    shown = book.run("%flyte runs -n 2").result
    assert "group" in shown
    assert "sweep" in shown
    assert "group" not in book.run("await flyte_jupyter.run(doubled, 1)\n%flyte runs -n 1").shown


def test_an_override_holds(book):
    declared(book, "def f(): time.sleep(600)")
    error = book.fail("await flyte_jupyter.run(f.override(timeout=1))")
    assert error.name == "TaskTimeout"


def test_a_stopped_run_that_another_task_awaits_does_not_end_the_kernel(book):
    book.run("""if True:
        @env.task
        async def endless() -> None:
            await asyncio.sleep(600)
        stopped = flyte_jupyter.run(endless)
        async def watch():
            await stopped
        watcher = asyncio.create_task(watch())""")
    book.until(lambda: book.value("stopped.state") == "running")
    book.run("stopped.cancel()")
    book.until(lambda: book.value("watcher.done()"))
    assert book.value("watcher.cancelled()") is True
    assert book.fail("await asyncio.gather(stopped)").name == "CancelledError"


def test_who_interrupts_a_wait_with_a_limit_interrupts_the_function(book):
    book.run("""if True:
        @env.task
        def busy() -> None:
            time.sleep(600)
        waited = flyte_jupyter.run(busy)""")
    cell = book.submit("print('waiting')\nwaited.result(timeout=300)")
    book.until_printed(cell)
    book.interrupt()
    assert book.wait(cell).error.name == "KeyboardInterrupt"
    book.until(lambda: book.value("waited.state") == "cancelled")


OWN_INIT = """if True:
    class Refused(Exception):
        def __init__(self, status, url):
            super().__init__(f"{status} for {url}")
            self.status = status
    @env.task
    async def refused() -> None:
        raise Refused(503, "there")"""


def test_an_exception_with_a_constructor_of_its_own_keeps_type_and_state(book):
    book.run(OWN_INIT)
    failure = book.fail("flyte_jupyter.run(refused).result()")
    assert (failure.name, failure.value) == ("Refused", "503 for there")
    code = "try: flyte_jupyter.run(refused).result()\nexcept Refused as e: found = e.status, str(e)"
    book.run(code)
    assert book.value("found") == (503, "503 for there")


def test_a_task_that_is_cancelled_by_its_own_code_has_failed(book):
    book.run("""if True:
        @env.task
        async def gives_up() -> None:
            other = asyncio.create_task(asyncio.sleep(60))
            other.cancel()
            await other
        given_up = flyte_jupyter.run(gives_up)""")
    failure = book.fail("given_up.result()")
    assert "cancelled by its own code" in failure.value
    assert "await other" in failure.traceback
    assert book.value("given_up.state") == "failed"


def test_an_environment_whose_cell_alone_is_run_again_is_as_it_is_declared_now(tmp_path):
    declare = "env = flyte.TaskEnvironment(name='plain', env_vars={'STAGE': 'STAGE_NOW'})"
    with notebook(tmp_path, f"import os, flyte, flyte_jupyter\n{declare}") as book:
        book.run("@env.task\ndef stage() -> str:\n    return os.environ['STAGE']")
        assert book.value("flyte_jupyter.run(stage).result()") == "STAGE_NOW"
        book.run(declare.replace("STAGE_NOW", "later"))
        assert book.run("flyte_jupyter.run(stage).result()").result == "'later'"


def test_a_time_limit_that_the_code_catches_is_one_all_the_same(book):
    book.run(GRACEFUL)
    book.run("@env.task(timeout=1)\ndef graceful() -> str:\n    return stops_gracefully()")
    assert book.fail("flyte_jupyter.run(graceful).result()").name == "TaskTimeout"


def test_what_a_task_overrides_and_cannot_have_here_is_named_once(book):
    call = "flyte_jupyter.run(added.override(env_vars={'A': '9'}, resources=R), 1).result()"
    cell = book.run(f"R = flyte.Resources(cpu=1)\n{call}")
    for field in ("env_vars", "resources"):
        said = f"added: {field} of the task is not honoured here: say it of its environment."
        assert said in cell.stderr
    assert "not honoured" not in book.run(call).stderr
    assert "not honoured" not in book.run("flyte_jupyter.run(doubled, 1).result()").stderr


def test_what_a_task_that_is_called_overrides_is_named_once(book):
    book.run(
        "greedy = doubled.override(env_vars={'A': '9'}, short_name='greedy')\n"
        "@env.task\nasync def calls() -> int:\n"
        "    return await greedy(1) + await doubled.override(secrets=['s'], short_name='shy')(2)"
    )
    cell = book.run("flyte_jupyter.run(calls).result()")
    assert cell.result == "6"
    for field in ("greedy: env_vars", "shy: secrets"):
        assert cell.stderr.count(f"{field} of the task is not honoured here: say it of its") == 1
    assert "not honoured" not in book.run("flyte_jupyter.run(calls).result()").stderr


def test_no_retries_can_be_asked_for(book, tmp_path):
    tally = tmp_path / "tally"
    book.run(
        f"@env.task(retries=3)\ndef fails():\n"
        f"    pathlib.Path({str(tally)!r}).open('a').write('.')\n    raise ValueError"
    )
    book.fail("flyte_jupyter.run(fails.override(retries=0)).result()")
    assert tally.read_text() == "."


def test_what_only_a_deployment_has_of_a_task_is_named(book):
    book.run(
        "@env.task(triggers=flyte.Trigger.hourly(), max_inline_io_bytes=1000)\n"
        "def nightly(): return 1"
    )
    cell = book.run("flyte_jupyter.run(nightly).result()")
    assert "nightly: triggers of the task is not honoured here: only a Flyte dep" in cell.stderr
    assert "nightly: max_inline_io_bytes of the task is not honoured here: values" in cell.stderr


def test_a_map_in_a_plain_cell_runs_on_the_cluster(book):
    declared(book, "async def where(x, y=0):\n    if x == 3: raise KeyError(x)\n"
             "    return x + y, os.getpid()")  # fmt: skip
    kernel = book.value("os.getpid()")
    code = "[r if isinstance(r, tuple) else repr(r) for r in {}]"
    for call in (
        "flyte.map(where, range(5), [1] * 5, concurrency=2)",
        "flyte.map(where, range(5))",
    ):
        got = book.value(code.format(call))
        assert got[3] == "KeyError(3)"
        values = [each for each in got if each != "KeyError(3)"]
        assert [x for x, _ in values] == [x + ("[1]" in call) for x in (0, 1, 2, 4)]
        assert kernel not in {pid for _, pid in values}
    book.run("import functools\nplus = functools.partial(where, y=10)")
    assert book.value("[x async for x, _ in flyte.map.aio(plus, [1, 2])]") == [11, 12]
    failing = "list(flyte.map(where, [3], return_exceptions=False))"
    assert book.fail(failing).name == "KeyError"


def test_a_plain_call_of_a_task_stays_one(book):
    before = book.value("len(flyte_jupyter.session().runs)")
    assert book.value("[await doubled(4), added(1)]") == [8, 2]
    assert book.value("len(flyte_jupyter.session().runs)") == before
