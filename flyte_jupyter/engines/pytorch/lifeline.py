"""What ties agents and ranks to the process that they belong to, and names them for `ps`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

import psutil

_PDEATHSIG, _NAME = 1, 15


def become(title: str, parent: int) -> None:
    """Be killed when the parent dies, and bear a name of which `ps` shows 15 letters."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_NAME, title.encode()[:15], 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def kill_group(leader: int) -> None:
    """Kill a process that has a group of its own, and what it has started in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_tree(root: int) -> None:
    """Kill a child of this process, and all that descends from it, groups of their own included."""
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(root).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(root, signal.SIGKILL)
        for process in descendants:
            with contextlib.suppress(psutil.Error):
                process.kill()
