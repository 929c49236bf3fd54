"""Exceptions of tasks, as the notebook raises them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

from flyte_jupyter.driver.replies import exception_of
from flyte_jupyter.driver.wire import TaskReply
from flyte_jupyter.errors import FlyteJupyterError, RemoteError


def rebuild(reply: TaskReply, buffers: list[Any]) -> BaseException:
    """Return the exception of a reply; one of our own if its type is unknown here."""
    error = exception_of(reply, buffers)
    if isinstance(error, FlyteJupyterError) and reply["where"] != "cell":
        return error
    if error is None:
        error = RemoteError(f"{reply['ename']}: {reply['evalue']}")
    if isinstance(error, SystemExit):
        # Raised here it would end a script; in the cell it ended the cell.
        return RemoteError("the task called sys.exit()", seen=f"exit code {error.code}")
    if isinstance(error, asyncio.CancelledError):
        # Raised here it would say that whoever waits was cancelled.
        error = RemoteError("the task was cancelled by its own code", seen=reply["evalue"])
    return with_traceback(error, reply["traceback"])


class RemoteTraceback(Exception):
    """Where a task raised, as text: the cause of its exception where there is no IPython."""

    def __str__(self) -> str:
        return "\n" + _COLOURS.sub("", "\n".join(self.args[0]))


_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def with_traceback(error: BaseException, lines: list[str]) -> BaseException:
    """Have IPython show the remote traceback instead of this package's own frames."""
    shown = lines or [f"{type(error).__name__}: {error}"]
    if lines and error.__cause__ is None:
        error.__cause__ = RemoteTraceback(lines)
    with contextlib.suppress(AttributeError, TypeError):
        error._render_traceback_ = lambda: shown  # type: ignore[attr-defined]
        error.remote_traceback = shown  # type: ignore[attr-defined]
    return error
