"""PyTorch environments: a cell runs in all ranks, with torch's own agents below them."""

from __future__ import annotations

import os

import pytest

from tests import leaks
from tests.notebook import Notebook, notebook, task

TORCH = """\
import flyte
from flyteplugins.pytorch import Elastic
env = flyte.TaskEnvironment(name="torch", plugin_config=Elastic(nnodes=1, nproc_per_node=2))"""
GROUP = """\
import os
import torch
import torch.distributed as dist
dist.init_process_group()
rank = dist.get_rank()
"""


@pytest.fixture(scope="module")
def torch(tmp_path_factory) -> Notebook:
    """A notebook whose `env` has two ranks, up already."""
    with notebook(tmp_path_factory.mktemp("torch"), TORCH, "%flyte up env") as book:
        yield book


def all_reduce(book: Notebook) -> str:
    body = f"{GROUP}t = torch.ones(2) * (rank + 1)\ndist.all_reduce(t)\ntotal = t.tolist()"
    book.task(body, "-o total")
    return book.value("total")


def test_a_group_needs_no_arguments_and_ranks_reduce(torch):
    assert all_reduce(torch) == [3.0, 3.0]


def test_a_distributed_model_is_returned_without_its_wrapper(torch):
    body = f"""{GROUP}
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
before = model.module.weight.item()
model(torch.ones(1, 1)).sum().backward()
optimizer.step()
"""
    cell = torch.task(body + "kept = {'net': model}", "-o model,before -r kept")
    assert cell.stderr.count("returned as its .module") == 1
    assert torch.value("type(model).__name__") == "Linear"
    assert torch.value("abs(model.weight.item() - (before - 1)) < 1e-6")
    assert torch.value("kept.get()['net'].weight.item() == model.weight.item()")


def test_every_rank_has_the_variables_of_torchrun(torch):
    body = """
    import os
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR OMP_NUM_THREADS"
    print(*(os.environ[name] for name in names.split()))
    """
    cell = torch.task(body, "--ranks all")
    assert sorted(cell.stdout.splitlines()) == [
        "[rank 0] 0 0 2 2 0 127.0.0.1 1",
        "[rank 1] 1 1 2 2 0 127.0.0.1 1",
    ]


def test_a_rank_is_what_torch_says_whatever_the_notebook_has_set(torch):
    torch.run("import os\nos.environ.update(RANK='7', WORLD_SIZE='9', MASTER_PORT='1', SEEN='yes')")
    cell = torch.task("import os\nprint(os.environ['RANK'], os.environ['WORLD_SIZE'])", "--ranks 1")
    assert cell.stdout == "[rank 1] 1 2\n"
    assert torch.task("import os\nos.environ['SEEN']").result == "'yes'"
    assert all_reduce(torch) == [3.0, 3.0]
    torch.run("for name in ('RANK', 'WORLD_SIZE', 'MASTER_PORT', 'SEEN'): del os.environ[name]")


def test_names_functions_and_modules_travel_to_every_rank(torch, tmp_path):
    torch.run("offset = 10\nclass Box:\n    def get(self): return offset\n")
    torch.run("def work(x): return Box().get() + x")
    cell = torch.task("import os\nprint(work(int(os.environ['RANK'])))", "--ranks 0,1")
    assert sorted(cell.stdout.splitlines()) == ["[rank 0] 10", "[rank 1] 11"]


def test_a_cell_begins_with_its_inputs_and_nothing_else(torch):
    torch.task("left = 1")
    error = torch.fail(task("left_over = 1\ndel left_over\nprint(left)", "-i env"))
    assert error.name == "NameError"


def test_rank_0_returns_and_shows_the_last_expression(torch):
    cell = torch.task("import os\nvalue = 'of rank ' + os.environ['RANK']\nvalue", "-o value")
    assert cell.result == "'of rank 0'"
    assert torch.value("value") == "of rank 0"
    assert len(cell.of("execute_result")) == 1


def test_magics_await_and_the_task_context_work_in_a_rank(torch):
    body = """
    import asyncio, flyte
    await asyncio.sleep(0)
    %time x = 1
    name = flyte.ctx().action.name
    """
    cell = torch.task(body, "-o name")
    assert "Wall time" in cell.stdout
    assert torch.value("name").startswith("cell-")


def test_by_default_only_rank_0_is_heard_and_the_log_has_all(torch):
    cell = torch.task("import os\nprint('I am', os.environ['RANK'])")
    assert cell.stdout == "I am 0\n"
    log = torch.run("%flyte logs env node").result
    assert "[rank 0] I am 0" in log
    assert "[rank 1] I am 1" in log


