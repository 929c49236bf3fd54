"""Task functions of the notebook: what a call of one asks for, as a run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from flyte_jupyter.driver.flyte_sdk.connector_tasks import inputs_of, with_typed_inputs
from flyte_jupyter.driver.functions import RESULT
from flyte_jupyter.errors import EnvironmentNotFound, UsageError
from flyte_jupyter.sessions.environments import named
from flyte_jupyter.sessions.runs import CellTask


def as_run(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], cells: Mapping[str, int]
) -> CellTask:
    """Describe the call of a task function.

    Parameters
    ----------
    task
        What `@env.task` made of the function.
    args, kwargs
        Its arguments, as Python values.
    cells
        The notebook's cells, as `CellTask` has them.

    Raises
    ------
    UsageError
        It is no task, or cannot be called so.
    """
    from flyte.extend import TaskTemplate

    if not isinstance(task, TaskTemplate):
        kind = "an environment" if hasattr(task, "add_dependency") else type(task).__name__
        raise UsageError(
            "only a task can be run", seen=f"this is {kind}", fix="Decorate it with @env.task."
        )
    with_typed_inputs(task)
    return CellTask(
        code=f"{task.short_name}(...)",
        name=task.short_name,
        values={"task": task, "args": tuple(args), "kwargs": dict(kwargs)},
        returns=(RESULT,),
        cells=cells,
        call=_bound(task, args, kwargs),
        cache=task.cache,
        **limits_of(task.timeout, task.retries),
    )


def limits_of(timeout: Any, retries: Any) -> dict[str, Any]:
    """Return the fields of `CellTask` for what a task says of time and of attempts."""
    return {
        "timeout": _seconds(getattr(timeout, "max_runtime", timeout)),
        "queue_timeout": _seconds(getattr(timeout, "max_queued_time", None)),
        "deadline": _seconds(getattr(timeout, "deadline", None)),
        "retries": getattr(retries, "count", retries),
        "backoff": getattr(retries, "backoff", None),
    }


def _bound(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, object]:
    """Return all that decides what a call returns: the function, and its arguments by name."""
    function = getattr(task, "func", None)
    if function is None:
        names = list(task.native_interface.inputs)
        if len(args) > len(names):
            raise _misfit(task, f"it takes {len(names)} arguments, and got {len(args)}")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if unknown := [name for name in given if name not in names]:
            raise _misfit(task, f"it takes no {unknown[0]!r}")
        if missing := [n for n in task.native_interface.required_inputs() if n not in given]:
            raise _misfit(task, f"{missing[0]!r} is missing")
        return {"": task, **inputs_of(task, (), given)}
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise _misfit(task, str(error)) from None
    bound.apply_defaults()
    return {"": function, **bound.arguments}


def _misfit(task: Any, why: str) -> UsageError:
    return UsageError(f"{task.short_name} cannot be called like that", seen=why)


def _seconds(limit: Any) -> float:
    return limit.total_seconds() if isinstance(limit, timedelta) else float(limit or 0)


def environment_of(task: Any, namespace: Mapping[str, object], declared: Mapping[str, Any]) -> Any:
    """Return the environment that a task was declared in, as it is declared now.

    Raises
    ------
    EnvironmentNotFound
        It has none, or nothing holds it any more.
    """
    environment = task.parent_env() if task.parent_env is not None else None
    name = task.parent_env_name
    if environment is not None:
        # The cell that declares it may have been run again, and the task's cell not.
        if getattr(getattr(task, "func", None), "__module__", "__main__") == "__main__":
            with contextlib.suppress(EnvironmentNotFound):
                return named(name, namespace, declared)
        return environment
    if not name:
        raise EnvironmentNotFound(
            f"{task.short_name} belongs to no environment", fix="Declare it with @env.task."
        )
    try:
        return named(name, namespace, declared)
    except EnvironmentNotFound:
        raise EnvironmentNotFound(
            f"the environment of {task.short_name} is gone",
            seen=f"nothing holds {name!r} any more",
            fix="Keep it in a variable, and declare the task again.",
        ) from None
