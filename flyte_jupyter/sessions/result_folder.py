"""The folder of cached results. They are unpickled, so that it must be the user's alone.

Whoever can write there runs code as the user. So the folder is opened once, the owner and the mode
of what was opened are looked at, and everything else is done relative to that descriptor: a name
that is exchanged afterwards leads nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from flyte_jupyter.errors import UsageError
from flyte_jupyter.sessions.results import Frozen

_KEY = re.compile(r"[0-9a-f]{64}")
_ASIDE = re.compile(r"\.[0-9a-f]{64}-[0-9a-f]{8}")
_ABANDONED = 3600.0
_CHUNK = 8 << 20


class Abandoned(Exception):
    """Writing was given up on request."""


@dataclass(frozen=True)
class _Entry:
    name: str
    changed: float
    size: int


class ResultFolder:
    """The folder, open; to be used as a context manager.

    Parameters
    ----------
    path
        Where it is.
    make
        Whether to make it if it is not there; it is then readable by nobody else either.

    Raises
    ------
    FileNotFoundError
        There is none.
    UsageError
        Others could have written what lies there.
    """

    def __init__(self, path: Path, *, make: bool = False) -> None:
        self._path = path
        made = make and _make(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            raise UsageError(_UNUSED, seen=f"{path} is no folder", fix=_ANOTHER) from None
        try:
            self._check(made)
        except BaseException:
            os.close(self._fd)
            raise

    def _check(self, made: bool) -> None:
        found = os.fstat(self._fd)
        if found.st_uid != os.geteuid():
            raise UsageError(
                _UNUSED,
                seen=f"{self._path} belongs to another user (uid {found.st_uid})",
                fix=_ANOTHER,
            )
        if made:
            # What the umask left, and a default ACL added, is not what was asked for.
            os.fchmod(self._fd, 0o700)
            found = os.fstat(self._fd)
        if _others_write(found):
            mode = stat.S_IMODE(found.st_mode)
            raise UsageError(
                _UNUSED,
                seen=f"other users can write to {self._path} (mode {mode:o})",
                fix=f"Type: !chmod 700 '{self._path}'",
            )

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open the result of a key for reading.

        Raises
        ------
        FileNotFoundError
            There is none.
        UsageError
            Others could have written it.
        """
        # Not to wait for the other end of a pipe, nor to follow a link to who knows where.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(key, flags, dir_fd=self._fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._not_trusted(key, "it is a link") from None
            raise
        with os.fdopen(fd, "rb", buffering=0) as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise self._not_trusted(key, "it is no plain file")
            if found.st_uid != os.geteuid():
                raise self._not_trusted(key, f"it belongs to another user (uid {found.st_uid})")
            if _others_write(found):
                raise self._not_trusted(key, "other users can write to it")
            yield file

    def _not_trusted(self, key: str, seen: str) -> UsageError:
        return UsageError(
            "a cached result is not used, and is made again", seen=f"{seen}: {self._path / key}"
        )

    def write(
        self, key: str, result: Frozen, limit: int, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Write the result of a key; what was made longest ago goes if there is no room.

        Parameters
        ----------
        key
            The key.
        result
            What to write.
        limit
            Bytes that all results may take.
        stop
            Asked every now and then whether to give up.

        Raises
        ------
        OSError
            It cannot be written; nothing is left of it.
        Abandoned
            It was given up; nothing is left of it.
        """
        self._make_room(key, limit - result.size)
        # Written aside and renamed: a kernel that is killed leaves no half of a result.
        aside = f".{key}-{secrets.token_hex(4)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(aside, flags, 0o600, dir_fd=self._fd)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                for piece in result.pieces:
                    _write(file, piece, stop)
            os.rename(aside, key, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            os.unlink(aside, dir_fd=self._fd)
            raise

    def _make_room(self, key: str, room: int) -> None:
        """Remove old results until the others take no more than `room`, and what was given up."""
        entries = sorted(self._entries(), key=lambda entry: (entry.changed, entry.name))
        total = sum(entry.size for entry in entries if entry.name != key)
        for entry in entries:
            is_aside = _ASIDE.fullmatch(entry.name) is not None
            if is_aside and time.time() - entry.changed < _ABANDONED:
                continue  # another kernel is writing it
            if entry.name == key or (total <= room and not is_aside):
                continue
            total -= entry.size
            with contextlib.suppress(FileNotFoundError):  # another kernel needed room too
                os.unlink(entry.name, dir_fd=self._fd)

    def _entries(self) -> Iterator[_Entry]:
        """Yield what this package wrote: the folder may be one that has other files too."""
        with os.scandir(self._fd) as found:
            for entry in found:
                if _KEY.fullmatch(entry.name) or _ASIDE.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield _Entry(entry.name, status.st_mtime, status.st_size)


_UNUSED = "the cache folder is not used"
_ANOTHER = "Choose a folder of your own: %config FlyteJupyter.cache_folder = '...'"


def _make(path: Path) -> bool:
    """Make a folder, and say whether it was not there."""
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return False
    return True


def _others_write(found: os.stat_result) -> bool:
    return bool(stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH))


def _write(file: BinaryIO, piece: bytes | bytearray, stop: Callable[[], bool]) -> None:
    view, done = memoryview(piece), 0
    while done < len(view):
        if stop():
            raise Abandoned
        done += file.write(view[done : done + _CHUNK])
