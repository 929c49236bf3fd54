"""Carrying out a task whose work an external service does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from flyte_jupyter.driver.connectors import outputs
from flyte_jupyter.driver.connectors.job import Job
from flyte_jupyter.driver.connectors.keeper import keeper
from flyte_jupyter.driver.connectors.loop import run_beside
from flyte_jupyter.driver.connectors.view import JobView
from flyte_jupyter.driver.flyte_sdk.connector_tasks import (
    connector_for,
    inputs_of,
    template_of,
    with_typed_inputs,
)
from flyte_jupyter.driver.flyte_sdk.context import current_task_context
from flyte_jupyter.errors import ConnectorError, one_line


async def run(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], connector: Any = None
) -> Any:
    """Run a connector's task, and return its value.

    Parameters
    ----------
    task
        A Flyte task of a kind that connectors carry out.
    args, kwargs
        What it is called with.
    connector
        Its connector, where the caller knows it.

    Raises
    ------
    ConnectorError
        There is no connector for it, or the job cannot be had.
    JobFailed
        The job failed.
    """
    with_typed_inputs(task)
    connector = connector or connector_for(task)
    if connector is None:
        raise ConnectorError(
            f"no connector is known for tasks of type {task.task_type!r}",
            fix="Define a class of AsyncConnector with that task_type_name, or import its plugin.",
        )
    context = current_task_context()
    try:
        template = template_of(task, os.getcwd(), context)  # noqa: PTH109 - as text
    except Exception as error:
        raise ConnectorError(
            f"{task.short_name} cannot be described to its connector", seen=one_line(error)
        ) from error
    view = JobView(task.short_name, context.action.name)
    job = Job(connector, task.short_name, template, view, keeper)
    inputs = inputs_of(task, args, kwargs)
    resource = await run_beside(job.run(inputs, context.raw_data_path.path), job.give_up)
    try:
        return await outputs.native(task, resource.outputs)
    except ConnectorError:
        raise
    except Exception as error:
        raise ConnectorError(
            f"outputs of {task.short_name} cannot be read", seen=one_line(error)
        ) from error
