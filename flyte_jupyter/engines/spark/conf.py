"""Reading a `spark_conf`: how many executors of what size, and what holds on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from flyte_jupyter.engines.quantities import machine_cpus
from flyte_jupyter.errors import EngineError

EXECUTORS = 2
"""As many as Spark starts on Kubernetes when nothing is said."""

_DYNAMIC = "spark.dynamicAllocation"
_MIB = 2**20
_UNITS = {"b": 1, "k": 2**10, "m": _MIB, "g": 2**30, "t": 2**40, "p": 2**50}
_OVERHEAD = 384
"""MiB that an executor takes beside its heap, at least; a tenth of the heap if that is more."""

_FREE_PORTS = "ports are free ones, so that clusters can stand side by side"
_HERE: dict[str, str] = {
    "spark.master": "the master is the cluster's own",
    "spark.submit.deployMode": "the driver is the process that runs the cells",
    "spark.driver.host": "everything listens on this machine alone",
    "spark.driver.bindAddress": "everything listens on this machine alone",
    "spark.driver.port": _FREE_PORTS,
    "spark.blockManager.port": _FREE_PORTS,
    "spark.driver.blockManager.port": _FREE_PORTS,
    "spark.ui.port": _FREE_PORTS,
    "spark.ui.filters": "the pages answer only below a path that cannot be guessed",
    "spark.ui.reverseProxy": "the pages answer only below a path that cannot be guessed",
    "spark.authenticate": "connections are always authenticated",
    "spark.authenticate.secret": "the secret is made for the cluster",
    "spark.network.crypto.enabled": "connections are always encrypted",
    "spark.decommission.enabled": "workers that are scaled away always finish their tasks",
    "spark.cores.max": "the number of executors is spark.executor.instances, as on Kubernetes",
    "spark.ui.showConsoleProgress": "progress is shown in the notebook",
}  # fmt: skip
_ANYWAY = {
    "spark.shuffle.service.enabled": ("false", "shuffles are tracked instead, as on Kubernetes"),
    "spark.dynamicAllocation.shuffleTracking.enabled": ("true", "there is no shuffle service"),
}
"""Settings of which one value holds anyhow, and why another does not."""
_OTHERS = {
    "spark.kubernetes.": "there is no Kubernetes on this machine",
    "spark.yarn.": "there is no YARN on this machine",
    "spark.executor.resource.": "workers offer cores and memory alone",
    "spark.task.resource.": "workers offer cores and memory alone",
}


@dataclass(frozen=True)
class Shape:
    """What the executors of a cluster are.

    Parameters
    ----------
    executors
        How many.
    cores
        Tasks that each runs at a time.
    shared
        Whether `cores` is a share of the machine, and not what somebody asked for.
    heap
        MiB of each one's heap.
    memory
        MiB that each may take in all.
    dynamic
        Whether Spark asks for executors as it needs them.
    least, most
        The fewest and the most that it then has; None for no bound.
    """

    executors: int
    cores: int
    shared: bool
    heap: int
    memory: int
    dynamic: bool = False
    least: int | None = None
    most: int | None = None

    @property
    def bounds(self) -> str:
        """How the bounds are declared, for `Role.bounds`."""
        ends = {"minExecutors={least}": self.least, "maxExecutors={most}": self.most}
        return ", ".join(text for text, end in ends.items() if end is not None)


def read(conf: Mapping[str, str]) -> Shape:
    """Return what a `spark_conf` asks for.

    Raises
    ------
    EngineError
        A value makes no sense, or is more memory than there is.
    """
    for key, value in conf.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise EngineError(
                "spark_conf takes text, as on Kubernetes",
                seen=f"{key} is {value!r}",
                fix=f'Write "{key}": "{value}".',
            )
    cores = _count(conf, "spark.executor.cores")
    dynamic = _is(conf, f"{_DYNAMIC}.enabled", "true")
    least = _count(conf, f"{_DYNAMIC}.minExecutors", 0) if dynamic else 0
    most = _count(conf, f"{_DYNAMIC}.maxExecutors") if dynamic else 0
    executors = _count(conf, "spark.executor.instances") or (0 if dynamic else EXECUTORS)
    heap = _size(conf, "spark.executor.memory") or 1024
    beside = _size(conf, "spark.executor.memoryOverhead") or max(_OVERHEAD, heap // 10)
    beside += _size(conf, "spark.executor.pyspark.memory")
    beside += _size(conf, "spark.memory.offHeap.size", "b")
    driver = _size(conf, "spark.driver.memory") or 1024
    if dynamic:
        executors = max(executors, least, _count(conf, f"{_DYNAMIC}.initialExecutors", 0))
        # What nobody has asked for by number is what there is room for.
        room = min(machine_cpus() // (cores or 1), (_machine_memory() - driver) // heap)
        executors = max(executors, min(most or room, room), 1)
        executors = min(executors, max(most, least)) if most else executors
    _check_memory(executors, heap, driver)
    share = max(1, machine_cpus() // executors)
    size = cores or share, not cores, heap, heap + beside
    return Shape(executors, *size, dynamic, least or None, most or None)


def driver_heap(conf: Mapping[str, str]) -> int:
    """Return the MiB of the driver's heap."""
    return _size(conf, "spark.driver.memory") or 1024


