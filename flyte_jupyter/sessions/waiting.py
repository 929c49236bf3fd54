"""Waiting in the foreground so that an interrupt is heard, whenever it comes.

One that comes between the interpreter's last look for signals and a wait without end is not heard
before that ends (`driver/wakeup.py` says more). The notebook's kernel is not ours to watch, so
every wait of the user's here is one in short turns.
"""

from __future__ import annotations

import concurrent.futures
import time
from typing import TypeVar

T = TypeVar("T")

#: Seconds of one turn.
TURN = 0.1


def result_of(future: concurrent.futures.Future[T], timeout: float | None = None) -> T:
    """Wait for a future.

    Raises
    ------
    TimeoutError
        It took longer than `timeout` seconds.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while not future.done():
        left = TURN if end is None else min(TURN, end - time.monotonic())
        if left <= 0:
            raise TimeoutError
        concurrent.futures.wait([future], left)
    return future.result()
