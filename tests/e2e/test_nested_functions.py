"""Task functions that call task functions, each on its own environment's cluster."""

from __future__ import annotations

import pytest

from tests import leaks
from tests.e2e.conftest import GRACEFUL
from tests.notebook import DEADLINE, notebook

FUNCTIONS = """\
import asyncio, os, time
import flyte
import flyte_jupyter
from flyteplugins.dask import Dask, WorkerGroup
leaf_env = flyte.TaskEnvironment(name="leaves")
env = flyte.TaskEnvironment(name="trunk", depends_on=[leaf_env])
dask_env = flyte.TaskEnvironment(
    name="dask", plugin_config=Dask(workers=WorkerGroup(number_of_workers=2))
)

@leaf_env.task
async def leaf(x: int) -> int:
    await asyncio.sleep(0.01)
    return x + 1

@leaf_env.task
def blocking_leaf(x: int) -> int:
    time.sleep(0.01)
    return x + 1

@leaf_env.task
def where() -> int:
    return os.getpid()

@dask_env.task
async def summed(numbers: list) -> int:
    from distributed import Client
    return Client().submit(sum, numbers).result()
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    with notebook(tmp_path_factory.mktemp("nested"), FUNCTIONS) as book:
        yield book


def interrupted(book, call, timeout=DEADLINE):
    """Interrupt the wait for a run once its task has printed `in`, and return what is raised."""
    cell = book.submit(f"run = flyte_jupyter.run({call})\nrun.result()")
    book.until_printed(cell, "in\n")
    book.interrupt()
    return book.wait(cell, timeout).error.name


def declared(book, code, environment="env"):
    book.run(code if "@" in code else f"@{environment}.task\n{code}")


@pytest.mark.parametrize(
    "body",
    [
        "async def f(n):\n    return await leaf(n)",
        "def f(n):\n    return blocking_leaf(n)",
        "async def f(n):\n    return await blocking_leaf.aio(n)",
        "def f(n):\n    return asyncio.run(leaf(n))",
        "async def f(n):\n    return (await asyncio.gather(leaf(0), leaf(n)))[1]",
        "async def f(n):\n    return [x async for x in flyte.map.aio(leaf, [n])][0]",
        "def f(n):\n    return list(flyte.map(leaf, [0, n]))[1]",
        "def f(n):\n    return list(flyte.map(blocking_leaf, [0, n], concurrency=1))[1]",
    ],
)
def test_a_task_calls_another_of_another_environment(book, body):
    declared(book, body)
    assert book.value("await flyte_jupyter.run(f, 41)") == 42


def test_each_runs_in_the_driver_of_its_own_environment(book):
    declared(book, "def f(): return os.getpid(), where(), where()")
    here, there, again = book.value("await flyte_jupyter.run(f)")
    assert here != there
    assert there == again


def test_a_chain_through_engines_is_one_tree_of_runs(book):
    declared(
        book, "async def chain(n):\n    return await summed([await leaf(x) for x in range(n)])"
    )
    assert book.value("await flyte_jupyter.run(chain, 3)") == 6
    lines = [line.split() for line in book.run("%flyte runs -n 5").result.splitlines()]
    rows = [line for line in lines if "succeeded" in line]
    assert [row[0] == "└" for row in rows] == [False, True, True, True, True]
    assert [row[-4 if row[0] == "└" else -3] for row in rows]


def test_tasks_that_wait_for_each_other_do_not_stand_in_each_others_way(book):
    declared(
        book,
        "@env.task\nasync def ping(n):\n    return n and await pong(n - 1)\n"
        "@leaf_env.task\nasync def pong(n):\n    return n and await ping(n - 1)\n"
        "@env.task\ndef factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)",
    )
    assert book.value("await flyte_jupyter.run(ping, 6)") == 0
    assert book.value("await flyte_jupyter.run(factorial, 5)") == 120


def test_mapped_tasks_run_at_the_same_time(book, tmp_path):
    """Each waits for all others: one after the other they would never end."""
    place = str(tmp_path)
    declared(
        book,
        "@leaf_env.task\ndef meet(n, of, place):\n    open(f'{place}/{n}', 'w').close()\n"
        "    while len(os.listdir(place)) < of: time.sleep(0.01)\n    return n\n"
        "@env.task\ndef f(of, place):\n"
        "    import functools\n"
        "    return list(flyte.map(functools.partial(meet, of=of, place=place), range(of)))",
    )
    assert book.value(f"await flyte_jupyter.run(f, 8, {place!r})") == list(range(8))


@pytest.mark.parametrize(
    ("replicas", "concurrency", "caller", "at_once"),
    [(2, 1, "env", 2), (1, 3, "env", 3), (2, 1, "few_env", 1), (1, 1, "few_env", 1)],
)
def test_a_reuse_policy_says_how_many_run_at_once(book, replicas, concurrency, caller, at_once):
    declared(
        book,
        f"few_env = flyte.TaskEnvironment(name='few{caller}{replicas}{concurrency}',\n"
        f"    reusable=flyte.ReusePolicy(replicas={replicas}, concurrency={concurrency}))\n"
        "@few_env.task\nasync def span(n):\n    begun = time.monotonic()\n"
        "    await asyncio.sleep(0.1)\n    return begun, time.monotonic()\n"
        f"@{caller}.task\nasync def f():\n"
        "    return await asyncio.gather(*(span(n) for n in range(6)))",
    )
    spans = book.value("await flyte_jupyter.run(f)")
    assert max(sum(a <= begun < b for a, b in spans) for begun, _ in spans) == at_once


def test_values_cross_as_they_are(book):
    declared(
        book,
        "@leaf_env.task\ndef scaled(array, by):\n    array *= by\n    return array\n"
        "@env.task\ndef f(array):\n    twice = scaled(array, 2)\n    twice[0] = 7\n"
        "    return float(array[1]), float(twice[0]), float(twice[1])",
    )
    book.run("import numpy")
    assert book.value("await flyte_jupyter.run(f, numpy.ones(10**6))") == (1.0, 7.0, 2.0)


def test_the_users_own_exception_arrives_in_the_caller(book):
    declared(
        book,
        "class Own(Exception): pass\n"
        "@leaf_env.task\nasync def fails(x): raise Own('no', x)\n"
        "@leaf_env.task\ndef blocking_fails(x): raise Own('no', x)\n"
        "@env.task\nasync def f():\n    try: await fails(1)\n    except Own as e: return e.args\n"
        "@env.task\ndef g():\n    try: blocking_fails(2)\n    except Own as e: return e.args",
    )
    assert book.value("await flyte_jupyter.run(f)") == ("no", 1)
    assert book.value("await flyte_jupyter.run(g)") == ("no", 2)


def test_what_nested_tasks_print_is_shown_in_the_cell(book):
    declared(
        book,
        "@leaf_env.task\ndef speaks(x): print('leaf', x)\n"
        "@env.task\ndef f():\n    print('before')\n    speaks(1)\n    print('after')",
    )
    cell = book.run("await flyte_jupyter.run(f)")
    assert sorted(cell.stdout.split("\n")) == ["", "after", "before", "leaf 1"]


@pytest.mark.parametrize(
    "body",
    ["async def f():\n    await asyncio.gather(slow(), slow())", "def f():\n    blocking_slow()"],
)
def test_an_interrupt_stops_nested_tasks_too(book, tmp_path, body):
    tally = tmp_path / "tally"
    declared(
        book,
        f"tally = {str(tally)!r}\n"
        "@leaf_env.task\nasync def slow():\n    try:\n        print('in', flush=True)\n"
        "        await asyncio.sleep(600)\n    finally:\n        open(tally, 'a').write('out ')\n"
        "@leaf_env.task\ndef blocking_slow():\n    try:\n        print('in', flush=True)\n"
        "        time.sleep(600)\n    finally:\n        open(tally, 'a').write('out ')",
    )
    declared(book, body)
    assert interrupted(book, "f") == "KeyboardInterrupt"
    assert leaks.until(lambda: tally.exists() and tally.read_text().startswith("out"))
    assert book.value("await flyte_jupyter.run(leaf, 1)") == 2


def test_a_sibling_that_fails_ends_neither_the_driver_nor_the_sdks_own_loop(book):
    declared(
        book,
        "@leaf_env.task\nasync def fails(x):\n    raise ValueError(x)\n"
        "@leaf_env.task\nasync def long(x):\n    await asyncio.sleep(600)\n"
        "@env.task\nasync def f():\n    await asyncio.gather(long(0), fails(1))\n"
        "@env.task\nasync def g():\n    asyncio.ensure_future(long(0))\n"
        "    await asyncio.sleep(0.2)\n"
        "@env.task\ndef h():\n    for _ in flyte.map(long, [0, 1]): pass\n"
        "@env.task\ndef here(): return os.getpid()",
    )
    driver = book.value("await flyte_jupyter.run(here)")
    assert book.fail("await flyte_jupyter.run(f)").name == "ValueError"
    book.run("await flyte_jupyter.run(g)")
    cell = book.submit(
        "run = flyte_jupyter.run(h)\nawait asyncio.sleep(1)\nrun.cancel()\nrun.result()"
    )
    assert book.wait(cell).error.name == "KeyboardInterrupt"
    assert book.value("await flyte_jupyter.run(here)") == driver
    declared(book, "def f(n):\n    return list(flyte.map(leaf, range(n)))")
    assert book.value("await flyte_jupyter.run(f, 3)") == [1, 2, 3]


@pytest.mark.parametrize("call", ["slow()", "blocking_slow.aio()"])
def test_a_nested_task_that_is_cancelled_is_stopped(book, tmp_path, call):
    tally = tmp_path / "tally"
    declared(
        book,
        f"tally = {str(tally)!r}\n"
        "@leaf_env.task\nasync def slow():\n    try: await asyncio.sleep(600)\n"
        "    finally: open(tally, 'a').write('out')\n"
        "@leaf_env.task\ndef blocking_slow():\n    try:\n"
        "        for _ in range(60000): time.sleep(0.01)\n"
        "    finally: open(tally, 'a').write('out')\n"
        "@env.task\nasync def f():\n    try:\n        async with asyncio.timeout(0.5):\n"
        f"            await {call}\n    except TimeoutError:\n"
        "        for _ in range(1000):\n            if os.path.exists(tally): return 'stopped'\n"
        "            await asyncio.sleep(0.01)",
    )
    assert book.value("await flyte_jupyter.run(f)") == "stopped"


def test_an_interrupt_reaches_through_tasks_that_wait_for_each_other(book):
    declared(
        book,
        "@env.task\ndef deep(n):\n    if n: return deep(n - 1)\n    print('in', flush=True)\n"
        "    while True: time.sleep(0.01)",
    )
    assert interrupted(book, "deep, 3", 8) == "KeyboardInterrupt"  # before drivers are replaced


def test_an_interrupt_ends_a_task_that_goes_on_calling_whatever_its_calls_raise(book):
    declared(
        book,
        "@env.task\ndef goes_on():\n    print('in', flush=True)\n    while True:\n"
        "        try: blocking_leaf(1)\n        except Exception: pass\n"
        "@env.task\ndef f(): return goes_on()",
    )
    assert interrupted(book, "f", 8) == "KeyboardInterrupt"  # before drivers are replaced
    assert book.value("run.state") == "cancelled"


@pytest.fixture
def impatient(book):
    book.run("%config FlyteJupyter.interrupt_grace = 1.0")
    yield book
    book.run("%config FlyteJupyter.interrupt_grace = 10.0")


def test_a_task_that_is_deaf_costs_its_callers_nothing(impatient):
    book = impatient
    declared(
        book,
        "@leaf_env.task\ndef deaf():\n    print('in', flush=True)\n    end = time.time() + 60\n"
        "    while time.time() < end:\n        try: time.sleep(0.05)\n"
        "        except KeyboardInterrupt: pass\n"
        "@env.task\nasync def f(): return await deaf.aio()\n"
        "@env.task\ndef here(): return os.getpid()",
    )
    driver = book.value("await flyte_jupyter.run(here)")
    assert interrupted(book, "f") == "KeyboardInterrupt"
    assert book.value("await flyte_jupyter.run(here)") == driver


def test_a_value_is_there_although_a_call_that_was_given_up_ends_the_driver(impatient):
    book = impatient
    declared(
        book,
        "import numpy as np\n@env.task\ndef blocks(): time.sleep(60)\n"
        "@env.task\nasync def f():\n    try: await asyncio.wait_for(blocks.aio(), 0.5)\n"
        "    except TimeoutError: pass\n    return np.ones(2**20)",
    )
    assert book.value("float((await flyte_jupyter.run(f)).sum())") == 2**20


def test_a_call_that_is_given_up_at_once_leaves_nothing(book):
    declared(
        book,
        "@env.task\nasync def f():\n"
        "    from flyte._internal.controllers import _ControllerState\n"
        "    for _ in range(30):\n"
        "        try: await asyncio.wait_for(leaf(1), 0)\n        except TimeoutError: pass\n"
        "        task = asyncio.ensure_future(leaf(1))\n        await asyncio.sleep(0)\n"
        "        task.cancel()\n"
        "    calls = _ControllerState.controller._calls\n"
        "    for _ in range(500):\n        if not calls: return 'none'\n"
        "        await asyncio.sleep(0.01)\n    return len(calls)",
    )
    assert book.value("await flyte_jupyter.run(f)") == "none"


def test_what_nested_tasks_return_is_given_back(book):
    declared(
        book,
        "@leaf_env.task\ndef large(): return bytes(1_000_000)\n"
        "@leaf_env.task\ndef held():\n"
        "    return sum('memfd' in os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir("
        "'/proc/self/fd') if os.path.islink(f'/proc/self/fd/{fd}'))\n"
        "@env.task\ndef f():\n    for _ in range(20): large()\n    return held()",
    )
    assert book.value("await flyte_jupyter.run(f)") < 5


def test_the_cluster_of_a_nested_task_is_what_its_environment_declares_now(book):
    code = (
        "late_env = flyte.TaskEnvironment(name='late', env_vars={{'COLOUR': '{}'}})\n"
        "@late_env.task\ndef colour(): return os.environ['COLOUR']\n"
        "@env.task\ndef f(): return colour()"
    )
    book.run(code.format("red"))
    assert book.value("await flyte_jupyter.run(f)") == "red"
    book.run(code.format("blue"))
    assert book.value("await flyte_jupyter.run(f)") == "blue"


def test_a_run_cannot_be_started_from_a_task(book):
    declared(book, "def f(): flyte_jupyter.run(leaf, 1)")
    assert "this is a task already" in book.fail("await flyte_jupyter.run(f)").value


def test_a_cached_task_runs_once(book, tmp_path):
    tally, folder = tmp_path / "tally", tmp_path / "cache"
    book.run(f"%config FlyteJupyter.cache_folder = {str(folder)!r}")
    declared(
        book,
        "@leaf_env.task(cache=flyte.Cache('auto', ignored_inputs=('where',)))\n"
        "def counted(x, where):\n    open(where, 'a').write('.')\n    return x + 1\n"
        "@env.task\ndef f(where):\n    return [counted(x, where) for x in (1, 1, 2)]",
    )
    assert book.value(f"await flyte_jupyter.run(f, {str(tally)!r})") == [2, 2, 3]
    assert tally.read_text() == ".."


def test_retries_of_a_nested_task(book, tmp_path):
    tally = str(tmp_path / "tally")
    declared(
        book,
        "@leaf_env.task(retries=2)\ndef flaky(where):\n    open(where, 'a').write('.')\n"
        "    if len(open(where).read()) < 3: raise ValueError\n    return 'done'\n"
        "@env.task\nasync def f(where): return await flaky.aio(where)",
    )
    assert book.value(f"await flyte_jupyter.run(f, {tally!r})") == "done"


def test_a_nested_task_whose_cluster_is_lost_has_a_new_one(book, tmp_path):
    tally = str(tmp_path / "tally")
    declared(
        book,
        "import os, signal, time\nimport psutil\n"
        "lost_env = flyte.TaskEnvironment(name='lost')\n"
        "@lost_env.task(retries=1)\ndef doomed(where):\n    open(where, 'a').write('.')\n"
        "    if len(open(where).read()) < 2:\n"
        "        above = psutil.Process().parents()\n"
        "        (one,) = [p for p in above if p.name().startswith('flyte:super')]\n"
        "        one.send_signal(signal.SIGKILL)\n        time.sleep(600)\n"
        "    return 'done'\n"
        "@env.task\nasync def f(where): return await doomed.aio(where)",
    )
    assert book.value(f"await flyte_jupyter.run(f, {tally!r})") == "done"


def test_a_cell_may_call_tasks_too(book):
    book.run("%%flyte_task env -o got\ngot = await leaf(41)")
    assert book.value("got") == 42


def test_a_cluster_that_goes_by_itself_waits_until_its_value_has_been_taken(book):
    pytest.importorskip("ray")
    declared(
        book,
        "import numpy as np\nfrom flyteplugins.ray import RayJobConfig, WorkerNodeConfig\n"
        "ray_env = flyte.TaskEnvironment(name='short_ray', plugin_config=RayJobConfig(\n"
        "    worker_node_config=[WorkerNodeConfig(group_name='w', replicas=1)],\n"
        "    shutdown_after_job_finishes=True, ttl_seconds_after_finished=0))\n"
        "@ray_env.task\ndef large(): return np.ones(2**23)\n"
        "@env.task\ndef f(): return float(large().sum())",
    )
    assert book.value("await flyte_jupyter.run(f)") == 2**23
    assert leaks.until(lambda: not book.processes("raylet"))


def test_an_environment_that_no_variable_holds_is_found_all_the_same(book):
    book.run("""if True:
        held = [flyte.TaskEnvironment(name="held", env_vars={"PLACE": "held"})]
        calling = flyte.TaskEnvironment(name="calling", depends_on=held)
        @held[0].task
        async def place() -> str:
            import os
            return os.environ["PLACE"]
        @calling.task
        async def ask() -> str:
            return await place()""")
    assert book.value("flyte_jupyter.run(ask).result()") == "held"
    assert book.value("flyte_jupyter.run(place).result()") == "held"
    assert "starts anew" not in book.run("flyte_jupyter.run(ask).result()").shown


def test_a_reuse_policy_does_not_hang_a_call_that_comes_back_through_another(book):
    book.run("""if True:
        single = flyte.TaskEnvironment(name="single", reusable=flyte.ReusePolicy(replicas=1))
        between = flyte.TaskEnvironment(name="between")
        @single.task
        async def last() -> int:
            return 7
        @between.task
        async def middle() -> int:
            return await last()
        @single.task
        async def first() -> int:
            return await middle()""")
    assert book.value("flyte_jupyter.run(first).result()") == 7


def test_an_exception_with_a_constructor_of_its_own_crosses_between_tasks(book):
    book.run("""if True:
        outer_env = flyte.TaskEnvironment(name="outer-env")
        inner_env = flyte.TaskEnvironment(name="inner-env")
        class Refused(Exception):
            def __init__(self, status, url):
                super().__init__(f"{status} for {url}")
                self.status = status
        @inner_env.task
        async def refused() -> None:
            raise Refused(503, "there")
        @outer_env.task
        async def tries() -> int:
            try:
                await refused()
            except Refused as error:
                return error.status
            return 0""")
    assert book.value("flyte_jupyter.run(tries).result()") == 503


FORGOTTEN = {
    "left alone": "notify(1)",
    "in a list": "kept = [notify(1)]",
}


@pytest.mark.parametrize("line", FORGOTTEN.values(), ids=FORGOTTEN)
def test_an_async_task_that_a_plain_one_forgets_to_await_is_named(book, line):
    book.run(f"""if True:
        forgetting = flyte.TaskEnvironment(name="forgetting")
        @forgetting.task
        async def notify(x: int) -> int:
            return x
        @forgetting.task
        def forgets() -> int:
            {line}
            return 1""")
    error = book.fail("flyte_jupyter.run(forgets).result()")
    assert "not awaited" in error.value
    assert "Make it `async def` and await that" in error.value


def test_a_plain_task_may_await_by_asyncio_run(book):
    book.run("""if True:
        running = flyte.TaskEnvironment(name="running")
        @running.task
        async def answered(x: int) -> int:
            return x
        @running.task
        def runs() -> int:
            import asyncio
            async def both():
                return sum(await asyncio.gather(answered(1), answered(2)))
            return asyncio.run(both()) + asyncio.run(answered(3))""")
    assert book.value("flyte_jupyter.run(runs).result()") == 6


def test_a_class_of_a_cell_stays_its_own_when_a_task_of_the_same_environment_takes_it(book):
    book.run("""if True:
        same = flyte.TaskEnvironment(name="same", cache="disable")
        limit = 10
        class Limited:
            def told(self): return limit
        @same.task
        async def take(value) -> int:
            return value.told()""")
    body = "limit = 20\nawait take(Limited())\nLimited().told()"
    assert book.task(body, environment="same").result == "20"


def test_a_time_limit_that_a_called_task_catches_is_one_all_the_same(book):
    book.run(GRACEFUL)
    book.run("""if True:
        limited = flyte.TaskEnvironment(name="limited")
        calls_limited = flyte.TaskEnvironment(name="calls-limited")
        @limited.task(timeout=1)
        def graceful() -> str:
            return stops_gracefully()
        @calls_limited.task
        async def calls() -> str:
            return graceful()""")
    assert "longer than its 1 s" in book.fail("flyte_jupyter.run(calls).result()").value
