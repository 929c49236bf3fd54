"""A parcel that this process passes on, without a look at it and without a copy.

Where a cell runs in processes beside the driver, all of them map the one copy of its inputs: the
driver opens the segments that the notebook wrote, keeps what it is asked to keep, and hands on a
header whose places all refer to its own descriptors. What comes back goes the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flyte_jupyter.driver.values.kept import KeptBuffers
from flyte_jupyter.driver.values.segments import Extent, OpenSegment, memfd_supported, opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_jupyter.driver.values.parcel import ParcelHeader, Place


@dataclass
class Forwarded:
    """A parcel on its way through this process; valid until it is closed.

    Attributes
    ----------
    header, frames
        As `Parcel` has them: any number of processes can unpack them.
    """

    header: ParcelHeader
    frames: list[bytes | memoryview]
    _segments: list[OpenSegment] = field(default_factory=list, repr=False)

    def close(self) -> None:
        """Let go of the shared memory; who has unpacked the parcel keeps it. Idempotent."""
        while self._segments:
            self._segments.pop().release()


def forward(
    header: ParcelHeader,
    frames: Sequence[bytes | memoryview],
    *,
    kept: KeptBuffers | None = None,
) -> Forwarded:
    """Take a parcel in, for others to unpack.

    Parameters
    ----------
    header, frames
        As `transfer.unpack` has them. Frames are copied to each process that unpacks them; so is,
        where there is no memfd, all the rest.
    kept
        Where to keep what the sender asks to have kept, and to find what it counts on.

    Raises
    ------
    SegmentError
        When the shared memory is gone, with the process that sent it.
    KeptBufferError
        When the sender counts on a buffer that is not kept.
    """
    made = Forwarded(
        {"names": header["names"], "stream": {}, "buffers": [], "segments": []}, [*frames]
    )
    store = KeptBuffers() if kept is None else kept
    try:
        with opened(header["segments"]) as segments:
            made.header["stream"] = _pass_on(header["stream"], segments, store, made)
            for place in header["buffers"]:
                made.header["buffers"].append(_pass_on(place, segments, store, made))
    except BaseException:
        made.close()
        raise
    finally:
        store.forget(header.get("forget", ()))
        if kept is None:
            store.clear()
    return made


def _pass_on(
    place: Place, segments: Sequence[OpenSegment], kept: KeptBuffers, made: Forwarded
) -> Place:
    """Return the place at which the next process finds what this one finds at `place`."""
    if "kept" in place:
        return _hold(kept.held(place["kept"]), made)
    if "frame" in place:
        if "keep" in place:
            kept.keep_frame(place["keep"], made.frames[place["frame"]])
        return {"frame": place["frame"]}
    extent = Extent(segments, place["segment"], place["offset"], place["length"])
    if "keep" in place:
        kept.keep_region(place["keep"], extent)
    return _hold(extent, made)


def _hold(source: Extent | bytes | memoryview, made: Forwarded) -> Place:
    if not isinstance(source, Extent):
        made.frames.append(source)
        return {"frame": len(made.frames) - 1}
    if not memfd_supported():
        made.frames.append(bytes(source.map()))
        return {"frame": len(made.frames) - 1}
    known = [id(segment) for segment in made._segments]
    wanted = [id(segment) for segment in source.segments]
    for start in range(len(known) - len(wanted) + 1):
        if known[start : start + len(wanted)] == wanted:
            break  # another buffer in the same segments
    else:
        start = len(known)
        for segment in source.segments:
            made._segments.append(segment.retain())
            made.header["segments"].append(segment.record())
    return {"segment": start, "offset": source.offset, "length": source.length}
