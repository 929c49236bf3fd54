"""Functions and classes of the notebook on their way: what they share, and with whom.

cloudpickle gives functions that are pickled by value a dictionary of globals of their own, and sets
every attribute of a class anew wherever it arrives. A cell that runs as if it ran in the notebook
needs it otherwise:

- A function of the notebook sees what the task's cell binds, and the cell what it binds, as there.
- A class of the notebook is not overwritten by its own copy that comes back with a value, and a
  function of the notebook that comes back is that function.
- A local module and its functions are of one piece: what is set in the one, the others see.
- A lock of a local module is a new one there, as it would be after an import.
- No function takes a secret along that nobody meant to send, and no local module its own.

The names used of cloudpickle's are private; tests fail loudly when a new version changes one:
`Pickler._function_getnewargs`, `_extract_code_globals`, `_module_reduce`, `_make_skeleton_class`,
`_make_skeleton_enum`, `_class_setstate`, `_function_setstate` and `_DYNAMIC_CLASS_TRACKER_BY_ID`.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any

from cloudpickle import cloudpickle

from flyte_jupyter.driver.values.origins import rebuild, returned
from flyte_jupyter.errors import CaptureError
from flyte_jupyter.secret_names import holds_secret

LOCKS: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
}
_ABOUT_MODULES = ("__package__", "__path__", "__file__")
_sent: ContextVar[frozenset[str] | None] = ContextVar("names that are sent", default=None)
_shared: ContextVar[dict[str, Any] | None] = ContextVar("shared globals", default=None)


class SecretRefused(CaptureError):
    """A secret that would have travelled without having been asked for."""


@contextlib.contextmanager
def sharing_globals(namespace: dict[str, Any]) -> Iterator[None]:
    """Have functions of the notebook that are rebuilt meanwhile take `namespace` as globals."""
    token = _shared.set(namespace)
    try:
        yield
    finally:
        _shared.reset(token)


@contextlib.contextmanager
def refusing_secrets(sent: Collection[str]) -> Iterator[None]:
    """Have functions refused meanwhile that take along what looks like a secret.

    Parameters
    ----------
    sent
        Names that travel as such: those were looked at before, or asked for.
    """
    token = _sent.set(frozenset(sent))
    try:
        yield
    finally:
        _sent.reset(token)


def check_globals(function: Any) -> None:
    """Refuse a function that uses what looks like a secret, if secrets are refused.

    Raises
    ------
    SecretRefused
        It does.
    """
    sent = _sent.get()
    if sent is None:
        return
    for name in cloudpickle._extract_code_globals(function.__code__):
        if name not in sent and holds_secret(name, function.__globals__.get(name)):
            raise SecretRefused(
                f"`{name}` was not sent",
                seen=f"{function.__qualname__} uses it, and it looks like a secret",
                fix="Pass it as an argument, name it with `-i` of a cell, or declare a "
                "`flyte.Secret` in the environment",
            )


class MainGlobals:
    """Stands for the globals of ``__main__``, once in a parcel."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _globals_here, ()


def _globals_here() -> dict[str, Any]:
    shared = _shared.get()
    return {"__name__": "__main__"} if shared is None else shared


