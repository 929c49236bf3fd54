"""Tasks around whose `execute` a decorator has put something, such as a run of a tracker.

What it has put there is run as the function of the task. Inside it is the template's own `execute`,
which would run a plain function in a thread, out of reach of interrupts; in its place the function
itself is called, here.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any


def is_decorated(task: Any) -> bool:
    """Tell a task whose `execute` is not that of its class."""
    return "execute" in vars(task)


def decorated_function(task: Any, call: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Return what a decorator made of a task's `execute`, with `call` inside.

    Parameters
    ----------
    task
        The task, which is this call's alone: it came with it.
    call
        Calls the task's function.
    """
    execute: Callable[..., Any] = task.execute
    for cell in _cells(execute):
        found = cell.cell_contents
        if isinstance(found, types.MethodType) and found.__self__ is task:
            cell.cell_contents = _Inside(found, call)
    return execute


class _Inside:
    """Takes the place of a method; sent to another driver it is that method again."""

    def __init__(self, method: types.MethodType, call: Callable[..., Awaitable[Any]]) -> None:
        self._method, self._call = method, call

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        return self._call(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return types.MethodType, (self._method.__func__, self._method.__self__)


def _cells(function: Any) -> Iterator[types.CellType]:
    """Yield what a function and those that it encloses have closed over."""
    waiting, seen = [function], set()
    while waiting:
        each = inspect.unwrap(waiting.pop())
        if not isinstance(each, types.FunctionType) or id(each) in seen:
            continue
        seen.add(id(each))
        for cell in each.__closure__ or ():
            try:
                waiting.append(cell.cell_contents)
            except ValueError:  # it is still empty
                continue
            yield cell
