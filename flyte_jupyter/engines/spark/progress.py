"""Stages of a Spark job as a progress bar in the cell that waits for them."""

from __future__ import annotations

import contextvars
import html
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_AFTER = 1.0
"""Seconds that a job runs until it has a bar."""
_LOOK = 0.25


@dataclass(frozen=True)
class Stage:
    """How far a stage is."""

    number: int
    name: str
    tasks: int
    done: int
    failed: int


class StageProgress:
    """Looks at the stages that run while a cell does, on a thread of its own.

    Parameters
    ----------
    context
        Returns the Spark context to ask; None if there is none.
    """

    def __init__(self, context: Callable[[], Any]) -> None:
        self._context = context
        self._changed = threading.Condition()
        self._cell: _Bar | None = None
        threading.Thread(target=self._run, name="stages", daemon=True).start()

    def begin(self) -> None:
        """Begin to look, for the cell whose code is about to run."""
        with self._changed:
            self._cell = _Bar(contextvars.copy_context())
            self._changed.notify()

    def end(self, *, failed: bool) -> None:
        """Look no more; a bar that is there says how it ended."""
        with self._changed:
            bar, self._cell = self._cell, None
            self._changed.notify()
        if bar is not None:
            bar.finish(failed=failed)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._cell is not None)
                bar = self._cell
            while bar is not None and not self._ended(bar):
                bar.show(self._stages())

    def _ended(self, bar: _Bar) -> bool:
        """Wait until it is time for another look, and say whether the cell has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._cell is not bar, _LOOK)

    def _stages(self) -> list[Stage]:
        context = self._context()
        if context is None:
            return []
        try:
            tracker = context.statusTracker()
            found = [(n, tracker.getStageInfo(n)) for n in tracker.getActiveStageIds()]
        except Exception:  # noqa: BLE001 - it is stopped at this moment
            return []
        return [
            Stage(n, info.name, info.numTasks, info.numCompletedTasks, info.numFailedTasks)
            for n, info in sorted(found)
            if info is not None
        ]


class _Bar:
    """The bar of one cell.

    Parameters
    ----------
    context
        Of the cell: by it what is displayed finds its place.
    """

    def __init__(self, context: contextvars.Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._stages: dict[int, Stage] = {}
        self._handle: Any = None
        self._finished = False
        self._since = 0.0

    def show(self, running: list[Stage]) -> None:
        """Show stages that run, and those before them as done; nothing while they are quick."""
        with self._lock:
            if self._finished or not self._lasts(running):
                return
            for stage in self._stages.values():
                if stage.number not in {other.number for other in running}:
                    self._stages[stage.number] = _completed(stage)
            fresh = {stage.number: stage for stage in running}
            if self._handle and fresh == {n: s for n, s in self._stages.items() if n in fresh}:
                return
            self._stages |= fresh
            self._display()

    def _lasts(self, running: list[Stage]) -> bool:
        if self._handle:
            return True
        now = time.monotonic()
        if not running:
            self._since, self._stages = 0.0, {}
            return False
        self._since = self._since or now
        return now - self._since >= _AFTER

    def finish(self, *, failed: bool) -> None:
        """Leave a line that says what was done."""
        with self._lock:
            self._finished = True
            if self._handle:
                if not failed:
                    self._stages = {n: _completed(stage) for n, stage in self._stages.items()}
                self._display("stopped" if failed else "done")

    def _display(self, end: str = "") -> None:
        from IPython.display import display

        bundle = as_bundle(list(self._stages.values()), end)
        if self._handle is None:
            self._handle = self._context.run(display, bundle, raw=True, display_id=True)
        else:
            self._context.run(self._handle.update, bundle, raw=True)


def _completed(stage: Stage) -> Stage:
    return Stage(stage.number, stage.name, stage.tasks, stage.tasks, stage.failed)


def as_bundle(stages: list[Stage], end: str = "") -> dict[str, str]:
    """Return stages as HTML and as text; `end` says how they ended, if they have."""
    done, tasks = sum(s.done for s in stages), sum(s.tasks for s in stages)
    failed = sum(s.failed for s in stages)
    plural = "s" if len(stages) > 1 else ""
    line = f"Spark: {len(stages)} stage{plural}, {done}/{tasks} tasks"
    if failed:
        line += f", {failed} failed"
    if last := end or _called(stages[-1].name):
        line += f"; {last}"
    bar = f'<progress value="{done}" max="{max(tasks, 1)}"></progress> {html.escape(line)}'
    return {"text/plain": line, "text/html": bar}


def _called(name: str) -> str:
    """Return what the user called, from a stage's name: ``collect at cell.py:3``."""
    called, _, place = name.partition(" at ")
    # Where Spark was called from inside the JVM, the name is that of something in there.
    return called if called.isidentifier() and ".java" not in place else ""
