"""A task's work in the process that does it: a cell to run, or a function to call.

Both happen as a Flyte task: through the template of the environment's plugin, with its own `pre`
and `post`, under a task context.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyte_jupyter.driver import shell
from flyte_jupyter.driver.flyte_sdk import context as flyte_context
from flyte_jupyter.driver.flyte_sdk.connector_tasks import learn, let_register_again
from flyte_jupyter.driver.functions import RESULT, Call, Inside
from flyte_jupyter.driver.links import show_links
from flyte_jupyter.driver.present import running
from flyte_jupyter.driver.replies import Ending, meant
from flyte_jupyter.driver.shell import DriverShell
from flyte_jupyter.driver.wire import TaskRequest


class _Failed(Exception):
    """The function raised; what it raised is known."""


@dataclass(frozen=True)
class Work:
    """What a request asks for.

    Parameters
    ----------
    request
        The notebook's.
    declaration
        The environment's name and plugin config; without a config, no plugin has a part in it.
    inputs
        What came with the request.
    folder
        Where files of runs go.
    """

    request: TaskRequest
    declaration: Mapping[str, Any]
    inputs: Mapping[str, Any]
    folder: Path


async def perform(
    ipython: DriverShell,
    work: Work,
    namespace: dict[str, Any],
    inside: Inside = contextlib.nullcontext,
) -> Ending:
    """Do work on this thread.

    Parameters
    ----------
    ipython
        The shell to do it in.
    work
        What to do.
    namespace
        The shell's. A function's value becomes `functions.RESULT` there.
    inside
        Makes a context that is entered while a function of the user's runs.
    """
    with running(work.request["run"]) as run:
        ending = await _perform(ipython, work, namespace, inside)
        run.error = ending.error
        return ending


async def _perform(
    ipython: DriverShell, work: Work, namespace: dict[str, Any], inside: Inside
) -> Ending:
    request, inputs = work.request, work.inputs
    _learn_connectors(work.declaration["connectors"])
    outcome: list[Ending] = []
    calling = flyte_context.Calling()
    if request["call"]:
        connector = inputs.get("connector")
        call = Call(inputs["task"], inputs["args"], inputs["kwargs"], connector)
        calling = flyte_context.Calling(call.args, call.kwargs, inputs.get("context") or {})

        async def called(*args: Any, **kwargs: Any) -> Any:
            del args, kwargs
            if call.task.links:
                show_links(call.task)
            outcome.append(await call.perform(ipython, namespace, inside))
            if outcome[0].error is not None:
                raise _Failed
            return namespace[RESULT]

        plain = work.declaration["config"] is None
        task = flyte_context.with_body(call.task, called, plain=plain)
    else:
        cell = shell.Cell(request["code"], request["count"], request["line"], inputs)

        async def ran() -> None:
            error = await shell.run_cell(ipython, cell)
            outcome.append(Ending(error, ipython.remote_traceback))

        declared = work.declaration
        task = flyte_context.build_task(declared["name"], declared["config"], ran)
    with contextlib.suppress(_Failed):
        await flyte_context.run_task(task, request["run"], work.folder, calling)
    return outcome[0] if outcome else Ending()


_known_connectors = b""


def _learn_connectors(connectors: bytes) -> None:
    """Know the connectors of the notebook as they are now."""
    global _known_connectors  # noqa: PLW0603
    if connectors and connectors != _known_connectors:
        learn(pickle.loads(connectors))
        let_register_again()
        _known_connectors = connectors


async def perform_on_main(ipython: DriverShell, work: Work, namespace: dict[str, Any]) -> Ending:
    """Do work on the main thread, where an interrupt ends it."""
    interruptible = shell.Interruptible(shell.code_of_cells(ipython))
    try:
        ending: Ending = await interruptible.run(perform(ipython, work, namespace))
    except KeyboardInterrupt as interrupt:
        return Ending(interrupt)
    if ending.error is None:
        return ending
    return Ending(meant(ending.error, interruptible.interrupted), ending.traceback)
