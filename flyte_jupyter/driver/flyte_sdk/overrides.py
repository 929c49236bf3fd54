"""What a task says of itself that cannot hold, since it runs on its environment's cluster.

A task that has been pickled knows its environment no more, and could not be compared with it. So
what is overridden is noted where that is done. The SDK takes no retries for nothing given; that is
put right on the way.
"""

from __future__ import annotations

import functools
from typing import Any

from flyte import RetryStrategy
from flyte._task import TaskTemplate
from flyte.models import MAX_INLINE_IO_BYTES

_OF_A_CONTAINER = (
    *("resources", "env_vars", "secrets", "reusable"),
    *("pod_template", "service_account", "queue", "interruptible"),
)
_NOTED = (*_OF_A_CONTAINER, "plugin_config")


def note_overrides() -> None:
    """Have tasks of this process remember what is overridden; once in a process."""
    if not hasattr(TaskTemplate.override, "__wrapped__"):
        TaskTemplate.override = _noting(TaskTemplate.override)  # type: ignore[method-assign]


def _noting(override: Any) -> Any:
    @functools.wraps(override)
    def noting(self: Any, **given: Any) -> Any:
        made = override(self, **given)
        if given.get("retries") == 0:
            made.retries = RetryStrategy(count=0)
        noted = {field for field in _NOTED if given.get(field)}
        made._overridden = frozenset(noted | getattr(self, "_overridden", frozenset()))
        return made

    return noting


def not_honoured(task: Any) -> dict[str, str]:
    """Return what a task declares and cannot have, and why.

    Its environment's container is that of all its tasks, whatever one says itself.
    """
    fields = set(getattr(task, "_overridden", ()))
    environment = task.parent_env() if task.parent_env is not None else None
    if environment is not None:
        fields |= {
            field
            for field in _OF_A_CONTAINER
            if getattr(task, field, None)
            and getattr(task, field) != getattr(environment, field, None)
        }
    reasons = {field: "say it of its environment" for field in _NOTED if field in fields}
    if getattr(task, "triggers", None):
        reasons["triggers"] = "only a Flyte deployment starts tasks by itself"
    if getattr(task, "max_inline_io_bytes", MAX_INLINE_IO_BYTES) != MAX_INLINE_IO_BYTES:
        reasons["max_inline_io_bytes"] = "values cross whatever their size"
    return reasons
