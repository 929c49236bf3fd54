"""Running one task under a task context.

A cell runs as a Flyte task: under a task context, through the task template of its environment's
plugin, with the plugin's own `pre` and `post`. The SDK offers no public way to do that with native
values on the caller's own thread, so three private names are used here, and contract tests fail
loudly when a new SDK changes one of them:

- `flyte._context.internal_ctx().replace_task_context`
- `flyte._internal.controllers.create_controller`, and `_ControllerState`, which holds the one
- `flyte.syncify.syncify._bg_loop`, a thread that would not survive the fork of a driver
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import flyte
import flyte.syncify
from flyte._context import internal_ctx
from flyte._internal.controllers import _ControllerState, create_controller
from flyte.extend import AsyncFunctionTaskTemplate, TaskPluginRegistry
from flyte.models import ActionID, CheckpointPaths, NativeInterface, RawDataPath, TaskContext

from flyte_jupyter.driver.flyte_sdk.reports import LiveReport


@dataclass(frozen=True)
class Calling:
    """What a task is called with.

    Parameters
    ----------
    args, kwargs
        Its arguments.
    context
        What `flyte.get_custom_context` gives there, and in what it calls.
    """

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)


def _stop_background_loop() -> None:
    flyte.syncify.syncify._bg_loop.stop()  # type: ignore[no-untyped-call]


def _restart_background_loop() -> None:
    background = flyte.syncify.syncify._bg_loop
    if not background.thread.is_alive():
        background.__init__(background.thread.name)  # type: ignore[misc]


def survive_fork() -> None:
    """Prepare for this process to be forked: stop the SDK's thread, restart it in each child."""
    _stop_background_loop()
    os.register_at_fork(after_in_child=_restart_background_loop)


def preload() -> None:
    """Import what `run_task` imports when it is first called."""
    import flyte._internal.controllers._local_controller  # noqa: F401


def current_run() -> str:
    """Return the name of the run in whose context this is called; empty if there is none."""
    context = current_task_context()
    return (context.action.name or "") if context else ""


def current_task_context() -> Any:
    """Return the task context in which this is called; None if there is none."""
    return internal_ctx().data.task_context


def links_of(task: Any) -> list[tuple[str, str]]:
    """Return the links that the present task declares: a name and an address each."""
    found, context = [], current_task_context()
    for link in task.links:
        with contextlib.suppress(Exception):  # it is decoration, by anybody's code
            uri = link.get_link(
                run_name=context.action.run_name,
                project="",
                domain="",
                context=context.custom_context,
                parent_action_name=context.action.name,
                action_name=context.action.name,
                pod_name="",
            )
            address = urlsplit(uri)
            # Of a link that does not know where to lead only the host is left.
            if address.scheme in ("http", "https") and address.path.strip("/"):
                found.append((link.name, uri))
    return found


def use_controller(controller: Any) -> None:
    """Have nested tasks submitted to a controller."""
    _ControllerState.controller = controller


def build_task(
    name: str, config: object | None, body: Callable[..., Awaitable[Any]]
) -> AsyncFunctionTaskTemplate[Any, Any, Any]:
    """Make the task of which a cell is the body.

    Parameters
    ----------
    name
        Qualified name of the task: the environment's, a dot, the cell's.
    config
        The environment's plugin config; it decides the class of the template.
    body
        Runs the cell.
    """
    kind: Any = AsyncFunctionTaskTemplate
    if config is not None:
        kind = TaskPluginRegistry.find(type(config)) or AsyncFunctionTaskTemplate
    interface = NativeInterface(inputs={}, outputs={})
    return kind(name=name, func=body, interface=interface, plugin_config=config, image=None)  # type: ignore[no-any-return]


def with_body(task: Any, body: Callable[..., Awaitable[Any]], *, plain: bool) -> Any:
    """Return a user's task with another body: all else, its plugin's template too, is its own.

    Parameters
    ----------
    task
        The user's. One that is no function has a way of its own to execute: `body` has to call it.
    body
        What to do instead; it gets the arguments.
    plain
        Whether no plugin is to have a part in it.
    """
    if plain or not isinstance(task, AsyncFunctionTaskTemplate):
        return build_task(task.name, None, body)
    made = copy.copy(task)
    vars(made).pop("execute", None)  # what a decorator has put there is the body's to run
    made.func = body
    return made


async def run_task(
    task: AsyncFunctionTaskTemplate[Any, Any, Any],
    run: str,
    folder: Path,
    call: Calling | None = None,
) -> None:
    """Execute a task on the calling thread, under a task context of its own.

    Parameters
    ----------
    task
        What to execute.
    run
        Name of the run; it becomes that of the Flyte action.
    folder
        Where files of the run go; it is made when the first one is written.
    call
        What the task is called with.
    """
    call = call or Calling()
    if _ControllerState.controller is None:
        create_controller("local")  # nested tasks are submitted to it
    base = folder / run
    with contextlib.suppress(FileNotFoundError):  # that of an attempt before this one
        (base / "checkpoint").replace(base / "checkpoint-before")
    report = LiveReport(task.name, run, base / "out")
    context = TaskContext(
        # What is made of it outside, such as a run of an experiment tracker, is to be told from
        # that of another session.
        action=ActionID(name=run, run_name=f"{run}-{folder.parent.name[-8:]}"),
        version="na",
        raw_data_path=RawDataPath(path=str(base / "raw")),
        output_path=str(base / "out"),
        run_base_dir=str(base),
        report=report,
        checkpoint_paths=CheckpointPaths(
            prev_checkpoint_path=str(base / "checkpoint-before"),
            checkpoint_path=str(base / "checkpoint"),
        ),
        mode="local",
        custom_context=dict(call.context),
    )
    with internal_ctx().replace_task_context(context):
        try:
            await task.execute(*call.args, **call.kwargs)
        finally:
            report.show()
