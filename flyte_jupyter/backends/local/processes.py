"""What Linux offers for owning processes wholly, and the portable way where it does not.

A process that goes away must take its descendants with it, however it goes: by a death signal from
the parent (`PR_SET_PDEATHSIG`), by adopting orphans (`PR_SET_CHILD_SUBREAPER`) so that no double
fork escapes, and by a mark in the environment by which what is left of a killed supervisor can
still be found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from flyte_jupyter.driver.connectors import KEEPER

MARK = "FLYTE_JUPYTER_CLUSTER"
"""Environment variable that every process of a cluster inherits; its value is the cluster's."""

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36


def _prctl(option: int, value: int | bytes) -> None:
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies; exit if that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_title(title: str) -> None:
    """Name the process for `ps` and `top`; they show the first 15 bytes."""
    _prctl(_PR_SET_NAME, title.encode()[:15])


def start_stamp(pid: int) -> int:
    """Return a number that tells a process from a later one of the same pid; 0 if it is gone.

    On Linux, the clock ticks between boot and its start: unlike a date, they do not move when the
    machine's clock is set.
    """
    try:
        if _LINUX:
            stat = Path(f"/proc/{pid}/stat").read_text()
            state, *fields = stat.rpartition(")")[2].split()
            # Where nobody reaps, as in a container without an init, the dead stay listed.
            return 0 if state in "ZX" else int(fields[18])
        return round(psutil.Process(pid).create_time() * 1000)
    except (psutil.Error, OSError):
        return 0


def describe_exit(status: int) -> str:
    """Say how a process ended, from the exit code that `os.waitstatus_to_exitcode` gives."""
    if status >= 0:
        return f"exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"killed by {name}"


def children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    """Return the living children of a process."""
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.Error:
        return []


def sparing_keepers(found: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Leave out those that see to external jobs, and what they start for it.

    They end by themselves, and soon.
    """
    listed = list(found)
    spared: set[int] = set()
    for process in listed:
        with contextlib.suppress(psutil.Error):
            if KEEPER in process.cmdline():
                spared |= {process.pid, *(each.pid for each in descendants(process.pid))}
    return [process for process in listed if process.pid not in spared]


def reap() -> None:
    """Collect every child that has ended, adopted ones included."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def descendants(pid: int) -> list[psutil.Process]:
    """Return every living descendant of a process."""
    return children(pid, recursive=True)


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yield the processes of one cluster, wherever they have been re-parented to."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                yield process


def kill(processes: Iterable[psutil.Process]) -> int:
    """Kill processes and return how many there were."""
    count = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
            count += 1
    return count


def kill_marked(mark: str, *, deadline: float = 5.0) -> int:
    """Kill every process of a cluster, and those that they start meanwhile.

    Parameters
    ----------
    mark
        The cluster's mark.
    deadline
        Seconds after which the rest is left alone.

    Returns
    -------
    int
        How many were killed.
    """
    end = time.monotonic() + deadline
    total = 0
    while time.monotonic() < end:
        found = [p for p in marked(mark) if p.status() != psutil.STATUS_ZOMBIE]
        found = sparing_keepers(found)
        if not found:
            break
        total += kill(found)
        psutil.wait_procs(found, timeout=0.5)
    return total
