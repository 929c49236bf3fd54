"""One external job: from `create` to its end, or to its deletion."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from flyte_jupyter.driver.connectors.keeper import Keeper, Pledge
from flyte_jupyter.driver.connectors.loop import seen_through
from flyte_jupyter.driver.connectors.view import JobView
from flyte_jupyter.driver.flyte_sdk.connector_tasks import secrets_of
from flyte_jupyter.errors import ConnectorError, JobFailed, ServiceError, one_line
from flyte_jupyter.secret_names import HIDDEN

_T = TypeVar("_T")

_FIRST, _GROWTH, _LONGEST = 0.05, 1.5, 3.0
"""Seconds between the first two looks at a job, by what each pause is longer, and the longest."""
_PATIENCE = 60.0
"""Seconds without an answer after which a job is given up: that a look fails says nothing of it."""
_LAUNCH, _DELETION = 5.0, 4.0
"""Seconds that a service has to say what became of a launch, and to delete a job, when nobody waits
for the job any more. Together they are less than the time after which a task that ignores an
interrupt costs its driver; then it is the keeper that deletes."""


class Job:
    """A job of one connector.

    Parameters
    ----------
    connector
        A `flyte.connectors.AsyncConnector`.
    name
        Of the task, for messages.
    template
        What the connector is told of the task.
    view
        Shows what it says.
    keeper
        Deletes the job if this process ends before it has.

    Raises
    ------
    ConnectorError
        A secret that it needs has no value.
    """

    def __init__(
        self, connector: Any, name: str, template: Any, view: JobView, keeper: Keeper
    ) -> None:
        self._connector, self._name, self._template = connector, name, template
        self._view, self._keeper = view, keeper
        self._secrets = self._values_of_secrets()
        self._meta: Any = None
        self._ended = False
        self._pledge: Pledge | None = None

    async def run(self, inputs: Mapping[str, Any], output_prefix: str) -> Any:
        """Launch it, and return what its connector said when it had succeeded.

        Whoever cancels this has it deleted, and waits for that.

        Parameters
        ----------
        inputs
            Values by name.
        output_prefix
            Where it may put files.

        Raises
        ------
        ServiceError
            It could not be launched or looked at, or may be tried again.
        JobFailed
            It failed, and another one would too.
        """
        pledge = await asyncio.to_thread(self._keeper.pledge, self._connector, self._secrets)
        self._pledge = pledge
        launching = asyncio.ensure_future(self._launch(pledge, inputs, output_prefix))
        try:
            await asyncio.shield(launching)
            return await self._watch()
        finally:
            # Stopped meanwhile: the service may have taken it, and then it has to be deleted.
            await seen_through(launching, _LAUNCH)
            if self._meta is None or self._ended or await self._delete():
                pledge.release()
                self._pledge = None

    def give_up(self) -> None:
        """Have its keeper delete the job, if there is one: its connector blocks.

        May be called from any thread.
        """
        if self._pledge is not None and self._meta is not None:
            self._pledge.redeem()
            sys.stderr.write(
                f"{self._name}: its connector does not answer; a process of its own deletes the "
                "job.\n"
            )

    async def _launch(self, pledge: Pledge, inputs: Mapping[str, Any], output_prefix: str) -> None:
        created = self._connector.create(
            task_template=self._template,
            output_prefix=output_prefix,
            inputs=dict(inputs),
            **self._secrets,
        )
        meta = await self._said("create", created)
        if meta is not None:
            pledge.keep(meta)
            self._meta = meta

    async def _watch(self) -> Any:
        from flyteidl2.core.execution_pb2 import TaskExecution

        pause, silent_since, answered = _FIRST, 0.0, time.monotonic()
        while True:
            try:
                resource = await self._said(
                    "get", self._connector.get(resource_meta=self._meta, **self._secrets)
                )
                phase = self._name_of(resource)
            except ServiceError as error:
                silent_since = silent_since or time.time()
                # By the clock that stands still while the machine sleeps.
                if time.monotonic() - answered >= _PATIENCE:
                    raise
                with contextlib.suppress(Exception):
                    self._view.show_silence(silent_since, str(error))
            else:
                silent_since, answered = 0.0, time.monotonic()
                with contextlib.suppress(Exception):  # what cannot be shown is no reason to end it
                    self._view.show(phase, resource, self._masked)
                final = (TaskExecution.FAILED, TaskExecution.ABORTED)
                again = TaskExecution.RETRYABLE_FAILED
                self._ended = resource.phase in (TaskExecution.SUCCEEDED, *final, again)
                if resource.phase == TaskExecution.SUCCEEDED:
                    return resource
                if self._ended:
                    kind = JobFailed if resource.phase in final else ServiceError
                    raise self._failed(kind, phase, resource)
            await asyncio.sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST)

    def _failed(self, kind: type[ConnectorError], phase: str, resource: Any) -> ConnectorError:
        message = self._masked(" ".join(str(resource.message or "").split()))
        return kind(f"the job of {self._name} ended as {phase}", seen=message)

    def _name_of(self, resource: Any) -> str:
        from flyteidl2.core.execution_pb2 import TaskExecution

        try:
            name: str = TaskExecution.Phase.Name(resource.phase)
        except (AttributeError, ValueError, TypeError) as error:
            raise ServiceError(
                f"{self._connector.name} makes no sense",
                seen=f"its `get` returned {self._masked(repr(resource)):.200}",
                fix="Return a Resource whose phase is one of TaskExecution's.",
            ) from error
        return name

    async def _delete(self) -> bool:
        """Delete the job, and tell whether that was done.

        What goes wrong with it must not hide why it had to be.
        """
        deleting = asyncio.ensure_future(
            self._said("delete", self._connector.delete(resource_meta=self._meta, **self._secrets))
        )
        await seen_through(deleting, _DELETION)
        done = deleting.done() and not deleting.cancelled() and deleting.exception() is None
        with contextlib.suppress(Exception):
            self._view.end("DELETED" if done else self._not_deleted(deleting))
        with contextlib.suppress(Exception):
            self._forget_connections()
        return done

    def _not_deleted(self, deleting: asyncio.Future[Any]) -> str:
        error = None if deleting.cancelled() else deleting.exception()
        return f"not deleted: {error or f'the service took more than {_DELETION:g} s'}"

    def _forget_connections(self) -> None:
        """Have nothing cached by the connector's module: `delete` may have closed what it used."""
        for kind in type(self._connector).__mro__:
            for value in vars(sys.modules.get(kind.__module__, object)).values():
                clear = getattr(value, "cache_clear", None)
                if callable(clear):
                    clear()

    async def _said(self, verb: str, answer: Awaitable[_T]) -> _T:
        """Return what a method of the connector returned; say in one line what it raised."""
        try:
            return await answer
        except Exception as error:
            what = self._masked(one_line(error))
            raise ServiceError(
                f"{verb!r} of {self._connector.name} failed",
                seen=f"{what}{_where(error, self._connector)}",
            ) from error

    def _masked(self, text: str) -> str:
        """Return a text without values of secrets."""
        for value in filter(None, self._secrets.values()):
            text = text.replace(value, HIDDEN)
        return text

    def _values_of_secrets(self) -> dict[str, str]:
        values = {}
        for name, variable in secrets_of(self._template).items():
            value = os.environ.get(variable or "")
            if value is None:
                raise ConnectorError(
                    f"{self._name} has no {name}",
                    seen=f"the environment variable {variable} is not set",
                    fix=f"Type %flyte secret {variable} and %flyte down, then run it again.",
                )
            values[name] = value
        return values


def _where(error: Exception, connector: Any) -> str:
    """Return where in the connector's own code that was."""
    with contextlib.suppress(Exception):
        file = type(connector).get.__code__.co_filename
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename == file:
                return f" (line {frame.lineno}: {frame.line})"
    return ""