class ModuleShell:
    """Stands for a module that travels by value, without what is in it."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __reduce__(self) -> tuple[Any, ...]:
        there = vars(self._module)
        about = {name: there[name] for name in _ABOUT_MODULES if name in there}
        return _new_module, (self._module.__name__, about)


class ModuleGlobals:
    """Stands for the globals of functions of a module that travels by value."""

    def __init__(self, shell: ModuleShell) -> None:
        self._shell = shell

    def __reduce__(self) -> tuple[Any, ...]:
        return vars, (self._shell,)


def _new_module(name: str, about: dict[str, Any]) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(about)
    return made


def _the_same(module: types.ModuleType) -> types.ModuleType:
    return module


def _fill(module: types.ModuleType, state: dict[str, Any]) -> None:
    vars(module).update(state)


class Withheld:
    """Tells who asks a module for a secret that it did not take along, as its `__getattr__`."""

    def __init__(self, module: str, names: frozenset[str]) -> None:
        self._module, self._names = module, names

    def __call__(self, name: str) -> Any:
        """Raise what a module without that name raises, and say why it has none."""
        if name in self._names:
            raise AttributeError(
                f"`{name}` of {self._module} was not sent: its name says that it holds a secret. "
                "Import the module in the task itself, or declare a `flyte.Secret`"
            )
        raise AttributeError(f"module {self._module!r} has no attribute {name!r}")


def _without_secrets(module: str, state: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a module holds that looks like a secret, if secrets are refused."""
    sent = _sent.get()
    if sent is None:
        return state
    secret = {name for name in state.keys() - sent if holds_secret(name, state[name])}
    if not secret:
        return state
    shown = {name: value for name, value in state.items() if name not in secret}
    return {"__getattr__": Withheld(module, frozenset(secret)), **shown}


class ByValue:
    """What modules and functions of one parcel share."""

    def __init__(self) -> None:
        self._main = MainGlobals()
        self._shells: dict[int, ModuleShell] = {}
        self._globals: dict[int, ModuleGlobals] = {}
        self._locks: set[int] = set()

    def globals_of(self, function: Any) -> Any:
        """Return what stands for the globals of a function; None where nobody shares them."""
        name = function.__globals__.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        if not isinstance(module, types.ModuleType) or vars(module) is not function.__globals__:
            return None
        if name == "__main__":
            return self._main
        return self._globals.setdefault(id(module), ModuleGlobals(self._shell_of(module)))

    def reduce_module(self, module: types.ModuleType) -> Any:
        """Reduce a module as cloudpickle does, but in two steps: its functions refer to it."""
        reduced = cloudpickle._module_reduce(module)
        if reduced[0] is not cloudpickle.dynamic_subimport:
            return reduced
        _, state = reduced[1]
        shown = _without_secrets(module.__name__, state)
        return _the_same, (self._shell_of(module),), shown, None, None, _fill

    def reduce_lock(self, lock: Any) -> Any:
        """Reduce a lock among a module's globals to a new one, as an import there would make it."""
        return (LOCKS[type(lock)], ()) if id(lock) in self._locks else NotImplemented

    def _shell_of(self, module: types.ModuleType) -> ModuleShell:
        if id(module) not in self._shells:
            self._shells[id(module)] = ModuleShell(module)
            self._locks |= {id(each) for each in vars(module).values() if type(each) in LOCKS}
        return self._shells[id(module)]


class KeepingClasses(pickle.Unpickler):
    """Rebuilds values that come back, with what this process defines as it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._here: set[Any] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in the stream stands for."""
        found = super().find_class(module, name)
        makers = (cloudpickle._make_skeleton_class, cloudpickle._make_skeleton_enum)
        # Nothing that is kept in the memo may refer to this: the values are in it, too.
        if any(found is make for make in makers):
            return functools.partial(_make_class, self._here, found)
        if found is rebuild:
            return functools.partial(returned, self._here)
        setters = (cloudpickle._class_setstate, cloudpickle._function_setstate)
        if any(found is set_state for set_state in setters):
            return functools.partial(_set_state, self._here, found)
        return found


_unfinished: weakref.WeakSet[Any] = weakref.WeakSet()
"""Classes of which only the skeleton is there: what was to follow may have failed."""


def _make_class(here: set[Any], make: Callable[..., type], *args: Any) -> type:
    *_, tracked, _ = args
    known: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracked)
    if known is None or known in _unfinished:
        known = make(*args)
        _unfinished.add(known)
    else:
        here.add(known)
    return known


def _set_state(here: set[Any], set_state: Callable[..., Any], made: Any, state: Any) -> None:
    if made not in here:
        set_state(made, state)
        _unfinished.discard(made)
