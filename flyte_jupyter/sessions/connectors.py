"""Connectors of the notebook: those that it defines need not be registered to be found."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import cloudpickle

from flyte_jupyter.driver.flyte_sdk.connector_tasks import registered

_BASE = "flyte.connectors"


class Known(NamedTuple):
    """A connector that tasks of this notebook find."""

    connector: Any
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
        connector = kind()
        found[_key(connector)] = Known(connector, own=True)
    return list(found.values())


def travelling(namespace: Mapping[str, object], is_own: Callable[[str], bool]) -> bytes:
    """Return those that a driver cannot import, pickled; empty if there are none."""
    if _BASE not in sys.modules:
        return b""
    own = [each.connector for each in known(namespace, is_own) if each.own]
    return cloudpickle.dumps(own) if own else b""


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
