"""A run on a deployment, followed to its end: phases, what it prints, what it returns."""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flyte_jupyter.deployment.logs import RunLogs
from flyte_jupyter.deployment.travelling.displays import SHOWN
from flyte_jupyter.deployment.travelling.errors import MARK
from flyte_jupyter.deployment.values import unboxed
from flyte_jupyter.errors import DeploymentError, RemoteError, TaskTimeout, one_line


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Parameters
    ----------
    phase
        In Flyte's words.
    attempt
        Which attempt it is.
    name, url
        Of the run, and of its page in the console.
    seconds
        How long it has taken so far.
    """

    phase: str
    attempt: int
    name: str
    url: str
    seconds: float = 0.0


async def follow(
    run: Any, on_progress: Callable[[Progress], None], on_text: Callable[[str], None]
) -> Any:
    """Return a run's last `ActionDetails`, when it has ended and its log is read.

    Parameters
    ----------
    run
        A `flyte.remote.Run`.
    on_progress
        Called with each change.
    on_text
        Called with what the task prints, in whole lines.

    Raises
    ------
    DeploymentError
        It is not to be seen any more.
    """
    details, logs = None, RunLogs(run.action, on_text)
    try:
        async for details in run.action.watch():
            attempt = max(details.attempts, 1)
            phase, seconds = details.phase.value, details.runtime.total_seconds()
            on_progress(Progress(phase, attempt, run.name, run.url, seconds))
            if details.is_running or details.done() or details.logs_available():
                logs.read(attempt)
        if details is None or not details.done():
            raise DeploymentError(f"run {run.name} is out of sight", fix=f"See {run.url}")
        if details.phase.value != "aborted":  # else nobody waits for more
            await logs.finish()
    except DeploymentError:
        raise
    except Exception as error:
        raise DeploymentError(
            f"run {run.name} is out of sight",
            seen=one_line(error),
            fix=f"It goes on: {run.url}",
        ) from error
    finally:
        logs.close()
    return details


async def outputs_of(run: Any, types: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return what a run that has succeeded returned, and what it displayed.

    Parameters
    ----------
    run
        A `flyte.remote.Run`.
    types
        Types of its outputs by name.

    Raises
    ------
    DeploymentError
        They cannot be read from here.
    """
    if not types:
        return {}, []
    try:
        found = await run.typed_outputs.aio(dict(types))
    except Exception as error:
        raise DeploymentError(
            f"the outputs of {run.name} cannot be read from here",
            seen=one_line(error),
            fix="Give the SDK access to the deployment's store with flyte.init(storage=...).",
        ) from error
    values = {name: unboxed(found.get(name)) for name in types}
    shown = values.pop(SHOWN, None)
    return values, json.loads(shown) if shown else []


def failure(
    details: Any, name: str, namespace: Mapping[str, Any]
) -> tuple[BaseException, list[str]]:
    """Return the exception of a run that has not succeeded, and its traceback's lines.

    Parameters
    ----------
    details
        Its last `ActionDetails`.
    name
        What the run is called here.
    namespace
        The notebook's variables, where types of exceptions may be.
    """
    phase = details.phase.value
    if phase == "aborted":
        reason = details.abort_info.reason if details.abort_info else ""
        return DeploymentError(f"{name} was aborted on Flyte", seen=reason), []
    if phase == "timed_out":
        return TaskTimeout(f"{name} ran longer than it may"), []
    info = details.error_info
    code, message = (info.code, info.message) if info else ("", "")
    said, _, trace = message.partition(MARK)
    lines = trace.splitlines()
    kind = _exception(code, namespace)
    if kind is not None:
        with contextlib.suppress(Exception):  # one that is made of more than its text
            return kind(_unquoted(said) if issubclass(kind, KeyError) else said), lines
    return RemoteError(f"{code}: {said}" if code else said or f"{name} failed"), lines


def _unquoted(key: str) -> Any:
    """Return the key of a `KeyError`, whose text is its repr."""
    try:
        return ast.literal_eval(key)
    except (SyntaxError, ValueError):
        return key


def _exception(code: str, namespace: Mapping[str, Any]) -> Any:
    """Return the type of an exception by its name, if one can be made of its text alone."""
    if not code.isidentifier():
        return None
    kind = getattr(builtins, code, None) or namespace.get(code)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return None
    base: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    if (kind.__init__, kind.__new__) != (base.__init__, base.__new__):
        return None
    # Python takes these for the end of something, wherever they are raised.
    return None if issubclass(kind, StopIteration | StopAsyncIteration) else kind
