"""Values on their way from one process to another, once.

`pack` pickles named values (protocol 5). Their large buffers go into shared memory, which the other
process maps copy-on-write: it copies nothing, may write to its arrays, and what either side writes
afterwards the other never sees. When the other process is on another machine, the same parcel goes
in message frames.

The sender calls `Parcel.confirm` when the receiver has acknowledged, and `Parcel.close` always::

    parcel = pack({"x": x}, sent=sent)
    try:
        ...  # send parcel.header as JSON and parcel.frames as buffers; wait for the answer
        parcel.confirm()
    finally:
        parcel.close()
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from flyte_jupyter.driver.values.kept import KeptBuffers
from flyte_jupyter.driver.values.parcel import Packer, Parcel, ParcelHeader, Place
from flyte_jupyter.driver.values.pickling import (
    PackError,
    UnpackError,
    pickle_values,
    unpickle_values,
)
from flyte_jupyter.driver.values.segments import Extent, OpenSegment, memfd_supported, opened
from flyte_jupyter.driver.values.sent import SentBuffers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "KeptBuffers",
    "PackError",
    "Parcel",
    "ParcelHeader",
    "SentBuffers",
    "UnpackError",
    "pack",
    "unpack",
]

# Buffers from this size on are mapped, and so freed, each by itself.
_OWN_MAPPING = 1 << 20


def pack(
    values: Mapping[str, object],
    *,
    shared: bool = True,
    sent: SentBuffers | None = None,
    folder: Path | None = None,
    files: bool = False,
) -> Parcel:
    """Pickle named values for another process.

    Parameters
    ----------
    values
        What to send, by name. Identity between them is preserved.
    shared
        Whether the receiver is a process of this machine and user. Else all goes in frames.
    sent
        What this receiver keeps; None to have it keep nothing.
    folder
        A private folder for files that take the place of memfds where those are not supported.
        Without it, all goes in frames there.
    files
        Whether arrays that are files go as these, where the receiver is of this machine. Inputs do;
        a file of a task may go with its cell.

    Raises
    ------
    PackError
        When a value cannot be pickled, or shared memory has no room; nothing is left behind.
    """
    files = files and shared
    if memfd_supported():
        folder = None
    elif folder is None:
        shared = False
    pickled = pickle_values(values, files=files)
    packer = Packer(pickled, sent, folder)
    try:
        packer.place(shared)
        packer.write()
        return packer.parcel(list(values))
    except BaseException as error:
        packer.abort()
        if isinstance(error, OSError):
            what = "Shared memory cannot take the values"
            raise PackError(what, seen=error.strerror or str(error)) from error
        raise
    finally:
        pickled.clear()


def unpack(
    header: ParcelHeader,
    frames: Sequence[bytes | memoryview],
    *,
    kept: KeptBuffers | None = None,
    keep_classes: bool = False,
) -> dict[str, object]:
    """Rebuild the values of a parcel.

    Arrays lie in memory of this process alone and can be written to, except those that were
    read-only where they came from.

    Parameters
    ----------
    header
        `Parcel.header`.
    frames
        `Parcel.frames`, as the message brought them. Writable ones become the values' memory.
    kept
        Where to keep what the sender asks to have kept, and to find what it counts on.
    keep_classes
        Whether they come from a process that has its classes from this one: those that this one
        has stay as they are.

    Raises
    ------
    SegmentError
        When the shared memory is gone, with the process that sent it.
    UnpackError
        When a value cannot be rebuilt here; it names the variable.
    KeptBufferError
        When the sender counts on a buffer that is not kept.
    """
    with ExitStack() as after:
        if kept is None:
            kept = KeptBuffers()
            after.callback(kept.clear)
        # In the end, whatever happens: giving memory back takes as long as all the rest.
        after.callback(kept.forget, header.get("forget", ()))
        segments = after.enter_context(opened(header["segments"]))
        stream = _stream(header["stream"], frames, segments)
        buffers = [_buffer(place, frames, segments, kept) for place in header["buffers"]]
    return unpickle_values(header["names"], stream, buffers, keep_classes=keep_classes)


def _stream(
    place: Place, frames: Sequence[bytes | memoryview], segments: Sequence[OpenSegment]
) -> bytes | memoryview:
    if "segment" in place:
        return _extent(place, segments).map()
    return frames[place["frame"]]


def _buffer(
    place: Place,
    frames: Sequence[bytes | memoryview],
    segments: Sequence[OpenSegment],
    kept: KeptBuffers,
) -> memoryview:
    if "kept" in place:
        return kept.fresh(place["kept"])
    if "frame" in place:
        frame = frames[place["frame"]]
        if "keep" in place:
            kept.keep_frame(place["keep"], frame)
            return kept.fresh(place["keep"])
        if isinstance(frame, memoryview) and not frame.readonly:
            return frame
        return memoryview(bytearray(frame))
    extent = _extent(place, segments)
    if "keep" in place:
        kept.keep_region(place["keep"], extent)
    return extent.view() if extent.length < _OWN_MAPPING else extent.map()


def _extent(place: Place, segments: Sequence[OpenSegment]) -> Extent:
    return Extent(segments, place["segment"], place["offset"], place["length"])