def driver_cores(conf: Mapping[str, str]) -> int:
    """Return the cores of the driver; one, as on Kubernetes, if nothing is said."""
    return _count(conf, "spark.driver.cores") or 1


def has_pages(conf: Mapping[str, str]) -> bool:
    """Return whether a session has web pages."""
    return not _is(conf, "spark.ui.enabled", "false")


def cut(shape: Shape) -> str:
    """Say that there are fewer executors than Spark may ask for; empty if there are not."""
    if shape.most is None or shape.executors >= shape.most:
        return ""
    what = "1 executor runs" if shape.executors == 1 else f"{shape.executors} executors run"
    return f"{what} at a time, of at most {shape.most}, for want of cores; %flyte scale gives more"


def given(shape: Shape) -> str:
    """Say what executors get that ask for more cores than there are; empty if they do not."""
    machine = machine_cpus()
    if shape.shared or shape.executors * shape.cores <= machine:
        return ""
    tasks = "1 task" if shape.cores == 1 else f"{shape.cores} tasks"
    there = f"this machine's {'1 core' if machine == 1 else f'{machine} cores'}"
    if shape.executors == 1:
        return f"1 executor runs {tasks} at a time, and has {there}"
    return f"{shape.executors} executors run {tasks} each at a time, and share {there}"


def ignored(conf: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that mean nothing here, with the reason; several of a kind as ``kind.*``."""
    reasons = {key: _HERE[key] for key in conf if key in _HERE}
    for key, (value, reason) in _ANYWAY.items():
        if key in conf and not _is(conf, key, value):
            reasons[key] = reason
    for prefix, reason in _OTHERS.items():
        if found := sorted(key for key in conf if str(key).startswith(prefix)):
            reasons[found[0] if len(found) == 1 else f"{prefix}*"] = reason
    return reasons


def honoured(conf: Mapping[str, str]) -> dict[str, str]:
    """Return what is left of a `spark_conf` for Spark."""
    without = {*_HERE, *_ANYWAY}
    return {k: v for k, v in conf.items() if k not in without and not k.startswith(tuple(_OTHERS))}


def local_folders(conf: Mapping[str, str]) -> list[str]:
    """Return the folders for what does not fit into memory, if others than the cluster's own."""
    return [path.strip() for path in conf.get("spark.local.dir", "").split(",") if path.strip()]


def hadoop(conf: Mapping[str, Any]) -> dict[str, str]:
    """Return a `hadoop_conf` as Spark takes it."""
    prefix = "spark.hadoop."
    return {prefix + str(key).removeprefix(prefix): str(value) for key, value in conf.items()}


def _is(conf: Mapping[str, str], key: str, value: str) -> bool:
    """Tell what a switch is set to, as Spark reads it."""
    return conf.get(key, "").strip().lower() == value


def _count(conf: Mapping[str, str], key: str, least: int = 1) -> int:
    """Return a whole number of at least `least`; 0 if the key is not there."""
    if key not in conf:
        return 0
    text = conf[key].strip()
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise EngineError(
            f"{key} must be a whole number of at least {least}",
            seen=repr(conf[key]),
            fix=f'Write "{key}": "2".',
        )
    return int(text)


def _size(conf: Mapping[str, str], key: str, unit: str = "m") -> int:
    """Return a size in MiB, of Spark's notation; 0 if the key is not there."""
    if key not in conf:
        return 0
    match = re.fullmatch(r"(\d+)([bkmgtp]?)b?", conf[key].strip().lower(), re.ASCII)
    if not match:
        raise EngineError(
            f"{key} must be a size", seen=repr(conf[key]), fix=f'Write "{key}": "512m" or "4g".'
        )
    return int(match[1]) * _UNITS[match[2] or unit] // _MIB


def _machine_memory() -> int:
    return int(psutil.virtual_memory().total // _MIB)


def _check_memory(executors: int, heap: int, driver: int) -> None:
    total = _machine_memory()
    if executors * heap + driver > total:
        asked = f"{executors} executors of {heap} MiB and a driver of {driver} MiB"
        raise EngineError(
            "the Spark cluster asks for more memory than this machine has",
            seen=f"{asked}, of {total} MiB",
            fix="Lower spark.executor.memory or spark.executor.instances.",
        )
