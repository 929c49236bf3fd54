"""A run on a deployment, followed to its end: phases, what it prints, what it returns."""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flyte_jupyter.deployment.quiet import quietly
from flyte_jupyter.deployment.travelling.displays import SHOWN
from flyte_jupyter.deployment.values import unboxed
from flyte_jupyter.errors import DeploymentError, RemoteError, TaskTimeout, one_line

_LAST_LINE = "Flyte runtime completed"
_QUIET = 2.0
"""Seconds without a line after which the log of a run that has ended is taken for whole."""
_PATIENCE = 10.0
"""Seconds after its end that lines of a run are waited for."""


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
    """

    phase: str
    attempt: int
    name: str
    url: str


class Follower:
    """Follows one run.

    Parameters
    ----------
    run
        A `flyte.remote.Run`.
    on_progress
        Called with each change.
    on_line
        Called with each line that the task prints.
    """

    def __init__(
        self, run: Any, on_progress: Callable[[Progress], None], on_line: Callable[[str], None]
    ) -> None:
        self._run, self._on_progress, self._on_line = run, on_progress, on_line
        self._logs: dict[int, asyncio.Task[None]] = {}
        self._heard = asyncio.Event()

    async def follow(self) -> Any:
        """Return the run's last `ActionDetails`, when it has ended and its log is read.

        Raises
        ------
        DeploymentError
            It is not to be seen any more.
        """
        details = None
        try:
            async for details in self._run.action.watch():
                attempt = max(details.attempts, 1)
                progress = Progress(details.phase.value, attempt, self._run.name, self._run.url)
                self._on_progress(progress)
                if details.is_running or details.done() or details.logs_available():
                    self._read_log(attempt)
            if details is None or not details.done():
                raise DeploymentError(f"run {self._run.name} is out of sight", seen=self._run.url)
            if details.phase.value != "aborted":  # else nobody waits for more
                await self._rest_of_logs()
        except DeploymentError:
            raise
        except Exception as error:
            raise DeploymentError(
                f"run {self._run.name} is out of sight",
                seen=one_line(error),
                fix=f"It goes on: {self._run.url}",
            ) from error
        finally:
            for log in self._logs.values():
                log.cancel()
        return details

    def _read_log(self, attempt: int) -> None:
        if attempt not in self._logs:
            self._logs[attempt] = asyncio.ensure_future(self._log(attempt))

    async def _log(self, attempt: int) -> None:
        loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        async def read() -> None:
            # Without a log the run is still a run; its page has what there is.
            with contextlib.suppress(Exception):
                async for line in self._run.action.get_logs.aio(attempt=attempt):
                    loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

        reading = asyncio.ensure_future(quietly(read))
        try:
            while (line := await lines.get()) is not None:
                self._heard.set()
                # The SDK puts a space in the place of a time that was not asked for.
                text = line.removeprefix(" ")
                record = _record(text)
                if record is None:
                    self._on_line(text)
                elif record.get("message", "").startswith(_LAST_LINE):
                    return
        finally:
            reading.cancel()

    async def _rest_of_logs(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        while loop.time() < end:
            waiting = [log for log in self._logs.values() if not log.done()]
            if not waiting:
                return
            self._heard.clear()
            heard = asyncio.ensure_future(self._heard.wait())
            done, _ = await asyncio.wait(
                [*waiting, heard], timeout=_QUIET, return_when=asyncio.FIRST_COMPLETED
            )
            heard.cancel()
            if not done:
                return


def _record(line: str) -> dict[str, Any] | None:
    """Return a line as a record of the SDK's own log; None if it is what the task prints."""
    if "[flyte]" in line[:80]:
        return {}
    if line.startswith("{"):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("is_flyte_internal"):
                return found
    return None


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
    said, _, trace = message.partition("\n\nTraceback (most recent call last):\n")
    lines = ["Traceback (most recent call last):", *trace.splitlines()] if trace else []
    kind = _exception(code, namespace)
    if kind is not None:
        return kind(_unquoted(said) if kind is KeyError else said), lines
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
    plain = (Exception.__init__, Exception.__new__)
    if kind.__module__ != "builtins" and (kind.__init__, kind.__new__) != plain:
        return None
    if issubclass(kind, UnicodeError):
        return None  # it wants more than a text
    return kind
