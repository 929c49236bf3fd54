"""Values that stay in the driver, and what the notebook is told of them."""

from __future__ import annotations

import itertools
import reprlib
import sys
from typing import Any

from flyte_jupyter.driver.wire import RefInfo

_PREVIEW = 500


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

    def keep(self, value: object) -> RefInfo:
        """Keep a value and describe it."""
        name = f"{self._prefix}-{next(self._numbers)}"
        self._values[name] = value
        kind = type(value)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}."
        return {
            "id": name,
            "type": f"{module}{kind.__qualname__}",
            "size": size_of(value),
            "preview": preview(value),
        }

    def get(self, name: str) -> object:
        """Return a value.

        Raises
        ------
        KeyError
            It was dropped, or belonged to a driver before this one.
        """
        return self._values[name]

    def drop(self, name: str) -> None:
        """Forget a value; nobody holds a handle to it any more."""
        self._values.pop(name, None)


def size_of(value: Any) -> int:
    """Return about how many bytes a value holds, from what it says of itself."""
    for attribute in ("nbytes", "memory_usage"):
        try:
            size = getattr(value, attribute)
            if callable(size):
                size = size(deep=False)
            return int(size.sum() if hasattr(size, "sum") else size)
        except Exception:  # noqa: BLE001, S112, PERF203 - any object may answer anything
            continue
    return sys.getsizeof(value, 0)


def preview(value: object) -> str:
    """Return a short text of a value; never raises, and never prints a whole collection."""
    try:
        text = repr(value) if hasattr(value, "shape") else reprlib.Repr().repr(value)
    except Exception as error:  # noqa: BLE001 - a broken __repr__ must not fail the run
        return f"<repr failed: {type(error).__name__}: {error}>"
    return text if len(text) <= _PREVIEW else text[: _PREVIEW - 1] + "…"
