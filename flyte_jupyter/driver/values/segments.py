"""Pieces of shared memory that cannot be left behind.

On Linux a segment is a memfd. It has no name: the receiver opens it as `/proc/<pid>/fd/<fd>` of the
sender, and it is gone with the last descriptor and mapping of it. So a SIGKILL at any moment leaves
nothing, nobody has to unlink anything, and the 64 MB that Docker gives `/dev/shm` are no limit.

Where there is no memfd (macOS), a segment is a file in a private folder which the receiver unlinks
as soon as it has opened it, and the sender if the receiver never came.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import stat
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from flyte_jupyter.driver.values.aside import give_back
from flyte_jupyter.driver.values.mapping import FilePart, map_private
from flyte_jupyter.errors import FlyteJupyterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# pwrite into a memfd was measured, in one thread, at 0.42 s/GiB against 0.85 s/GiB for a copy into
# a mapping, which pays for zeroing and faulting every page first; fallocate and MADV_POPULATE_WRITE
# gained nothing.
_CHUNK = 8 << 20
_counting = threading.Lock()


class SegmentError(FlyteJupyterError):
    """A segment that is not, or no longer, where its record says."""


class SegmentRecord(TypedDict):
    """Where a segment is, for the process that opens it.

    `ino`, `dev` and `size` tell the segment meant from whatever else a recycled process id or
    descriptor number now stands for.
    """

    path: str
    unlink: bool
    ino: int
    dev: int
    size: int


@functools.cache
def memfd_supported() -> bool:
    """Whether processes of this machine and user can open each other's memfds."""
    return (
        sys.platform == "linux" and hasattr(os, "memfd_create") and Path("/proc/self/fd").exists()
    )


class Segment:
    """The sender's side: written once, then sealed, and closed when the receiver has mapped it.

    Parameters
    ----------
    size
        Bytes, fixed from the start.
    folder
        None for a memfd; else the folder, readable by this user alone, in which to make a file.

    Raises
    ------
    OSError
        When there is no room, or no descriptor left.
    """

    def __init__(self, size: int, *, folder: Path | None = None) -> None:
        self._path: Path | None = None
        if folder is None:
            self._fd = _create_memfd()
        else:
            self._path = folder / f"segment-{secrets.token_hex(8)}"
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._closing = weakref.finalize(self, _close_segment, self._fd, self._path)
        try:
            os.ftruncate(self._fd, size)
        except BaseException:
            self.close()
            raise
        self.size = size

    def write(self, offset: int, chunks: Sequence[bytes | bytearray | memoryview]) -> None:
        """Write `chunks` one after the other, starting at byte `offset`."""
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            done = 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done : done + _CHUNK], offset + done)
            offset += done

    def seal(self) -> None:
        """Make the contents final, where the system can: kept copies rely on that."""
        if self._path is None:
            import fcntl

            # The names are Linux's own; mypy on another platform does not know them.
            seals = ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE", "F_SEAL_SEAL")
            bits = sum(getattr(fcntl, name) for name in seals)
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._fd, getattr(fcntl, "F_ADD_SEALS"), bits)  # noqa: B009

    def part(self, offset: int, length: int) -> FilePart:
        """Name a part for mapping, valid until `close`."""
        return FilePart(self._fd, offset, length)

    def record(self) -> SegmentRecord:
        """Say where the segment is."""
        found = os.fstat(self._fd)
        path = f"/proc/{os.getpid()}/fd/{self._fd}" if self._path is None else str(self._path)
        return {
            "path": path,
            "unlink": self._path is not None,
            "ino": found.st_ino,
            "dev": found.st_dev,
            "size": self.size,
        }

    def close(self) -> None:
        """Give up this side's hold; what the receiver has opened or mapped stays valid."""
        self._closing()


class OpenSegment:
    """The receiver's side of a segment.

    It counts its users (whoever unpacks the parcel, and every kept buffer in it) and closes its
    descriptor after the last one; mappings need none.

    Parameters
    ----------
    record
        As `Segment.record` gave it.

    Raises
    ------
    SegmentError
        When the segment is gone, cannot be opened, or is another one than meant.
    """

    def __init__(self, record: SegmentRecord) -> None:
        self._fd = _open_recorded(record)
        self._closing = weakref.finalize(self, give_back, record["size"], os.close, self._fd)
        self._users = 1
        self._whole: memoryview | None = None
        self.size = record["size"]

    def record(self) -> SegmentRecord:
        """Say where a third process finds it, for as long as this one has it open."""
        found = os.fstat(self._fd)
        return {
            "path": f"/proc/{os.getpid()}/fd/{self._fd}",
            "unlink": False,
            "ino": found.st_ino,
            "dev": found.st_dev,
            "size": self.size,
        }

    def retain(self) -> OpenSegment:
        """Add a user; each one calls `release` in the end."""
        with _counting:
            self._users += 1
        return self

    def release(self) -> None:
        """Take a user away, and close after the last."""
        with _counting:
            self._users -= 1
            last = self._users == 0
        if last:
            self._whole = None
            self._closing()

    def map(self, offset: int, length: int) -> memoryview:
        """Map a part alone: writable, private, and freed alone."""
        return _mapped([self.part(offset, length)])

    def part(self, offset: int, length: int) -> FilePart:
        """Name a part for mapping, valid as long as the segment is open."""
        if offset < 0 or length <= 0 or offset + length > self.size:
            raise _misfit(f"bytes {offset} to {offset + length} of {self.size}")
        return FilePart(self._fd, offset, length)

    def view(self, offset: int, length: int) -> memoryview:
        """Give a part of one mapping of the whole segment.

        For parts too small for a mapping of their own, of which a process may hold some 65 000.
        """
        self.part(offset, length)
        if self._whole is None:
            self._whole = self.map(0, self.size)
        return self._whole[offset : offset + length]


