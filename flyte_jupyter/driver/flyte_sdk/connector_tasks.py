"""Tasks that a connector carries out, and what it is told of them.

The SDK's own executor of them needs `flyte.init()` and does much else, so its private parts are
used here, and contract tests fail loudly when a new SDK changes one of them:

- `flyte._internal.runtime.task_serde.get_proto_task`
- `flyte.connectors.ConnectorRegistry._REGISTRY`
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flyte_jupyter.errors import ConnectorError

_CONNECTORS = "flyte.connectors"


def is_connector_task(task: Any) -> bool:
    """Tell a task whose work an external service does; imports nothing."""
    module = sys.modules.get(_CONNECTORS)  # it is there if there is such a task
    return module is not None and isinstance(task, module.AsyncConnectorExecutorMixin)


def is_function(task: Any) -> bool:
    """Tell a task that has a body of its own, wherever that is to run."""
    return getattr(task, "func", None) is not None


def with_typed_inputs(task: Any) -> Any:
    """Have a task's inputs be what the SDK expects, in place: pairs of a type and a default."""
    inputs = task.interface.inputs
    if any(not isinstance(each, tuple) for each in inputs.values()):
        typed = {
            name: each if isinstance(each, tuple) else (each, inspect.Parameter.empty)
            for name, each in inputs.items()
        }
        task.interface = replace(task.interface, inputs=typed)
    return task


def inputs_of(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a call by name, with the defaults of those that it leaves out."""
    interface = task.native_interface
    given = interface.convert_to_kwargs(*args, **kwargs)
    nothing = (inspect.Parameter.empty, interface.has_default)
    defaults = {
        name: default
        for name, (_, default) in interface.inputs.items()
        if not any(default is each for each in nothing)
    }
    return {**defaults, **given}


def registered() -> list[Any]:
    """Return the connectors that this process knows; none if it has not imported them."""
    module = sys.modules.get(_CONNECTORS)
    return list(module.ConnectorRegistry._REGISTRY.values()) if module else []


def register(connectors: Iterable[Any]) -> None:
    """Make connectors known, in the place of those before them."""
    from flyte.connectors import ConnectorRegistry

    for connector in connectors:
        ConnectorRegistry.register(connector, override=True)


class Travelling(NamedTuple):
    """A connector of the notebook on its way to a driver."""

    task_type: str
    version: int
    data: bytes
    """It, pickled; empty if that is not possible."""
    problem: str
    """Why not."""


_learned: dict[tuple[str, int], Travelling] = {}


def learn(connectors: Iterable[Travelling]) -> None:
    """Know the connectors of the notebook, as they are now, before those that are registered."""
    _learned.clear()
    _learned.update({(each.task_type, each.version): each for each in connectors})


def let_register_again() -> None:
    """Have a connector replace itself when a cell or a module that registers it is run again."""
    from flyte.connectors import ConnectorRegistry

    if hasattr(ConnectorRegistry.register, "__wrapped__"):
        return
    before = ConnectorRegistry.register

    @functools.wraps(before)
    def register_again(connector: Any, override: bool = True) -> None:
        before(connector, override=override)

    ConnectorRegistry.register = staticmethod(register_again)  # type: ignore[method-assign]


def connector_for(task: Any) -> Any:
    """Return the connector for a task; None if there is none.

    Raises
    ------
    ConnectorError
        It is the notebook's, and cannot be brought here.
    """
    from flyte.connectors import ConnectorRegistry

    if found := _learned.get((task.task_type, task.task_type_version)):
        if found.data:
            return pickle.loads(found.data)
        raise ConnectorError(
            f"the connector of tasks of type {task.task_type!r} cannot be used",
            seen=found.problem,
            fix="Its class is made without arguments and pickled; make clients in its methods.",
        )
    try:
        return ConnectorRegistry.get_connector(task.task_type, task.task_type_version)
    except ValueError:
        return None


def template_of(task: Any, root: str, context: Any = None) -> Any:
    """Return the description of a task as a Flyte backend has it.

    Parameters
    ----------
    task
        The task.
    root
        The folder that it belongs to.
    context
        The task context that it runs in; None to only look at it.

    Returns
    -------
    flyteidl2.core.tasks_pb2.TaskTemplate
        It.
    """
    from flyte._internal.runtime.task_serde import get_proto_task
    from flyte.models import SerializationContext

    action = getattr(context, "action", None)
    serialization = SerializationContext(
        project=getattr(action, "project", None) or "",
        domain=getattr(action, "domain", None) or "",
        org=getattr(action, "org", None) or "",
        version=getattr(context, "version", None) or "na",
        root_dir=root,  # type: ignore[arg-type]
    )
    return get_proto_task(task, serialization, context)


def secrets_of(template: Any) -> Mapping[str, str]:
    """Return the secrets that a task names for its connector: environment variables by name."""
    from google.protobuf import json_format

    custom = json_format.MessageToDict(template.custom)
    found = custom.get("secrets")
    return found if isinstance(found, dict) else {}


def secrets_of_task(task: Any) -> list[str]:
    """Return the variables of the secrets that a task names; none if it cannot be described."""
    if not is_connector_task(task):
        return []
    with contextlib.suppress(Exception):  # running it says what is wrong with it
        root = os.getcwd()  # noqa: PTH109 - as text
        return [
            str(each) for each in secrets_of(template_of(with_typed_inputs(task), root)).values()
        ]
    return []
