"""The private folder of a cluster: whose it is, where it lies, who may look."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flyte_jupyter.backends.local import processes, runtime_folder
from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder

HERE = f"{runtime_folder._place()}abcd"
ELSEWHERE = f"{int(runtime_folder._place(), 16) ^ 1:04x}abcd"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def runtime(monkeypatch):
    """Point Jupyter at a short runtime folder of this test's own."""
    with tempfile.TemporaryDirectory(prefix="fj", dir="/tmp") as folder:
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", folder)
        yield Path(folder)


def test_the_name_says_which_process_owns_it(runtime):
    folder = runtime_folder.new()
    pid, start, token = folder.path.name.split("-")
    assert (int(pid), int(start)) == (os.getpid(), processes.start_stamp(os.getpid()))
    assert len(token) == 8
    assert folder.mark == folder.path.name
    assert folder.path.parent == runtime / "flyte"
    assert folder.kernel_alive
    assert not folder.path.exists(), "its supervisor creates it"
    assert runtime_folder.new() != folder


def test_a_folder_that_is_made_knows_its_supervisor_and_is_private(runtime):
    before = os.umask(0)
    try:
        folder = runtime_folder.new()
        assert not folder.supervisor_alive
        folder.create()
    finally:
        os.umask(before)
    assert folder.supervisor_alive
    assert [mode(p) for p in (runtime / "flyte", folder.path, folder.path / "logs")] == [0o700] * 3
    assert runtime_folder.existing() == [folder]
    folder.remove()
    folder.remove()
    assert runtime_folder.existing() == []


def test_the_owner_of_a_name_is_told_from_a_later_process_of_the_same_pid(runtime):
    stamp = processes.start_stamp(os.getpid())
    assert RuntimeFolder(runtime / f"{os.getpid()}-{stamp}-{HERE}").kernel_alive
    assert not RuntimeFolder(runtime / f"{os.getpid()}-{stamp - 1}-{HERE}").kernel_alive
    assert not RuntimeFolder(runtime / "not-a-name").kernel_alive
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = RuntimeFolder(runtime / f"{child.pid}-{processes.start_stamp(child.pid)}-{HERE}")
    assert folder.kernel_alive
    child.communicate(b"\n")
    assert not folder.kernel_alive


@pytest.mark.parametrize("text", ["", "12", "not numbers", "1 2 3"])
def test_a_torn_supervisor_file_means_that_there_is_none(runtime, text):
    folder = runtime_folder.new()
    folder.create()
    (folder.path / "supervisor").write_text(text)
    assert not folder.supervisor_alive


def test_only_folders_of_clusters_are_listed(runtime):
    root = runtime_folder.parent()
    for name in (
        f"123-456-{HERE}",
        f"123-456-{HERE}0",
        f"x-456-{HERE}",
        "notes",
        f"123-456-{ELSEWHERE}",
    ):
        (root / name).mkdir()
    assert [folder.path.name for folder in runtime_folder.existing()] == [f"123-456-{HERE}"]


def test_a_path_too_long_for_sockets_falls_back_to_the_temporary_folder(runtime, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime / ("long" * 20)))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    root = runtime_folder.parent()
    assert root == runtime / f"flyte-jupyter-{os.getuid()}"
    assert mode(root) == 0o700
    longest = root / "4194304-100000000000-ffffffff" / "d1000-children"
    assert len(os.fsencode(longest)) <= 103


@pytest.mark.parametrize("lax", [0o755, 0o770, 0o701, 0o777])
def test_a_folder_that_others_may_enter_is_refused(runtime, lax):
    (runtime / "flyte").mkdir()
    (runtime / "flyte").chmod(lax)
    with pytest.raises(PermissionError, match="must belong to you alone"):
        runtime_folder.new()


def test_a_folder_of_somebody_else_is_refused(runtime, monkeypatch):
    (runtime / "flyte").mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(runtime / "flyte", 65534, 65534)
    else:
        stranger = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: stranger)
    with pytest.raises(PermissionError, match="must belong to you alone"):
        runtime_folder.new()


def test_a_link_in_the_place_of_the_folder_is_refused(runtime):
    (runtime / "elsewhere").mkdir(mode=0o700)
    (runtime / "flyte").symlink_to(runtime / "elsewhere")
    with pytest.raises(PermissionError, match="must belong to you alone"):
        runtime_folder.new()
