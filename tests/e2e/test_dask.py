"""Dask clusters: the client finds them, code reaches the workers, and members may die."""

from __future__ import annotations

import signal

import pytest

from tests.notebook import task

CLIENT = "from distributed import Client\nclient = Client()\n"


def test_the_client_connects_without_an_address(dask):
    cell = dask.task(CLIENT + "client.submit(sum, [1, 2]).result(), len(client.nthreads())")
    assert cell.result == "(3, 2)"
    assert dask.task(CLIENT + "client.scheduler.address.split(':')[0]").result == "'tls'"


def test_the_workers_are_processes_of_their_own(dask):
    dask.task(CLIENT + "import os\npids = list(client.run(os.getpid).values())", "-o pids")
    assert set(dask.value("pids")) == {p.pid for p in dask.processes("worker")}


def test_functions_and_classes_of_the_notebook_reach_the_workers_fresh(dask):
    dask.run("offset = 1\nclass Box:\n    def get(self): return 10\n")
    dask.run("def work(x): return Box().get() + x + offset")
    body = CLIENT + "client.gather(client.map(work, range(3)))"
    assert dask.task(body).result == "[11, 12, 13]"
    dask.run("class Box:\n    def get(self): return 20\n")
    assert dask.task(body).result == "[21, 22, 23]"
    dask.run("def work(x): return -Box().get() * x")
    assert dask.task(body).result == "[0, -20, -40]"


def test_functions_of_the_task_cell_itself_reach_the_workers(dask):
    body = CLIENT + "def double(x): return 2 * x\nclient.gather(client.map(double, range(3)))"
    assert dask.task(body).result == "[0, 2, 4]"


def test_dask_collections_compute_on_the_cluster(dask):
    body = """
    import dask.array as da
    from distributed import Client
    client = Client()
    total = float(da.ones((1000, 1000), chunks=(100, 100)).sum().compute())
    """
    dask.task(body, "-o total")
    assert dask.value("total") == 1e6


def test_an_error_on_a_worker_shows_its_line(dask):
    error = dask.fail(
        task(CLIENT + "def fails(x):\n    raise KeyError(x)\nclient.submit(fails, 7).result()")
    )
    assert (error.name, error.value) == ("KeyError", "7")
    assert "raise KeyError(x)" in error.traceback


def test_a_worker_can_be_a_client_too(dask):
    body = """
    from distributed import Client, get_client
    def outer(n):
        return sum(get_client().gather(get_client().map(abs, range(n))))
    Client().submit(outer, 4).result()
    """
    assert dask.task(body).result == "6"


def test_an_interrupt_ends_a_gather_and_the_cluster_stays(dask):
    body = """
    import time
    from distributed import Client
    client = Client()
    futures = client.map(time.sleep, [600, 601], pure=False)
    print("in")
    client.gather(futures)
    """
    before = {p.pid for p in dask.processes()}
    cell = dask.submit(task(body))
    dask.until_printed(cell, "in")
    dask.interrupt()
    assert dask.wait(cell).error.name == "KeyboardInterrupt"
    assert {p.pid for p in dask.processes()} == before
    dask.task(CLIENT + "client.cancel(client.futures.values())")
    dask.run("%flyte down env")  # the sleeping threads cannot be stopped
    dask.run("%flyte up env")


def test_a_dead_worker_is_replaced_and_the_work_goes_on(dask, tmp_path):
    dask.run(f"gate = {str(tmp_path / 'gate')!r}")
    body = """
    import os, time
    from distributed import Client
    client = Client()
    def work(x, gate):
        while not os.path.exists(gate):
            time.sleep(0.02)
        return x
    futures = client.map(work, range(8), gate=gate, pure=False)
    print("in")
    result = client.gather(futures)
    """
    cell = dask.submit(task(body, "-o result"))
    dask.until_printed(cell, "in")
    victim = dask.process("worker-1")
    victim.send_signal(signal.SIGKILL)
    dask.until(lambda: victim.pid not in {p.pid for p in dask.processes("worker-1")})
    dask.process("worker-1")
    (tmp_path / "gate").touch()
    assert dask.wait(cell).error is None
    assert dask.value("result") == list(range(8))

    def line() -> str:
        status = dask.run("%flyte status env").result
        return next(line for line in status.splitlines() if line.startswith("worker-1"))

    dask.until(lambda: "ready" in line(), what="the new worker")
    assert "killed by SIGKILL" in line()


