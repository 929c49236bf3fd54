"""From what a connector says of a job's outputs to what its task was declared to return."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_origin

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
    from flyte.io import DataFrame, Dir, File

    target = get_origin(kind) or kind
    if not inspect.isclass(target):
        return value
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
