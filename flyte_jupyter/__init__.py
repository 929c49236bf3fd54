"""Run notebook cells as Flyte 2 tasks on clusters that live exactly as long as the kernel.

In a notebook, ``%load_ext flyte_jupyter`` adds ``%%flyte_task`` and ``%flyte``. In a script or a
test, `session` gives the same without magics.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flyte_jupyter.errors import (
    CaptureError,
    ClusterError,
    ClusterLost,
    ConnectorError,
    DriverLost,
    EngineError,
    EnvironmentNotFound,
    FlyteJupyterError,
    ImageError,
    JobFailed,
    RefLost,
    RemoteError,
    ServiceError,
    TaskTimeout,
    UsageError,
)
from flyte_jupyter.platforms import require_platform

if TYPE_CHECKING:
    from flyte_jupyter.config import FlyteJupyter
    from flyte_jupyter.sessions import CellTask, Ref, Run, Session, session

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "CellTask",
    "ClusterError",
    "ClusterLost",
    "ConnectorError",
    "DriverLost",
    "EngineError",
    "EnvironmentNotFound",
    "FlyteJupyter",
    "FlyteJupyterError",
    "ImageError",
    "JobFailed",
    "Ref",
    "RefLost",
    "RemoteError",
    "Run",
    "ServiceError",
    "Session",
    "TaskTimeout",
    "UsageError",
    "load_ipython_extension",
    "register_engine",
    "run",
    "session",
    "unload_ipython_extension",
    "with_runcontext",
]

_LAZY = {
    "CellTask": "flyte_jupyter.sessions",
    "FlyteJupyter": "flyte_jupyter.config",
    "Ref": "flyte_jupyter.sessions",
    "Run": "flyte_jupyter.sessions",
    "Session": "flyte_jupyter.sessions",
    "session": "flyte_jupyter.sessions",
}


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for, so that loading the extension is cheap."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_platform()
    return getattr(importlib.import_module(_LAZY[name]), name)


def run(task: Any, /, *args: Any, **kwargs: Any) -> Run:
    """Call a task function on its environment's cluster.

    Parameters
    ----------
    task
        A function decorated with ``@env.task``, or another Flyte task.
    *args, **kwargs
        Its arguments. They and its value cross as they are, whatever their type. With
        ``on="flyte"`` the call is sent to the Flyte deployment that the SDK is configured for
        (for a function that has an argument of that name: `with_runcontext`).

    Returns
    -------
    Run
        It is under way: ``await`` it or call ``.result()`` for its value. Who interrupts that wait
        interrupts the function.

    Raises
    ------
    FlyteJupyterError
        It is no task, cannot be called so, an argument cannot be sent, or its environment is gone.
    """
    from flyte_jupyter.sessions.notebook import call, takes

    on = kwargs.pop("on", "") if not takes(task, "on") else ""
    return call(task, args, kwargs, on=on)


class RunContext:
    """What `with_runcontext` gives: its `run` is the function `run`, in that context."""

    def __init__(self, custom_context: Mapping[str, str] | None = None, on: str = "") -> None:
        self._context, self._on = dict(custom_context or {}), on

    def run(self, task: Any, /, *args: Any, **kwargs: Any) -> Run:
        """Call a task function on its environment's cluster; `flyte_jupyter.run` says more."""
        from flyte_jupyter.sessions.notebook import call

        return call(task, args, kwargs, self._context, self._on)


def with_runcontext(custom_context: Mapping[str, str] | None = None, on: str = "") -> RunContext:
    """Call task functions in a context, as `flyte.with_runcontext` does.

    Parameters
    ----------
    custom_context
        What `flyte.get_custom_context` gives in the task and in the tasks that it calls.
    on
        ``flyte`` for the Flyte deployment that the SDK is configured for.
    """
    return RunContext(custom_context, on)


def register_engine(engine: Any) -> None:
    """Add an engine for this notebook; a package does it with an entry point.

    Parameters
    ----------
    engine
        An object with what `flyte_jupyter.engines.engine.Engine` asks for.
    """
    from flyte_jupyter.engines.registry import register

    register(engine)


def load_ipython_extension(shell: Any) -> None:
    """Add the magics; called by ``%load_ext flyte_jupyter``."""
    require_platform()
    from flyte_jupyter.magics.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Remove the magics and take everything down; called by ``%unload_ext flyte_jupyter``."""
    from flyte_jupyter.magics.extension import unload

    unload(shell)
