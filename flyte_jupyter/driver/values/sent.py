"""What the other process still has, so that an unchanged large input is not sent twice.

The sender decides: it knows what the receiver keeps, and which of it to drop for want of room. The
receiver (`kept`) only obeys. Every copy that is sent has a number of its own, never used again, so
that dropping an old copy can never hit a newer one of the same bytes, in whatever order parcels
arrive. A copy counts as kept only when the receiver has acknowledged the parcel that carried it; if
that never happens, the next header says to forget it.

A buffer is told by a sample of it when it is sent first, which costs nothing. Only one that has the
sample of a kept copy is digested, and so is that copy, once. The copy is digested from the shared
memory that was sent, not from the value, so that no thread that writes to the value meanwhile can
have a copy taken for what it is not.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flyte_jupyter.driver.values.blocks import digest, digest_all, digest_sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Smaller buffers are sent again: telling and keeping them costs as much as writing them.
KEEP_AT_LEAST = 1 << 20


class _Copy:
    """A buffer that the receiver keeps, or is being sent to keep.

    Attributes
    ----------
    key
        The number under which it is kept.
    size
        Bytes.
    sample
        Digest of a part of it.
    """

    def __init__(self, key: int, size: int, sample: bytes) -> None:
        self.key, self.size, self.sample = key, size, sample
        self._content: memoryview | None = None
        self._digest = ""

    def hold(self, content: memoryview) -> None:
        """Take what was sent, which nobody can change any more, until it has to be digested."""
        self._content = content

    def digest_of(self, content: bytes) -> None:
        """Digest what is sent at once, where holding it would take memory of this process."""
        self._digest = digest(content)

    @property
    def digest(self) -> str:
        """Digest of what was sent."""
        content = self._content
        if content is not None:
            (self._digest,) = digest_all([content])
            self._content = None
        return self._digest


@dataclass
class Shipment:
    """What one parcel does to the receiver's store; buffers go by their index in the parcel.

    Attributes
    ----------
    known
        The numbers of copies that the receiver has already.
    fresh
        What it is to keep of this parcel; each is to be told what was sent.
    forget
        Numbers that it is to drop.
    """

    owner: SentBuffers
    epoch: int
    known: dict[int, int]
    fresh: dict[int, _Copy] = field(default_factory=dict)
    forget: list[int] = field(default_factory=list)
    settled: bool = False

    def confirm(self) -> None:
        """Count what was sent as kept: the receiver has acknowledged the parcel."""
        self.owner._settle(self, arrived=True)

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

    def plan(self, views: Mapping[int, memoryview]) -> Shipment:
        """Decide what to send of buffers, given by their index, and what to drop for it.

        What this parcel itself uses is never dropped for it, so inputs larger than the limit keep a
        part of themselves kept rather than to push each other out in turn.
        """
        large = {index: view for index, view in views.items() if view.nbytes >= KEEP_AT_LEAST}
        samples = {index: digest_sample(view) for index, view in large.items()}
        found = self._find(large, samples)
        with self._lock:
            known = {index: key for index, key in found.items() if key in self._copies}
            for key in known.values():
                self._copies.move_to_end(key)
            shipment = Shipment(self, self._epoch, known)
            for index, view in large.items():
                # One of a sample at a time: most likely all others of it are equal.
                if index in known or samples[index] in self._on_their_way:
                    continue
                if self._make_room(view.nbytes, set(known.values())):
                    copy = _Copy(next(self._keys), view.nbytes, samples[index])
                    shipment.fresh[index] = copy
                    self._on_their_way.add(copy.sample)
                    self._held += copy.size
                    self._count += 1
            shipment.forget = sorted(self._forget)
            return shipment

    def _find(
        self, views: Mapping[int, memoryview], samples: Mapping[int, bytes]
    ) -> dict[int, int]:
        """Return, by index, the numbers of copies that the receiver has of buffers."""
        with self._lock:
            copies = list(self._copies.values())
        like = {
            index: [copy for copy in copies if copy.sample == sample]
            for index, sample in samples.items()
        }
        suspects = [index for index, candidates in like.items() if candidates]
        digests = digest_all([views[index] for index in suspects])
        return {
            index: copy.key
            for index, found in zip(suspects, digests, strict=True)
            for copy in like[index]
            if copy.digest == found
        }

    def reset(self) -> None:
        """Start anew: the receiver was replaced, and has nothing."""
        with self._lock:
            self._epoch += 1
            self._clear()

    def _clear(self) -> None:
        self._copies: OrderedDict[int, _Copy] = OrderedDict()
        self._on_their_way: set[bytes] = set()
        self._forget: set[int] = set()
        self._held = self._count = 0

    def _make_room(self, size: int, used: Iterable[int]) -> bool:
        idle = [copy for key, copy in self._copies.items() if key not in used]
        held, count = self._held, self._count
        victims = 0
        while held + size > self._limit or count >= self._max_entries:
            if victims == len(idle):
                return False
            held -= idle[victims].size
            count -= 1
            victims += 1
        for copy in idle[:victims]:
            del self._copies[copy.key]
            self._drop(copy)
        return True

    def _drop(self, copy: _Copy) -> None:
        self._forget.add(copy.key)
        self._held -= copy.size
        self._count -= 1

    def _settle(self, shipment: Shipment, *, arrived: bool) -> None:
        with self._lock:
            if shipment.settled or shipment.epoch != self._epoch:
                return
            shipment.settled = True
            if arrived:
                self._forget.difference_update(shipment.forget)
            for copy in shipment.fresh.values():
                self._on_their_way.discard(copy.sample)
                if arrived:
                    self._copies[copy.key] = copy
                else:
                    self._drop(copy)
