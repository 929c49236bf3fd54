"""What travels: a header that JSON can hold, message frames, and segments of shared memory."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

from flyte_jupyter.driver.values.blocks import BLOCK, run_all
from flyte_jupyter.driver.values.mapping import PAGE
from flyte_jupyter.driver.values.segments import Segment, map_written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flyte_jupyter.driver.values.pickling import Pickled
    from flyte_jupyter.driver.values.segments import SegmentRecord
    from flyte_jupyter.driver.values.sent import SentBuffers, Shipment

# Below this size in all, frames are faster than making, opening and mapping shared memory.
_SMALL_PARCEL = 256 << 10
# A pickle stream of this size goes into shared memory too.
_LARGE_STREAM = 1 << 20
# A segment's memory is freed as a whole, so one array that lives on holds its neighbours; and the
# kernel lets only one thread at a time write to it. So segments are cut at this size, and larger
# buffers too, unless that made so many that file descriptors run out.
_SEGMENT_SIZE = 64 << 20
_MOST_SEGMENTS = 64


class Place(TypedDict, total=False):
    """Where the stream or a buffer is: in a frame, in a segment, or at the receiver already.

    What does not fit its segment goes on at the start of the next.
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
            self._shipment = None
        for segment in self._segments:
            segment.close()
        self._segments.clear()


class Packer:
    """One call of `pack`: where everything goes, then the writing of it."""

    def __init__(self, pickled: Pickled, sent: SentBuffers | None, folder: Path | None) -> None:
        self._pickled = pickled
        self._folder = folder
        views = dict(enumerate(pickled.views))
        self._shipment = sent.plan(views) if sent is not None else None
        self._stream: Place = {}
        self._buffers: list[Place] = [{} for _ in pickled.views]
        self._frames: list[bytes | memoryview] = []
        self._lengths: list[int] = []
        self._segments: list[Segment] = []
        self._unwritten: Counter[int] = Counter()
        self._lock = threading.Lock()

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
        known = self._shipment.known if self._shipment else {}
        fresh = self._shipment.fresh if self._shipment else {}
        for index, view in enumerate(pickled.views):
            place = self._buffers[index]
            if index in known:
                place["kept"] = known[index]
                continue
            if index in fresh:
                place["keep"] = fresh[index].key
            if use_segments:
                place.update(self._room(view.nbytes, target))
            else:
                data = bytes(view)
                place["frame"] = self._frame(data)
                if index in fresh:
                    fresh[index].digest_of(data)

    def _frame(self, data: bytes) -> int:
        self._frames.append(data)
        return len(self._frames) - 1

    def _room(self, length: int, target: int) -> Place:
        if length > target and self._folder is None:
            # Whole blocks, and so whole pages.
            stripe = -(-length // -(-length // target) // BLOCK) * BLOCK
            place: Place = {"segment": len(self._lengths), "offset": 0, "length": length}
            self._lengths += [min(stripe, length - at) for at in range(0, length, stripe)]
            return place
        if not self._lengths or self._lengths[-1] + length > target:
            self._lengths.append(0)
        offset = -(-self._lengths[-1] // PAGE) * PAGE
        self._lengths[-1] = offset + length
        return {"segment": len(self._lengths) - 1, "offset": offset, "length": length}

    def write(self) -> None:
        """Write what goes into segments, letting go of every buffer that has been written."""
        self._segments.extend(Segment(length, folder=self._folder) for length in self._lengths)
        by_segment: defaultdict[int, list[_Piece]] = defaultdict(list)
        if "segment" in self._stream:
            for number, piece in self._cut(self._stream, self._pickled.chunks, None):
                by_segment[number].append(piece)
        for index, (place, view) in enumerate(zip(self._buffers, self._pickled.views, strict=True)):
            if "segment" not in place:
                self._pickled.release(index)
                continue
            for number, piece in self._cut(place, [view], index):
                by_segment[number].append(piece)
                self._unwritten[index] += 1
        jobs = [self._fill(self._segments[n], pieces) for n, pieces in by_segment.items()]
        run_all(jobs, sum(self._lengths))
        for segment in self._segments:
            segment.seal()
        for index, copy in self._shipment.fresh.items() if self._shipment else ():
            place = self._buffers[index]
            if "segment" in place:
                where = place["segment"], place["offset"], place["length"]
                copy.hold(map_written(self._segments, *where))

    def _cut(
        self, place: Place, sources: Sequence[bytes | bytearray | memoryview], buffer: int | None
    ) -> Iterator[tuple[int, _Piece]]:
        """Cut what goes to `place` into pieces, each with the number of its segment."""
        number, offset = place["segment"], place["offset"]
        for source in sources:
            start = 0
            while start < len(source):
                if offset == self._lengths[number]:
                    number, offset = number + 1, 0
                room = min(BLOCK, self._lengths[number] - offset)
                stop = min(start + room, len(source))
                yield number, _Piece(source, start, stop, offset, buffer)
                offset, start = offset + stop - start, stop

    def _fill(self, segment: Segment, pieces: Sequence[_Piece]) -> Iterator[None]:
        """Write the pieces of one segment, in a thread that may be asked to stop between them."""
        for source, start, stop, offset, buffer in pieces:
            with memoryview(source) as whole, whole[start:stop] as part:
                segment.write(offset, [part])
            if buffer is not None:
                with self._lock:
                    self._unwritten[buffer] -= 1
                if not self._unwritten[buffer]:
                    self._pickled.release(buffer)
            yield

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


class _Piece(NamedTuple):
    """Some bytes of the stream or a buffer, for one write at `offset` into a segment."""

    source: bytes | bytearray | memoryview
    start: int
    stop: int
    offset: int
    buffer: int | None
