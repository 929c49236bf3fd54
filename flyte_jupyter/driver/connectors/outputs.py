"""From what a connector says of a job's outputs to what its task was declared to return."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from flyte_jupyter.errors import ConnectorError


async def native(task: Any, outputs: Any) -> Any:
    """Return a task's value: each output by its name, of the type that was declared.

    Parameters
    ----------
    task
        The task.
    outputs
        What its connector gave: values by name, or None.

    Returns
    -------
    object
        None for a task without outputs, the value of one, a tuple of several in their order.

    Raises
    ------
    ConnectorError
        One is not there, or cannot be what was declared.
    """
    declared = task.native_interface.outputs
    if not declared:
        return None
    given: Mapping[str, Any] = outputs or {}
    missing = [name for name in declared if name not in given]
    if missing:
        raise ConnectorError(
            f"{task.short_name} has no output {missing[0]!r}",
            seen=f"its connector gave {', '.join(given)}" if given else "its connector gave none",
            fix="Have `get` return it: Resource(..., outputs={" + repr(missing[0]) + ": ...}).",
        )
    values = [await _as_declared(given[name], kind) for name, kind in declared.items()]
    return values[0] if len(values) == 1 else tuple(values)


async def _as_declared(value: Any, kind: Any) -> Any:
    members = get_args(kind)
    target = get_origin(kind) or kind
    if target in (Union, UnionType):
        return await _as_one_of(value, members)
    if target is list and isinstance(value, list) and members:
        return [await _as_declared(each, members[0]) for each in value]
    if target is dict and isinstance(value, dict) and len(members) == 2:
        return {key: await _as_declared(each, members[1]) for key, each in value.items()}
    return await _as_class(value, target) if inspect.isclass(target) else value


async def _as_one_of(value: Any, kinds: Sequence[Any]) -> Any:
    """Return a value as it is if one of several types has such, else as the first that takes it."""
    plain = tuple(kind for kind in kinds if inspect.isclass(kind) and not get_args(kind))
    if not isinstance(value, plain):
        for kind in kinds:
            made = await _as_declared(value, kind)
            if made is not value:
                return made
    return value


async def _as_class(value: Any, target: type[Any]) -> Any:
    from flyte.io import DataFrame, Dir, File

    if isinstance(value, str):
        # Generic types of Flyte's are classes made on the spot, below the one that has a name.
        if issubclass(target, File):
            return File(path=value)
        if issubclass(target, Dir):
            return Dir(path=value)
        if issubclass(target, DataFrame):
            return DataFrame(uri=value)
    if isinstance(value, DataFrame) and not issubclass(target, DataFrame):
        return await value.open(target).all()
    return value
