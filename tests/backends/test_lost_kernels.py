"""When the kernel goes, however it goes, the cluster goes; and what even then is left is swept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from backend_parts import ESCAPE, alive

from flyte_jupyter.backends.local import processes, runtime_folder
from flyte_jupyter.backends.local.sweep import sweep
from tests import leaks

HERE = Path(__file__).parent

OURS = f"{runtime_folder._place()}abcd"


def gone(pids):
    assert leaks.until(lambda: not any(map(alive, pids)))


@pytest.fixture
def kernel():
    """Start a process that owns a cluster."""
    started = []

    def start(how):
        env = {**os.environ, "PYTHONPATH": str(HERE)}
        process = subprocess.Popen(
            [sys.executable, str(HERE / "kernel_process.py"), how], stdout=subprocess.PIPE, env=env
        )
        started.append(process)
        about = json.loads(process.stdout.readline())
        return process, about

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_kernel_takes_its_cluster_along(kernel, number):
    process, about = kernel("plain")
    assert all(map(alive, about["pids"]))
    process.send_signal(number)
    process.wait(30)
    gone(about["pids"])
    assert not Path(about["folder"]).exists()


def test_a_kernel_that_ends_by_itself_takes_its_cluster_along(kernel):
    process, about = kernel("returns")
    process.wait(30)
    gone(about["pids"])
    assert not Path(about["folder"]).exists()


def test_a_forked_child_of_the_kernel_does_not_keep_the_cluster_alive(kernel):
    process, about = kernel("forked")
    try:
        process.kill()
        process.wait()
        gone(about["pids"])
        assert alive(about["child"])
        assert not Path(about["folder"]).exists()
    finally:
        os.kill(about["child"], signal.SIGKILL)


def test_what_a_killed_supervisor_of_a_killed_kernel_leaves_is_swept(kernel):
    process, about = kernel("plain")
    supervisor, *members = about["pids"]
    os.kill(process.pid, signal.SIGSTOP)  # so that it cannot clean up behind its supervisor
    os.kill(supervisor, signal.SIGKILL)
    process.kill()
    process.wait()
    escaped = members[-2:]
    gone(members[:-2])
    assert all(map(alive, escaped)), "they belong to nobody now"
    assert Path(about["folder"]).exists()
    said = sweep()
    assert said == (
        "Removed what was left of a cluster (2 processes) of sessions that were killed."
    )
    assert not any(map(alive, escaped))
    assert not Path(about["folder"]).exists()
    assert sweep() == ""


def test_a_sweep_leaves_alone_what_has_an_owner(kernel):
    _, about = kernel("plain")
    assert sweep() == ""
    assert all(map(alive, about["pids"]))
    assert Path(about["folder"]).exists()


def test_a_sweep_counts_folders_and_leaves_a_living_supervisor_its_own():
    root = runtime_folder.parent()
    dead = [root / f"99999999-{number}-{OURS}" for number in (1, 2)]
    tended = root / f"99999999-3-{OURS}"
    for path in (*dead, tended):
        path.mkdir(mode=0o700)
    pid = os.getpid()
    (tended / "supervisor").write_text(f"{pid} {processes.start_stamp(pid)}")
    (dead[0] / "supervisor").write_text(f"{pid} {processes.start_stamp(pid) + 1}")
    try:
        said = sweep()
        assert said == "Removed what was left of 2 clusters of sessions that were killed."
        assert [path.exists() for path in (*dead, tended)] == [False, False, True]
    finally:
        tended.joinpath("supervisor").unlink()
        tended.rmdir()


def test_a_sweep_finds_orphans_by_their_mark_alone(tmp_path):
    folder = runtime_folder.parent() / f"99999999-4-{OURS}"
    folder.mkdir(mode=0o700)
    env = {**os.environ, processes.MARK: folder.name}
    subprocess.run([sys.executable, "-c", ESCAPE, str(tmp_path / "escaped")], env=env, check=True)
    assert leaks.until((tmp_path / "escaped").exists)
    escaped = [int(pid) for pid in (tmp_path / "escaped").read_text().split()]
    assert "(2 processes)" in sweep()
    gone(escaped)
