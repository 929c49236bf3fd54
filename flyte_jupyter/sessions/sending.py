"""Cells and calls of the notebook as a Flyte deployment gets them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from flyte_jupyter.deployment.travelling.displays import SHOWN
from flyte_jupyter.errors import UsageError
from flyte_jupyter.sessions import local_sources
from flyte_jupyter.sessions.refs import Ref
from flyte_jupyter.sessions.runs import CellTask

if TYPE_CHECKING:
    from flyte_jupyter.cells.local_modules import LocalModules
    from flyte_jupyter.deployment.tasks import Notebook, Sending


TARGETS = ("flyte",)
"""Where a cell or a function can be sent."""


class Reader(Protocol):
    """What is needed of the session to read a cell."""

    local_modules: LocalModules
    transform: Callable[[str], str]


class Sender:
    """Makes what is sent.

    Parameters
    ----------
    reader
        Reads cells, and knows local modules.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def cell(self, declared: Any, task: CellTask) -> Sending:
        """Return a cell as a task of an environment.

        Raises
        ------
        CaptureError
            An input cannot be pickled.
        UsageError
            It asks for what a deployment has not.
        """
        from flyte_jupyter.deployment.tasks import CellText, cell_task

        _check(task)
        cell = CellText(
            self._reader.transform(task.code),
            task.name,
            task.line,
            task.timeout,
            task.retries,
        )
        values = {name: _here(value) for name, value in task.values.items()}
        return cell_task(declared, cell, values, task.returns, self._notebook(task))

    def call(self, declared: Any, function: Any, task: CellTask) -> Sending:
        """Return a call of a task function, as `functions.as_run` describes it.

        Raises
        ------
        CaptureError
            An argument cannot be pickled.
        """
        from flyte_jupyter.deployment.tasks import function_task

        arguments = {name: _here(value) for name, value in (task.call or {}).items() if name}
        return function_task(declared, function, arguments, self._notebook(task))

    def _notebook(self, task: CellTask) -> Notebook:
        from flyte_jupyter.deployment.tasks import Notebook

        def modules(codes: Sequence[str], pickles: Sequence[bytes]) -> dict[str, bytes]:
            needed = {
                name
                for name in self._reader.local_modules.find()
                if any(_as_pickled(name) in pickle for pickle in pickles)
            }
            for code in codes:
                needed |= local_sources.imported_by(ast.parse(self._reader.transform(code)))
            return local_sources.files(needed)

        return Notebook(modules, tuple(task.cells))


def _as_pickled(name: str) -> bytes:
    """Return a name as a pickle has it, so that it is not found within another."""
    data = name.encode()
    return b"\x8c" + bytes([len(data)]) + data if len(data) < 256 else data


def _check(task: CellTask) -> None:
    if SHOWN in task.returns:
        raise UsageError(f"`{SHOWN}` cannot come back from Flyte", fix="Give it another name.")
    if task.keeps:
        raise UsageError(
            "nothing stays on a Flyte deployment after a run",
            seen=f"-r {', '.join(task.keeps)}",
            fix="Bring it back with -o.",
        )
    if task.ranks:
        raise UsageError("--ranks is for clusters here", fix="The run's page has what ranks print.")


def _here(value: Any) -> Any:
    return value.get() if isinstance(value, Ref) else value
