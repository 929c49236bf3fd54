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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NotRequired, TypedDict

import xxhash

from flyte_jupyter.driver.kept import KEEP_AT_LEAST, KeptBuffers, SentBuffers, Shipment
from flyte_jupyter.driver.mapping import PAGE
from flyte_jupyter.driver.pickling import (
    PackError,
    Pickled,
    UnpackError,
    pickle_values,
    unpickle_values,
)
from flyte_jupyter.driver.segments import OpenSegment, Segment, SegmentRecord, memfd_supported

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

# Below this size in all, frames are faster than making, opening and mapping shared memory.
_SMALL_PARCEL = 256 << 10
# A pickle stream of this size goes into shared memory too.
_LARGE_STREAM = 1 << 20
# Buffers from this size on are mapped, and so freed, each by itself.
_OWN_MAPPING = 1 << 20
# A segment's memory is freed as a whole, so one array that lives on holds its neighbours: segments
# are cut at this size, unless that made so many that file descriptors run out.
_SEGMENT_SIZE = 64 << 20
_MOST_SEGMENTS = 64


class Place(TypedDict, total=False):
    """Where the stream or a buffer is: in a frame, in a segment, or at the receiver already.

    `keep` is the number under which the receiver is to keep it, `kept` that of what it has.
    """

    frame: int
    segment: int
    offset: int
    length: int
    keep: int
    kept: int


class ParcelHeader(TypedDict):
    """The part of a parcel that goes as JSON."""

    names: list[str]
    stream: Place
    buffers: list[Place]
    segments: list[SegmentRecord]
    forget: NotRequired[list[int]]


@dataclass
class Parcel:
    """Packed values, ready to be sent.

    Attributes
    ----------
    header
        What the receiver needs besides the frames; JSON can hold it.
    frames
        Message frames; they are copies, which nothing that the user does can change.
    sizes
        Bytes by name, in the stream and beside it. What is kept by the receiver counts too.
    """

    header: ParcelHeader
    frames: list[bytes | memoryview]
    sizes: dict[str, int]
    _segments: list[Segment] = field(default_factory=list, repr=False)
    _shipment: Shipment | None = field(default=None, repr=False)

    def confirm(self) -> None:
        """Note that the receiver has unpacked the parcel, and let go of the shared memory."""
        if self._shipment:
            self._shipment.confirm()
        self.close()

    def close(self) -> None:
        """Let go of the shared memory, once the receiver has mapped it or never will; idempotent.

        Without a `confirm` before it, the receiver is taken to have nothing of this parcel.
        """
        if self._shipment:
            self._shipment.abandon()
        for segment in self._segments:
            segment.close()
        self._segments.clear()


