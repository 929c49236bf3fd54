"""Waiting in the foreground so that an interrupt is heard, whenever it comes.

One that comes between the interpreter's last look for signals and a wait without end is not heard
before that ends (`driver/wakeup.py` says more). The notebook's kernel is not ours to watch, so
every wait of the user's here is one in short turns.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
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


def see_through(
    done: Callable[[], bool], turn: Callable[[], None], interrupted: Callable[[bool], None]
) -> None:
    """Take turns until something is done; an interrupt does not end that.

    Parameters
    ----------
    done
        Tells whether it is.
    turn
        Waits for no longer than `TURN`, or does what it is asked to.
    interrupted
        Called for each interrupt, with whether there was one before.
    """
    before = False
    while True:
        try:
            # This loop is within: an interrupt may be raised where the interpreter jumps back.
            while not done():
                turn()
            break
        except KeyboardInterrupt:
            interrupted(before)
            before = True
