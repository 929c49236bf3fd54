"""How much memory processes hold together, what they share counted once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

_SHARED = ("/memfd:", "/dev/shm/", "/segment-")


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    with contextlib.suppress(psutil.Error):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return [pid]


def held(pids: Iterable[int]) -> int:
    """Return the bytes of memory that processes hold.

    The sum of their proportional set sizes less that of shared memory, and every shared segment
    that one of them has open or mapped, once and wholly: of a segment that is written to and not
    mapped, a set size knows nothing. Files that stand in for segments count as such.
    """
    private, segments = 0, dict[tuple[int, int], int]()
    for pid in pids:
        with contextlib.suppress(OSError):
            private += _private(pid)
            segments.update(_segments(pid))
    return private + sum(segments.values())


def _private(pid: int) -> int:
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        sizes[name] = int(value) * 1024
    return sizes["Pss:"] - sizes["Pss_Shmem:"]


def _segments(pid: int) -> dict[tuple[int, int], int]:
    found = {}
    process = Path(f"/proc/{pid}")
    entries = list((process / "fd").iterdir())
    for line in (process / "maps").read_text().splitlines():
        if _is_shared(line):
            # There the addresses have no leading zeros.
            start, _, stop = line.split()[0].partition("-")
            entries.append(process / "map_files" / f"{int(start, 16):x}-{int(stop, 16):x}")
    for entry in entries:
        with contextlib.suppress(OSError):
            if _is_shared(os.readlink(entry)):
                status = entry.stat()
                found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found


def _is_shared(text: str) -> bool:
    return any(name in text for name in _SHARED)


class Peak:
    """Watches the memory of processes for as long as its context lasts.

    Parameters
    ----------
    pids
        Says which processes, at each look.
    """

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self.before = self.highest = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self.before = self.highest = held(self._pids())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.highest = max(self.highest, held(self._pids()))

    @property
    def growth(self) -> int:
        """The most bytes that there were over those at the beginning."""
        return self.highest - self.before