def test_the_cluster_grows_and_shrinks_while_a_run_goes_on(dask, tmp_path):
    dask.run(f"gate = {str(tmp_path / 'gate')!r}")
    body = """
    import os, time
    from distributed import Client
    client = Client()
    kept = client.scatter(list(range(6)), broadcast=False)
    print("in")
    while not os.path.exists(gate):
        time.sleep(0.02)
    total = sum(client.gather(kept))
    """
    run = dask.task(body, "-o total --bg job")
    dask.until_printed(run, "in")
    grown = dask.run("%flyte scale env 4").result
    assert grown.count("worker-") == grown.count("worker") == 4
    assert len(dask.processes("worker")) == 4
    shrunk = dask.run("%flyte scale env 1").result
    assert shrunk.count("worker-") == 1
    assert dask.value("job.state") == "running"
    (tmp_path / "gate").touch()
    assert dask.value("job.result(60)") == 15
    dask.run("%flyte scale env 2")


def test_a_crashed_driver_leaves_the_workers_and_their_client_again(dask):
    workers = {p.pid for p in dask.processes("worker")}
    assert dask.fail(task("import os\nos._exit(3)")).name == "DriverLost"
    assert dask.task(CLIENT + "client.submit(sum, [4, 5]).result()").result == "9"
    assert {p.pid for p in dask.processes("worker")} == workers


def test_a_worker_that_uses_too_much_memory_is_named(dask):
    dask.run(
        'small = flyte.TaskEnvironment(name="small", plugin_config=Dask(workers=WorkerGroup('
        'number_of_workers=1, resources=flyte.Resources(memory="300Mi"))))'
    )
    body = CLIENT + (
        "import dask\ndask.config.set({'distributed.scheduler.allowed-failures': 0})\n"
        "def hog():\n    import time\n    block = bytearray(600 * 2**20)\n    time.sleep(60)\n"
        "client.submit(hog).result()"
    )
    cell = dask.submit(task(body, "--bg hogging", environment="small"))
    dask.wait(cell)
    dask.until(
        lambda: "exit code 137" in dask.run("%flyte status small").result, what="the worker's end"
    )
    log = dask.run("%flyte logs small worker-0").result
    assert "of its 300 MiB and ended itself" in log
    dask.run("%flyte down small")


def test_a_lost_scheduler_is_a_lost_cluster_and_the_next_cell_starts_another(dask):
    before = {p.pid for p in dask.processes()}
    cell = dask.submit(task("import time\nprint('in')\ntime.sleep(600)"))
    dask.until_printed(cell)
    dask.process("scheduler").send_signal(signal.SIGKILL)
    error = dask.wait(cell).error
    assert error.name == "ClusterLost"
    assert "scheduler-0 ended: killed by SIGKILL" in error.value
    dask.until(lambda: not dask.processes(), what="the rest to go")
    assert "failed" in dask.run("%flyte status").result
    assert dask.task(CLIENT + "client.submit(sum, [6, 7]).result()").result == "13"
    assert not before & {p.pid for p in dask.processes()}


@pytest.fixture
def helpers(dask):
    """A module beside the notebook."""
    folder = dask.value("__import__('os').getcwd()")
    from pathlib import Path

    path = Path(folder) / "helpers_beside.py"
    path.write_text("def scale(x):\n    return 2 * x\n\nclass Thing:\n    size = 1\n")
    yield path
    dask.run("import sys\nsys.modules.pop('helpers_beside', None)")
    path.unlink()


def test_local_modules_reach_the_workers_and_are_fresh_after_an_edit(dask, helpers):
    dask.run("import helpers_beside\nfrom helpers_beside import scale, Thing")
    body = CLIENT + (
        "client.gather(client.map(scale, [1, 2])), Thing.size, helpers_beside.scale(1),"
        " client.submit(lambda: helpers_beside.scale(4)).result()"
    )
    assert dask.task(body).result == "([2, 4], 1, 2, 8)"
    helpers.write_text("def scale(x):\n    return 300 * x\n\nclass Thing:\n    size = 22\n")
    cell = dask.task(body)
    assert cell.result == "([300, 600], 22, 300, 1200)"
    assert "helpers_beside has changed and was reloaded" in cell.stderr


def test_a_local_module_imported_in_the_task_cell_itself(dask, helpers):
    body = CLIENT + "import helpers_beside\nclient.submit(helpers_beside.scale, 21).result()"
    assert dask.task(body).result == "42"
    helpers.write_text("def scale(x):\n    return -x + 1000\n")
    assert dask.task(body).result == "979"


def test_a_broken_edit_is_said_and_the_old_code_stays(dask, helpers):
    dask.run("import helpers_beside")
    assert dask.task("helpers_beside.scale(3)").result == "6"
    helpers.write_text("def scale(x:\n")
    cell = dask.task("helpers_beside.scale(3)")
    assert cell.result == "6"
    assert "helpers_beside was not reloaded: SyntaxError" in cell.stderr
