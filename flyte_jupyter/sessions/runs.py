"""Runs: one execution of a cell each."""

from __future__ import annotations

import asyncio
import concurrent.futures
import html
import itertools
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from flyte_jupyter.driver.anchors import anchors
from flyte_jupyter.sessions.run_logs import RunLog
from flyte_jupyter.sessions.waiting import TURN, result_of

RunState: TypeAlias = Literal[
    "queued", "starting", "running", "succeeded", "failed", "cancelled", "cached"
]
_LONGEST_ERROR = 500
_numbers = itertools.count(1)


@dataclass(frozen=True)
class CellTask:
    """What a run executes.

    Parameters
    ----------
    code
        The cell's body.
    name
        What the run is called in lists.
    count
        The notebook's execution count.
    line
        Lines of the cell above `code`.
    values
        Inputs by name.
    binds
        Names that `code` binds itself: an input of such a name that cannot be sent is left out.
    returns, keeps
        Names to return by value, and to keep in the driver as refs.
    timeout
        Seconds it may run; 0 for no limit.
    retries
        How often to try again after a failure.
    cells
        The notebook's cells: file names in tracebacks, and execution counts. Functions of other
        cells are then shown with their own lines.
    ranks
        Whose output to show where a cell runs in several ranks: ``all``, or numbers with commas;
        empty for rank 0 alone.
    queue_timeout
        Seconds that each attempt may wait until it runs; 0 for no limit.
    deadline
        Seconds that it may take from now on, with all its attempts; 0 for no limit.
    backoff
        A `flyte.Backoff` between attempts; None for none.
    call
        For a task function in `values`, which is called instead of `code`: the function, and its
        arguments by name.
    connectors
        Those that the notebook defines, pickled; the session adds them.
    cache
        Its cache policy; None for that of the environment.
    group
        The `flyte.group` in which another task calls it; empty for none.
    """

    code: str
    name: str = "cell"
    count: int = 0
    line: int = 0
    values: Mapping[str, object] = field(default_factory=dict)
    binds: frozenset[str] = frozenset()
    returns: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    timeout: float = 0.0
    retries: int = 0
    cells: Mapping[str, int] = field(default_factory=dict)
    ranks: str = ""
    queue_timeout: float = 0.0
    deadline: float = 0.0
    backoff: Any = None
    call: Mapping[str, object] | None = None
    cache: Any = None
    connectors: bytes = b""
    group: str = ""


class Controls(Protocol):
    """What a run needs of the session that started it."""

    def cancel(self, run: Run) -> None:
        """Stop the run; from any thread."""

    def wait(self, run: Run) -> Any:
        """Wait for the run in the foreground: questions are answered, interrupts passed on."""


class RunRecord:
    """What is known of a run, and nothing that it returned: a session keeps many.

    Parameters
    ----------
    name
        Name of the run; a number is added.
    environment
        Name of the environment.
    parent
        The run whose task called this one; empty for none.
    """

    def __init__(self, name: str, environment: str, parent: str = "") -> None:
        self.id = f"{name}-{next(_numbers)}"
        self.parent = parent
        self.group = ""
        """The `flyte.group` in which it was called."""
        self.environment = environment
        self.state: RunState = "queued"
        self.error = ""
        self.attempts = 0
        self.started = self.ended = 0.0
        self.printed = RunLog(self.id)
        self.link = ""
        """Its page in the console of the Flyte deployment that it was sent to."""

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        if not self.started:
            return 0.0
        return (self.ended or time.time()) - self.started

    def keep_log(self, folder: Path | None) -> None:
        """Hold on to the run's log: an open file outlives the cluster's folder, but not us."""
        if folder is not None:
            self.printed.keep(folder)

    def log(self, last: int = 0) -> str:
        """Return the text that the run has printed, in full.

        Parameters
        ----------
        last
            Only so many bytes from the end; 0 for all.
        """
        return self.printed.read(last)

    @property
    def place(self) -> str:
        """The environment, and where its task runs if that is not here."""
        return f"{self.environment} on Flyte" if self.link else self.environment

    def __repr__(self) -> str:
        return f"<Run {self.id} in {self.place}: {self.state}, {self.seconds:.1f} s>"

    def _repr_html_(self) -> str:
        colour = {"succeeded": "#2e7d32", "cached": "#2e7d32", "failed": "#c62828"}.get(
            self.state, "#1565c0"
        )
        return (
            f"<code>{html.escape(self.id)}</code> in <b>{html.escape(self.place)}</b>: "
            f"<span style='color:{colour}'>{self.state}</span>, {self.seconds:.1f} s "
            f"{anchors([('page', self.link)]) if self.link else ''}"
        )


