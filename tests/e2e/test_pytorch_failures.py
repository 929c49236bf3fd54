"""What happens to a PyTorch cell when ranks, nodes, the driver or the notebook die."""

from __future__ import annotations

import pytest

from tests import leaks
from tests.e2e.test_pytorch import GROUP, TORCH, all_reduce
from tests.notebook import Notebook, notebook, task


def declare(name: str, **config: object) -> str:
    """Return a cell that declares an environment and up to what it needs."""
    fields = ", ".join(f"{key}={value}" for key, value in config.items())
    return (
        "import flyte\n"
        "from flyteplugins.pytorch import Elastic\n"
        "from flyteplugins.pytorch.task import RunPolicy\n"
        f"{name} = flyte.TaskEnvironment(name={name!r}, plugin_config=Elastic({fields}))"
    )


@pytest.fixture(scope="module")
def torch(tmp_path_factory) -> Notebook:
    """A notebook whose `env` has two ranks, up already."""
    with notebook(tmp_path_factory.mktemp("torch"), TORCH, "%flyte up env") as book:
        yield book


@pytest.fixture
def elastic(tmp_path) -> Notebook:
    """A notebook with two nodes of one rank each, of which one is enough."""
    with notebook(tmp_path, declare("env", nnodes="'1:2'", nproc_per_node=1)) as book:
        book.run("%flyte up env")
        yield book


