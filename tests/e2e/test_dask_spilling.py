"""Where workers write what does not fit into their memory, and that nothing of it stays there."""

from __future__ import annotations

import os
import re
import signal
import stat
from pathlib import Path

import pytest

from tests import leaks
from tests.e2e.conftest import DASK
from tests.notebook import notebook

SPILLING = {"DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "0.001"}
"""Have workers write almost everything to their disk."""

SPILL = """
from distributed import Client, wait
client = Client()
kept = client.map(lambda n: bytes([n]) * 4_000_000, range(12), pure=False)
wait(kept)
where = list(client.run(lambda dask_worker: dask_worker.local_directory).values())
"""


@pytest.fixture
def scratch(tmp_path) -> Path:
    """The user's own disk for what is large, where others may look around."""
    path = tmp_path / "scratch"
    path.mkdir(mode=0o777)
    return path


def spilled(folder: Path) -> int:
    """Return how many bytes lie there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def spill(book, folder: Path) -> None:
    """Have the workers hold more than they are given, and see that it is in a folder there."""
    book.task(SPILL, "-o where -r kept")
    (ours,) = folder.iterdir()
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    where = [Path(path) for path in book.value("where")]
    assert [ours in path.parents for path in where] == [True] * 2
    assert spilled(ours) > 10_000_000


def empty(folder: Path) -> bool:
    return not any(folder.iterdir())


@pytest.mark.parametrize("end", ["shutdown", "kill", "down"])
def test_the_folder_that_dask_is_told_to_use_is_used_and_left_empty(tmp_path, scratch, end):
    env = {**SPILLING, "DASK_TEMPORARY_DIRECTORY": str(scratch)}
    with notebook(tmp_path, DASK, env=env) as book:
        spill(book, scratch)
        if end == "down":
            book.run("%flyte down env")
            assert empty(scratch)
        elif end == "kill":
            book.kill()
    assert leaks.until(lambda: empty(scratch))


def test_what_a_killed_supervisor_of_a_killed_kernel_leaves_there_is_swept(tmp_path, scratch):
    env = {**SPILLING, "DASK_TEMPORARY_DIRECTORY": str(scratch)}
    with notebook(tmp_path, DASK, env=env) as book:
        spill(book, scratch)
        supervisor = book.process("super")
        os.kill(book.pid, signal.SIGSTOP)  # so that it cannot clean up behind its supervisor
        supervisor.kill()
        book.kill()
    assert not empty(scratch)
    with notebook(tmp_path):  # the extension looks for what others have left
        assert empty(scratch)


def test_what_is_set_in_the_notebook_counts_and_starts_no_cluster_anew(tmp_path, scratch):
    other = scratch / "not/there yet"
    with notebook(tmp_path, env={**SPILLING, "DASK_TEMPORARY_DIRECTORY": str(tmp_path)}) as book:
        book.run(f"import dask\ndask.config.set(temporary_directory={str(other)!r})\n{DASK}")
        spill(book, other)
        before = {process.pid for process in book.processes()}
        book.run(f"dask.config.set(temporary_directory={str(tmp_path)!r})")
        book.task("1")
        assert {process.pid for process in book.processes()} == before
        book.run("%flyte down env")
        assert empty(other)


def test_what_the_environment_declares_counts_for_its_own_cluster(tmp_path, scratch):
    declared = DASK.replace(
        'name="dask", ', f'name="dask", env_vars={{"DASK_TEMPORARY_DIRECTORY": {str(scratch)!r}}}, '
    )
    with notebook(
        tmp_path, declared, env={**SPILLING, "DASK_TEMPORARY_DIRECTORY": "/nowhere"}
    ) as book:
        spill(book, scratch)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    env = {"DASK_TEMPORARY_DIRECTORY": str(tmp_path / "file")}
    with notebook(tmp_path, DASK, env=env) as book:
        error = book.fail("%flyte up env")
        assert error.name == "ClusterError"
        assert re.search(r"worker-\d.log: NotADirectoryError: .*/file", error.value)


def test_without_such_a_wish_it_is_in_the_folder_of_the_cluster(dask):
    of_scheduler = "client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.local_directory)"
    dask.task(f"{SPILL}\nwhere.append({of_scheduler})", "-o where -r kept")
    for path in map(Path, dask.value("where")):
        assert any(folder in path.parents for folder in leaks.folders())
