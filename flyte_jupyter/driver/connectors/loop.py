"""A loop of their own for connectors, in a thread.

A connector may block in its methods, against all advice. It then keeps other connectors waiting,
but not the tasks of the driver; and no interrupt strikes within it, which would cut a launch in
half.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_END = 9.5
"""Seconds that what runs there has to end when it is stopped."""
_DEAF = 3.0
"""Seconds after which a loop that has not even heard of that is taken to be blocked."""
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


async def run_beside(
    coroutine: Coroutine[Any, Any, _T], deaf: Callable[[], None] = lambda: None
) -> _T:
    """Run a coroutine there, and wait for it; whoever cancels that waits for its end too.

    Parameters
    ----------
    coroutine
        What to run.
    deaf
        Called when it has been cancelled and something there blocks, so that it has not heard.
    """
    loop = _started()
    done: concurrent.futures.Future[_T] = concurrent.futures.Future()
    tasks: list[asyncio.Task[_T]] = []

    def begin() -> None:
        task = loop.create_task(coroutine, context=context)
        tasks.append(task)
        task.add_done_callback(lambda ended: _pass_on(ended, done))

    # What it shows belongs to the cell of the task.
    context = contextvars.copy_context()
    loop.call_soon_threadsafe(begin)
    waiting = asyncio.wrap_future(done)
    try:
        return await asyncio.shield(waiting)
    except BaseException:
        if not done.done():
            heard: concurrent.futures.Future[bool] = concurrent.futures.Future()

            def stop() -> None:
                for task in tasks:
                    task.cancel()
                if heard.set_running_or_notify_cancel():
                    heard.set_result(True)

            loop.call_soon_threadsafe(stop)
            if await seen_through(asyncio.wrap_future(heard), _DEAF):
                await seen_through(waiting, _END)
            elif not done.done():
                _leave(loop)
                deaf()
        raise


async def seen_through(future: asyncio.Future[_T], patience: float) -> _T | None:
    """Return what a future gives, although whoever waits is stopped, and stopped again.

    None if it gives nothing: it fails, or takes longer than so many seconds.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not future.done() and (left := end - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            await asyncio.wait({future}, timeout=left)
    if not future.done():
        future.cancel()
    if not future.done() or future.cancelled() or future.exception() is not None:
        return None
    return future.result()


def _pass_on(task: asyncio.Task[_T], done: concurrent.futures.Future[_T]) -> None:
    if done.cancelled():
        return
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif error := task.exception():
        done.set_exception(error)
    else:
        done.set_result(task.result())


def _started() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="connectors", daemon=True).start()
        return _loop


def _leave(loop: asyncio.AbstractEventLoop) -> None:
    """Leave a loop in which something blocks to itself: what comes next has another."""
    global _loop  # noqa: PLW0603
    with _lock:
        if _loop is loop:
            _loop = None


def _forget() -> None:
    global _loop, _lock
    _loop, _lock = None, threading.Lock()  # threads do not survive a fork


os.register_at_fork(after_in_child=_forget)
