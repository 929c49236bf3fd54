"""What a task's end looks like on the wire: its values, or the exception that ended it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from flyte_jupyter.driver.values import transfer
from flyte_jupyter.errors import RemoteError

if TYPE_CHECKING:
    from flyte_jupyter.driver.shell import DriverShell
    from flyte_jupyter.driver.wire import TaskReply

Where = Literal["cell", "inputs", "outputs", "cluster"]


class Ending(NamedTuple):
    """How a task's own code ended.

    Parameters
    ----------
    error
        The exception that ended it; None if none did.
    traceback
        Its traceback as lines to show.
    """

    error: BaseException | None = None
    traceback: list[str] | None = None


def meant(error: BaseException, interrupted: bool) -> BaseException:
    """Return what ended a task: an interrupt also where it came out as something else.

    As the cancellation of what the task awaited, or the end of a task that it had called.
    """
    stopped = type(error).__name__ == "CancelledError" or (
        isinstance(error, RemoteError) and str(error) == KeyboardInterrupt.__name__
    )
    return KeyboardInterrupt() if interrupted and stopped else error


def failure(
    shell: DriverShell, error: BaseException, where: Where, traceback: list[str] | None = None
) -> tuple[TaskReply, list[bytes | memoryview]]:
    """Return the reply, and its frames, of a task that an exception ended.

    Parameters
    ----------
    shell
        It formats tracebacks.
    error
        The exception; it travels too, if it can be pickled.
    where
        What failed.
    traceback
        Lines that say where, if they are there already.
    """
    return told(error, where, traceback or _format(shell, error))


def told(
    error: BaseException, where: Where, traceback: list[str] | None = None
) -> tuple[TaskReply, list[bytes | memoryview]]:
    """Return the reply of a task that an exception ended, where there is no shell to ask."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's own `__str__`; the reply must come all the same
        text = "(it cannot be shown)"
    reply: TaskReply = {
        "status": "error",
        "where": where,
        "ename": type(error).__name__,
        "evalue": text,
        "traceback": traceback or [],
        "exception": None,
    }
    try:
        parcel = transfer.pack({"exception": error}, shared=False)
    except Exception:  # noqa: BLE001 - then it is told, not sent
        return reply, []
    reply["exception"] = parcel.header
    return reply, parcel.frames


def exception_of(reply: TaskReply, buffers: list[Any]) -> BaseException | None:
    """Return the exception that a reply brings; None if it brings none that is known here."""
    with contextlib.suppress(Exception):
        if reply["exception"]:
            error = transfer.unpack(reply["exception"], buffers, keep_classes=True)["exception"]
            return error if isinstance(error, BaseException) else None
    return None


def _format(shell: DriverShell, error: BaseException) -> list[str]:
    tb = shell.InteractiveTB
    lines: list[str] = tb.structured_traceback(type(error), error, error.__traceback__)
    return lines
