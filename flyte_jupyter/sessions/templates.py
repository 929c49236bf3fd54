"""What a Flyte backend, and a connector, would be told of a task."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from flyte_jupyter.driver.flyte_sdk.connector_tasks import template_of, with_typed_inputs
from flyte_jupyter.errors import ConnectorError, UsageError, one_line
from flyte_jupyter.secret_names import without_secrets

_NAMES_ONLY = frozenset({"secrets"})
"""Where names of variables stand, not what they hold."""


def described(task: Any) -> list[tuple[str, str]]:
    """Return the fields of a task's template, with what looks like a secret hidden.

    Raises
    ------
    UsageError
        It is no task.
    ConnectorError
        It cannot be described: something in it makes no sense.
    """
    from flyte.extend import TaskTemplate

    if not isinstance(task, TaskTemplate):
        raise UsageError("only a task has a template", seen=f"this is a {type(task).__name__}")
    try:
        template = template_of(with_typed_inputs(task), os.getcwd())  # noqa: PTH109 - as text
    except Exception as error:
        raise ConnectorError(
            f"{task.short_name} cannot be described", seen=one_line(error)
        ) from error
    return list(_rows(task, template))


def _rows(task: Any, template: Any) -> Iterator[tuple[str, str]]:
    from google.protobuf import json_format

    yield "type", f"{template.type}, version {template.task_type_version}"
    for side in ("inputs", "outputs"):
        declared = getattr(task.native_interface, side)
        kinds = {n: k[0] if isinstance(k, tuple) else k for n, k in declared.items()}
        yield side, ", ".join(f"{n}: {getattr(k, '__name__', k)}" for n, k in kinds.items()) or "-"
    if template.HasField("sql"):
        yield "sql", template.sql.statement
    if template.HasField("custom"):
        custom = without_secrets(json_format.MessageToDict(template.custom), spared=_NAMES_ONLY)
        yield "custom", json.dumps(custom, indent=1, sort_keys=True)