class Run:
    """One execution of a cell or a task function in an environment.

    Wait for it with ``await run`` or ``run.result()``; stop it with ``run.cancel()``. Who
    interrupts the wait for a function interrupts the function; a cell in the background goes on.

    Parameters
    ----------
    task
        What is executed.
    environment
        Name of the environment.
    controls
        How to stop it.
    parent
        The run whose task called this one; empty for none.
    """

    def __init__(
        self, task: CellTask, environment: str, controls: Controls, parent: str = ""
    ) -> None:
        self.record = RunRecord(task.name, environment, parent)
        self.record.group = task.group
        self.task = task
        self.outputs: dict[str, Any] = {}
        self.payload: list[dict[str, Any]] = []
        """What the front end gets besides output, as IPython has it: the help of ``name?``."""
        self._controls = controls
        self._future: concurrent.futures.Future[None] = concurrent.futures.Future()
        # Who stops awaiting a run must not end it: a future that runs cannot be cancelled.
        self._future.set_running_or_notify_cancel()
        self._on_done: list[Callable[[], None]] = []
        self.awaited = False
        """Whether somebody has begun to wait for it, who will get what it raises."""

    @property
    def id(self) -> str:
        """Its name in lists and logs."""
        return self.record.id

    @property
    def environment(self) -> str:
        """Name of the environment."""
        return self.record.environment

    @property
    def state(self) -> RunState:
        """How far it has come."""
        return self.record.state

    @property
    def attempts(self) -> int:
        """How often it was begun."""
        return self.record.attempts

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return self.record.seconds

    @property
    def link(self) -> str:
        """Its page in the console of the Flyte deployment that it was sent to; empty for others."""
        return self.record.link

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the run and return what it returned.

        Parameters
        ----------
        timeout
            Seconds to wait; None for as long as it takes.

        Returns
        -------
        object
            The value of its one output; a dict by name if it has several; None if it has none.

        Raises
        ------
        TimeoutError
            It has not ended in time; it goes on.
        Exception
            Whatever the run raised.
        """
        self.awaited = True
        foreground = threading.current_thread() is threading.main_thread()
        if self._attached and timeout is None and foreground and not self.done:
            return self._controls.wait(self)
        try:
            result_of(self._future, timeout)
        except KeyboardInterrupt:
            if self._attached:
                self.cancel()
            raise
        return self._value()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        self.awaited = True
        future = asyncio.wrap_future(self._future)
        try:
            # An interrupt of an await is heard by ipykernel only at its loop's next turn.
            while not future.done():
                await asyncio.wait([future], timeout=TURN)
        except asyncio.CancelledError:
            future.cancel()  # or what the run raises would be reported as never looked at
            if self._attached:
                self.cancel()
            raise
        try:
            await future
        except KeyboardInterrupt as stop:
            # As it is, it would end the loop of whatever task awaits it, and so the whole kernel.
            raise asyncio.CancelledError(f"{self.id} was stopped") from stop
        return self._value()

    @property
    def _attached(self) -> bool:
        return self.task.call is not None

    def _value(self) -> Any:
        if len(self.outputs) == 1:
            return next(iter(self.outputs.values()))
        return dict(self.outputs) or None

    def exception(self) -> BaseException | None:
        """Return what the run raised, if it has ended and did."""
        return self._future.exception() if self._future.done() else None

    def cancel(self) -> None:
        """Stop the run: it is interrupted, and killed if it takes no notice."""
        if not self.done:
            self._controls.cancel(self)

    def log(self, last: int = 0) -> str:
        """Return the text that the run has printed, in full, or its last bytes."""
        return self.record.log(last)

    # -- for the session --------------------------------------------------------------------

    def on_done(self, function: Callable[[], None]) -> None:
        """Have a function called when the run has ended, on the session's loop."""
        self._on_done.append(function)
        if self.done:
            self._call_done()

    def begin(self) -> None:
        """Note that the driver gets it now."""
        self.record.state = "running"
        self.record.attempts += 1
        self.record.started = self.record.started or time.time()

    def end(self, state: RunState, error: BaseException | None = None) -> None:
        """Note how it ended, and wake whoever waits."""
        if self._future.done():
            return
        record = self.record
        record.state, record.ended, record.printed.ended = state, time.time(), True
        self.task = replace(self.task, values={})  # what it took along is not its to keep alive
        if error is not None:
            record.error = _in_one_line(error)
            if isinstance(error, StopIteration | StopAsyncIteration):
                # Awaited, Python takes it for the end of the awaiting itself.
                outer = RuntimeError(f"the task raised {type(error).__name__}")
                vars(outer).update(vars(error))  # its traceback
                outer.__cause__, error = error, outer
            self._future.set_exception(error)
        else:
            self._future.set_result(None)
        self._call_done()

    def _call_done(self) -> None:
        # Forgotten once called: they refer to the run, and a value must go with its last handle.
        while self._on_done:
            self._on_done.pop()()

    def __repr__(self) -> str:
        return repr(self.record)

    def _repr_html_(self) -> str:
        return self.record._repr_html_()


def _in_one_line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's own `__str__`; the run must end all the same
        text = "(it cannot be shown)"
    return f"{type(error).__name__}: {text}".partition("\n")[0][:_LONGEST_ERROR]
