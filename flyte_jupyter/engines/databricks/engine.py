"""The engine that says why a Databricks environment has no cluster of this machine.

Databricks fetches a task's code and its inputs from the storage of a Flyte deployment, which a
notebook alone has not got. A config of it is a Spark config, too, and must not be taken for one:
who asked for Databricks did not ask for Spark on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from flyte_jupyter.engines.engine import ClusterSpec, Facts
from flyte_jupyter.engines.requirements import require
from flyte_jupyter.errors import EngineError, UsageError

_INSTANCE = "FLYTE_DATABRICKS_INSTANCE"


class DatabricksEngine:
    """Checks Databricks configs; nothing here imports the plugin."""

    name: ClassVar[str] = "databricks"
    config_type: ClassVar[str] = "flyteplugins.databricks.Databricks"

    def describe(self, config: Any, resources: Any) -> ClusterSpec:
        """Check a `flyteplugins.databricks.Databricks` config, and refuse to run it here."""
        del resources
        require("Databricks", "databricks", "flyteplugins.databricks")
        _check(config)
        raise EngineError(
            "Databricks runs tasks from the storage of a Flyte deployment, not from here",
            seen="the config itself is complete",
            fix="Look at what it would get: %flyte connectors show TASK; or use Spark(...) here.",
        )

    def configure(self, options: Mapping[str, str]) -> NoReturn:
        """Refuse: what Databricks needs to know is no matter of a line."""
        raise UsageError(
            f"Databricks has no option --{min(options)}"
            if options
            else "a Databricks environment is declared in Python",
            fix="Write flyte.TaskEnvironment(name=..., plugin_config=Databricks(...)).",
        )

    def links(self, facts: Facts) -> dict[str, str]:
        """Return nothing: there is no cluster here."""
        del facts
        return {}

    def ignored(self, config: Any) -> Mapping[str, str]:
        """Return nothing: nothing of it runs here."""
        del config
        return {}


def _check(config: Any) -> None:
    job = config.databricks_conf
    if not isinstance(job, dict):
        raise EngineError("a Databricks config needs databricks_conf, a dictionary", seen=repr(job))
    if not (job.get("existing_cluster_id") or job.get("new_cluster")):
        raise EngineError(
            "a Databricks config names the cluster to run on",
            seen=f"databricks_conf has {', '.join(job) or 'nothing'}",
            fix="Give it existing_cluster_id or new_cluster.",
        )
    if not (config.databricks_instance or os.environ.get(_INSTANCE)):
        raise EngineError(
            "a Databricks config names the instance",
            fix=f"Set databricks_instance or the environment variable {_INSTANCE}.",
        )
    token = config.databricks_token
    if not token or token not in os.environ:
        raise EngineError(
            "Databricks has no credentials",
            seen=f"the environment variable {token} is not set" if token else "no databricks_token",
            fix="Set databricks_token to the name of a variable that holds the token.",
        )
