"""Functions and classes of the notebook on their way: what they share, and with whom.

cloudpickle gives functions that are pickled by value a dictionary of globals of their own, and sets
every attribute of a class anew wherever it arrives. A cell that runs as if it ran in the notebook
needs it otherwise:

- A function of the notebook sees what the task's cell binds, and the cell what it binds, as there.
- A class of the notebook is not overwritten by its own copy that comes back with a value.
- No function takes a secret along that nobody meant to send.

The names used of cloudpickle's are private; tests fail loudly when a new version changes one:
`Pickler._function_getnewargs`, `_extract_code_globals`, `_make_skeleton_class`,
`_make_skeleton_enum`, `_class_setstate` and `_DYNAMIC_CLASS_TRACKER_BY_ID`.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any

from cloudpickle import cloudpickle

from flyte_jupyter.errors import CaptureError
from flyte_jupyter.secret_names import holds_secret

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
                seen=f"{function.__qualname__} uses it, and its name says that it holds a secret",
                fix="Give it as an argument or with `-i`, or declare a `flyte.Secret` in the "
                "environment",
            )


class MainGlobals:
    """Stands for the globals of ``__main__``, once in a parcel."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _globals_here, ()


def _globals_here() -> dict[str, Any]:
    shared = _shared.get()
    return {"__name__": "__main__"} if shared is None else shared


def is_of_main(function: Any) -> bool:
    """Tell a function whose globals are those of ``__main__``."""
    main = sys.modules.get("__main__")
    return main is not None and function.__globals__ is vars(main)


class KeepingClasses(pickle.Unpickler):
    """Rebuilds values that come back, with the classes that this process has as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known: set[type] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in the stream stands for."""
        found = super().find_class(module, name)
        if found in (cloudpickle._make_skeleton_class, cloudpickle._make_skeleton_enum):
            return functools.partial(self._make, found)
        return self._set_state if found is cloudpickle._class_setstate else found

    def _make(self, make: Callable[..., type], *args: Any) -> type:
        *_, tracked, _ = args
        here: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracked)
        if here is None:
            return make(*args)
        self._known.add(here)
        return here

    def _set_state(self, kind: type, state: Any) -> None:
        if kind not in self._known:
            cloudpickle._class_setstate(kind, state)
