"""Task functions called from code of the notebook, whose output goes to the cell that calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.core.getipython import get_ipython

from flyte_jupyter.backends.local.processes import MARK
from flyte_jupyter.driver.relay import NotebookSink
from flyte_jupyter.errors import UsageError
from flyte_jupyter.sessions.runs import Run
from flyte_jupyter.sessions.session import Session, session


def call(
    task: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    context: Mapping[str, str] | None = None,
) -> Run:
    """Call a task function; `flyte_jupyter.run` says more."""
    if MARK in os.environ:
        raise UsageError(
            "this is a task already, and its driver starts no runs", fix="Call the task itself."
        )
    shell = get_ipython()
    if shell is None:
        return session().run(task, args, kwargs, context=context)
    loaded: Any = getattr(shell, "_flyte_jupyter", None)
    owner: Session = loaded.session if loaded else session()
    cells = dict(getattr(shell.compile, "_filename_map", {}))
    return owner.run(task, args, kwargs, sink=NotebookSink(shell), cells=cells, context=context)
