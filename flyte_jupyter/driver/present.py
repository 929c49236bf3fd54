"""Which run the present code belongs to: an engine notes by it what a run has begun elsewhere."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import TypeAlias

Ended: TypeAlias = Callable[[BaseException | None], None]


class PresentRun:
    """A run under way in this process, on its main thread or beside that.

    Parameters
    ----------
    name
        The run's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: BaseException | None = None
        """What has ended it, if something did."""
        self.ended = False
        self._told: list[Ended] = []

    def when_ended(self, tell: Ended) -> None:
        """Have a function called, on the thread of the run, with what has ended it or None."""
        self._told.append(tell)

    def end(self) -> None:
        """Tell those who wanted to be told."""
        self.ended = True
        for tell in self._told:
            with contextlib.suppress(Exception):  # what has ended the run says more
                tell(self.error)
        self._told.clear()


_run: contextvars.ContextVar[PresentRun | None]
_run = contextvars.ContextVar("the run that code belongs to", default=None)


_under_way: set[PresentRun] = set()


def is_alone() -> bool:
    """Whether no more than one run is under way in this process."""
    return len(_under_way) <= 1


def present_run() -> PresentRun | None:
    """Return the run that the present code belongs to; None if to none."""
    return _run.get()


@contextlib.contextmanager
def running(name: str) -> Iterator[PresentRun]:
    """Make a run the present one. Its `error` is that of this block, unless it is set within."""
    run = PresentRun(name)
    token = _run.set(run)
    _under_way.add(run)
    try:
        yield run
    except BaseException as error:
        run.error = error
        raise
    finally:
        _run.reset(token)
        _under_way.discard(run)
        run.end()
