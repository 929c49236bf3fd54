"""What runs printed: files that drivers write, in full, in the folders of their clusters.

A session reads them through descriptors, so that they outlive a cluster but nothing outlives the
session. What it keeps is bounded: a log goes with the record of its run, the oldest go when all
together are beyond `LOG_BYTES`, and beyond `OPEN_LOGS` they go with their cluster.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path

from flyte_jupyter.driver.output.transcript import log_name

LOG_BYTES = 2**30
"""Bytes that the logs of a session may take; the last run's is kept whatever its size."""
OPEN_LOGS = 64
"""Logs that outlive their cluster: each takes a descriptor, of which macOS gives 256 in all."""


class RunLog:
    """The log of one run.

    Parameters
    ----------
    run
        Name of the run.
    """

    def __init__(self, run: str) -> None:
        self.ended = False
        self._run = run
        self._path: Path | None = None
        self._fd = -1
        self._size = 0
        self._seen = self._released = self._dropped = False
        self._pid = os.getpid()

    def __del__(self) -> None:
        # Nobody can ask for it any more. A forked child of the notebook has not to decide that.
        if self._pid == os.getpid():
            self._remove()

    def keep(self, folder: Path) -> None:
        """Hold on to the log in a cluster's folder: an open file outlives the folder."""
        self._path = folder / "logs" / log_name(self._run)
        self._open()

    def hold(self, descriptor: int) -> None:
        """Hold on to a log that is a file without a name."""
        self._fd, self._seen = os.dup(descriptor), True

    def _open(self) -> None:
        if self._fd < 0 and self._path is not None and not self._dropped:
            with contextlib.suppress(OSError):  # nothing has been printed yet
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                self._seen = True

    def release(self) -> None:
        """Let go of the descriptor; from now on the log is there for as long as its cluster."""
        self._released = True
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def drop(self) -> None:
        """Free the room that it takes."""
        if self._seen:
            self._dropped, self._size = True, 0
            self._remove()

    def _remove(self) -> None:
        self._close()
        if self._seen and self._path is not None:
            with contextlib.suppress(OSError):  # it went with its cluster
                self._path.unlink()

    @property
    def there(self) -> bool:
        """Whether it takes a descriptor or may come to; most runs print nothing."""
        return self._fd >= 0 or self._seen or not self.ended

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        if self._fd >= 0:
            self._size = os.fstat(self._fd).st_size
        return self._size

    def read(self, last: int = 0) -> str:
        """Return what was printed, in full, or its last bytes; or why it is not there any more."""
        self._open()
        if self._fd < 0:
            return self._absent()
        size = self.size
        start = max(0, size - last) if last else 0
        pieces = []
        # One call reads two GiB at most.
        while start < size and (piece := os.pread(self._fd, size - start, start)):
            pieces.append(piece)
            start += len(piece)
        if self._released:
            self._close()
        return b"".join(pieces).decode(errors="replace")

    def _absent(self) -> str:
        if not self._seen:
            return ""
        if self._dropped:
            return (
                f"[the log of {self._run} was removed: those of the last runs are kept, "
                f"{LOG_BYTES / 2**30:g} GiB in all]\n"
            )
        return (
            f"[the log of {self._run} went with its cluster: "
            f"those of the last {OPEN_LOGS} runs are kept beyond that]\n"
        )


class PrintedLogs:
    """Those logs of a session that take room, the newest first; most runs print nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # calls of tasks are added on the loop's thread
        self._logs: list[weakref.ref[RunLog]] = []

    def add(self, log: RunLog) -> None:
        """Add the log of a run that begins, and keep them all within bounds."""
        with self._lock:
            logs = [log, *(each for known in self._logs if (each := known()) and each.there)]
            self._logs = [weakref.ref(each) for each in logs]
            keep_within_bounds(logs)


def keep_within_bounds(logs: Iterable[RunLog]) -> None:
    """Let go of what is beyond the bounds.

    Parameters
    ----------
    logs
        All that the session keeps, the newest first.
    """
    total = 0
    for number, log in enumerate(logs):
        if not log.ended:
            total += log.size
            continue  # it is still written to
        if number >= OPEN_LOGS:
            log.release()
        total += log.size
        if number and total > LOG_BYTES:
            total -= log.size
            log.drop()
