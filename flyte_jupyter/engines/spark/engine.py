"""The Spark engine: a standalone master and workers, with `spark` there in every cell."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from flyte_jupyter.engines.engine import ClusterSpec, Facts, Option, Role
from flyte_jupyter.engines.requirements import require, require_version
from flyte_jupyter.engines.spark import conf, java
from flyte_jupyter.errors import EngineError, UsageError

_DAEMONS = "flyte_jupyter.engines.spark.daemons"
_DRIVER = "flyte_jupyter.engines.spark.session"
_OLDEST = 4
_SUBMIT, _NOTHING = "PYSPARK_SUBMIT_ARGS", "pyspark-shell"
_OPTIONS = {
    "workers": "spark.executor.instances",
    "worker-cpu": "spark.executor.cores",
    "worker-memory": "spark.executor.memory",
}


class SparkEngine:
    """Describes Spark clusters; nothing here imports Spark."""

    name: ClassVar[str] = "spark"
    config_type: ClassVar[str] = "flyteplugins.spark.Spark"
    preload: ClassVar[tuple[str, ...]] = (_DAEMONS,)
    driver_preload: ClassVar[tuple[str, ...]] = ("flyteplugins.spark", _DRIVER)
    options: ClassVar[Mapping[str, Option]] = {
        "workers": Option("how many executors; 2 by default"),
        "worker-cpu": Option("tasks at a time of each; by default they share the machine"),
        "worker-memory": Option("heap of each, such as 2g"),
        "conf": Option("any setting, as spark.sql.shuffle.partitions=8", repeatable=True),
    }

    def describe(self, config: Any, resources: Any) -> ClusterSpec:
        """Say what the cluster of a `flyteplugins.spark.Spark` config consists of.

        One worker for each executor, of the executor's size. The driver's JVM is the driver's own
        and no role.
        """
        del resources
        _require_pyspark()
        shape = conf.read(config.spark_conf)
        settings = {**conf.honoured(config.spark_conf), **conf.hadoop(config.hadoop_conf)}
        folders = conf.local_folders(config.spark_conf)
        size = {"cores": shape.cores, "memory": shape.memory, "folders": folders}
        if not shape.dynamic:
            # The number of executors is that of the workers: another number is had by scaling.
            settings.pop("spark.executor.instances", None)
        return ClusterSpec(
            engine=self.name,
            roles=(
                Role(
                    "master",
                    f"{_DAEMONS}:run_master",
                    args={"ui": conf.has_pages(config.spark_conf)},
                    vital=True,
                ),
                Role(
                    "worker",
                    f"{_DAEMONS}:run_worker",
                    replicas=shape.executors,
                    args=size,
                    after=("master",),
                    scalable=True,
                    shares=("cores",) if shape.shared else (),
                    least=shape.least,
                    most=shape.most,
                    bounds=shape.bounds,
                ),
            ),
            preload=self.preload,
            driver_preload=self.driver_preload,
            prepare=f"{_DAEMONS}:prepare",
            connect=f"{_DRIVER}:connect",
            retire="flyte_jupyter.engines.spark.retiring:retire",
            driver_args={
                "conf": settings,
                "heap": conf.driver_heap(config.spark_conf),
                "driver_cores": conf.driver_cores(config.spark_conf),
                "python": config.executor_path or "",
                "folders": folders,
            },
        )

    def check(self, env: Mapping[str, str]) -> None:
        """See that there is a Java, by `JAVA_HOME` and `PATH` of the cluster's processes."""
        java.find_java({**os.environ, **env})

    def configure(self, options: Mapping[str, str]) -> Any:
        """Build a `Spark` config from ``--workers``, ``--worker-cpu``, ``--conf`` and the like."""
        _require_pyspark()
        unknown = set(options) - set(self.options)
        if unknown:
            raise UsageError(
                f"Spark has no option --{min(unknown)}",
                fix="It takes --workers, --worker-cpu, --worker-memory and --conf KEY=VALUE.",
            )
        for name in ("workers", "worker-cpu"):
            text = options.get(name, "1")
            if not (text.isascii() and text.isdecimal() and int(text) > 0):
                raise UsageError(f"--{name} takes a whole number of at least 1", seen=f"{text!r}")
        settings = {_OPTIONS[name]: value for name, value in options.items() if name in _OPTIONS}
        for line in options.get("conf", "").splitlines():
            key, separator, value = line.partition("=")
            if not separator or not key.startswith("spark."):
                raise UsageError(
                    "--conf takes KEY=VALUE",
                    seen=repr(line),
                    fix="Write --conf spark.sql.shuffle.partitions=8.",
                )
            settings[key] = value
        try:
            conf.read(settings)
        except EngineError as problem:
            raise UsageError(problem.what, seen=problem.seen, fix=problem.fix) from None
        from flyteplugins.spark import Spark

        return Spark(spark_conf=settings)

    def links(self, facts: Facts) -> dict[str, str]:
        """Return the pages of the session and of the master."""
        masters = [fact for fact in facts.get("master", ()) if fact.get("pages")]
        if not masters:
            return {}
        pages = masters[0]["pages"]
        jobs = {"Spark jobs": f"{pages}/ui/jobs/"} if masters[0]["ui"] else {}
        return {**jobs, "Spark master": f"{pages}/master/"}

    def ignored(self, config: Any) -> Mapping[str, str]:
        """Name what processes on this machine cannot have."""
        reasons = {
            f"spark_conf[{key!r}]": why for key, why in conf.ignored(config.spark_conf).items()
        }
        if config.applications_path:
            reasons["applications_path"] = "cells run in the driver, and no application's file"
        for field in ("driver_pod", "executor_pod"):
            if getattr(config, field) is not None:
                reasons[field] = "there are no pods on this machine"
        return reasons

    def remarks(self, config: Any) -> list[str]:
        """Say what executors were promised that is not there, and what is not read."""
        shape = conf.read(config.spark_conf)
        remarks = [said for said in (conf.cut(shape), conf.given(shape)) if said]
        if os.environ.get(_SUBMIT, _NOTHING).strip() != _NOTHING:
            remarks.append(f"{_SUBMIT} is not read: say in spark_conf what it says")
        return remarks


def _require_pyspark() -> None:
    require("Spark", "spark", "pyspark", "flyteplugins.spark")
    require_version("Spark", "pyspark", _OLDEST)
