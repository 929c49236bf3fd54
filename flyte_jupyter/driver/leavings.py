"""What a cell leaves when it has ended: nothing, as a rule.

Its names go, and with them the futures of a Dask computation, of which the progress bar in the page
would hear no more. But a cell that leaves widgets open is not over for who looks at it. So its
names stay until the next task begins, or until its widgets are closed (`LiveCell`).

A cell that defines a function does not go by itself, for the function and the names of its cell
hold each other. It is collected as soon as nobody waits for that (`Collector`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

_IDLE = 0.5
_SHARE = 0.05


class LiveCell:
    """Holds what belongs to the comms that the last cell has left open.

    Parameters
    ----------
    manager
        The kernel's comm manager.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._namespace: dict[str, Any] | None = None
        self._opened: set[str] = set()

    @contextlib.contextmanager
    def watch(self, namespace: dict[str, Any]) -> Iterator[None]:
        """Keep a namespace if comms are open in the end that were not there in the beginning."""
        before = set(self._manager.comms)
        try:
            yield
        finally:
            if opened := self._manager.comms.keys() - before:
                self._namespace, self._opened = namespace, opened

    def release(self) -> None:
        """Let go of it: another task begins."""
        self._namespace, self._opened = None, set()

    def after(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return a handler of comm messages after which it is let go of if no comm is left."""

        def handle(*message: Any) -> None:
            handler(*message)
            if not self._opened & self._manager.comms.keys():
                self.release()

        return handle


class Collector:
    """Collects what cells have left, while the driver is idle."""

    def __init__(self) -> None:
        self._rest = _IDLE
        self._next: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Leave it for later: a task begins."""
        if self._next:
            self._next.cancel()

    def end(self) -> None:
        """Collect in a while, unless another task begins before."""
        self._next = asyncio.get_running_loop().call_later(self._rest, self._collect)

    def _collect(self) -> None:
        started = time.perf_counter()
        gc.collect()
        # Among many objects it takes long, and what is asked for meanwhile has to wait.
        self._rest = max(_IDLE, (time.perf_counter() - started) / _SHARE)
