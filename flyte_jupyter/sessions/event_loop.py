"""The session's event loop: one thread in which all of its I/O happens.

Everything is written once, as coroutines of this loop. Magics and the synchronous interface only
hand work to it and wait.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from flyte_jupyter.sessions.waiting import result_of

T = TypeVar("T")


class EventLoopThread:
    """An asyncio loop on a daemon thread, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._start()
            assert self._loop is not None
            return self._loop

    def _start(self) -> None:
        # zmq needs a loop with add_reader, which is the selector loop wherever this package runs.
        self._loop = asyncio.SelectorEventLoop()
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="flyte-jupyter", daemon=True
        )
        self._thread.start()

    @property
    def inside(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return self._thread is not None and threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine; from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine and return its result.

        Raises
        ------
        TimeoutError
            It took longer than `timeout` seconds; it is cancelled then.
        KeyboardInterrupt
            The user interrupted the wait; the coroutine is cancelled.
        """
        future = self.submit(coroutine)
        try:
            return result_of(future, timeout)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread; a later use starts another."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
            if loop is None or thread is None or self._pid != os.getpid():
                return
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).add_done_callback(
                lambda _: loop.call_soon_threadsafe(loop.stop)
            )
        thread.join(timeout=2)
        if not loop.is_running():
            loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