KILL_ONCE = """
import os, signal, time
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_rank_restarts_all(torch):
    body = KILL_ONCE + GROUP + "t = torch.ones(1)\ndist.all_reduce(t)\ntotal = float(t)"
    cell = torch.task(body, "-o total")
    assert cell.stderr == "Rank 1 was killed by SIGKILL; all ranks start again (1 of 3).\n"
    assert torch.value("total") == 2.0


def test_a_rank_that_dies_while_others_wait_for_it_is_the_one_named(torch):
    body = (
        f"{GROUP}import signal\nif rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ndist.barrier()"
    )
    torch.run(declare("once", nnodes=1, nproc_per_node=2, max_restarts=1))
    try:
        error = torch.fail(task(body, environment="once"))
    finally:
        torch.run("%flyte down once")
    assert error.name == "ClusterError"
    assert "rank 1 was killed by SIGKILL" in error.value
    assert "1 restart did not help" in error.value
    assert "memory" in error.value


def test_a_rank_that_leaves_by_itself_is_named_with_its_exit_code(torch):
    torch.run(declare("never", nnodes=1, nproc_per_node=2, max_restarts=0))
    try:
        body = "import os, time\nif os.environ['RANK'] == '0': os._exit(0)\ntime.sleep(600)"
        error = torch.fail(task(body, environment="never"))
        assert "rank 0 ended with exit code 0" in error.value
        body = "import os, time\nif os.environ['RANK'] == '1': time.sleep(600)\n"
        body += "print('last')\nos.abort()"
        cell = torch.wait(torch.submit(task(body, environment="never")))
        assert "killed by SIGABRT" in cell.error.value
        assert "last" in cell.stdout
    finally:
        torch.run("%flyte down never")


@pytest.mark.parametrize("early", [0, 1])
def test_a_rank_that_waits_for_one_that_has_ended_fails(torch, early):
    late = 1 - early
    body = f"{GROUP}value = rank\nif rank == {late}: dist.barrier()"
    cell = torch.wait(torch.submit(task(body, "-o value")))
    assert f"raised on rank {late} of 2" in cell.shown
    assert cell.error.name in ("RuntimeError", "DistBackendError")
    said = f"Rank {early} has ended and is let go; rank {late} goes on without it.\n"
    assert said in cell.stderr


def test_a_rank_that_has_ended_may_leave_the_others_their_time(torch):
    body = f"{GROUP}value = [rank] * 100_000\nimport time\nif rank == 1: time.sleep(7)"
    cell = torch.task(body, "-o value -r rank")
    assert "Rank 0 has ended" in cell.stderr
    assert torch.value("sum(value) + rank.get()") == 0


def test_sys_exit_ends_the_cell(torch):
    assert "sys.exit" in torch.fail(task("import sys\nsys.exit(3)")).value


BUSY = {
    "time.sleep": "import time\nprint('in')\ntime.sleep(600)",
    "await": "import asyncio\nprint('in')\nawait asyncio.sleep(600)",
    "a loop": "print('in')\nwhile True: pass",
    "a barrier that nobody else reaches": (
        f"{GROUP}import time\nprint('in')\nif rank == 0: dist.barrier()\ntime.sleep(600)"
    ),
    "a collective that nobody else reaches, rank 0 outside": (
        f"{GROUP}import time\nprint('in')\nif rank == 1: dist.barrier()\ntime.sleep(600)"
    ),
}


@pytest.mark.parametrize("body", BUSY.values(), ids=BUSY)
def test_an_interrupt_ends_all_ranks_and_nothing_else(torch, body):
    node, driver = torch.process("node").pid, torch.process("driver").pid
    cell = torch.submit(task(body))
    torch.until_printed(cell, "in\n")
    torch.interrupt()
    error = torch.wait(cell).error
    assert error.name == "KeyboardInterrupt"
    assert len(cell.of("error")) == 1
    assert leaks.until(lambda: not torch.processes("rank"))
    assert (torch.process("node").pid, torch.process("driver").pid) == (node, driver)
    assert all_reduce(torch) == [3.0, 3.0]


def test_an_interrupt_leaves_what_rank_0_has_bound_so_far(torch):
    body = GROUP + "import time\nmodel, log = [rank], [rank, 2]\nprint('in')\ntime.sleep(600)"
    cell = torch.submit(task(body, "-o model -r log"))
    torch.until_printed(cell)
    torch.interrupt()
    assert torch.wait(cell).error.name == "KeyboardInterrupt"
    assert torch.value("model, log.get()") == ([0], [0, 2])


@pytest.mark.parametrize("failing", [0, 1])
def test_so_does_a_failure_of_any_rank(torch, failing):
    body = f"{GROUP}model = [rank, {failing}]\nif rank == {failing}: 1 / 0\ndist.barrier()"
    cell = torch.wait(torch.submit(task(body, "-o model")))
    assert cell.error.name == "ZeroDivisionError"
    assert f"raised on rank {failing} of 2" in cell.error.traceback
    assert torch.value("model") == [0, failing]


def test_a_rank_that_dies_of_another_ones_failure_restarts_nothing(torch):
    body = (
        f"{GROUP}import os, signal\nif rank: 1 / 0\n"
        "try: dist.barrier()\nfinally: os.kill(os.getpid(), signal.SIGABRT)"
    )
    cell = torch.wait(torch.submit(task(body, "-o rank")))
    assert cell.error.name == "ZeroDivisionError"
    assert "start again" not in cell.stderr


def test_one_value_that_cannot_be_pickled_costs_no_other(torch):
    body = "model, log, kept = [1], (x for x in [2]), [3]"
    error = torch.fail(task(body, "-o model,log -r kept"))
    assert "`log` (generator) cannot be pickled" in error.value
    assert torch.value("model, kept.get()") == ([1], [3])


def test_one_that_cannot_be_rebuilt_stays_in_the_driver(torch):
    body = (
        "import os\ndef rebuild():\n    os.environ['FLYTE_JUPYTER_CLUSTER']\n    return Model()\n"
        "class Model:\n    def __reduce__(self):\n        return rebuild, ()\n"
        "model, other = Model(), [2] * 200_000"
    )
    error = torch.fail(task(body, "-o model,other"))
    assert "`model` cannot be rebuilt" in error.value
    assert torch.value("len(other), type(model).__name__") == (200_000, "Ref")


def test_ranks_that_ignore_an_interrupt_are_ended_and_the_driver_stays(torch):
    driver = torch.process("driver").pid
    torch.task("held = 5", "-r held")
    body = """
    import time
    print("in")
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            print("ignored")
    """
    cell = torch.submit(task(body))
    torch.until_printed(cell, "in\n")
    torch.interrupt()
    assert torch.wait(cell).error.name == "KeyboardInterrupt"
    assert torch.process("driver").pid == driver
    assert torch.value("held.get()") == 5


def test_what_an_interrupted_rank_does_in_the_end_is_done(torch, tmp_path):
    torch.run(f"mark = {str(tmp_path)!r}")
    body = f"""{GROUP}