def test_one_chosen_rank_is_heard_with_its_label(torch):
    cell = torch.task("import os, sys\nprint(os.environ['RANK'], file=sys.stderr)", "--ranks 1")
    assert cell.stderr == "[rank 1] 1\n"


def test_what_c_code_and_children_print_is_heard(torch):
    body = "import os, subprocess\nos.write(1, b'raw\\n')\nsubprocess.run(['echo', 'child'])"
    assert sorted(torch.task(f"{body};").stdout.splitlines()) == ["child", "raw"]


def test_a_plot_is_updated_while_the_cell_runs(torch):
    body = """
    import time
    from IPython.display import HTML, clear_output, display
    handle = display(HTML("one"), display_id=True)
    handle.update(HTML("two"))
    clear_output(wait=True)
    print("after")
    """
    cell = torch.task(body)
    kinds = [m["header"]["msg_type"] for m in cell.messages]
    assert kinds == [
        "execute_input",
        "display_data",
        "update_display_data",
        "clear_output",
        "stream",
    ]
    shown, updated = cell.of("display_data", "update_display_data")
    assert shown["transient"] == updated["transient"]
    assert updated["data"]["text/html"] == "two"


def test_a_matplotlib_figure_is_shown_once(torch):
    cell = torch.task("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert [list(data) for data in cell.displays] == [["image/png", "text/plain"]] or [
        sorted(data) for data in cell.displays
    ] == [["image/png", "text/plain"]]


def test_a_progress_bar_of_tqdm_arrives(torch):
    cell = torch.task("from tqdm import tqdm\nfor _ in tqdm(range(3)): pass")
    assert "3/3" in cell.stderr


def test_a_bar_of_tqdm_notebook_arrives(torch):
    before = len(torch.comms)
    cell = torch.task("from tqdm.notebook import tqdm\nfor _ in tqdm(range(3)): pass")
    assert any("application/vnd.jupyter.widget-view+json" in data for data in cell.displays)
    kinds = [m["header"]["msg_type"] for m in torch.comms[before:]]
    assert "comm_open" in kinds
    assert "comm_msg" in kinds


def test_a_flood_of_text_is_held_back_and_logged(torch):
    cell = torch.task("for n in range(200_000): print(n, 'x' * 20)")
    assert len(cell.stdout) < 3_000_000
    assert "are only in %flyte logs" in cell.stderr
    assert "199999 x" in cell.stdout
    assert torch.run("%flyte logs -n 1").result.startswith("199999 x")


def test_a_file_that_a_cell_leaves_open_is_written(torch, tmp_path):
    torch.run(f"path = {str(tmp_path / 'left')!r}")
    torch.task("import os\nfile = open(path + os.environ['RANK'], 'w')\nnote = file.write('all')")
    torch.until(lambda: not torch.processes("rank"))
    assert [(tmp_path / f"left{rank}").read_text() for rank in (0, 1)] == ["all", "all"]


def test_impossible_configs_are_refused_in_one_line(torch):
    for config, said in {
        "nnodes=1, nproc_per_node=0": "at least one rank",
        "nnodes='2:1', nproc_per_node=1": "nnodes must be",
        "nnodes=1, nproc_per_node=1, rdzv_backend='etcd'": "c10d alone",
    }.items():
        torch.run(f"bad = flyte.TaskEnvironment(name='bad', plugin_config=Elastic({config}))")
        error = torch.fail(task("1", environment="bad"))
        assert error.name == "EngineError"
        assert said in error.value
        assert len(error.traceback.splitlines()) == 1
    torch.run("%flyte env made --plugin pytorch --nproc 2")
    assert torch.task("import os\nos.environ['WORLD_SIZE']", environment="made").result == "'2'"
    torch.run("%flyte down made")


def test_large_inputs_are_one_copy_for_all_ranks(torch):
    torch.run("import numpy as np\nbig = np.arange(4_000_000)")
    body = """
    import os
    before = int(big[-1])
    big[0] = int(os.environ["RANK"]) + 5
    maps = open("/proc/self/maps").read()
    inode = {line.split()[4] for line in maps.splitlines() if "memfd:flyte-jupyter" in line}
    print(before, int(big[0]), *sorted(inode))
    """
    first = sorted(torch.task(body, "--ranks all").stdout.splitlines())
    (zero, inode), (one, other) = (line.rsplit(" ", 1) for line in first)
    assert (zero, one) == ("[rank 0] 3999999 5", "[rank 1] 3999999 6")
    assert inode == other
    # It is kept by the driver: unchanged, the very same memory comes again, as it was sent.
    again = sorted(torch.task(body, "--ranks all").stdout.splitlines())
    assert again == first
    assert torch.value("int(big[0])") == 0


