"""Completion of what a running cluster consists of."""

from __future__ import annotations

import flyte
import pytest

from flyte_jupyter import CellTask, Session
from flyte_jupyter.magics.completion import completions


@pytest.fixture(scope="module")
def running():
    """A session with a run, a Dask cluster of two workers, and an environment without one."""
    from flyteplugins.dask import Dask, WorkerGroup

    config = Dask(workers=WorkerGroup(number_of_workers=2))
    made = Session(
        namespace={
            "env": flyte.TaskEnvironment(name="dask-env", plugin_config=config),
            "other": flyte.TaskEnvironment(name="other"),
        }
    )
    made.wait(made.submit("env", CellTask("x = 1")))
    yield made
    made.close()


@pytest.mark.parametrize("name", ["env", "dask-env"])
def test_groups_and_processes_of_a_cluster(running, name):
    def found(line: str, symbol: str = "") -> list[str]:
        return completions(running, line + symbol, symbol)

    assert found(f"%flyte scale {name} 3 --group ") == ["worker"]
    assert found(f"%flyte scale --group=work {name} ") == ["--group", "--help", "-h"]
    processes = {"driver", "scheduler", "scheduler-0", "worker", "worker-0", "worker-1"}
    assert set(found(f"%flyte logs {name} ")) == {*processes, "-n", "--help", "-h"}
    assert set(found(f"%flyte logs -n 5 {name} ", "w")) == {"worker", "worker-0", "worker-1"}
    assert set(found(f"%flyte logs {name} driver ")) == {"-n", "--help", "-h"}


def test_a_run_and_an_environment_without_a_cluster_have_no_processes(running):
    run = running.runs[-1].id
    assert run in completions(running, "%flyte logs ", "")
    for name in (run, "other", "nonsense"):
        assert completions(running, f"%flyte logs {name} ", "") == ["--help", "-h", "-n"]
        assert completions(running, f"%flyte scale {name} 2 --group ", "") == []
