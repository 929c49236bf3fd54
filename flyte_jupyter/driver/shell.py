"""Running one task in the driver's shell: a fresh namespace, a Flyte context, interrupts.

The cell is compiled and run by IPython, on the main thread, so that magics, top-level `await`,
display of the last expression and line numbers in tracebacks are what they are in a notebook.
"""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import re
import signal
import sys
import types
from asyncio.events import _set_running_loop
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

from ipykernel import zmqshell
from ipykernel.displayhook import ZMQShellDisplayHook
from IPython.core.getipython import get_ipython
from traitlets import default

from flyte_jupyter.driver import interrupts, submodules
from flyte_jupyter.driver.wakeup import Wakeup

_F = TypeVar("_F", bound=Callable[..., Any])
_interruptible: set[types.CodeType] = set()
_MAGIC = re.compile(r"run_(line|cell)_magic\('([^']+)'")


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


class DriverShell(zmqshell.ZMQInteractiveShell):
    """IPython's shell, which keeps a traceback for the reply instead of publishing it.

    That of the cell: what it runs by `%run`, `%%capture` or `run_cell` and goes on after is shown.
    """

    displayhook_class = DriverDisplayHook
    remote_traceback: list[str] | None = None
    unshown: BaseException | None = None
    """Why the value of the last expression could not be shown."""
    preprocessing: Any = None
    """What failed before the present cell could run, as `sys.exc_info` has it."""
    notebooks_extensions: ClassVar[list[str]] = []
    """What the notebook has loaded; it is loaded here when one of its magics is missed."""
    _depth = 0

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Keep the traceback of what ends a cell; show that of a value that cannot be shown.

        The second does not end the cell, unless it is the value of its last expression.
        """
        before, self.remote_traceback = self.remote_traceback, None
        super().showtraceback(exc_tuple, *args, **kwargs)
        if self._depth > 1:
            self.remote_traceback = before
            return
        if exc_tuple is None or exc_tuple is self.preprocessing:
            return
        if getattr(self.displayhook, "msg", None) is None:
            sys.stderr.write("\n".join([*(self.remote_traceback or ()), ""]))
            self.remote_traceback = before
        elif self.unshown is None:
            self.unshown = exc_tuple[1]
        else:
            self.remote_traceback = before  # it fails in each format that it has

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        del etype, evalue
        sys.stdout.flush()
        sys.stderr.flush()
        self._last_traceback = stb
        if self._depth > 1:
            _, stderr = self.kernel.streams  # whatever captures what the cell prints
            stderr.write("\n".join([*stb, ""]))
        else:
            self.remote_traceback = list(stb)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """Count how deep in each other cells and files run."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    async def run_cell_async(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell."""
        with self._inside():
            return await super().run_cell_async(*args, **kwargs)

    def safe_execfile(self, *args: Any, **kwargs: Any) -> Any:
        """Run a file."""
        with self._inside():
            return super().safe_execfile(*args, **kwargs)

    def safe_run_module(self, *args: Any, **kwargs: Any) -> Any:
        """Run a module."""
        with self._inside():
            return super().safe_run_module(*args, **kwargs)

    @interruptible_code
    async def run_code(self, *args: Any, **kwargs: Any) -> Any:
        """Run code of a cell, unless an interrupt came when nothing could be interrupted yet."""
        if Interruptible.pending:
            raise KeyboardInterrupt
        return await super().run_code(*args, **kwargs)

    def transform_cell(self, raw_cell: str) -> str:
        """Make a cell Python; extensions of the notebook are loaded when a magic is not there."""
        code: str = super().transform_cell(raw_cell)
        magics = self.magics_manager.magics
        if any(name not in magics[kind] for kind, name in _MAGIC.findall(code)):
            for extension in set(self.notebooks_extensions) - self.extension_manager.loaded:
                with contextlib.suppress(Exception):  # then it is as if it were not there
                    self.extension_manager.load_extension(extension)
        return code

    def show_usage_error(self, exc: BaseException) -> None:
        """Leave it to the notebook, which shows what it raises."""
        if self._depth > 1:
            super().show_usage_error(exc)
        else:
            self.remote_traceback = [f"UsageError: {exc}"]

    @default("cache_size")
    def _keep_no_results(self) -> int:
        return 0  # `Out` would hold on to everything that was ever shown

    def init_user_ns(self) -> None:
        """Fill a namespace as ever, with nothing that would take the shell along to workers."""
        super().init_user_ns()
        if get_ipython() is self:
            self.user_ns["get_ipython"] = get_ipython

    def init_virtualenv(self) -> None:
        """Do nothing: the driver runs the notebook's own Python and path."""