@contextlib.contextmanager
def opened(records: Iterable[SegmentRecord]) -> Iterator[list[OpenSegment]]:
    """Open segments for as long as it takes to map parts of them, or to become a user.

    Raises
    ------
    SegmentError
        One of them is gone; those before it are closed.
    """
    segments: list[OpenSegment] = []
    try:
        for record in records:
            segments.append(OpenSegment(record))  # noqa: PERF401 - what is open is closed below
        yield segments
    finally:
        for segment in segments:
            segment.release()


_S = TypeVar("_S", Segment, OpenSegment)


class Extent:
    """A run of bytes at the receiver: in one segment, or from one on into those that follow.

    Parameters
    ----------
    segments
        The parcel's, in order.
    index
        The segment in which the run starts.
    offset
        Where in that segment, in bytes.
    length
        Bytes in all.

    Raises
    ------
    SegmentError
        When the segments are not that large.
    """

    def __init__(
        self, segments: Sequence[OpenSegment], index: int, offset: int, length: int
    ) -> None:
        self._parts = list(_spread(segments, index, offset, length))
        for segment, *where in self._parts:
            segment.part(*where)
        self.length = length

    @property
    def segments(self) -> list[OpenSegment]:
        """Those that it lies in, in order."""
        return [segment for segment, *_ in self._parts]

    @property
    def offset(self) -> int:
        """Where it begins in the first of them, in bytes."""
        return self._parts[0][1]

    def map(self) -> memoryview:
        """Map all of it as one: writable, private, and freed alone."""
        return _mapped([segment.part(*where) for segment, *where in self._parts])

    def view(self) -> memoryview:
        """Give it as a part of a mapping of the whole segment, where it lies in one."""
        if len(self._parts) > 1:
            return self.map()
        segment, offset, length = self._parts[0]
        return segment.view(offset, length)

    def retain(self) -> Extent:
        """Become a user of the segments; call `release` in the end."""
        for segment, *_ in self._parts:
            segment.retain()
        return self

    def release(self) -> None:
        """Be no user of them any more."""
        for segment, *_ in self._parts:
            segment.release()


def map_written(segments: Sequence[Segment], index: int, offset: int, length: int) -> memoryview:
    """Map, at the sender, what it has written and sealed, and may look at later.

    Parameters
    ----------
    segments, index, offset, length
        As `Extent` has them, but the sender's.

    Raises
    ------
    SegmentError
        It cannot be mapped.
    """
    found = _spread(segments, index, offset, length)
    return _mapped([segment.part(*where) for segment, *where in found], ahead=False)


def _spread(
    segments: Sequence[_S], index: int, offset: int, length: int
) -> Iterator[tuple[_S, int, int]]:
    """Follow a run of bytes through segments: which one, where in it, and how many there."""
    left = length
    while True:
        if index >= len(segments):
            raise _misfit(f"{left} of {length} bytes are beyond the last segment")
        here = min(left, segments[index].size - offset)
        yield segments[index], offset, here
        index, offset, left = index + 1, 0, left - here
        if not left:
            return


def _mapped(parts: Sequence[FilePart], *, ahead: bool = True) -> memoryview:
    try:
        return map_private(parts, ahead=ahead)
    except OSError as error:
        raise SegmentError("Shared memory cannot be mapped", seen=str(error)) from error


def _misfit(seen: str) -> SegmentError:
    return SegmentError("A parcel's header does not fit its segment", seen=seen)


def _create_memfd() -> int:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "this system has no memfd")
    return os.memfd_create("flyte-jupyter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _close_segment(fd: int, path: Path | None) -> None:
    os.close(fd)
    if path is not None:
        path.unlink(missing_ok=True)


def _open_recorded(record: SegmentRecord) -> int:
    path = record["path"]
    try:
        # Looked at before it is opened: opening a FIFO would wait, opening a device could do worse.
        _check_identity(Path(path).stat(), record)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SegmentError(
            "Shared memory of the other process cannot be opened",
            seen=f"{path}: {error.strerror}",
        ) from error
    try:
        _check_identity(os.fstat(fd), record)
        if record["unlink"]:
            Path(path).unlink(missing_ok=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_identity(found: os.stat_result, record: SegmentRecord) -> None:
    meant = (record["ino"], record["dev"], record["size"])
    if not stat.S_ISREG(found.st_mode) or (found.st_ino, found.st_dev, found.st_size) != meant:
        raise SegmentError(
            "Shared memory of the other process is gone",
            seen=f"{record['path']} is something else now",
        )
