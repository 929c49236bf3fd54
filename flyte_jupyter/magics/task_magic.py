"""``%%flyte_task``: the cell below runs as a Flyte task in an environment."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flyte_jupyter.cells import capture as capturing
from flyte_jupyter.cells.names import CellNames, analyze
from flyte_jupyter.cells.sizes import human_size
from flyte_jupyter.driver.relay import NotebookSink
from flyte_jupyter.errors import UsageError
from flyte_jupyter.magics.arguments import MagicParser, count, names, ranks, seconds
from flyte_jupyter.sessions import CellTask, Ref, Run, Session
from flyte_jupyter.sessions.sending import TARGETS
from flyte_jupyter.widgets.progress import StartProgress
from flyte_jupyter.widgets.table import Table

MAGIC = "%%flyte_task"


def make_parser() -> MagicParser:
    """Return the parser of the magic's line."""
    parser = MagicParser(
        MAGIC,
        description="Run this cell as a Flyte task in an environment, on its cluster. Names that "
        "the cell reads travel with it; its output, errors and widgets appear here.",
    )
    parser.add_argument("environment", metavar="ENV", help="variable or name of the environment")
    listed: dict[str, Any] = {
        "metavar": "NAMES",
        "action": "extend",
        "type": names,
        "default": None,
    }
    parser.add_argument("-i", "--inputs", help="take exactly these along", **listed)
    parser.add_argument("--also", help="take these along beside those that are found", **listed)
    parser.add_argument("-o", "--outputs", help="bring these back by value", **listed)
    parser.add_argument("-r", "--refs", help="keep these there; get handles to them", **listed)
    parser.add_argument(
        "--bg",
        nargs="?",
        const="",
        default=None,
        metavar="NAME",
        help="run in the background; NAME becomes the Run, to await or cancel",
    )
    parser.add_argument(
        "--timeout", type=seconds, default=0.0, metavar="S", help="stop it after S seconds"
    )
    parser.add_argument(
        "--retries", type=count, default=0, metavar="N", help="try again N times after a failure"
    )
    parser.add_argument(
        "--ranks",
        type=ranks,
        default=None,
        metavar="RANKS",
        help="PyTorch: show what these ranks print: `all`, or 0,3; without it, rank 0",
    )
    parser.add_argument(
        "--on",
        choices=TARGETS,
        default="",
        help="send it to the Flyte deployment that the SDK is configured for",
    )
    parser.add_argument("--name", default="cell", help="what the run is called in %%flyte runs")
    parser.add_argument(
        "--capture", action="store_true", help="show what would travel, with sizes; run nothing"
    )
    return parser


PARSER = make_parser()


class CellSyntaxError(UsageError):
    """A syntax error of a task cell.

    Not a `SyntaxError` of Python's: those IPython shows with all frames between it and the cell.
    """

    def __init__(self, error: SyntaxError, shown: list[str]) -> None:
        super().__init__(str(error))
        self._shown = shown

    def _render_traceback_(self) -> list[str]:
        return self._shown


CellSyntaxError.__name__ = "SyntaxError"


@dataclass(frozen=True)
class Request:
    """A magic line and its cell, understood."""

    options: argparse.Namespace
    body: str
    found: CellNames


