"""The way taken on macOS, as far as Linux can take it.

A process of its own believes to be there, and so do all that it starts: `macos/sitecustomize.py`
says how. What macOS itself would do differently is not tested by that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leaks

BEGIN = """
import sys, time, numpy as np, flyte
from flyte_jupyter import CellTask, Session

def run(code, values=None, returns=("x",)):
    return session.wait(session.submit("env", CellTask(code, values=values or {}, returns=returns)))

session = Session(namespace={"env": flyte.TaskEnvironment(name="e", plugin_config=CONFIG)})
"""
PLAIN = "CONFIG = None"
DASK = """
from flyteplugins.dask import Dask, WorkerGroup
CONFIG = Dask(workers=WorkerGroup(number_of_workers=2))
"""
TORCH = """
from flyteplugins.pytorch import Elastic
CONFIG = Elastic(nnodes=1, nproc_per_node=2)
"""


def start(program: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "macos")}
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


def said_by(config: str, program: str) -> list[str]:
    """Run a program whose `session` has an environment; returns the lines that it printed."""
    lines = "\n".join(f"    {line}" for line in program.strip().splitlines())
    process = start(f"{config}{BEGIN}try:\n{lines}\nfinally:\n    session.close()")
    try:
        text, _ = process.communicate(timeout=90)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    return text.splitlines()


def test_members_are_spawned_and_values_cross_in_files_that_do_not_stay():
    said = said_by(
        PLAIN,
        """
import os
from pathlib import Path
from flyte_jupyter.backends.local.launching import platform_method
from flyte_jupyter.backends.local.processes import _LINUX
from flyte_jupyter.driver.values.segments import memfd_supported
from flyte_jupyter.magics.doctor import examine
print(dict((row[0], row[2]) for row in examine(session))["platform"])
print(platform_method(), _LINUX, memfd_supported(), hasattr(os, "memfd_create"))
array = np.arange(2_000_000)
code = "import os; memfd = hasattr(os, 'memfd_create'); x = 2 * array; print('inside')"
print(run(code, {"array": array}, ("memfd",)), (run(code, {"array": array}) == 2 * array).all())
folder = session.cluster("env").folder
print([path.name for path in folder.rglob("*") if "segment" in path.name])
""",
    )
    assert said == [
        "macOS: members are spawned, values cross in files",
        "spawn False False False",
        "inside",
        "inside",
        "False True",
        "[]",
    ]


def test_a_driver_that_crashes_is_replaced_and_one_that_is_interrupted_goes_on():
    said = said_by(
        PLAIN,
        """
from flyte_jupyter import DriverLost
try:
    run("import os; os._exit(3)")
except DriverLost as error:
    print(error)
job = session.submit("env", CellTask("import time\\nprint('in', flush=True)\\ntime.sleep(600)"))
while "in" not in job.log():
    time.sleep(0.05)
job.cancel()
print(run("x = 5"))
""",
    )
    assert said[0].startswith("the driver of e ended: exit code 3.")
    assert said[-1] == "5"


def test_dask_runs_and_is_scaled():
    said = said_by(
        DASK,
        """
code = "from distributed import Client\\nx = Client().submit(sum, [1, 2]).result()"
print(run(code))
print(session.scale("env", 3).summary(), session.scale("env", 1).summary())
print(run(code))
""",
    )
    assert said == ["3", "3 workers 1 worker", "3"]


def test_ranks_run_together():
    pytest.importorskip("torch")
    code = (
        "import torch, torch.distributed as dist\\ndist.init_process_group()\\n"
        "one = torch.ones(1); dist.all_reduce(one); x = float(one)"
    )
    assert said_by(TORCH, f'print(run("{code}"))') == ["2.0"]


def test_nothing_is_left_of_a_kernel_that_is_killed():
    """Nothing tells that but the pid: a member does not die by itself with its parent."""
    process = start(
        f"{DASK}{BEGIN}session.ready(session.up('env'))\nprint('up', flush=True)\ninput()"
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    finally:
        process.kill()
        process.communicate()
    assert leaks.until(lambda: not list(leaks.marked()) and not leaks.folders(), 10)
