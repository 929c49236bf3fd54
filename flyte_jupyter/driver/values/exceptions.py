"""Exceptions as they are, however their class makes them.

An exception pickles as its class and its `args`, and is rebuilt by calling the one with the other.
A class whose `__init__` takes anything else (a status and an address, of which it makes a message)
so fails, or makes a message of the message. Here the state crosses and `__init__` is not called
again.
"""

from __future__ import annotations

import copyreg
import pickle
import types
from typing import Any

_FOR_ALL = "tblib"
"""What Dask has registered for every exception that there is when it is imported. It takes along
frames of tracebacks, which travel as text, and loses what errors of decoding say."""


def reduce_exception(error: BaseException) -> Any:
    """Reduce an exception whose class has an `__init__` of its own, for `reducer_override`.

    Returns
    -------
    tuple or NotImplemented
        The latter where Python's own way is right, or the class has said another.
    """
    kind = type(error)
    registered = copyreg.dispatch_table.get(kind)
    if registered and not getattr(registered, "__module__", "").startswith(_FOR_ALL):
        return NotImplemented
    own_way = (
        kind.__reduce__ is not BaseException.__reduce__
        or kind.__reduce_ex__ is not object.__reduce_ex__
        or kind.__setstate__ is not BaseException.__setstate__
    )
    if own_way or not isinstance(kind.__init__, types.FunctionType):
        return error.__reduce_ex__(pickle.HIGHEST_PROTOCOL) if registered else NotImplemented
    slots = copyreg._slotnames(kind)  # type: ignore[attr-defined]
    held = {name: getattr(error, name) for name in slots if hasattr(error, name)}
    return _rebuilt, (kind, error.args), (vars(error), held), None, None, _take_state


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    # Only Python's own base knows what to do with these arguments, as it did when they were its.
    base: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    made: BaseException = base.__new__(kind, *args)
    base.__init__(made, *args)
    return made


def _take_state(error: BaseException, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    attributes, slots = state
    vars(error).update(attributes)
    for name, value in slots.items():
        object.__setattr__(error, name, value)
