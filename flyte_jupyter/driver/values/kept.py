"""What this process keeps of what it was sent, so that the sender need not send it twice.

It only obeys: which buffers to keep, and which to drop for want of room, the sender decides (see
`sent`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flyte_jupyter.errors import FlyteJupyterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flyte_jupyter.driver.values.segments import Extent


class KeptBufferError(FlyteJupyterError):
    """The sender counts on a buffer that this process does not keep.

    It means that the two sides no longer agree, as after a driver was replaced unnoticed: the
    sender must call `SentBuffers.reset` and pack again.
    """


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
        self._lock = threading.RLock()  # tasks in threads of a driver share what it keeps

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
        with self._lock:
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
        with self._lock:
            for key in keys:
                if kept := self._kept.pop(key, None):
                    kept.release()

    def clear(self) -> None:
        """Drop all."""
        self.forget(list(self._kept))

    def _put(self, key: int, kept: _Region | _Frame) -> None:
        with self._lock:
            self.forget([key])
            self._kept[key] = kept
