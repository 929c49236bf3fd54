"""What a PyTorch environment declares, as torch's agent and all of its ranks find it."""

from __future__ import annotations

import pytest

from tests.notebook import Notebook, notebook

DECLARE = """\
import flyte
from flyteplugins.pytorch import Elastic
env = flyte.TaskEnvironment(
    name="declared", cache="disable", secrets=["api-key"],
    env_vars={"COLOUR": "red", "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "55"},
    plugin_config=Elastic(
        nnodes=1, nproc_per_node=2, max_restarts=1, monitor_interval=600,
        rdzv_configs={"join_timeout": 321, "keep_alive_interval": 7, "endpoint": "node0:29500",
                      "backend": "etcd", "run_id": "mine", "local_addr": "elsewhere"},
        nccl_heartbeat_timeout_sec=77, nccl_collective_timeout_sec=88,
        nccl_async_error_handling=True, nccl_enable_monitoring=True))
cached = flyte.TaskEnvironment(
    name="cached", cache="auto", plugin_config=Elastic(nnodes=1, nproc_per_node=2))"""
SECRET = "torch-never-shown"


@pytest.fixture(scope="module")
def torch(tmp_path_factory) -> Notebook:
    """A notebook whose `env` declares what there is to declare, up already."""
    folder = tmp_path_factory.mktemp("declared")
    env = {"API_KEY": SECRET, "JUPYTER_DATA_DIR": str(folder / "data")}
    with notebook(folder, DECLARE, "%flyte up env", env=env) as book:
        yield book


def test_variables_and_secrets_are_in_every_rank(torch):
    body = "import os\nprint(os.environ['COLOUR'], len(os.environ['API_KEY']))"
    cell = torch.task(body, "--ranks all")
    said = f"red {len(SECRET)}"
    assert sorted(cell.stdout.splitlines()) == [f"[rank 0] {said}", f"[rank 1] {said}"]
    torch.run("%flyte logs env node -n 0")
    assert SECRET not in "".join(cell.shown for cell in torch.cells.values())


def test_settings_of_nccl_are_those_of_the_environment_in_every_rank(torch):
    body = """
    import os
    from torch.distributed import distributed_c10d
    names = "HEARTBEAT_TIMEOUT_SEC ASYNC_ERROR_HANDLING ENABLE_MONITORING"
    variables = [os.environ[f"TORCH_NCCL_{name}"] for name in names.split()]
    print(*variables, distributed_c10d._get_default_timeout("nccl").total_seconds())
    """
    cell = torch.task(body, "--ranks all")
    # As with the plugin elsewhere, a variable that is declared goes before the config's field.
    assert sorted(cell.stdout.splitlines()) == ["[rank 0] 55 1 1 88.0", "[rank 1] 55 1 1 88.0"]


def test_the_configs_reach_torchs_agent_and_a_death_is_noticed_before_its_interval_is_over(torch):
    """A rank is a fork of its agent, and finds there what the agent was made with."""
    body = """
    import gc, os, signal
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler
    from flyte_jupyter.engines.pytorch.agent import NodeAgent
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    import torch.distributed as dist
    dist.init_process_group()
    dist.barrier()
    made = gc.get_objects()
    (handler,) = [each for each in made if isinstance(each, DynamicRendezvousHandler)]
    (agent,) = [each for each in made if isinstance(each, NodeAgent)]
    waits = handler.settings.timeout.join, handler.settings.keep_alive_interval
    seconds = [wait.total_seconds() for wait in waits]
    interval, restarts = agent._orders.monitor_interval, os.environ["TORCHELASTIC_MAX_RESTARTS"]
    """
    cell = torch.task(body, "-o seconds,interval,restarts")
    assert cell.stderr == "Rank 1 was killed by SIGKILL; all ranks start again (1 of 1).\n"
    assert torch.value("seconds, interval, restarts") == ([321.0, 7.0], 600, "1")


# A killed rank first costs the one restart that torch's agent has of its own.
@pytest.mark.parametrize(
    ("fails", "starts", "restarts"),
    [("raise OSError('the first time')", 2, 0), ("os.kill(os.getpid(), 9)", 3, 1)],
)
def test_a_group_is_tried_again_as_a_whole(torch, tmp_path, fails, starts, restarts):
    torch.run(f"mark = {str(tmp_path)!r}")
    body = f"""
    import os
    rank = os.environ["RANK"]
    with open(f"{{mark}}/{{rank}}", "a") as file:
        file.write("x")
    if rank == "1" and os.path.getsize(f"{{mark}}/1") < {starts}:
        {fails}
    import torch.distributed as dist
    dist.init_process_group()
    dist.barrier()
    sizes = [os.path.getsize(f"{{mark}}/{{number}}") for number in (0, 1)]
    """
    cell = torch.task(body, "-o sizes --retries 1")
    zero, one = torch.value("sizes")
    assert one == starts
    assert zero >= 1
    assert cell.stderr.count("failed; 1 more attempt") == 1
    assert cell.stderr.count("Rank 1 was killed by SIGKILL; all ranks start again") == restarts


def test_a_group_is_found_in_the_cache(torch, tmp_path):
    torch.run(f"mark = {str(tmp_path)!r}")
    body = """
    import os
    open(f"{mark}/{os.environ['RANK']}", "a").write("x")
    import torch.distributed as dist
    dist.init_process_group()
    dist.barrier()
    total = dist.get_world_size()
    """
    torch.task(body, "-o total", environment="cached")
    torch.run("del total")
    cell = torch.task(body, "-o total", environment="cached")
    assert "nothing ran" in cell.stderr
    assert torch.value("total") == 2
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["x", "x"]
    torch.run("%flyte down cached")


def test_a_file_of_flytes_is_made_in_a_rank(torch, tmp_path):
    body = f"""
    import flyte.io, pathlib
    path = pathlib.Path({str(tmp_path)!r}, "model.txt")
    path.write_text("weights")
    model = await flyte.io.File.from_local(str(path))
    """
    torch.task(body, "-o model")
    read = "async with model.open('rb') as file:\n    content = bytes(await file.read())"
    torch.run(read)
    assert torch.value("content") == b"weights"