def test_large_outputs_come_back(torch):
    torch.task("import numpy as np\nmany = np.ones(3_000_000)\nmany[-1] = 2", "-o many")
    assert torch.value("float(many.sum())") == 3_000_001.0
    torch.run("many[0] = 7")
    assert torch.value("float(many[0])") == 7.0


def test_a_ref_stays_in_the_driver_and_reaches_all_ranks(torch):
    torch.task("import numpy as np\nheld = np.full(1_000_000, 2.0)", "-r held")
    assert "ndarray" in torch.run("held").result
    cell = torch.task("import os\nprint(os.environ['RANK'], float(held.sum()))", "--ranks all")
    assert sorted(cell.stdout.splitlines()) == ["[rank 0] 0 2000000.0", "[rank 1] 1 2000000.0"]
    assert torch.value("float(held.get()[0])") == 2.0


def test_a_ref_is_one_copy_for_all_ranks(torch):
    torch.task("import numpy as np\nheld = np.full(1_000_000, 2.0)", "-r held")
    body = """
    held[0]
    maps = open("/proc/self/maps").read()
    print(*sorted({line.split()[4] for line in maps.splitlines() if "memfd:flyte-jupyter" in line}))
    """
    zero, one = sorted(torch.task(body, "--ranks all").stdout.splitlines())
    assert zero.split()[2:] == one.split()[2:] != []


def test_a_ref_is_nowhere_twice_and_frees_its_memory_when_it_is_dropped(torch):
    torch.run(f"""
    import os
    def segments(folder="/proc/{torch.process("driver").pid}/fd/"):
        found = [folder + name for name in os.listdir(folder)]
        return {{os.stat(f).st_ino for f in found if "memfd:flyte-jupyter" in os.readlink(f)}}
    """)
    torch.task("import numpy as np\nheld = np.full(1_000_000, 2.0)", "-r held")
    body = """
    held[0]
    maps = [line.split() for line in open("/proc/self/maps")]
    used = {int(line[4]) for line in maps if "memfd:flyte-jupyter" in line[-2]}
    """
    torch.task(body, "-o used")
    assert torch.value("bool(used), used <= segments()") == (True, True)
    torch.run("del held")
    torch.task("pass")
    assert torch.value("used & segments()") == set()


def test_values_that_are_kept_together_stay_together(torch):
    body = """
    import torch
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    """
    torch.task(body, "-r model,optimizer")
    body = "print(optimizer.param_groups[0]['params'][0] is model.weight)"
    assert torch.task(body).stdout == "True\n"


def test_a_kept_value_that_is_pickled_only_once_reaches_ranks(torch):
    body = """
    class Once:
        def __reduce__(self):
            if vars(self):
                raise TypeError("it travels once")
            return Once, (), {"arrived": True}
    held = Once()
    """
    torch.task(body, "-r held")
    assert torch.task("print(held.arrived)").stdout == "True\n"
    assert "it travels once" in torch.fail("held.get()").traceback


def test_random_numbers_differ_from_rank_to_rank_and_cell_to_cell(torch):
    body = "import numpy, random, torch\nprint(numpy.random.rand(), random.random(), torch.rand(1))"
    lines = [line for _ in range(2) for line in torch.task(body, "--ranks all").stdout.splitlines()]
    columns = zip(*(line.split()[2:] for line in lines), strict=True)
    assert [len(set(column)) for column in columns] == [4, 4, 4]


def test_an_error_on_any_rank_is_shown_once_with_its_number_and_type(torch):
    body = """
    import os, time
    class Odd(ValueError): pass
    if os.environ["RANK"] == "1":
        raise Odd("no")
    time.sleep(600)
    """
    error = torch.fail(task(body))
    assert (error.name, error.value) == ("Odd", "no")
    assert error.traceback.count("raised on rank 1 of 2") == 1
    assert 'raise Odd("no")' in error.traceback
    assert torch.run("1").result == "1"
    assert all_reduce(torch) == [3.0, 3.0]


def test_a_rank_that_waits_in_a_collective_does_not_hold_up_an_error(torch):
    error = torch.fail(task(f"{GROUP}if rank == 0:\n    1 / 0\ndist.barrier()"))
    assert error.name == "ZeroDivisionError"
    assert "rank 0 of 2" in error.traceback


def test_an_error_in_the_values_on_their_way_names_them(torch):
    error = torch.fail(task("import threading\nlock = threading.Lock()", "-o lock"))
    assert "`lock`" in error.value
    error = torch.fail(task("for nothing in []: pass", "-o nothing"))
    assert (error.name, "`nothing`" in error.value) == ("NameError", True)