class TaskMagic:
    """The magic, bound to a notebook.

    Parameters
    ----------
    shell
        The notebook's IPython shell.
    session
        What runs the cell.
    note
        Told the names a cell binds, those it returns, and the environment's name; for one in the
        background the run's, too.
    """

    def __init__(self, shell: Any, session: Session, note: Callable[..., None]) -> None:
        self._shell, self._session, self._note = shell, session, note

    def run(self, line: str, body: str) -> Run | Table | None:
        """Do what the cell says.

        Raises
        ------
        FlyteJupyterError
            Something is wrong with the line, an input, or the cluster.
        Exception
            What the cell raised.
        """
        options = PARSER.parse_line(line)
        request = Request(options, body, self._analyze(body))
        self._check(request)
        # Before anything is captured or started: an unknown environment is the first thing to say.
        environment = self._environment(options)
        self._session.reload_local_modules()
        names, also = self._shell.user_ns, options.also or ()
        captured = capturing.capture(request.found, names, only=options.inputs, extra=also)
        if options.capture:
            return self._tabulate(captured)
        return self._submit(request, captured, environment)

    def _environment(self, options: argparse.Namespace) -> Any:
        """Return the environment that the line names; as it is declared, for a deployment."""
        if options.on:
            return self._session.declared_as(options.environment)
        environment = self._session.environment(options.environment)
        if options.ranks and not environment.has_ranks:
            raise UsageError(
                f"{environment.name} has no ranks", fix="--ranks is for PyTorch environments."
            )
        return environment

    def _analyze(self, body: str) -> CellNames:
        if body.lstrip().startswith(MAGIC):
            raise UsageError(
                "a task cell cannot hold another task cell",
                fix=f"Use one {MAGIC} line a cell.",
            )
        try:
            return analyze(body, self._shell.transform_cell)
        except SyntaxError as error:
            raise self._shown_as_ipython_does(error, body) from None

    def _shown_as_ipython_does(self, error: SyntaxError, body: str) -> CellSyntaxError:
        """Give a syntax error the cell's name and line, as IPython shows it for a plain cell."""
        shell, above = self._shell, self._lines_above(body)
        # A lone surrogate, which is such an error too, must not keep the cell from being named.
        text = "\n" * above + body.encode(errors="replace").decode()
        error.filename = shell.compile.cache(text, self._count(), raw_code=text)
        if error.lineno is not None:
            error.lineno += above
        if error.end_lineno is not None:
            error.end_lineno += above
        return CellSyntaxError(error, shell.SyntaxTB.structured_traceback(type(error), error, []))

    def _count(self) -> int:
        """Return the ``n`` of this cell's ``In[n]``: the shell is one ahead while a cell runs."""
        ahead: int = self._shell.execution_count
        return max(1, ahead - 1)

    def _lines_above(self, body: str) -> int:
        """Return how many lines of the notebook's cell stand above the body."""
        history = getattr(self._shell, "history_manager", None)
        raw = history.input_hist_raw[-1] if history and history.input_hist_raw else ""
        above, found, _ = raw.partition(body.rstrip("\n")) if body.strip() else (raw, "", "")
        return above.count("\n") if found and MAGIC in above else 1

    def _check(self, request: Request) -> None:
        options, found = request.options, request.found
        asked = [*(options.outputs or ()), *(options.refs or ())]
        if twice := {name for name in asked if asked.count(name) > 1}:
            raise UsageError(f"`{min(twice)}` is asked for twice, by -o and -r")
        for name in asked:
            if name not in found.binds and not found.star_import and name not in found.reads:
                bound = ", ".join(sorted(found.binds)) or "nothing"
                raise UsageError(f"the cell never binds `{name}`", seen=f"it binds {bound}")
        if options.bg and not options.bg.isidentifier():
            raise UsageError("--bg takes a variable name", seen=repr(options.bg))

    def _tabulate(self, captured: capturing.Capture) -> Table:
        sizes = self._session.sizes(captured.values)
        refs = {name for name, value in captured.values.items() if isinstance(value, Ref)}
        rows = capturing.describe(captured, sizes, refs)
        return Table(
            ["name", "type", "size", "travels as"],
            [(row.name, row.type_name, human_size(row.size), row.travels) for row in rows],
            empty="The cell takes nothing along.",
        )

    def _submit(
        self, request: Request, captured: capturing.Capture, environment: Any
    ) -> Run | None:
        options = request.options
        task = CellTask(
            code=request.body,
            name=options.name,
            count=self._count(),
            line=self._lines_above(request.body),
            values=captured.values,
            binds=request.found.binds.difference(options.inputs or (), options.also or ()),
            returns=tuple(options.outputs or ()),
            keeps=tuple(options.refs or ()),
            timeout=options.timeout,
            retries=options.retries,
            cells=dict(self._shell.compile._filename_map),
            ranks=options.ranks or "",
        )
        background = options.bg is not None
        ask = None if background else self._asker()
        sink = NotebookSink(self._shell, self._count())
        if options.on:
            run = self._session.send(environment, task, sink=sink)
        else:
            run = self._session.submit(environment, task, sink=sink, ask=ask)
        try:
            returned = (*task.returns, *task.keeps)
            if background:
                self._note(request.found.binds, returned, environment.name, options.bg or run.id)
                run.on_done(lambda: _tell_failure(run, sink))
                return self._hand_over(run, options.bg)
            self._see_through(run, "" if options.on else environment.name)
            self._note(request.found.binds, returned, environment.name)
        except KeyboardInterrupt:
            run.cancel()  # nobody waits for it any more
            raise
        return None

    def _hand_over(self, run: Run, name: str) -> Run | None:
        """Give the user a run that goes on in the background."""
        if not name:
            return run
        self._shell.push({name: run})
        return None

    def _see_through(self, run: Run, environment: str) -> None:
        """Wait for a run in the foreground and bind what it returned.

        Parameters
        ----------
        run
            The run.
        environment
            Whose cluster it may have to wait for; empty for none.
        """
        try:
            if not environment:
                self._session.wait(run)
            elif not run.done:  # else it came from the cache, and nothing was started
                cluster = self._session.clusters[environment]
                progress = StartProgress(cluster, self._session.config.progress_after)
                try:
                    self._session.wait(run, progress.tick)
                finally:
                    progress.finish()
        finally:
            # Also what a cell has bound before it failed, as any cell does.
            self._shell.push(run.outputs)
            run.outputs = {}  # they are the notebook's now, to keep or to let go
            for each in run.payload:
                self._shell.payload_manager.write_payload(each, single=False)

    def _asker(self) -> Callable[[str, bool], str] | None:
        kernel = getattr(self._shell, "kernel", None)
        if kernel is None:
            return _ask_in_terminal
        if not kernel._allow_stdin:
            return None

        def ask(prompt: str, password: bool) -> str:
            answer: str = kernel.getpass(prompt) if password else kernel.raw_input(prompt)
            return answer

        return ask


def _tell_failure(run: Run, sink: NotebookSink) -> None:
    """Show the error of a run in the background, unless somebody waits for it and gets it."""
    error = run.exception()
    if run.state == "failed" and error is not None and not run.awaited:
        lines = getattr(error, "remote_traceback", None) or [f"{type(error).__name__}: {error}"]
        sink.stream("stderr", "\n".join([f"{run.id} failed:", *lines, ""]))


def _ask_in_terminal(prompt: str, password: bool) -> str:
    import getpass

    return getpass.getpass(prompt) if password else input(prompt)
