"""Reading the quantities of `flyte.Resources`: cores and bytes, in the notation of Kubernetes."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import psutil

from flyte_jupyter.errors import EngineError

_GIB = 2**30
_UNITS = {
    "": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


def cores(resources: Any) -> int:
    """Return how many threads the CPUs of some resources are worth, at least 1; 0 if unsaid.

    Raises
    ------
    EngineError
        The quantity cannot be read.
    """
    number = cpus(resources)
    return max(1, int(number)) if number else 0


def cpus(resources: Any) -> float:
    """Return the CPUs of some resources, parts of one too; 0 if unsaid.

    Raises
    ------
    EngineError
        The quantity cannot be read.
    """
    value = _request(getattr(resources, "cpu", None))
    if value is None:
        return 0.0
    text = str(value)
    try:
        number = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        number = 0.0
    if not number > 0 or math.isinf(number):
        raise EngineError(
            "cpu must be a positive number of cores",
            seen=repr(value),
            fix='Write 2, "1.5" or "500m".',
        )
    return number


def memory_bytes(resources: Any) -> int:
    """Return the memory of some resources in bytes; 0 if unsaid.

    Raises
    ------
    EngineError
        The quantity cannot be read.
    """
    value = _request(getattr(resources, "memory", None))
    if value is None:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", str(value).strip())
    size = float(match[1]) * _UNITS.get(match[2], 0) if match else 0.0
    if not size >= 1 or math.isinf(size):
        raise EngineError(
            "memory must be a positive size", seen=repr(value), fix='Write "512Mi" or "4Gi".'
        )
    return int(size)


def beyond_machine(*, cpus: float = 0, memory: float = 0, gpus: float = 0) -> list[str]:
    """Say what is asked for that is more than this machine has.

    Parameters
    ----------
    cpus, gpus
        How many, in all.
    memory
        Bytes in all.
    """
    said = []
    for what, asked, count in (
        ("CPUs", cpus, machine_cpus),
        ("GPUs", gpus, machine_gpus),
        ("GiB", memory / _GIB, _machine_gibibytes),
    ):
        # Counted only if it matters: this is asked before every cell.
        if asked and asked > (there := float(count())):
            asked_for = f"{asked:.1f}" if what == "GiB" else f"{asked:g}"
            has = f"{there:.1f}" if what == "GiB" else f"{there:g}"
            said.append(f"{asked_for} {what} are asked for and this machine has {has}")
    return said


def machine_cpus() -> int:
    """Return how many CPUs of this machine the notebook and its clusters may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _machine_gibibytes() -> float:
    total: int = psutil.virtual_memory().total
    return total / _GIB


def machine_gpus() -> int:
    """Return how many accelerators of NVIDIA's this machine has."""
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _request(value: Any) -> Any:
    """Flyte takes one value or a (request, limit) pair; what a process may use is the limit."""
    return value[1] if isinstance(value, (tuple, list)) and len(value) == 2 else value
