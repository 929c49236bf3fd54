"""Classes and functions of the notebook, where what looks for them by name finds them.

The values of a cell bring them along, whether or not the cell reads their names. `pickle`, which
`torch.save`, joblib and process pools use, takes them for those of ``__main__``.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import pickle
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from cloudpickle import cloudpickle

from flyte_jupyter.driver.values.definitions import make_cached

_place: ContextVar[dict[str, Any] | None] = ContextVar("where definitions go", default=None)
_MAKERS = (
    cloudpickle._make_skeleton_class,
    cloudpickle._make_skeleton_enum,
    cloudpickle._make_function,
    make_cached,
)


@contextlib.contextmanager
def placing_definitions(namespace: dict[str, Any]) -> Iterator[None]:
    """Have definitions of ``__main__`` that are rebuilt meanwhile be in `namespace`, too."""
    token = _place.set(namespace)
    try:
        yield
    finally:
        _place.reset(token)


class PlacingUnpickler(pickle.Unpickler):
    """Rebuilds values, and places the definitions that came with them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._made: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in the stream stands for."""
        found = super().find_class(module, name)
        if _place.get() is not None and any(found is make for make in _MAKERS):
            return functools.partial(_noted, self._made, found)
        return found

    def place(self) -> None:
        """Place what has been rebuilt, where there is nothing of that name."""
        if (namespace := _place.get()) is None:
            return
        found: dict[str, Any] = {}
        for each in self._made:
            name = getattr(each, "__qualname__", "")
            if getattr(each, "__module__", "") != "__main__" or not name.isidentifier():
                continue
            if hasattr(builtins, name):  # the cell means Python's, if it has not said otherwise
                continue
            # A decorated function and the one inside have one name.
            if name not in found or getattr(each, "__wrapped__", None) is found[name]:
                found[name] = each
        for name, each in found.items():
            namespace.setdefault(name, each)


def _noted(made: list[Any], make: Callable[..., Any], *args: Any) -> Any:
    made.append(make(*args))
    return made[-1]
