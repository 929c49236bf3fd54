"""Threads of a task belong to its cell for as long as they live.

What a thread prints is addressed by its context. Before Python 3.14 a new thread begins with an
empty one, and ipykernel then takes the cell that runs at that moment: output of a thread that
outlives its task would appear in somebody else's cell.
"""

from __future__ import annotations

import contextvars
import sys
import threading


def inherit_context() -> None:
    """Have every thread of this process begin with the context of the one that starts it."""
    if getattr(sys.flags, "thread_inherit_context", False):
        return
    start = threading.Thread.start

    def start_with_context(self: threading.Thread) -> None:
        context, run = contextvars.copy_context(), self.run
        self.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(self)

    threading.Thread.start = start_with_context  # type: ignore[method-assign]
