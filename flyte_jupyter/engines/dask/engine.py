"""The Dask engine: a scheduler and workers, over TLS, with `Client()` connecting by itself."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from flyte_jupyter.engines.engine import ClusterSpec, Facts, Option, Role
from flyte_jupyter.engines.quantities import beyond_machine, cores, machine_cpus, memory_bytes
from flyte_jupyter.engines.requirements import require
from flyte_jupyter.errors import EngineError, UsageError

_PROCESSES = "flyte_jupyter.engines.dask.processes"


class DaskEngine:
    """Describes Dask clusters; nothing here imports Dask."""

    name: ClassVar[str] = "dask"
    config_type: ClassVar[str] = "flyteplugins.dask.Dask"
    preload: ClassVar[tuple[str, ...]] = (_PROCESSES,)
    driver_preload: ClassVar[tuple[str, ...]] = ("flyteplugins.dask",)
    options: ClassVar[Mapping[str, Option]] = {
        "workers": Option("how many workers; 1 by default"),
        "worker-cpu": Option("threads of each, such as 2; by default they share the machine"),
        "worker-memory": Option("memory of each, such as 4Gi"),
    }

    def describe(self, config: Any, resources: Any) -> ClusterSpec:
        """Say what the cluster of a `flyteplugins.dask.Dask` config consists of.

        The scheduler takes the resources of its own group; each worker those of the worker group,
        or an equal share of the machine.
        """
        del resources
        require("Dask", "dask", "distributed", "cryptography", "flyteplugins.dask")
        count = config.workers.number_of_workers
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise EngineError(
                "a Dask cluster needs at least one worker",
                seen=f"number_of_workers={count!r}",
                fix="Write Dask(workers=WorkerGroup(number_of_workers=4)).",
            )
        memory = memory_bytes(config.workers.resources)
        limits = {
            "threads": cores(config.workers.resources) or max(1, machine_cpus() // count),
            "memory": memory,
            # Only what matters: a description that differs in it cannot be had by scaling.
            "share": 1 if memory else count,
            "temporary": _temporary_folder(),
        }
        # A folder for what is spilled is no reason to start anew: the next cluster will use it.
        shares = ("share", "temporary")
        return ClusterSpec(
            engine=self.name,
            roles=(
                Role("scheduler", f"{_PROCESSES}:run_scheduler", vital=True),
                Role(
                    "worker",
                    f"{_PROCESSES}:run_worker",
                    replicas=count,
                    args=limits,
                    after=("scheduler",),
                    scalable=True,
                    shares=shares if cores(config.workers.resources) else (*shares, "threads"),
                ),
            ),
            preload=self.preload,
            driver_preload=self.driver_preload,
            prepare=f"{_PROCESSES}:prepare",
            connect=f"{_PROCESSES}:connect",
            retire=f"{_PROCESSES}:retire",
        )

    def configure(self, options: Mapping[str, str]) -> Any:
        """Build a `Dask` config from ``--workers``, ``--worker-cpu`` and ``--worker-memory``."""
        require("Dask", "dask", "distributed", "cryptography", "flyteplugins.dask")
        unknown = set(options) - set(self.options)
        if unknown:
            raise UsageError(
                f"Dask has no option --{min(unknown)}",
                fix="It takes --workers, --worker-cpu and --worker-memory.",
            )
        workers = options.get("workers", "1")
        if not workers.isdecimal() or int(workers) < 1:
            raise UsageError("--workers takes a whole number of at least 1", seen=f"{workers!r}")
        import flyte
        from flyteplugins.dask import Dask, WorkerGroup

        resources = None
        if "worker-cpu" in options or "worker-memory" in options:
            resources = flyte.Resources(
                cpu=options.get("worker-cpu"), memory=options.get("worker-memory")
            )
            cores(resources), memory_bytes(resources)
        return Dask(workers=WorkerGroup(number_of_workers=int(workers), resources=resources))

    def links(self, facts: Facts) -> dict[str, str]:
        """Return the scheduler's dashboard."""
        pages = [fact["dashboard"] for fact in facts.get("scheduler", ()) if fact.get("dashboard")]
        return {"Dask dashboard": pages[0]} if pages else {}

    def ignored(self, config: Any) -> Mapping[str, str]:
        """Name what a process on this machine cannot have."""
        reasons: dict[str, str] = {}
        for part in ("scheduler", "workers"):
            group = getattr(config, part)
            if group.image is not None:
                reasons[f"{part}.image"] = "processes run in the notebook's own Python"
            for field in ("gpu", "disk", "shm"):
                if getattr(group.resources, field, None) is not None:
                    reasons[f"{part}.resources.{field}"] = "a local process is not limited in it"
        if config.scheduler.resources is not None:
            reasons["scheduler.resources"] = "the scheduler is not limited on this machine"
        return reasons

    def remarks(self, config: Any) -> list[str]:
        """Say what the workers were promised that this machine does not have."""
        count, asked = config.workers.number_of_workers, config.workers.resources
        return [
            f"{what}; the workers share that"
            for what in beyond_machine(
                cpus=count * cores(asked), memory=count * memory_bytes(asked)
            )
        ]


def _temporary_folder() -> str:
    """Return the folder that `dask.config.set` has named in this process; empty if it has not.

    What Dask's files and variables say is not passed on: the workers read it themselves, and for
    them the environment's own variables count too.
    """
    config = sys.modules.get("dask.config")
    folder: str | None = config.get("temporary-directory", None) if config else None
    if not folder or folder == _configured(os.environ.get("DASK_TEMPORARY_DIRECTORY")):
        return ""
    return os.path.abspath(folder)  # noqa: PTH100 - as text


@functools.lru_cache(maxsize=1)
def _configured(variable: str | None) -> Any:
    """Return what files and variables say; read once, for this is asked before every cell."""
    del variable
    config = sys.modules["dask.config"]
    return config.get("temporary-directory", None, config=config.collect())
