"""Running one task in the driver's shell: a fresh namespace, a Flyte context, interrupts.

The cell is compiled and run by IPython, on the main thread, so that magics, top-level `await`,
display of the last expression and line numbers in tracebacks are what they are in a notebook.
"""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import signal
import sys
import types
from asyncio.events import _set_running_loop
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.zmqshell import ZMQInteractiveShell
from traitlets import default

from flyte_jupyter.driver import interrupts
from flyte_jupyter.driver.wakeup import Wakeup

_F = TypeVar("_F", bound=Callable[..., Any])
_interruptible: set[types.CodeType] = set()


def interruptible_code(function: _F) -> _F:
    """Mark a function that is on the stack exactly while code of the user's is being executed."""
    _interruptible.add(cast(types.FunctionType, function).__code__)
    return function


class DriverDisplayHook(ZMQShellDisplayHook):
    """ipykernel's display hook, which looks for a `;` in the cell: a driver has no history."""

    cell = ""

    def quiet(self) -> bool:
        """Whether the cell ends in a semicolon."""
        return bool(self.semicolon_at_end_of_expression(self.cell))


class DriverShell(ZMQInteractiveShell):
    """IPython's shell, which keeps a traceback for the reply instead of publishing it."""

    displayhook_class = DriverDisplayHook
    remote_traceback: list[str] | None = None

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        del etype, evalue
        sys.stdout.flush()
        sys.stderr.flush()
        self.remote_traceback = list(stb)
        self._last_traceback = stb

    @interruptible_code
    async def run_code(self, *args: Any, **kwargs: Any) -> Any:
        """Run code of a cell, unless an interrupt came when nothing could be interrupted yet."""
        if Interruptible.pending:
            raise KeyboardInterrupt
        return await super().run_code(*args, **kwargs)

    def show_usage_error(self, exc: BaseException) -> None:
        """Leave it to the notebook, which shows what it raises."""
        self.remote_traceback = [f"UsageError: {exc}"]

    @default("cache_size")
    def _keep_no_results(self) -> int:
        return 0  # `Out` would hold on to everything that was ever shown

    def init_virtualenv(self) -> None:
        """Do nothing: the driver runs the notebook's own Python and path."""


@dataclass(frozen=True)
class Cell:
    """The code of one task and what it starts from.

    Parameters
    ----------
    code
        The body of the notebook's cell.
    count
        The notebook's execution count.
    line
        Lines above `code` in the notebook's cell.
    inputs
        Names and values to begin with.
    """

    code: str
    count: int
    line: int
    inputs: Mapping[str, object]


def learn_cells(shell: DriverShell, cells: Mapping[str, tuple[int, str]]) -> None:
    """Take the text of the notebook's cells, so that tracebacks show functions of theirs."""
    for name, (count, text) in cells.items():
        shell.compile._filename_map[name] = count
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)


@contextlib.contextmanager
def fresh_namespace(shell: DriverShell, inputs: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    """Give the shell an empty ``__main__`` that holds only `inputs`, for one task.

    It is the real ``sys.modules["__main__"]`` meanwhile: pickling a function of the cell by value
    depends on that, as does `multiprocessing`.
    """
    module = types.ModuleType("__main__")
    namespace = module.__dict__
    namespace["__builtins__"] = sys.modules["builtins"]
    before = (shell.user_module, shell.user_ns, sys.modules["__main__"])
    shell.user_module, shell.user_ns = module, namespace
    shell.init_user_ns()
    shell.user_ns_hidden = dict(namespace)
    namespace.update(inputs)
    sys.modules["__main__"] = module
    try:
        yield namespace
    finally:
        shell.user_module, shell.user_ns, sys.modules["__main__"] = before


async def run_cell(shell: DriverShell, cell: Cell) -> BaseException | None:
    """Run a cell as the notebook would, and return the exception that ended it, if one did."""
    # Blank lines stand for those above the code, so that numbers count from the cell's first line.
    code = "\n" * cell.line + cell.code
    shell.execution_count = cell.count
    shell.remote_traceback = None
    transformed, problem = code, None
    try:
        transformed = "\n" * cell.line + shell.transform_cell(cell.code)
    except Exception:  # noqa: BLE001 - IPython shows it, as for any cell
        problem = sys.exc_info()
    shell.displayhook.cell = transformed
    result = None
    try:
        result = await shell.run_cell_async(
            code,
            store_history=False,
            transformed_cell=transformed,
            preprocessing_exc_tuple=problem,
        )
    finally:
        shell.events.trigger("post_execute")  # inline figures are drawn here
        shell.events.trigger("post_run_cell", result)
        shell.last_execution_result = None  # it holds the value of the last expression
    failure: BaseException | None = result.error_before_exec or result.error_in_exec
    return failure


class Interruptible:
    """Runs a coroutine so that SIGINT ends it at once, whatever it is doing.

    In code that is running, KeyboardInterrupt is raised there. While everything awaits something,
    there is no such code: then the task is cancelled, and what comes out is made the same
    KeyboardInterrupt.
    """

    pending = False
    """Whether an interrupt came between a task's beginning and its cell's.

    It cancels the task, but a cell that awaits nothing would never hear of that.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._task: asyncio.Task[Any] | None = None

    async def run(self, coroutine: Any) -> Any:
        """Run to the end, or raise KeyboardInterrupt."""
        # First the handler: a task that an interrupt leaves behind here would run by itself later.
        Interruptible.pending = False
        loop = asyncio.get_running_loop()
        previous = signal.signal(signal.SIGINT, self._on_signal)
        _wakeup.begin()
        try:
            self._task = asyncio.ensure_future(coroutine)
            if self.interrupted:
                self._task.cancel()
            return await self._task
        except asyncio.CancelledError:
            if self.interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            _set_running_loop(loop)  # an interrupt may have struck where it was hidden
            _wakeup.end()
            signal.signal(signal.SIGINT, previous)
            Interruptible.pending = False

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        del number
        _wakeup.heard()
        self.interrupted = True
        while frame is not None:
            if frame.f_code in _interruptible:
                if interrupts.put_off():
                    return
                raise KeyboardInterrupt
            frame = frame.f_back
        Interruptible.pending = True
        if self._task is not None:
            loop = self._task.get_loop()
            loop.call_soon_threadsafe(self._task.cancel)


_wakeup = Wakeup()
