"""Values that stay in the driver, and what the notebook is told of them."""

from __future__ import annotations

import itertools
import reprlib
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

from flyte_jupyter.driver.wire import RefInfo
from flyte_jupyter.errors import RefLost

_PREVIEW = 500
_COUNTED = 16 * 2**20


previews: dict[type, Callable[[Any], str]] = {}
"""How values of some types are shown, where their own text would cost or tell too much."""

_store: RefStore | None = None


def resolve(name: str) -> object:
    """Return the value of a ref; what a notebook's handle is unpickled as, inside its driver.

    Raises
    ------
    RefLost
        This process holds no such value.
    """
    if _store is None or name not in _store:
        raise RefLost(
            "a ref among the inputs is gone",
            seen=f"this driver holds no value {name}",
            fix="Run the cell that made it again.",
        )
    return _store.get(name)


def any_kept() -> bool:
    """Whether this process keeps a value for the notebook."""
    return _store is not None and bool(len(_store))


class RefStore:
    """The values of a driver's refs.

    Parameters
    ----------
    prefix
        What makes ids unique among drivers.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._values: dict[str, object] = {}
        self._sources: dict[str, Any] = {}

    def keep(self, value: object, source: object = None) -> RefInfo:
        """Keep a value and describe it.

        Parameters
        ----------
        value
            The value.
        source
            What it came from, where that is to be kept for as long as the value.
        """
        name = f"{self._prefix}-{next(self._numbers)}"
        self._values[name] = value
        if source is not None:
            self._sources[name] = source
        kind = type(value)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}."
        return {
            "id": name,
            "type": f"{module}{kind.__qualname__}",
            "size": size_of(value),
            "preview": preview(value),
        }

    def publish(self) -> None:
        """Make these the values that `resolve` finds."""
        global _store  # noqa: PLW0603
        _store = self

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> object:
        """Return a value.

        Raises
        ------
        KeyError
            It was dropped, or belonged to a driver before this one.
        """
        return self._values[name]

    def source(self, name: str) -> Any:
        """Return what a value came from; None if it is not kept, or came from nothing else."""
        return self._sources.get(name)

    def drop(self, name: str) -> None:
        """Forget a value; nobody holds a handle to it any more."""
        self._values.pop(name, None)
        self._sources.pop(name, None)


def size_of(value: Any) -> int:
    """Return about how many bytes a value holds: what it says of itself, or what sending it takes.

    Counting stops at `_COUNTED` bytes: a guess is not worth pickling gigabytes.
    """
    for attribute in ("nbytes", "memory_usage"):
        try:
            size = getattr(value, attribute)
            if callable(size):
                size = size(deep=False)
            return int(size.sum() if hasattr(size, "sum") else size)
        except Exception:  # noqa: BLE001, S112 - any object may answer anything
            continue
    counter = _Counter()
    try:
        cloudpickle.Pickler(counter, protocol=5, buffer_callback=counter.take).dump(value)
    except _Enough:
        pass
    except Exception:  # noqa: BLE001 - a ref need not be picklable; that is one use of it
        return sys.getsizeof(value, 0)
    return counter.size


class _Enough(Exception):
    pass


class _Counter:
    """A file that counts what is written to it, up to a limit."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> int:
        self._add(len(data))
        return len(data)

    def take(self, buffer: Any) -> bool:
        self._add(buffer.raw().nbytes)
        return False

    def _add(self, size: int) -> None:
        self.size += size
        if self.size > _COUNTED:
            raise _Enough


def preview(value: object) -> str:
    """Return a short text of a value; never raises, and never prints a whole collection."""
    try:
        if shown := next((previews[k] for k in type(value).__mro__ if k in previews), None):
            text = shown(value)
        else:
            text = repr(value) if hasattr(value, "shape") else reprlib.Repr().repr(value)
    except Exception as error:  # noqa: BLE001 - a broken __repr__ must not fail the run
        return f"<repr failed: {type(error).__name__}: {error}>"
    return text if len(text) <= _PREVIEW else text[: _PREVIEW - 1] + "…"