class ZMQInteractiveShell(DriverShell):
    """The driver's shell, by the name that libraries look for to see whether they are in Jupyter.

    rich, for one: without it, its progress bars stand still until they are full.
    """


ZMQInteractiveShell.__module__ = zmqshell.__name__


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


def new_main() -> types.ModuleType:
    """Return an empty ``__main__``."""
    return types.ModuleType("__main__")


@contextlib.contextmanager
def fresh_namespace(
    shell: DriverShell, inputs: Mapping[str, object], main: types.ModuleType | None = None
) -> Iterator[dict[str, Any]]:
    """Give the shell a ``__main__`` that holds only `inputs`, for one task.

    It is the real ``sys.modules["__main__"]`` meanwhile: pickling a function of the cell by value
    depends on that, as does `multiprocessing`.

    Parameters
    ----------
    shell
        The shell.
    inputs
        Names and values.
    main
        A `new_main`, where functions among the inputs have it as their globals.
    """
    module = main or new_main()
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
    shell.remote_traceback = shell.unshown = None
    transformed, problem = code, None
    try:
        transformed = "\n" * cell.line + shell.transform_cell(cell.code)
    except Exception:  # noqa: BLE001 - IPython shows it, as for any cell
        problem = sys.exc_info()
    else:
        submodules.import_named(transformed, cell.inputs)
    shell.displayhook.cell = transformed
    shell.preprocessing = problem
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
    return failure or shell.unshown


def take_payload(shell: DriverShell) -> list[dict[str, Any]]:
    """Return what a cell has for its front end besides output, and forget it."""
    payload: list[dict[str, Any]] = shell.payload_manager.read_payload()
    shell.payload_manager.clear_payload()
    return payload


def code_of_cells(shell: DriverShell) -> Callable[[types.CodeType], bool]:
    """Return what tells code of cells: of this task's, and of those that its functions are from."""
    return lambda code: code.co_filename in shell.compile._filename_map


class Interruptible:
    """Runs a coroutine so that SIGINT ends it at once, whatever it is doing.

    In code that is running, KeyboardInterrupt is raised there. While everything awaits something,
    there is no such code: then the task is cancelled, and what comes out is made the same
    KeyboardInterrupt. In code of the user's that runs in another task of the loop, it would be the
    loop's end: there that task is cancelled, where it is, and those that the user's code has begun
    beside it before they block in their turn.

    Parameters
    ----------
    is_users
        Tells code of the user's.
    """

    pending = False
    """Whether an interrupt came between a task's beginning and its cell's.

    It cancels the task, but a cell that awaits nothing would never hear of that.
    """

    def __init__(self, is_users: Callable[[types.CodeType], bool] = lambda _: False) -> None:
        self._is_users = is_users
        self.interrupted = False
        self._task: asyncio.Task[Any] | None = None
        self._before: set[asyncio.Task[Any]] = set()

    async def run(self, coroutine: Any) -> Any:
        """Run to the end, or raise KeyboardInterrupt."""
        # First the handler: a task that an interrupt leaves behind here would run by itself later.
        Interruptible.pending = False
        loop = asyncio.get_running_loop()
        self._before = asyncio.all_tasks(loop)
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
        in_users = False
        while frame is not None:
            if frame.f_code in _interruptible:
                if interrupts.put_off():
                    return
                raise KeyboardInterrupt
            in_users = in_users or self._is_users(frame.f_code)
            frame = frame.f_back
        Interruptible.pending = True
        if self._task is not None:
            loop = self._task.get_loop()
            loop.call_soon_threadsafe(self._task.cancel)
            if in_users and not interrupts.put_off():
                self._cancel_others(loop)
                raise asyncio.CancelledError

    def _cancel_others(self, loop: asyncio.AbstractEventLoop) -> None:
        for task in asyncio.all_tasks(loop) - self._before - {asyncio.current_task(loop)}:
            code = getattr(task.get_coro(), "cr_code", None)
            if code is not None and self._is_users(code):
                task.cancel()


_wakeup = Wakeup()