try:
    dist.barrier()
    print("in")
    time.sleep(600)
finally:
    open(f"{{mark}}/{{rank}}", "w").close()
"""
    cell = torch.submit(task(body))
    torch.until_printed(cell, "in\n")
    torch.interrupt()
    torch.wait(cell)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


def test_a_time_limit_holds(torch):
    assert torch.fail(task("import time\ntime.sleep(600)", "--timeout 0.5")).name == "TaskTimeout"
    policy = "RunPolicy(active_deadline_seconds=1, backoff_limit=2)"
    cell = torch.run(declare("short", nnodes=1, nproc_per_node=2, run_policy=policy))
    try:
        cell = torch.wait(torch.submit(task("import time\ntime.sleep(600)", environment="short")))
        assert cell.error.name == "TaskTimeout"
        assert "active_deadline_seconds=1" in cell.error.value
        assert "backoff_limit" in cell.shown
        assert torch.task("1", environment="short").result == "1"
    finally:
        torch.run("%flyte down short")


def test_what_a_rank_leaves_behind_goes_with_it(torch):
    body = "import os, subprocess\nsubprocess.Popen(['sleep', '987'])\nprint(os.getpid())"
    torch.task(body)
    left = [p for p in torch.processes() if p.name() == "sleep"]
    assert leaks.until(lambda: not [p for p in left if p.is_running()])


def test_workers_of_a_data_loader_work_and_go(torch):
    body = """
    import torch
    from torch.utils.data import DataLoader
    loader = DataLoader(range(8), batch_size=2, num_workers=1)
    seen = sorted(int(x) for batch in loader for x in batch)
    """
    torch.task(body, "-o seen")
    assert torch.value("seen") == list(range(8))


def test_a_fixed_node_that_dies_fails_the_run_and_is_replaced(torch):
    cell = torch.submit(task(f"{GROUP}import time\nprint('in')\ntime.sleep(600)"))
    torch.until_printed(cell, "in\n")
    node = torch.process("node")
    node.kill()
    error = torch.wait(cell).error
    assert error.name == "ClusterError"
    assert "node 0 was lost" in error.value
    assert all_reduce(torch) == [3.0, 3.0]
    assert torch.process("node").pid != node.pid


def test_a_driver_that_dies_takes_the_ranks_and_not_the_node(torch):
    node = torch.process("node").pid
    cell = torch.submit(task("import time\nprint('in')\ntime.sleep(600)"))
    torch.until_printed(cell, "in\n")
    torch.process("driver").kill()
    assert torch.wait(cell).error.name == "DriverLost"
    assert leaks.until(lambda: not torch.processes("rank"))
    assert all_reduce(torch) == [3.0, 3.0]
    assert torch.process("node").pid == node


def test_two_nodes_are_two_groups_of_ranks(elastic):
    body = (
        "import os\nprint(os.environ['RANK'], os.environ['GROUP_RANK'], os.environ['WORLD_SIZE'])"
    )
    lines = elastic.task(body, "--ranks all").stdout.splitlines()
    assert sorted(lines) == ["[rank 0] 0 0 2", "[rank 1] 1 1 2"]
    log = elastic.run("%flyte logs env node").result
    assert log.splitlines() in (
        ["--- node-0 ---", lines[0], "--- node-1 ---", lines[1]],
        ["--- node-0 ---", lines[1], "--- node-1 ---", lines[0]],
    )
    assert all_reduce(elastic) == [3.0, 3.0]


def test_a_rank_killed_on_one_node_restarts_those_of_the_other(elastic):
    body = KILL_ONCE + GROUP + "t = torch.ones(1)\ndist.all_reduce(t)\ntotal = float(t)"
    cell = elastic.task(body, "-o total")
    assert cell.stderr.count("all ranks start again") == 1
    assert elastic.value("total") == 2.0


def test_ranks_of_two_nodes_that_die_at_once_are_restarted_together(elastic):
    error = elastic.fail(task(f"{GROUP}dist.barrier()\nimport os\nos._exit(3)"))
    assert error.name == "ClusterError"
    assert "3 restarts did not help" in error.value


def test_ranks_that_die_on_one_node_after_the_other_share_the_restarts(elastic, tmp_path):
    body = f"""{GROUP}
