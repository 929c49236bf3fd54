"""By what a function is known again that comes back to the process that has sent it.

Functions that hold variables of another, attributes, or defaults that can be changed, have no such
name: what a task has done to those comes back.
"""

from __future__ import annotations

import inspect
import threading
import types
import uuid
import weakref
from collections.abc import Callable
from typing import Any

_CONSTANT = (type(None), bool, int, float, complex, str, bytes, type)
_lock = threading.Lock()
_names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_here: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def reduced_by_name(function: Any, reduced: Any) -> Any:
    """Have a function that is pickled by value known again where it is from."""
    if not isinstance(reduced, tuple) or _has_state(function):
        return reduced
    with _lock:
        name = _names.setdefault(function, uuid.uuid4().hex)
        _here[name] = function
    make, args, *rest = reduced
    return rebuild, (name, make, *args), *rest


def _has_state(function: Any) -> bool:
    """Whether a task may have changed something that belongs to a function alone."""
    inner = inspect.unwrap(function)
    if not isinstance(inner, types.FunctionType):
        return True
    defaults = (*(inner.__defaults__ or ()), *(inner.__kwdefaults__ or {}).values())
    return (
        inner.__closure__ is not None
        or getattr(function, "__closure__", None) is not None
        or bool(vars(inner))
        or not all(isinstance(value, _CONSTANT) for value in defaults)
    )


def rebuild(name: str, make: Callable[..., Any], *args: Any) -> Any:
    """Make a function that another process has sent here."""
    made = make(*args)
    with _lock:
        _names[made] = name
        _here[name] = made
    return made


def returned(here: set[Any], name: str, make: Callable[..., Any], *args: Any) -> Any:
    """Return the function that was sent from here under that name, or make one that is new here.

    Parameters
    ----------
    here
        Takes the function if it is that of this process.
    name, make, args
        As for `rebuild`.
    """
    found = _here.get(name)
    if found is None:
        found = make(*args)
        with _lock:
            _names[found] = name
    else:
        here.add(found)
    return found
