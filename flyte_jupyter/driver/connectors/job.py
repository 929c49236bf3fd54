"""One external job: from `create` to its end, or to its deletion."""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from flyte_jupyter.driver.connectors.keeper import Keeper
from flyte_jupyter.driver.connectors.view import JobView
from flyte_jupyter.driver.flyte_sdk.connector_tasks import secrets_of
from flyte_jupyter.errors import ConnectorError, JobFailed, one_line

_T = TypeVar("_T")

_FIRST, _GROWTH, _LONGEST = 0.05, 1.5, 3.0
"""Seconds between the first two looks at a job, by what each pause is longer, and the longest."""
_FAILURES = 3
"""How often in a row a look may fail before the job is given up."""
_DELETION = 10.0
"""Seconds that a service has to delete a job before it is left to it."""


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
    """

    def __init__(
        self, connector: Any, name: str, template: Any, view: JobView, keeper: Keeper
    ) -> None:
        self._connector, self._name, self._template = connector, name, template
        self._view, self._keeper = view, keeper
        self._secrets = self._values_of_secrets()

    async def run(self, inputs: Mapping[str, Any], output_prefix: str) -> Any:
        """Launch it, and return what its connector said when it had succeeded.

        Whoever cancels this has it deleted.

        Parameters
        ----------
        inputs
            Values by name.
        output_prefix
            Where it may put files.

        Raises
        ------
        ConnectorError
            It could not be launched, looked at, or understood.
        JobFailed
            It failed, and another one would too.
        """
        self._keeper.start()  # before there is anything that could be left behind
        created = self._connector.create(
            task_template=self._template,
            output_prefix=output_prefix,
            inputs=dict(inputs),
            **self._secrets,
        )
        meta = await self._said("create", created)
        kept = self._keeper.keep(self._connector, meta, self._secrets)
        try:
            return await self._watch(meta)
        except BaseException as reason:
            if not isinstance(reason, JobFailed):
                await self._delete(meta)
            raise
        finally:
            kept.release()

    async def _watch(self, meta: Any) -> Any:
        from flyteidl2.core.execution_pb2 import TaskExecution

        pause, failures = _FIRST, 0
        while True:
            try:
                resource = await self._said(
                    "get", self._connector.get(resource_meta=meta, **self._secrets)
                )
                phase = self._name_of(resource)
            except ConnectorError:
                failures += 1
                if failures == _FAILURES:
                    raise
            else:
                failures = 0
                self._view.show(phase, resource)
                if resource.phase == TaskExecution.SUCCEEDED:
                    return resource
                if resource.phase in (TaskExecution.FAILED, TaskExecution.ABORTED):
                    raise JobFailed(*self._failed(phase), seen=str(resource.message or ""))
                if resource.phase == TaskExecution.RETRYABLE_FAILED:
                    raise ConnectorError(*self._failed(phase), seen=str(resource.message or ""))
            await asyncio.sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST)

    def _failed(self, phase: str) -> tuple[str]:
        return (f"the job of {self._name} ended as {phase}",)

    def _name_of(self, resource: Any) -> str:
        from flyteidl2.core.execution_pb2 import TaskExecution

        try:
            name: str = TaskExecution.Phase.Name(resource.phase)
        except (AttributeError, ValueError, TypeError) as error:
            raise ConnectorError(
                f"{self._connector.name} makes no sense",
                seen=f"its `get` returned {resource!r:.200}",
                fix="Return a Resource whose phase is one of TaskExecution's.",
            ) from error
        return name

    async def _delete(self, meta: Any) -> None:
        """Delete the job; what goes wrong with that must not hide why it had to be."""
        deleting = asyncio.ensure_future(
            self._connector.delete(resource_meta=meta, **self._secrets)
        )
        try:
            async with asyncio.timeout(_DELETION):
                await asyncio.shield(deleting)
            self._view.end("DELETED")
        except Exception as error:  # noqa: BLE001 - it is the service's, or the user's code
            self._view.end(f"not deleted ({one_line(error)})")
        finally:
            deleting.cancel()

    async def _said(self, verb: str, answer: Awaitable[_T]) -> _T:
        """Return what a method of the connector returned; say in one line what it raised."""
        try:
            return await answer
        except ConnectorError:
            raise
        except Exception as error:
            raise ConnectorError(
                f"{verb!r} of {self._connector.name} failed",
                seen=f"{one_line(error)}{_where(error, self._connector)}",
            ) from error

    def _values_of_secrets(self) -> dict[str, str]:
        values = {}
        for name, variable in secrets_of(self._template).items():
            value = os.environ.get(variable or "")
            if value is None:
                raise ConnectorError(
                    f"{self._name} has no {name}",
                    seen=f"the environment variable {variable} is not set",
                    fix=f"Set os.environ[{variable!r}] before its cluster starts.",
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
