"""What the SDK says of what it is doing, such as the building of an image.

It prints that itself, wherever it is asked to do something. To hear it instead, and to know whether
the SDK was told of a deployment, two private names are used here; contract tests fail loudly when a
new SDK changes one of them:

- `flyte._status.StatusProxy._emit`
- `flyte._initialize._get_init_config`
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


def client_is_configured() -> bool:
    """Tell whether the SDK knows a deployment."""
    from flyte._initialize import _get_init_config

    return getattr(_get_init_config(), "client", None) is not None