def test_input_is_refused_instead_of_waiting_for_ever(torch):
    assert "cannot ask" in torch.fail(task("input('who? ')")).value


def test_a_task_that_is_nested_in_a_task_is_refused(torch):
    assert "task cell already" in torch.fail(task("%flyte status")).value


def test_a_run_in_the_background_has_a_log(torch):
    torch.run(task("print('there')\ny = 5", "--bg job -o y"))
    assert torch.value("job.result(), job.log()") == (5, "there\n")


def test_nothing_is_left_of_a_task_but_its_node(torch):
    all_reduce(torch)
    names = {p.name() for p in torch.processes()}
    torch.until(lambda: not torch.processes("rank") and not torch.processes("agent"))
    assert {"flyte:node-0", "flyte:driver"} <= names
    (folder,) = leaks.folders()
    kinds = ("meet", "segment", "listener")
    torch.until(lambda: not [p for p in folder.iterdir() if p.name.startswith(kinds)])


def test_torch_is_not_imported_again_and_cuda_never_touched_before(torch):
    body = """
    import sys, torch
    found = torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork(), "torch" in sys.modules
    """
    torch.task(body, "-o found")
    assert torch.value("found") == (False, False, True)


def test_everything_listens_on_loopback_alone(torch):
    body = f"""{GROUP}
import psutil
dist.barrier()
me = psutil.Process()
found = [c for p in (me, me.parent()) for c in p.net_connections("inet")]
listening = sorted(c.laddr.ip for c in found if c.status == "LISTEN")
dist.barrier()
"""
    torch.task(body, "-o listening")
    assert set(torch.value("listening")) == {"127.0.0.1"}


def test_status_shows_nodes_and_a_fixed_number_cannot_be_scaled(torch):
    assert "1 node" in torch.run("%flyte status").result
    error = torch.fail("%flyte scale env 2")
    assert error.name == "ClusterError"


def test_ranks_are_refused_where_there_are_none(torch):
    torch.run("plain = flyte.TaskEnvironment(name='plain')")
    assert "has no ranks" in torch.fail(task("1", "--ranks all", "plain")).value
    assert "0 to 1" in torch.fail(task("1", "--ranks 0,5")).value
    assert "neither" in torch.fail(task("1", "--ranks some")).value


def test_more_ranks_than_cpus_are_said_once(torch):
    ranks = (os.cpu_count() or 1) + 1
    torch.run(
        "many = flyte.TaskEnvironment(name='many', "
        f"plugin_config=Elastic(nnodes=1, nproc_per_node={ranks}))"
    )
    try:
        body = "import os\nprint(os.environ['WORLD_SIZE'])"
        cell = torch.task(body, environment="many")
        assert (cell.stdout, cell.stderr.count("ranks share")) == (f"{ranks}\n", 1)
        assert torch.task(body, environment="many").stderr == ""
        assert all_reduce(torch) == [3.0, 3.0]  # side by side
    finally:
        torch.run("%flyte down many")


def test_another_number_of_ranks_needs_no_new_cluster(torch):
    node = torch.process("node").pid
    torch.run(
        "env = flyte.TaskEnvironment(name='torch', "
        "plugin_config=Elastic(nnodes=1, nproc_per_node=1))"
    )
    assert torch.task("import os\nos.environ['WORLD_SIZE']").result == "'1'"
    torch.run(TORCH)
    assert all_reduce(torch) == [3.0, 3.0]
    assert torch.process("node").pid == node


def test_a_task_function_runs_in_every_rank_and_returns_what_rank_0_does(torch):
    torch.run(
        "import flyte_jupyter, os\n@env.task\ndef f(x):\n    import torch\n"
        "    import torch.distributed as dist\n    dist.init_process_group()\n"
        "    t = torch.ones(1) * x\n    dist.all_reduce(t)\n"
        "    if x < 0 and dist.get_rank(): raise ValueError('rank', x)\n"
        "    return float(t), dist.get_rank()"
    )
    assert torch.value("await flyte_jupyter.run(f, 21)") == (42.0, 0)
    error = torch.fail("await flyte_jupyter.run(f, -1)")
    assert error.name == "ValueError"
    assert "rank 1" in error.traceback


def test_a_task_of_another_environment_calls_one_that_runs_in_ranks(torch):
    torch.run(
        "plain = flyte.TaskEnvironment(name='plain')\n"
        "@env.task\ndef ranks(x):\n    import os\n    return x, os.environ['WORLD_SIZE']\n"
        "@plain.task\nasync def calls(x): return await ranks.aio(x)"
    )
    assert torch.value("await flyte_jupyter.run(calls, 21)") == (21, "2")
