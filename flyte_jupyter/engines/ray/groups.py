"""Reading what a `RayJobConfig` asks for: groups of nodes, and the resources of each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flyte_jupyter.engines.quantities import beyond_machine, cpus, memory_bytes
from flyte_jupyter.errors import EngineError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_TAKEN = ("driver", "head")
HEAD = "head"

_NUMBERS = {
    "num-cpus": "cpus",
    "num-gpus": "gpus",
    "memory": "memory",
    "object-store-memory": "store",
}


@dataclass(frozen=True)
class Resources:
    """What one node of a group has; None is for what nobody has said.

    Parameters
    ----------
    cpus, gpus
        How many Ray counts.
    memory, store
        Bytes for tasks, and for Ray's object store.
    custom
        Quantities of the group's own resources, by name.
    labels
        The group's own labels.
    """

    cpus: float | None = None
    gpus: float | None = None
    memory: float | None = None
    store: float | None = None
    custom: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def read_resources(group: Any, where: str) -> Resources:
    """Read what a `HeadNodeConfig` or a `WorkerNodeConfig` asks for.

    What `ray_start_params` says goes before `limits`, and those before `requests`.

    Raises
    ------
    EngineError
        A quantity cannot be read.
    """
    found: dict[str, Any] = {}
    for asked in (group.requests, group.limits):
        quantities = {
            "cpus": float(math.ceil(cpus(asked))),  # as KubeRay tells Ray
            "gpus": float(gpus(asked)),
            "memory": float(memory_bytes(asked)),
        }
        found.update({name: value for name, value in quantities.items() if value})
    params = dict(group.ray_start_params or {})
    for key, name in _NUMBERS.items():
        if key in params:
            found[name] = _number(params[key], f"{where}: ray_start_params[{key!r}]")
    if "resources" in params:
        found["custom"] = _custom(params["resources"], where)
    if "labels" in params:
        found["labels"] = _labels(params["labels"], where)
    return Resources(**found)


def gpus(resources: Any) -> int:
    """Return how many accelerators some `flyte.Resources` ask for."""
    asked = getattr(resources, "gpu", None)
    if asked is None:
        return 0
    if isinstance(asked, int):
        return asked
    if isinstance(asked, str):
        count = asked.rpartition(":")[2]
        return int(count) if count.isdecimal() else 1
    return int(getattr(asked, "quantity", 1))


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if number < 0 or number == float("inf"):
        raise EngineError(f"{where} must be a number", seen=repr(value))
    return number


def _custom(value: Any, where: str) -> dict[str, float]:
    """Read JSON, which is quoted once more where a shell would take a pair of quotes off."""
    where = f"{where}: ray_start_params['resources']"
    try:
        found = json.loads(value) if isinstance(value, str) else value
        found = json.loads(found) if isinstance(found, str) else found
        return {str(name): _number(number, where) for name, number in found.items()}
    except (ValueError, AttributeError):
        raise EngineError(
            f"{where} must be an object in JSON", seen=repr(value), fix="Write '{\"special\": 1}'."
        ) from None


def _labels(value: Any, where: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in str(value).strip("\"'").split(",")]
    if not all(name.strip() and separator for name, separator, _ in pairs):
        raise EngineError(
            f"{where}: ray_start_params['labels'] must be NAME=VALUE,...", seen=repr(value)
        )
    return {name.strip(): text.strip() for name, _, text in pairs}


def check_groups(groups: Any) -> None:
    """See that worker groups make sense.

    Raises
    ------
    EngineError
        One does not: its name, or its number of nodes.
    """
    if not isinstance(groups, list | tuple):
        raise EngineError(
            "worker_node_config must be a list",
            seen=f"it is a {type(groups).__name__}",
            fix='Write [WorkerNodeConfig(group_name="workers", replicas=2)].',
        )
    seen: set[str] = set()
    for group in groups:
        name = group.group_name
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
            raise EngineError(
                "a worker group needs a name of its own",
                seen=f"group_name={name!r}",
                fix="Letters, digits, '-', '_' and '.', but neither 'head' nor 'driver'.",
            )
        if name in seen:
            raise EngineError("two worker groups have the same name", seen=f"group_name={name!r}")
        seen.add(name)
        _check_replicas(group)


def _check_replicas(group: Any) -> None:
    name, asked = group.group_name, group.replicas
    numbers = {"replicas": asked, "min_replicas": group.min_replicas}
    numbers["max_replicas"] = group.max_replicas
    for field_name, number in numbers.items():
        least = 1 if field_name == "max_replicas" else 0
        if number is None and field_name != "replicas":
            continue
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise EngineError(
                f"{field_name} of the worker group {name!r} must be a whole number of at least "
                f"{least}",
                seen=repr(number),
            )
    low = asked if group.min_replicas is None else group.min_replicas
    high = asked if group.max_replicas is None else group.max_replicas
    if not low <= asked <= high:
        raise EngineError(
            f"replicas of the worker group {name!r} must lie between its least and its most",
            seen=f"min_replicas={group.min_replicas}, replicas={asked}, "
            f"max_replicas={group.max_replicas}",
        )


def started(config: Any) -> list[tuple[Any, int]]:
    """Return the worker groups of a config, and how many nodes each begins with."""
    least = 1 if config.enable_autoscaling else 0  # nobody adds the first when it is needed
    return [(group, max(least, group.replicas)) for group in config.worker_node_config]


def beyond(nodes: list[tuple[Resources, int]]) -> list[str]:
    """Say what nodes were promised that this machine does not have; Ray counts with it.

    Parameters
    ----------
    nodes
        What a node of each group has, and how many there are.
    """

    def total(name: str) -> float:
        return sum((getattr(each, name) or 0.0) * count for each, count in nodes)

    found = beyond_machine(cpus=total("cpus"), memory=total("memory"), gpus=total("gpus"))
    return [f"{what}; Ray schedules by what was asked for" for what in found]
