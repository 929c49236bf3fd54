"""Which of the things that a function uses cannot be pickled."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from cloudpickle import cloudpickle

_DEPTH = 10
_CALLED = (types.FunctionType, staticmethod, classmethod, functools._lru_cache_wrapper)


def culprit(value: object, can: Callable[[object], bool]) -> str:
    """Name the global, or variable of a function around it, for which `value` cannot be pickled.

    Parameters
    ----------
    value
        What cannot be pickled.
    can
        Tells whether a value can.

    Returns
    -------
    str
        Its name and the function that uses it: "`lock`, which `save` uses"; empty if none is found.
    """
    found = ""
    seen: set[int] = set()
    for _ in range(_DEPTH):
        seen.add(id(value))
        used = ((f, name, each) for f in _functions(value) for name, each in _used(f))
        bad = next((u for u in used if id(u[2]) not in seen and not can(u[2])), None)
        if bad is None:
            break
        function, name, value = bad
        found = f"`{name}`, which `{function.__qualname__}` uses"
    return found


def _functions(value: object) -> Iterator[types.FunctionType]:
    """Yield the functions that go along with a value."""
    if isinstance(value, types.MethodType | staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, functools._lru_cache_wrapper):
        value = value.__wrapped__
    if isinstance(value, types.FunctionType):
        yield value
        return
    kind = value if isinstance(value, type) else type(value)
    if not cloudpickle._should_pickle_by_reference(kind):
        for each in list(vars(kind).values()):
            if isinstance(each, _CALLED):
                yield from _functions(each)


def _used(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    scope = function.__globals__
    for name in cloudpickle._extract_code_globals(function.__code__):
        if name in scope:
            yield name, scope[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # not bound yet
