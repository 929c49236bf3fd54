"""Calls of tasks where no task runs, as in the cells of a notebook.

The SDK makes them plain calls of Python's, and `flyte.map` one after the other. A notebook has
clusters: what `flyte.map` calls there, and what a plugin of Flyte's does for an agent that has
tasks for tools, are runs on those of the tasks' environments.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any

import flyte
from flyte._task import TaskTemplate

Caller = Callable[..., Any]
"""Begins to run a task with its arguments, and returns the run; None where there is no notebook."""


def run_on_clusters(caller: Callable[[], Caller | None]) -> None:
    """Have such calls of this process be runs; once in a process.

    Parameters
    ----------
    caller
        Returns what begins a run, at the time of a call.
    """
    mapper: Any = type(flyte.map)
    if hasattr(mapper.__call__, "__wrapped__"):
        return
    mapper.__call__ = _mapping(mapper.__call__, caller)
    mapper.aio = _mapping_aio(mapper.aio, caller)
    TaskTemplate.__call__ = _calling(TaskTemplate.__call__, caller)  # type: ignore[method-assign]


def _calling(call: Any, caller: Callable[[], Caller | None]) -> Any:
    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        of_plugin = sys._getframe(1).f_globals.get("__name__", "").startswith("flyteplugins.")
        if not of_plugin or flyte.ctx() or (run := caller()) is None:
            return call(self, *args, **kwargs)
        begun = run(self, *args, **kwargs)
        return begun if inspect.iscoroutinefunction(getattr(self, "func", None)) else begun.result()

    return called


def _mapping(mapping: Any, caller: Callable[[], Caller | None]) -> Any:
    @functools.wraps(mapping)
    def mapped(
        self: Any, func: Any, *args: Iterable[Any], concurrency: int = 0,
        return_exceptions: bool = True, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        run = None if flyte.ctx() else caller()
        if run is None or not args:
            more = {"concurrency": concurrency, "return_exceptions": return_exceptions}
            yield from mapping(self, func, *args, **more, **options)
            return
        runs = _Runs(run, self, func, args, concurrency)
        try:
            for begun in runs:
                try:
                    yield begun.result()
                except Exception as error:
                    if not return_exceptions:
                        raise
                    yield error
        finally:
            runs.cancel()

    return mapped


def _mapping_aio(mapping: Any, caller: Callable[[], Caller | None]) -> Any:
    @functools.wraps(mapping)
    async def mapped(
        self: Any, func: Any, *args: Iterable[Any], concurrency: int = 0,
        return_exceptions: bool = True, **options: Any,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        run = None if flyte.ctx() else caller()
        if run is None or not args:
            more = {"concurrency": concurrency, "return_exceptions": return_exceptions}
            async for value in mapping(self, func, *args, **more, **options):
                yield value
            return
        runs = _Runs(run, self, func, args, concurrency)
        try:
            for begun in runs:
                try:
                    yield await begun
                except Exception as error:
                    if not return_exceptions:
                        raise
                    yield error
        finally:
            runs.cancel()

    return mapped


class _Runs:
    """Runs of one task, in the order of its arguments; so many under way at once, or 0 for all."""

    def __init__(
        self, run: Caller, mapper: Any, func: Any, args: Iterable[Any], concurrency: int
    ) -> None:
        if isinstance(func, functools.partial):
            mapper.validate_partial(func)
            run = functools.partial(run, func.func, *func.args, **func.keywords)
        else:
            run = functools.partial(run, func)
        self._run, self._left, self._most = run, zip(*args, strict=False), concurrency
        self._begun: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        self._begin()
        while self._begun:
            yield self._begun[0]
            self._begun.popleft()
            self._begin()

    def _begin(self) -> None:
        while not self._most or len(self._begun) < self._most:
            given = next(self._left, None)
            if given is None:
                return
            self._begun.append(self._run(*given))

    def cancel(self) -> None:
        """Stop those that nobody has asked for."""
        for run in self._begun:
            run.cancel()
