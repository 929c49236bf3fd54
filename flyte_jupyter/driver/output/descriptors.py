"""What C code and child processes write to descriptors 1 and 2, none of which a crash may lose.

Just before it ends a process is likely to say why: a failed assertion, a heap that is corrupted.
That goes to a pipe, and the thread that reads the pipe dies with the process, perhaps with the text
in its hands. So two things are different here from a pipe and its reader:

- The pipe has a name, and the supervisor holds it open too (`Remains`): what is still in it can be
  read when the driver is gone.
- Nothing is ever in the reader's hands alone: the operating system moves it from the pipe to a file
  (`splice`), where it stays until it is in the logs. Where there is no `splice`, a moment remains.

Both ends are here, for the supervisor as for the driver; so this module imports next to nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

_STREAMS = ("stdout", "stderr")
_CHUNK = 2**16
_CAPACITY = 2**20
"""Bytes that a pipe should hold: who writes more while it has Python's lock waits for ever."""
_MOST = 8 * _CAPACITY
_PATIENCE = 0.1
"""Seconds after which what a child process goes on writing is no part of a cell any more."""


def _pipe(folder: Path, generation: int, stream: str) -> Path:
    return folder / f"d{generation}-{stream}"


def _held(pipe: Path) -> Path:
    return pipe.with_suffix(".held")


def crash_path(folder: Path, generation: int) -> Path:
    """Return where a driver's fatal error handler writes."""
    return folder / f"d{generation}-crash"


class KeptPipe:
    """The driver's end of a pipe from which nothing is lost.

    Parameters
    ----------
    folder, generation
        The cluster's folder, and which driver of it this is.
    stream
        ``stdout`` or ``stderr``.
    """

    def __init__(self, folder: Path, generation: int, stream: str) -> None:
        path = _pipe(folder, generation, stream)
        os.mkfifo(path, 0o600)
        self._read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.write_end = os.open(path, os.O_WRONLY)
        self._held = os.open(_held(path), os.O_RDWR | os.O_CREAT, 0o600)
        self._handing_on = threading.Lock()
        self._waiting, self._looking = select.poll(), select.poll()
        for poll in (self._waiting, self._looking):
            poll.register(self._read, select.POLLIN)
        with contextlib.suppress(AttributeError, OSError):
            fcntl.fcntl(self._read, fcntl.F_SETPIPE_SZ, _CAPACITY)

    def take(self, hand_on: Callable[[bytes], None]) -> None:
        """Wait for something to be written, and hand it on.

        Parameters
        ----------
        hand_on
            Called with what was written. Until it returns, a crash leaves that to `Remains`.
        """
        self._waiting.poll()
        with self._handing_on:
            if data := self._move():
                hand_on(data)
                os.ftruncate(self._held, 0)

    def _move(self) -> bytes:
        """Take what is in the pipe to the file, and return it."""
        with contextlib.suppress(AttributeError, OSError):  # not Linux, or the disk is full
            flags = os.SPLICE_F_NONBLOCK
            size = os.splice(self._read, self._held, _CHUNK, offset_dst=0, flags=flags)
            return os.pread(self._held, size, 0)
        try:
            data = os.read(self._read, _CHUNK)
        except BlockingIOError:
            return b""
        with contextlib.suppress(OSError):
            os.pwrite(self._held, data, 0)
        return data

    def settle(self) -> None:
        """Wait until what has been written so far has been handed on."""
        end = time.monotonic() + _PATIENCE
        while self._looking.poll(0) and time.monotonic() < end:
            time.sleep(0.0005)
        with self._handing_on:
            pass


class PresentLog:
    """Notes where the log of the present run is: once for each cell, so in one system call.

    Parameters
    ----------
    folder, generation
        The cluster's folder, and which driver of it this is.
    """

    def __init__(self, folder: Path, generation: int) -> None:
        self._fd = os.open(_present(folder, generation), os.O_RDWR | os.O_CREAT, 0o600)

    def note(self, path: Path) -> None:
        """Note the path of a log."""
        with contextlib.suppress(OSError):
            # It ends with a line: what is behind it is of a longer one before.
            os.pwrite(self._fd, os.fsencode(path) + b"\n", 0)


def _present(folder: Path, generation: int) -> Path:
    return folder / f"d{generation}-log"


class Remains:
    """What a driver has written and not got into its logs; held by the supervisor.

    Parameters
    ----------
    folder, generation
        The cluster's folder, and which driver of it.
    """

    def __init__(self, folder: Path, generation: int) -> None:
        self._pipes = {_pipe(folder, generation, stream): -1 for stream in _STREAMS}
        self._crash = crash_path(folder, generation)
        self._present = _present(folder, generation)
        for path in self._pipes:
            with contextlib.suppress(OSError):  # the driver has died before it made one
                self._pipes[path] = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def save(self, log: Path) -> None:
        """Add it to the driver's log and to that of its last run, now that the driver is gone.

        Parameters
        ----------
        log
            The driver's log; where Python crashed is added too.
        """
        held = [_content(_held(path)) for path in self._pipes]
        rest = [_drain(pipe) for pipe in self._pipes.values()]
        _append(log, held, rest, _content(self._crash))
        run_log, _, _ = _content(self._present).partition(b"\n")
        if run_log:
            _append(Path(os.fsdecode(run_log)), held, rest)
        for path in (*self._pipes, *map(_held, self._pipes), self._crash, self._present):
            with contextlib.suppress(OSError):
                path.unlink()


def _drain(pipe: int) -> bytes:
    data = b""
    with contextlib.suppress(OSError):  # nothing more is there, or there never was a pipe
        while len(data) < _MOST and (piece := os.read(pipe, _CHUNK)):
            data += piece
    with contextlib.suppress(OSError):
        os.close(pipe)
    return data


def _content(path: Path, last: int = 0) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - last) if last else 0)
        return file.read()
    return b""


def _append(log: Path, held: list[bytes], rest: list[bytes], crash: bytes = b"") -> None:
    """Add to a log what each stream held, and the rest, which came after it."""
    end = _content(log, last=_CHUNK)
    data = b""
    for before, after in zip(held, rest, strict=True):
        # The driver may have died when it had logged that, and could not say so any more.
        data += after if end.endswith(before) else before + after
    if not data and not crash:
        return
    if not (data or end or b"\n").endswith(b"\n"):
        data += b"\n"  # where Python crashed begins a line, whatever was logged before
    with contextlib.suppress(OSError), open(log, "ab", opener=_for_the_owner) as file:
        file.write(data + crash)


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
