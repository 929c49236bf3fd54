"""What a session must not leave behind: processes, folders with sockets in them, shared memory.

Everything that is looked for bears this test run's own runtime folder, so that other sessions on
the same machine, and other test runs, are never taken for ours. What a living owner holds (the
kernel of a fixture that lasts for a module) is no leak.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "FLYTE_JUPYTER_CLUSTER"
RUNTIME = "JUPYTER_RUNTIME_DIR"
PATIENCE = 8.0
"""Seconds that what is on its way out may take: five, by the product's own promise, and some."""

_SHM = Path("/dev/shm")
_OWNER = re.compile(r"(\d+)-\d+-[0-9a-f]{8}")

owners: set[int] = set()
"""Pids of kernels that living fixtures hold; `tests.notebook` adds and removes its own."""


@dataclass(frozen=True)
class Leftovers:
    """What can be left behind, as it is at one moment."""

    processes: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Name and mark of each, by pid."""
    folders: frozenset[str] = frozenset()
    segments: frozenset[str] = frozenset()

    def beyond(self, before: Leftovers) -> list[str]:
        """Say what is here, was not there before, and has no owner."""
        # A process that was replaced in a cluster of a fixture belongs to that fixture too.
        clusters = {mark for _, mark in before.processes.values()}
        found = [
            f"process {pid}: {name} of {mark}"
            for pid, (name, mark) in self.processes.items()
            if mark not in clusters
        ]
        found += [f"folder {folder}" for folder in sorted(self.folders - before.folders)]
        found += [f"/dev/shm/{name}" for name in sorted(self.segments - before.segments)]
        return [line for line in found if not _owned(line)]


def _owned(line: str) -> bool:
    return any(int(pid) in owners for pid in _OWNER.findall(line))


def look() -> Leftovers:
    """Look around."""
    processes = {p.pid: (_name(p), mark) for p, mark in marked()}
    return Leftovers(processes, frozenset(_folders()), frozenset(_segments()))


def marked(owner: int | None = None) -> Iterator[tuple[psutil.Process, str]]:
    """Yield the processes of clusters of this test run, each with its cluster's mark.

    Parameters
    ----------
    owner
        Only clusters of this kernel.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environ = process.environ()
            mark = environ.get(MARK, "")
            ours = environ.get(RUNTIME) == os.environ[RUNTIME]
            if mark and ours and (owner is None or mark.startswith(f"{owner}-")):
                yield process, mark


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return "a process"


def folders() -> list[Path]:
    """Return the folders of clusters of this test run."""
    return [Path(folder) for folder in _folders()]


def _folders() -> Iterator[str]:
    with contextlib.suppress(OSError):
        for path in (Path(os.environ[RUNTIME]) / "flyte").iterdir():
            yield str(path)


def _segments() -> Iterator[str]:
    """Yield named shared memory of this user; not what other programs are known to put there."""
    with contextlib.suppress(OSError):
        for path in _SHM.iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_uid == os.getuid():
                    yield path.name


def descriptors() -> frozenset[tuple[int, int, int, str]]:
    """Return the open descriptors of this process, each with what it is open on.

    Taken before and after, the difference is what was opened between and not closed. It is not
    counted: garbage of an earlier test may be closed at any time.
    """
    found = set()
    for fd in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # That of the listing itself.
            stat = os.fstat(fd)
            found.add((fd, stat.st_dev, stat.st_ino, _target(fd)))
    return frozenset(found)


def _target(fd: int) -> str:
    with contextlib.suppress(OSError):  # macOS has no links there
        return os.readlink(f"/dev/fd/{fd}")
    return ""


def await_nothing(before: Leftovers, patience: float = PATIENCE) -> list[str]:
    """Wait until nothing is left beyond `before`; returns what still is when patience ends."""
    until(lambda: not look().beyond(before), patience)
    return look().beyond(before)


def until(condition: Callable[[], object], patience: float = 30.0) -> bool:
    """Wait for a condition, and say whether it came true."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