import os, pathlib, time
starts = pathlib.Path({str(tmp_path / "starts")!r})
agents = [None] * 2
dist.all_gather_object(agents, os.getppid())
start = [len(starts.read_text()) if starts.exists() else 0]
dist.broadcast_object_list(start)
if rank == 0:
    starts.write_text("." * (start[0] + 1))
dist.barrier()
if os.getppid() == sorted(agents)[start[0] % 2]:
    os._exit(3)
time.sleep(600)"""
    error = elastic.fail(task(body))
    assert "3 restarts did not help" in error.value
    assert (tmp_path / "starts").read_text() == "...."


def test_nodes_whose_agents_always_die_end_the_task(elastic):
    body = "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(600)"
    error = elastic.fail(task(body))
    assert error.name == "ClusterError"
    assert "4 nodes were lost" in error.value
    assert all_reduce(elastic) == [3.0, 3.0]


def test_a_range_goes_on_with_the_nodes_that_are_left(elastic, tmp_path):
    body = f"""{GROUP}
import os, time
print("in", dist.get_world_size())
begun = {str(tmp_path / "begun")!r} + str(rank)
if not os.path.exists(begun):
    open(begun, "w").close()
    time.sleep(600)
total = dist.get_world_size()
"""
    cell = elastic.submit(task(body, "-o total"))
    elastic.until_printed(cell, "in 2\n")
    elastic.process("node-1").kill()
    elastic.wait(cell)
    assert cell.error is None, cell.error
    assert "Node 1 was lost; all ranks start again on 1 node." in cell.stderr
    # The node that takes its place may be there in time.
    assert elastic.value("total") in (1, 2)
    assert leaks.until(lambda: len(elastic.processes("node")) == 2)


def test_a_range_can_be_scaled(elastic):
    elastic.run("%flyte scale env 1")
    assert leaks.until(lambda: len(elastic.processes("node")) == 1)
    assert elastic.task("import os\nos.environ['WORLD_SIZE']").result == "'1'"
    elastic.run("%flyte scale env 2")
    assert elastic.task("import os\nos.environ['WORLD_SIZE']").result == "'2'"


@pytest.mark.parametrize("moment", ["while ranks work", "while they load data", "idle"])
def test_nothing_is_left_of_a_kernel_that_is_killed(tmp_path, moment):
    temporary = tmp_path / "t"
    temporary.mkdir()
    with notebook(tmp_path, TORCH, env={"TMPDIR": str(temporary)}) as book:
        all_reduce(book)
        before = set(temporary.iterdir())  # the kernel's own
        body = f"{GROUP}import time\nprint('in')\ntime.sleep(600)"
        if moment == "while they load data":
            body = """
            import time
            from torch.utils.data import DataLoader
            for batch in DataLoader(range(2**40), num_workers=2): print("in")
            """
        if moment != "idle":
            book.until_printed(book.submit(task(body)), "in")
        processes = book.processes()
        assert len(processes) >= 4 + 3 * (moment != "idle")
        book.kill()
        assert leaks.until(lambda: not any(_lives(p) for p in processes), 5)
        assert set(temporary.iterdir()) <= before


def _lives(process) -> bool:
    try:
        return process.is_running() and process.status() != "zombie"
    except Exception:  # noqa: BLE001 - gone between the two
        return False
