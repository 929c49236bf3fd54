"""What the SDK says of what it is doing, such as the building of an image.

It prints that itself, wherever it is asked to do something. One private name is used here to hear
it instead: `flyte._status.StatusProxy._emit`; a contract test fails loudly when a new SDK changes
it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

_hearing: contextvars.ContextVar[Callable[[str], None] | None] = contextvars.ContextVar(
    "flyte_jupyter_hearing", default=None
)


@contextlib.contextmanager
def heard_by(hear: Callable[[str], None]) -> Iterator[None]:
    """Have what the SDK says in this context, on whatever thread, given to a function."""
    _listen()
    token = _hearing.set(hear)
    try:
        yield
    finally:
        _hearing.reset(token)


@functools.cache
def _listen() -> None:
    from flyte._status import StatusProxy

    emit = StatusProxy._emit

    def heard(self: Any, level: str, message: str) -> None:
        hear = _hearing.get()
        if hear is None:
            emit(self, level, message)
        else:
            hear(message)

    StatusProxy._emit = heard  # type: ignore[method-assign]
