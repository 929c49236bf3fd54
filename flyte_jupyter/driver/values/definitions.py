"""What functions of a notebook are made with, and use, that cloudpickle has no way to send.

It sends functions and classes of ``__main__`` by value. Other things that are defined there have a
name only, by which nobody would find them in another process.

The names used of cloudpickle's are private; tests fail loudly when a new version changes one:
`_lookup_module_and_qualname` and `_is_registered_pickle_by_value`.
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle

Reduced = tuple[Any, ...] | str


def _reduce_method(method: types.MethodType) -> Reduced:
    """Let a function with a `!command` in it use the shell that is there."""
    if getattr(method.__func__, "__qualname__", "") == "InteractiveShell.get_ipython":
        from IPython.core.getipython import get_ipython

        return _itself, (get_ipython,)
    return types.MethodType, (method.__func__, method.__self__)


def _itself(value: Any) -> Any:
    return value


def by_reference(thing: Any) -> bool:
    """Tell whether a definition is one of a module that is imported on the other side."""
    name = _name(thing)
    found = cloudpickle._lookup_module_and_qualname(thing, name=name) if name else None
    return found is not None and not cloudpickle._is_registered_pickle_by_value(found[0])


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", getattr(thing, "__name__", "")))


def _unless_by_reference(reduce: Callable[[Any], Reduced]) -> Callable[[Any], Reduced]:
    def reduced(thing: Any) -> Reduced:
        return _name(thing) if by_reference(thing) else reduce(thing)

    return functools.wraps(reduce)(reduced)


@_unless_by_reference
def reduce_cached(function: Any) -> Reduced:
    """Reduce a function that remembers what it returned."""
    return make_cached, (function.__wrapped__, function.cache_parameters())


def make_cached(function: Any, parameters: dict[str, Any]) -> Any:
    """Return a function that remembers what it returned, from now on."""
    return functools.lru_cache(**parameters)(function)


@_unless_by_reference
def _reduce_new_type(kind: Any) -> Reduced:
    return _make_new_type, (kind.__name__, kind.__supertype__, kind.__module__)


def _make_new_type(name: str, base: Any, module: str) -> Any:
    make: Any = typing.NewType
    made = make(name, base)
    made.__module__ = module
    return made


@_unless_by_reference
def _reduce_parameter(parameter: Any) -> Reduced:
    names = ("bound", "covariant", "contravariant", "infer_variance", "default")
    given = {name: getattr(parameter, f"__{name}__", None) for name in names}
    if not getattr(parameter, "has_default", bool)():
        del given["default"]
    options = {name: value for name, value in given.items() if value}
    return _make_parameter, (
        type(parameter),
        parameter.__name__,
        options,
        parameter.__module__,
    )


def _make_parameter(kind: Any, name: str, options: dict[str, Any], module: str) -> Any:
    made = kind(name, **options)
    made.__module__ = module
    return made


def _reduce_cached_property(found: functools.cached_property[Any]) -> Reduced:
    # In Python 3.11 it has a lock, too.
    return _make_cached_property, (found.func, found.attrname)


def _make_cached_property(function: Any, name: str | None) -> Any:
    made: Any = functools.cached_property(function)
    made.attrname = name
    return made


def _reduce_weak_keys(found: weakref.WeakKeyDictionary[Any, Any]) -> Reduced:
    """Send the dictionary in which `singledispatch` keeps what it has found."""
    return weakref.WeakKeyDictionary, (dict(found),)


def _reduce_exiter(exiter: Any) -> Reduced:
    del exiter
    return _exiter_here, ()


def _exiter_here() -> Any:
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return sys.exit if shell is None else shell.exiter


_REDUCERS: dict[Any, Callable[[Any], Reduced]] = {
    types.MethodType: _reduce_method,
    functools._lru_cache_wrapper: reduce_cached,
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak_keys,
    typing.NewType: _reduce_new_type,
    typing.ParamSpec: _reduce_parameter,
    typing.TypeVarTuple: _reduce_parameter,
}
_EXITERS = ("ExitAutocall", "ZMQExitAutocall")


def definition_reducers() -> dict[Any, Callable[[Any], Reduced]]:
    """Collect the reducers, by exact type; of IPython's too, if it is loaded."""
    table = dict(_REDUCERS)
    if autocall := sys.modules.get("IPython.core.autocall"):
        table.update((getattr(autocall, name), _reduce_exiter) for name in _EXITERS)
    return table


def reduced_by_itself(thing: Any) -> Any:
    """Reduce something of the notebook as its type says.

    Raises
    ------
    pickle.PicklingError
        It says that it is to be found by its name, which nothing in another process has.
    """
    kind: Any = type(thing)
    if kind.__reduce__ is object.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__:
        return NotImplemented
    reduced = thing.__reduce_ex__(5)
    if isinstance(reduced, str):
        raise pickle.PicklingError(f"`{reduced}` is known by its name in the notebook only")
    return reduced
