"""What the other process still has, so that an unchanged large input is not sent twice.

The sender decides: it knows by digest what the receiver keeps, and which of it to drop for want of
room. The receiver only obeys. Every copy that is sent has a number of its own, never used again, so
that dropping an old copy can never hit a newer one of the same bytes, in whatever order parcels
arrive. A copy counts as kept only when the receiver has acknowledged the parcel that carried it; if
that never happens, the next header says to forget it.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from flyte_jupyter.errors import FlyteJupyterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flyte_jupyter.driver.values.segments import Extent

#: Smaller buffers are sent again: telling and keeping them costs as much as writing them.
KEEP_AT_LEAST = 1 << 20


class KeptBufferError(FlyteJupyterError):
    """The sender counts on a buffer that this process does not keep.

    It means that the two sides no longer agree, as after a driver was replaced unnoticed: the
    sender must call `SentBuffers.reset` and pack again.
    """


class _Copy(NamedTuple):
    key: int
    size: int


@dataclass
class Shipment:
    """What one parcel does to the receiver's store.

    Attributes
    ----------
    known
        By digest, the numbers of copies that the receiver has already.
    fresh
        By digest, the numbers under which it is to keep what this parcel carries.
    forget
        Numbers that it is to drop.
    """

    owner: SentBuffers
    epoch: int
    known: dict[str, int]
    fresh: dict[str, _Copy] = field(default_factory=dict)
    forget: list[int] = field(default_factory=list)
    settled: bool = False

    def confirm(self) -> None:
        """Count what was sent as kept: the receiver has acknowledged the parcel."""
        self.owner._settle(self, arrived=True)

    def discard(self, digest: str) -> None:
        """Have `digest` not kept after all, before anything was sent."""
        self.owner._discard(self, digest)

    def abandon(self) -> None:
        """Count nothing as kept, and have the receiver forget whatever may have arrived."""
        self.owner._settle(self, arrived=False)


class SentBuffers:
    """The sender's record of what one receiver keeps; it owns the truth.

    Parameters
    ----------
    limit
        Bytes that the receiver may keep. A buffer stays in the shared memory in which it came, so a
        small one may hold up to 64 MiB of neighbours there.
    max_entries
        Buffers that it may keep: each may hold a file descriptor, of which macOS gives 256. Linux
        gives 1024; there a large one may hold one for every 32 MiB.
    """

    def __init__(self, limit: int = 2 << 30, max_entries: int = 200) -> None:
        self._limit, self._max_entries = limit, max_entries
        self._keys = itertools.count(1)
        self._lock = threading.Lock()
        self._epoch = 0
        self._clear()

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def nbytes(self) -> int:
        """Bytes that the receiver keeps or is being sent to keep."""
        return self._held

    def plan(self, buffers: Mapping[str, int]) -> Shipment:
        """Decide what to send of `buffers` (sizes in bytes by digest) and what to drop for it.

        What this parcel itself uses is never dropped for it, so inputs larger than the limit keep a
        part of themselves kept rather than to push each other out in turn.
        """
        with self._lock:
            known = {d: self._copies[d].key for d in buffers if d in self._copies}
            for digest in known:
                self._copies.move_to_end(digest)
            shipment = Shipment(self, self._epoch, known)
            for digest, size in buffers.items():
                if digest not in known and self._make_room(size, known):
                    shipment.fresh[digest] = _Copy(next(self._keys), size)
                    self._held += size
                    self._count += 1
            shipment.forget = sorted(self._forget)
            return shipment

    def reset(self) -> None:
        """Start anew: the receiver was replaced, and has nothing."""
        with self._lock:
            self._epoch += 1
            self._clear()

    def _clear(self) -> None:
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._forget: set[int] = set()
        self._held = self._count = 0

    def _make_room(self, size: int, used: Mapping[str, int]) -> bool:
        idle = [(d, copy) for d, copy in self._copies.items() if d not in used]
        held, count = self._held, self._count
        victims = 0
        while held + size > self._limit or count >= self._max_entries:
            if victims == len(idle):
                return False
            held -= idle[victims][1].size
            count -= 1
            victims += 1
        for digest, copy in idle[:victims]:
            del self._copies[digest]
            self._drop(copy)
        return True

    def _drop(self, copy: _Copy) -> None:
        self._forget.add(copy.key)
        self._held -= copy.size
        self._count -= 1

    def _discard(self, shipment: Shipment, digest: str) -> None:
        with self._lock:
            copy = shipment.fresh.pop(digest)
            if shipment.epoch == self._epoch:
                self._held -= copy.size
                self._count -= 1

    def _settle(self, shipment: Shipment, *, arrived: bool) -> None:
        with self._lock:
            if shipment.settled or shipment.epoch != self._epoch:
                return
            shipment.settled = True
            if arrived:
                self._forget.difference_update(shipment.forget)
            for digest, copy in shipment.fresh.items():
                if arrived and digest not in self._copies:
                    self._copies[digest] = copy
                else:
                    # Not arrived; or the same bytes went in two parcels at once, and one will do.
                    self._drop(copy)


@dataclass(frozen=True)
class _Region:
    """A kept part of a segment, or of several."""

    extent: Extent

    @property
    def length(self) -> int:
        return self.extent.length

    def fresh(self) -> memoryview:
        return self.extent.map()

    def release(self) -> None:
        self.extent.release()


@dataclass(frozen=True)
class _Frame:
    """A kept message frame, where sender and receiver share no memory."""

    data: bytes | memoryview

    @property
    def length(self) -> int:
        return len(self.data)

    def fresh(self) -> memoryview:
        return memoryview(bytearray(self.data))

    def release(self) -> None:
        pass


class KeptBuffers:
    """The receiver's store: buffers by number, mapped or copied afresh for each use.

    What the user writes to his array is therefore never seen by the next cell that is given it.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Region | _Frame] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(kept.length for kept in self._kept.values())

    def keep_region(self, key: int, extent: Extent) -> None:
        """Keep a part of a segment, or of several."""
        self._put(key, _Region(extent.retain()))

    def keep_frame(self, key: int, data: bytes | memoryview) -> None:
        """Keep a message frame, which nobody may write to from here on."""
        self._put(key, _Frame(data))

    def fresh(self, key: int) -> memoryview:
        """Give the bytes of buffer `key`, to be written to at will.

        Raises
        ------
        KeptBufferError
            When it is not kept here.
        """
        return self._get(key).fresh()

    def held(self, key: int) -> Extent | bytes | memoryview:
        """Give the place of buffer `key` in shared memory, or its frame, for a third process.

        Raises
        ------
        KeptBufferError
            When it is not kept here.
        """
        kept = self._get(key)
        return kept.extent if isinstance(kept, _Region) else kept.data

    def _get(self, key: int) -> _Region | _Frame:
        if key not in self._kept:
            raise KeptBufferError(
                "An input that was sent before is not here any more", fix="Run the cell again"
            )
        return self._kept[key]

    def forget(self, keys: Iterable[int]) -> None:
        """Drop buffers; numbers that are not kept are passed over."""
        for key in keys:
            if kept := self._kept.pop(key, None):
                kept.release()

    def clear(self) -> None:
        """Drop all."""
        self.forget(list(self._kept))

    def _put(self, key: int, kept: _Region | _Frame) -> None:
        self.forget([key])
        self._kept[key] = kept
