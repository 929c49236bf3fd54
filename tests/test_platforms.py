"""Where the package cannot run, it says so in one line before it needs what is missing there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flyte_jupyter
from flyte_jupyter.backends.local.backend import LocalBackend
from flyte_jupyter.platforms import require_platform

SAID = (
    "clusters on this machine need Linux or macOS: Windows has neither Unix sockets for Jupyter "
    "channels nor fork. Run Jupyter inside WSL 2."
)
WINDOWS = """
import asyncio, os, signal, socket, subprocess, sys, psutil, zmq
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
sys.platform = "win32"
for module in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[module] = None
for name in ("fork", "getuid", "killpg", "memfd_create", "register_at_fork", "setsid"):
    delattr(os, name)
for name in ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL"):
    delattr(signal, name)
del socket.AF_UNIX
"""
"""What is not there on Windows is taken away from a process that has imported all but us."""


def shown_by(*cells: str) -> str:
    """Run cells on what they take for Windows; returns what they showed."""
    lines = [WINDOWS, *(f"shell.run_cell({cell!r})" for cell in cells)]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "cell",
    [
        "%load_ext flyte_jupyter",
        "from flyte_jupyter import session",
        "import flyte_jupyter\nflyte_jupyter.Session()",
    ],
)
def test_windows_is_refused_in_one_line_whatever_is_asked_for_first(cell):
    (line,) = shown_by(cell).strip().splitlines()
    assert line.endswith(SAID)


def test_what_was_refused_is_not_there_by_half():
    shown = shown_by("%load_ext flyte_jupyter", "%flyte status")
    assert SAID in shown
    assert "Line magic function `%flyte` not found" in shown
    assert "Traceback" not in shown


def test_the_backend_refuses_too(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(flyte_jupyter.ClusterError) as caught:
        LocalBackend(lambda name, status: None)
    assert str(caught.value) == SAID


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_other_platforms_are_taken(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    require_platform()
