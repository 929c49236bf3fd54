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
from flyte_jupyter.sessions.sending import TARGETS
from flyte_jupyter.sessions.session import session


def call(
    task: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    context: Mapping[str, str] | None = None,
    on: str = "",
) -> Run:
    """Call a task function; `flyte_jupyter.run` says more."""
    if MARK in os.environ:
        raise UsageError(
            "this is a task already, and its driver starts no runs", fix="Call the task itself."
        )
    if on and on not in TARGETS:
        raise UsageError(f"nothing is called {on!r}", fix='Functions can be sent on="flyte".')
    shell = get_ipython()
    owner, about = session(), dict[str, Any](context=context)
    if shell is not None:
        loaded: Any = getattr(shell, "_flyte_jupyter", None)
        owner = loaded.session if loaded else owner
        about["cells"] = dict(getattr(shell.compile, "_filename_map", {}))
        about["sink"] = NotebookSink(shell)
    owner.reload_local_modules()
    return (owner.send_call if on else owner.run)(task, args, kwargs, **about)


def takes(task: Any, name: str) -> bool:
    """Tell whether a task has an argument of that name."""
    inputs = getattr(getattr(task, "interface", None), "inputs", None)
    return name in (inputs or {})
