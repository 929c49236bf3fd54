"""The log of a run on a deployment, line by line as the container wrote it.

`Action.get_logs` takes carriage returns out of what it gives, so one private name is used here; a
contract test fails loudly when a new SDK changes it: `flyte.remote._logs.Logs.tail`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any


async def lines_of(action: Any, attempt: int) -> AsyncIterator[str]:
    """Yield the lines of an attempt, without their ends; a log that is followed may never end.

    Parameters
    ----------
    action
        A `flyte.remote.Action`.
    attempt
        Which attempt, from 1.
    """
    from flyte.remote._logs import Logs

    async for line in Logs.tail.aio(action_id=action.action_id, attempt=attempt):
        yield line.message.removesuffix("\n")
