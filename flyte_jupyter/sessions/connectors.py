"""Connectors of the notebook: those that it defines need not be registered to be found."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import cloudpickle

from flyte_jupyter.driver.flyte_sdk.connector_tasks import (
    Travelling,
    let_register_again,
    registered,
)
from flyte_jupyter.errors import one_line

_BASE = "flyte.connectors"


class Known(NamedTuple):
    """A connector that tasks of this notebook find."""

    connector: Any
    """It, or a class of the notebook's that is made into one when it is needed."""
    own: bool
    """Whether the notebook, or a module beside it, defines it."""


def known(namespace: Mapping[str, object], is_own: Callable[[str], bool]) -> list[Known]:
    """Return the connectors that can be found: registered ones, and classes of the notebook's.

    Parameters
    ----------
    namespace
        The notebook's variables.
    is_own
        Tells a module that travels by value by its name.

    Returns
    -------
    list
        One for each type of task; a class of the notebook's comes before what was registered.
    """
    found: dict[tuple[str, int], Known] = {}
    for connector in registered():
        module = type(connector).__module__
        found[_key(connector)] = Known(connector, module == "__main__" or is_own(module))
    for kind in _classes(namespace, is_own):
        before = found.get(_key(kind))
        # One that was made and registered by hand may know more than its class.
        if before is None or type(before.connector) is not kind:
            found[_key(kind)] = Known(kind, own=True)
    return list(found.values())


def travelling(namespace: Mapping[str, object], is_own: Callable[[str], bool]) -> bytes:
    """Return those that a driver cannot import, pickled; empty if there are none.

    One that cannot be made or pickled travels as the reason: it is nobody's business before a task
    of its type is called.
    """
    if _BASE not in sys.modules:
        return b""
    let_register_again()
    own = [_packed(each.connector) for each in known(namespace, is_own) if each.own]
    return pickle.dumps(own) if own else b""


def _packed(connector: Any) -> Travelling:
    key = _key(connector)
    try:
        made = connector() if isinstance(connector, type) else connector
        return Travelling(*key, cloudpickle.dumps(made), "")
    except Exception as error:  # noqa: BLE001 - code of the user's
        return Travelling(*key, b"", one_line(error))


def _classes(namespace: Mapping[str, object], is_own: Callable[[str], bool]) -> Iterator[type[Any]]:
    """Yield classes of connectors as they are now, not what a cell has defined before."""
    base: Any = getattr(sys.modules.get(_BASE), "AsyncConnector", None)
    for kind in _below(base) if base else ():
        if inspect.isabstract(kind) or not hasattr(kind, "task_type_name"):
            continue
        if kind.__module__ == "__main__":
            # A script's session has no namespace of its own.
            here = namespace or vars(sys.modules["__main__"])
        elif is_own(kind.__module__):
            here = vars(sys.modules[kind.__module__])
        else:
            continue
        if here.get(kind.__name__) is kind:
            yield kind


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def _key(connector: Any) -> tuple[str, int]:
    return connector.task_type_name, connector.task_type_version
