"""How tasks call tasks, where the SDK does it otherwise on one machine than on a cluster.

`flyte.map` runs one task after the other; a task that is no coroutine wraps what another raised.
Here the first is done as on a cluster, and the caller gets the exception that was raised.
"""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import flyte
from flyte import _map
from flyte._task import TaskTemplate
from flyte.errors import RuntimeUserError

from flyte_jupyter.driver.flyte_sdk.connector_tasks import (
    is_connector_task,
    is_function,
    with_typed_inputs,
)
from flyte_jupyter.driver.functions import no_loop, note_call


def behave_as_on_a_cluster() -> None:
    """Have tasks of this process call each other so; once in a process."""
    mapper: Any = type(flyte.map)
    if mapper.__call__ is _mapped:
        return
    mapper.__call__, mapper.aio = _mapped, _mapped_aio
    TaskTemplate.__call__ = _unwrapped(TaskTemplate.__call__)  # type: ignore[method-assign]


def _mapped(
    self: Any, func: Any, *args: Any, group_name: str | None = None, **options: Any
) -> Iterator[Any]:
    if not args:
        return
    name = _prepared(self, func, group_name)
    with flyte.group(name):
        results: Any = _map._map(func, *args, name=name, **options)
        try:
            yield from results
        finally:
            results.close()


async def _mapped_aio(
    self: Any, func: Any, *args: Any, group_name: str | None = None, **options: Any
) -> AsyncGenerator[Any, None]:
    if not args:
        return
    name = _prepared(self, func, group_name)
    with flyte.group(name):
        results: Any = _map._map.aio(func, *args, name=name, **options)
        try:
            async for value in results:
                yield value
        finally:
            await results.aclose()


def _prepared(mapper: Any, func: Any, group_name: str | None) -> str:
    if isinstance(func, functools.partial):
        mapper.validate_partial(func)
        func = func.func
    name: str = mapper._get_name(func.name, group_name)
    return name


def _unwrapped(call: Any) -> Any:
    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_connector_task(self):
            self = _callable_here(with_typed_inputs(self))
        try:
            if self._call_as_synchronous and flyte.ctx() is not None and _in_loop():
                # The SDK refuses, for its controller needs that loop; here the answer comes by
                # another thread. The loop stands still meanwhile, as with whatever blocks in it.
                with no_loop():
                    return call(self, *args, **kwargs)
            result = call(self, *args, **kwargs)
            note_call(result)
            return result
        except RuntimeUserError as error:
            cause = error.__cause__
            if isinstance(cause, Exception) and error.code == type(cause).__name__:
                raise cause from None
            raise

    return called


def _callable_here(task: Any) -> Any:
    """Return a connector's task as it is to be called: it is as much plain as it is async."""
    if not is_function(task) and not _in_loop():
        task = copy.copy(task)
        task._call_as_synchronous = True
    return task


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