def pack(
    values: Mapping[str, object],
    *,
    shared: bool = True,
    sent: SentBuffers | None = None,
    folder: Path | None = None,
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
        A private folder for files that take the place of memfds. Without it, and where memfds are
        not supported, all goes in frames.

    Raises
    ------
    PackError
        When a value cannot be pickled, or shared memory has no room; nothing is left behind.
    """
    pickled = pickle_values(values)
    packer = _Packer(pickled, sent)
    try:
        packer.place(shared and (folder is not None or memfd_supported()))
        packer.write(folder)
        return packer.parcel(list(values))
    except BaseException as error:
        packer.abort()
        if isinstance(error, OSError):
            what = "Shared memory cannot take the values"
            raise PackError(what, seen=error.strerror or str(error)) from error
        raise
    finally:
        pickled.clear()


class _Packer:
    """One call of `pack`: where everything goes, then the writing of it."""

    def __init__(self, pickled: Pickled, sent: SentBuffers | None) -> None:
        self._pickled = pickled
        self._digests = _digests(pickled.views) if sent is not None else {}
        sizes = {digest: pickled.views[i].nbytes for i, digest in self._digests.items()}
        self._shipment = sent.plan(sizes) if sent is not None else None
        self._stream: Place = {}
        self._buffers: list[Place] = [{} for _ in pickled.views]
        self._frames: list[bytes | memoryview] = []
        self._lengths: list[int] = []
        self._segments: list[Segment] = []

    def place(self, use_segments: bool) -> None:
        """Decide where the stream and every buffer goes; frames are made at once."""
        pickled = self._pickled
        total = pickled.length + sum(view.nbytes for view in pickled.views)
        target = max(_SEGMENT_SIZE, 2 * total // _MOST_SEGMENTS)
        use_segments = use_segments and total >= _SMALL_PARCEL
        if use_segments and pickled.length >= _LARGE_STREAM:
            self._stream.update(self._room(pickled.length, target))
        else:
            self._stream["frame"] = self._frame(b"".join(pickled.chunks))
        first: dict[str, Place] = {}
        for index, view in enumerate(pickled.views):
            place, digest = self._buffers[index], self._digests.get(index)
            if digest and self._place_known(place, digest, first):
                continue
            if use_segments:
                place.update(self._room(view.nbytes, target))
            else:
                place["frame"] = self._frame(bytes(view))

    def _place_known(self, place: Place, digest: str, first: dict[str, Place]) -> bool:
        """Refer to bytes that the receiver has, or that this parcel carries already."""
        assert self._shipment is not None  # noqa: S101 - there are digests only with a shipment
        if digest in self._shipment.known:
            place["kept"] = self._shipment.known[digest]
            return True
        if digest in first:
            place.update(first[digest])
            place.pop("keep", None)
            return True
        first[digest] = place
        if digest in self._shipment.fresh:
            place["keep"] = self._shipment.fresh[digest].key
        return False

    def _frame(self, data: bytes) -> int:
        self._frames.append(data)
        return len(self._frames) - 1

    def _room(self, length: int, target: int) -> Place:
        if not self._lengths or self._lengths[-1] + length > target:
            self._lengths.append(0)
        offset = -(-self._lengths[-1] // PAGE) * PAGE
        self._lengths[-1] = offset + length
        return {"segment": len(self._lengths) - 1, "offset": offset, "length": length}

    def write(self, folder: Path | None) -> None:
        """Write what goes into segments, letting go of every buffer that has been written."""
        self._segments.extend(Segment(length, folder=folder) for length in self._lengths)
        if "segment" in self._stream:
            stream = self._segments[self._stream["segment"]]
            stream.write(self._stream["offset"], self._pickled.chunks)
        for index, place in enumerate(self._buffers):
            if "segment" in place:
                segment = self._segments[place["segment"]]
                segment.write(place["offset"], [self._pickled.views[index]])
            self._pickled.release(index)
        for segment in self._segments:
            segment.seal()

    def parcel(self, names: list[str]) -> Parcel:
        """Put everything together."""
        header: ParcelHeader = {
            "names": names,
            "stream": self._stream,
            "buffers": self._buffers,
            "segments": [segment.record() for segment in self._segments],
        }
        if self._shipment and self._shipment.forget:
            header["forget"] = self._shipment.forget
        sizes = self._pickled.sizes
        return Parcel(header, self._frames, sizes, self._segments, self._shipment)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._shipment:
            self._shipment.abandon()
        for segment in self._segments:
            segment.close()


def _digests(views: Sequence[memoryview]) -> dict[int, str]:
    """Digest the buffers that are worth keeping: 0.05 s/GiB, a tenth of what writing them takes."""
    return {
        index: xxhash.xxh3_128_hexdigest(view)
        for index, view in enumerate(views)
        if view.nbytes >= KEEP_AT_LEAST
    }


def unpack(
    header: ParcelHeader,
    frames: Sequence[bytes | memoryview],
    *,
    kept: KeptBuffers | None = None,
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

    Raises
    ------
    SegmentError
        When the shared memory is gone, with the process that sent it.
    UnpackError
        When a value cannot be rebuilt here; it names the variable.
    KeptBufferError
        When the sender counts on a buffer that is not kept.
    """
    with ExitStack() as opened:
        if kept is None:
            kept = KeptBuffers()
            opened.callback(kept.clear)
        kept.forget(header.get("forget", ()))
        segments: list[OpenSegment] = []
        for record in header["segments"]:
            segments.append(OpenSegment(record))
            opened.callback(segments[-1].release)
        stream = _stream(header["stream"], frames, segments)
        buffers = [_buffer(place, frames, segments, kept) for place in header["buffers"]]
    return unpickle_values(header["names"], stream, buffers)


def _stream(
    place: Place, frames: Sequence[bytes | memoryview], segments: Sequence[OpenSegment]
) -> bytes | memoryview:
    if "segment" in place:
        return segments[place["segment"]].map(place["offset"], place["length"])
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
    segment, offset, length = segments[place["segment"]], place["offset"], place["length"]
    if "keep" in place:
        kept.keep_region(place["keep"], segment, offset, length)
    if length < _OWN_MAPPING:
        return segment.view(offset, length)
    return segment.map(offset, length)
