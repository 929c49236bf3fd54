"""Calls of the SDK that may be cancelled.

The SDK works on a loop of its own. What is cancelled there raises what nobody waits for any more,
and Python would print that. Here it is caught on that loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def quietly(call: Callable[[], Awaitable[T]]) -> T:
    """Await a call on the SDK's loop.

    Parameters
    ----------
    call
        Calls the SDK's ``aio`` of something; it is called on that loop.
    """
    from flyte.syncify import syncify

    @syncify
    async def caught() -> tuple[T | None, Exception | None]:
        try:
            return await call(), None
        except Exception as error:  # noqa: BLE001 - it is raised below
            return None, error

    value, error = await caught.aio()
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
