"""Stretches of code that an interrupt must not cut, such as one half of a request and its answer.

An interrupt raises KeyboardInterrupt between any two instructions of a cell, and of whatever
library it has called. One that speaks a protocol over a socket does not survive that. So an engine
puts interrupts off while such a library works, and lets them in where it waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_put_off = False
_noted = False


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Put interrupts off until the end of this block, which then raises KeyboardInterrupt.

    That goes for the main thread, which alone is interrupted; within another such block, and in
    other threads, nothing changes.
    """
    global _put_off, _noted  # noqa: PLW0603
    if _put_off or threading.current_thread() is not threading.main_thread():
        yield
        return
    _noted = False
    _put_off = True
    try:
        yield
    finally:
        _put_off = False
        if _noted:
            _noted = False
            raise KeyboardInterrupt


def let_in(wait: Callable[[], object]) -> None:
    """Call a function that waits, and take interrupts meanwhile, those from before it included.

    That is for a block that holds them; elsewhere it is a call like any other. Not a context
    manager: an interrupt between two instructions of one would leave it half entered.

    Raises
    ------
    KeyboardInterrupt
        There was one, or comes while this lasts.
    """
    global _put_off, _noted  # noqa: PLW0603
    if not _put_off or threading.current_thread() is not threading.main_thread():
        wait()
        return
    try:
        _put_off = False
        if _noted:
            _noted = False
            raise KeyboardInterrupt
        wait()
    finally:
        _put_off = True


def put_off() -> bool:
    """Note an interrupt for later if it comes in a block that holds it, and say whether it does."""
    global _noted  # noqa: PLW0603
    _noted = _noted or _put_off
    return _put_off
