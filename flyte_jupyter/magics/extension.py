"""Loading and unloading: what ``%load_ext flyte_jupyter`` adds to a notebook.

It must stay cheap: the session, Flyte and all that is heavy are imported with the first use of a
magic. A left-over of a killed session is looked for at once, since that costs one look at a folder.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class

from flyte_jupyter.backends.local.prewarming import ImportWatcher
from flyte_jupyter.config import FlyteJupyter
from flyte_jupyter.errors import UsageError
from flyte_jupyter.magics.arguments import HelpShown
from flyte_jupyter.magics.imports import ACTIONS, AfterImport

_COMPLETED = tuple(rf"\s*{word}\b.*" for word in ("%flyte", "%%flyte_task"))
"""Lines that are completed; as keys of IPython's completers they are this package's alone."""


@magics_class
class FlyteMagics(Magics):
    """The two magics of one notebook."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.config_object = FlyteJupyter(parent=shell)
        self._session: Any = None
        self._hints: Any = None
        self.watcher = ImportWatcher()
        self.after_import = AfterImport(ACTIONS)

    @property
    def session(self) -> Any:
        """The notebook's session, made with the first use."""
        if self._session is None:
            from flyte_jupyter.sessions import Session, set_session
            from flyte_jupyter.widgets.preparing import preparing

            config = self.config_object
            self._session = Session(config, self.shell.user_ns, _report)
            self._session.show_preparing_with(lambda env: preparing(env, config.progress_after))
            self._session.read_cells_with(self.shell.transform_cell)
            set_session(self._session)
        return self._session

    @line_cell_magic
    def flyte_task(self, line: str, cell: str | None = None) -> Any:
        """Run this cell as a Flyte task: %%flyte_task ENV [-i NAMES] [-o NAMES] [-r NAMES]."""
        from flyte_jupyter.magics.task_magic import PARSER, TaskMagic

        try:
            if cell is None:
                PARSER.parse_line(line)
                raise UsageError("%%flyte_task runs the cell below it", fix="Type two %% signs.")
            return TaskMagic(self.shell, self.session, self.note).run(line, cell)
        except HelpShown:
            return None

    @line_magic
    def flyte(self, line: str) -> Any:
        """Manage environments and clusters: %flyte VERB, see %flyte --help."""
        from flyte_jupyter.magics.flyte_magic import run

        try:
            return run(self.session, line)
        except HelpShown:
            return None

    def note(self, binds: Any, returned: Any, environment: str, run: str = "") -> None:
        """Remember what a task cell bound and kept to itself, or what its run will return."""
        if self._hints is None:
            from flyte_jupyter.cells.hints import Hints

            self._hints = Hints()
        self._hints.note(binds, returned, environment)
        if run:
            self._hints.note_coming(returned, run)

    def after_cell(self, result: Any) -> None:
        """Hint where a name is that a plain cell missed; called by IPython after each cell."""
        if self._session is not None:
            self._session.local_modules.observe()
        if self._hints is None:
            return
        self._hints.forget(self.shell.user_ns)
        missed = _missed(getattr(result, "error_in_exec", None))
        if missed and (hint := self._hints.hint(missed)):
            _report(hint)

    def complete(self, shell: Any, event: Any) -> list[str]:
        """Complete a line of one of the magics."""
        from flyte_jupyter.magics.completion import completions

        del shell
        return completions(self.session, event.line, event.symbol)

    def close(self) -> None:
        """Take down what the notebook has started."""
        if self._session is not None:
            from flyte_jupyter.sessions import set_session

            self._session.close()
            set_session(None)
            self._session = None


def _missed(error: BaseException | None) -> str:
    """Return the name that is not defined; that of a task's error has only its message."""
    if not isinstance(error, NameError):
        return ""
    found = re.match("name '(.+?)' is not defined", str(error))
    return error.name or (found.group(1) if found else "")


def _report(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def load(shell: Any) -> None:
    """Add the magics to a shell."""
    from flyte_jupyter.backends.local.processes import MARK

    if MARK in os.environ:
        return  # a driver has magics of its own that refuse
    if hasattr(shell, "_flyte_jupyter"):
        return  # it is loaded, and what it has started is not to be lost
    magics = FlyteMagics(shell)
    shell.register_magics(magics)
    magics.after_import.install()
    if magics.config_object.prewarm and magics.config_object.start_method != "spawn":
        magics.watcher.install()
    shell._flyte_jupyter = magics
    shell.configurables.append(magics.config_object)
    shell.events.register("post_run_cell", magics.after_cell)
    for line in _COMPLETED:
        shell.set_hook("complete_command", magics.complete, re_key=line)
    _sweep()


def _sweep() -> None:
    from flyte_jupyter.backends.local.sweep import sweep

    try:
        line = sweep()
    except OSError:
        return  # no private folder can be made; the first cluster will say so
    if line:
        _report(line)


def unload(shell: Any) -> None:
    """Remove the magics, and take down what they started."""
    magics = getattr(shell, "_flyte_jupyter", None)
    if magics is None:
        return
    magics.watcher.remove()
    magics.after_import.remove()
    magics.close()
    shell.events.unregister("post_run_cell", magics.after_cell)
    for kind, name in (("line", "flyte"), ("line", "flyte_task"), ("cell", "flyte_task")):
        shell.magics_manager.magics[kind].pop(name, None)
    shell.magics_manager.registry.pop(FlyteMagics.__name__, None)
    for line in _COMPLETED:
        # IPython has no word for it: hooks are kept by their compiled pattern.
        shell.strdispatchers["complete_command"].regexs.pop(re.compile(line), None)
    for configurable in (magics.config_object, magics):  # IPython adds magics by itself
        if configurable in shell.configurables:
            shell.configurables.remove(configurable)
    del shell._flyte_jupyter
