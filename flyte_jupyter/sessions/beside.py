"""Work that would hold up the session's loop, such as pickling, in a thread of its own.

Not in an executor: Python waits for an executor's threads when it exits, before the session is
closed and could tell them to stop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> Future[T]:
    """Call a function in a new thread that ends with the call."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name="flyte-jupyter-beside", daemon=True).start()
    return future


async def beside(function: Callable[[], T], drop: Callable[[T], object]) -> T:
    """Await a function that runs in a thread.

    Parameters
    ----------
    function
        What to call. It cannot be stopped: a cancelled wait ends at once and leaves it behind.
    drop
        Called with the result that nobody waits for any more.
    """
    future = in_thread(function)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: done.exception() or drop(done.result()))
        raise
