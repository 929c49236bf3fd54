"""Work that nobody waits for, and that the system's kernel does without Python's lock.

Giving a gibibyte back takes 0.03 to 0.2 s, and entering its pages into a process's table as long:
too much to do on the way of a value or of a reply.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

#: Bytes from which on it is worth another thread to map or free memory.
WORTH_A_THREAD = 16 << 20


class _Worker:
    """One thread of this process, started when there is something to do.

    Calls come from finalizers, at any moment of any thread: hence a queue that is made for that,
    and none of the locks of `threading`.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked child must: thread and calls are its parent's."""
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
        self._running = False

    def put(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._calls.put((function, args))
        if self._running:
            return
        self._running = True
        try:
            _thread.start_new_thread(self._work, ())
        except RuntimeError:  # no more threads, or the interpreter is about to end
            self._running = False
            while not self._calls.empty():
                self._call()

    def _work(self) -> None:
        while True:
            self._call()

    def _call(self) -> None:
        function, args = self._calls.get()
        function(*args)


_worker = _Worker()
os.register_at_fork(after_in_child=_worker.forget)


def aside(function: Callable[..., object], *args: object) -> None:
    """Have a function called soon, in order, in a thread of this process; it must not raise."""
    _worker.put(function, args)


def give_back(size: int, function: Callable[..., object], *args: object) -> None:
    """Call what frees `size` bytes: at once if they are few, aside if they are many."""
    if size >= WORTH_A_THREAD:
        aside(function, *args)
    else:
        function(*args)
