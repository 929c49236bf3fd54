"""Calling a task function where a cell would run: same context, same interrupts, same traceback.

A function that is not a coroutine is called on the main thread, although a loop runs there, for
only there an interrupt reaches it. The loop is hidden from it meanwhile: it may run one of its own,
or call other tasks and wait for them, as in a script.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import types
from asyncio.events import _set_running_loop
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from IPython.core.interactiveshell import ExecutionResult

from flyte_jupyter.driver.decorated import decorated_function, is_decorated
from flyte_jupyter.driver.flyte_sdk.connector_tasks import is_connector_task
from flyte_jupyter.driver.replies import Ending
from flyte_jupyter.driver.shell import DriverShell, Interruptible, interruptible_code
from flyte_jupyter.driver.tracking import offline_without_a_key, tracker_run_ended
from flyte_jupyter.errors import ConnectorError, UsageError

Inside: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]
RESULT = "result"
"""The name under which a function's value is returned."""


@dataclass(frozen=True)
class Call:
    """A task function and what it is called with.

    Parameters
    ----------
    task
        A Flyte task template.
    args, kwargs
        Its arguments, as Python values.
    connector
        What carries it out, where the caller knows it and it is a task for one.
    """

    task: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    connector: Any = None
    function: Any = field(init=False)

    def __post_init__(self) -> None:
        function = getattr(self.task, "func", None)
        if function is not None and is_decorated(self.task):
            function = decorated_function(self.task, self._undecorated)
        object.__setattr__(self, "function", function)

    async def perform(
        self, shell: DriverShell, namespace: dict[str, Any], inside: Inside = contextlib.nullcontext
    ) -> Ending:
        """Call it; its value becomes `RESULT` of `namespace`.

        Parameters
        ----------
        shell
            It formats tracebacks.
        namespace
            Takes the value.
        inside
            Makes a context that is entered while code of the user's runs.
        """
        # Hooks of the engine and of matplotlib are the main thread's, which runs one at a time.
        hooked = threading.current_thread() is threading.main_thread()
        result = ExecutionResult(None)
        if self._decorated:
            offline_without_a_key()
        if hooked:
            shell.events.trigger("pre_execute")
            shell.events.trigger("pre_run_cell", None)
        try:
            with inside(), tracker_run_ended() if self._decorated else contextlib.nullcontext():
                namespace[RESULT] = await self._value()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the notebook raises it
            result.error_in_exec = error
            if isinstance(error, ConnectorError) and self.function is None:
                return Ending(error, error._render_traceback_())  # no line of it is the caller's
            trace = _own_frames(error.__traceback__, getattr(self.task, "func", None))
            lines = shell.InteractiveTB.structured_traceback(type(error), error, trace)
            return Ending(error, list(lines))
        finally:
            if hooked:
                shell.events.trigger("post_execute")  # inline figures are drawn here
                shell.events.trigger("post_run_cell", result)
        return Ending()

    @property
    def _decorated(self) -> bool:
        return self.function is not None and is_decorated(self.task)

    @interruptible_code
    async def _value(self) -> Any:
        if Interruptible.pending and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        function = self.function
        if function is None and is_connector_task(self.task):
            from flyte_jupyter.driver.connectors.running import run

            return await run(self.task, self.args, self.kwargs, self.connector)
        return await self._called(function or self.task.execute, self.args, self.kwargs)

    async def _undecorated(self, *args: Any, **kwargs: Any) -> Any:
        return await self._called(self.task.func, args, kwargs)

    async def _called(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        made: list[types.CoroutineType[Any, Any, Any]] = []
        noting = _made.set(made)
        try:
            with no_loop():
                value = function(*args, **kwargs)
        finally:
            _made.reset(noting)
        # Who calls an async task from a plain one may forget to await it.
        returned = [value] if inspect.iscoroutine(value) else []
        forgotten = [c for c in made if inspect.getcoroutinestate(c) == inspect.CORO_CREATED]
        for coroutine in (*returned, *forgotten):
            coroutine.close()
        if returned or forgotten:
            what = "returned a coroutine" if returned else "has left a call without an answer"
            raise UsageError(
                f"{self.task.short_name} {what}",
                seen="an async task was called there and not awaited",
                fix="Make it `async def` and await that, or wrap the call in asyncio.run().",
            )
        return value


_made: contextvars.ContextVar[list[types.CoroutineType[Any, Any, Any]] | None]
_made = contextvars.ContextVar("coroutines of tasks that a plain task has called", default=None)


def note_call(result: Any) -> None:
    """Note what the call of a task gave: it may be to be awaited."""
    if inspect.iscoroutine(result) and (made := _made.get()) is not None:
        made.append(result)


@contextlib.contextmanager
def no_loop() -> Iterator[None]:
    """Hide from this thread that a loop runs in it, and which of its tasks does."""
    loop = asyncio.get_running_loop()
    # Python 3.14 lets a thread be in one task, of whatever loop; those before in one of each loop.
    swap = getattr(asyncio.tasks, "_swap_current_task", None)
    task = swap(loop, None) if swap else None
    _set_running_loop(None)
    try:
        yield
    finally:
        _set_running_loop(loop)
        if swap:
            swap(loop, task)


def _own_frames(trace: types.TracebackType | None, function: Any) -> types.TracebackType | None:
    """Leave out the frames between this package and the user's function."""
    code = getattr(inspect.unwrap(function), "__code__", None) if function else None
    found = trace
    while found is not None and found.tb_frame.f_code is not code:
        found = found.tb_next
    return found or trace
