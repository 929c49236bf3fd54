"""Values that Flyte has no type for, in a container: there and back as pickles."""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import sys
from collections.abc import Mapping
from typing import Any


def opened(arguments: Mapping[str, Any], packed: frozenset[str]) -> dict[str, Any]:
    """Return arguments with those in place that came as a file with a pickle in it."""
    return {
        name: _unpickled(value) if name in packed else value for name, value in arguments.items()
    }


def _unpickled(file: Any) -> Any:
    with file.open_sync("rb") as data:
        return pickle.loads(data.read())


@functools.cache
def make_box() -> Any:
    """Return a type for values that Flyte has no type for: it pickles the box, with them in it."""
    from flyte.types import FlytePickle

    class Box(FlytePickle):  # type: ignore[type-arg]
        """A value that is pickled, in a file of its own if it is large."""

        is_box_of_flyte_jupyter = True

        def __init__(self, value: Any, name: str) -> None:
            self.value = value
            self._large = _is_large(value, name)

        def __sizeof__(self) -> int:
            return 1 << 30 if self._large else 64

        def __reduce__(self) -> tuple[Any, ...]:
            return _box_again, (Box, pickled(self.value))

    return Box


_PLAIN = (bool, int, float, str, type(None))
_LARGEST = 2**63 - 1
_INLINE = 10_000
"""Bytes up to which a value is sent with what is said of the run."""


def boxed(value: Any, name: str, box: Any) -> Any:
    """Put a value into a box unless it is of a plain type that Flyte has, too."""
    kind = type(value)
    plain = kind in _PLAIN
    large = (kind is int and abs(value) > _LARGEST) or (kind is str and len(value) > _INLINE)
    return value if plain and not large else box(value, name)


def _is_large(value: Any, name: str) -> bool:
    try:
        pickled(value, _Meter())
    except _Full:
        return True
    except Exception as error:  # noqa: BLE001 - a user's object may raise anything
        raise TypeError(f"{name} cannot be sent back: a {type(value).__name__}: {error}") from None
    return False


def _box_again(box: Any, data: bytes) -> Any:
    made = box.__new__(box)
    made.value, made._large = pickle.loads(data), False
    return made


def pickled(value: Any, file: Any = None) -> bytes:
    """Pickle a value for the notebook, which has the local modules that came from there."""
    import cloudpickle

    file = io.BytesIO() if file is None else file
    with contextlib.ExitStack() as kept_here:
        for finder in sys.meta_path:
            if hasattr(finder, "not_spreading"):
                kept_here.enter_context(finder.not_spreading())
        cloudpickle.Pickler(file).dump(value)
    return file.getvalue() if isinstance(file, io.BytesIO) else b""


class _Full(Exception):
    """More was written than fits."""


class _Meter:
    """A file that takes no more than `_INLINE` bytes."""

    def __init__(self) -> None:
        self._taken = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._taken += size
        if self._taken > _INLINE:
            raise _Full
        return size
