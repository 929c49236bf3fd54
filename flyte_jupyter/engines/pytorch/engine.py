"""The PyTorch engine: nodes, each of which runs a cell in its ranks by torch's elastic agent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from flyte_jupyter.engines.engine import ClusterSpec, Facts, Option, Role
from flyte_jupyter.engines.quantities import machine_cpus
from flyte_jupyter.engines.requirements import require, require_version
from flyte_jupyter.errors import EngineError, UsageError

_PACKAGE = "flyte_jupyter.engines.pytorch"
_LEAST = (2, 5)
"""Older ones have not been tried with what this needs of torch's rendezvous."""
_MOST_RANKS = 256
"""Processes that one machine is asked for at most: more is a slip of the keyboard."""
OWN_STORE = (
    *("store_type", "is_host", "endpoint", "backend", "run_id"),
    *("min_nodes", "max_nodes", "local_addr"),
)
"""Of `rdzv_configs`, what this engine decides."""


class PytorchEngine:
    """Describes PyTorch clusters; nothing here imports torch."""

    name: ClassVar[str] = "pytorch"
    config_type: ClassVar[str] = "flyteplugins.pytorch.Elastic"
    ranks: ClassVar[bool] = True
    preload: ClassVar[tuple[str, ...]] = (
        f"{_PACKAGE}.agent",
        "flyteplugins.pytorch",
        "flyte_jupyter.driver.preload",
        f"{_PACKAGE}.node",
    )
    driver_preload: ClassVar[tuple[str, ...]] = (f"{_PACKAGE}.driving",)
    options: ClassVar[Mapping[str, Option]] = {
        "nproc": Option("ranks of each node; 1 by default"),
        "nnodes": Option("nodes, or a range such as 1:2; 1 by default"),
        "workers": Option("the same as --nnodes"),
        "max-restarts": Option("how often ranks start again after one was killed; 3 by default"),
    }

    def describe(self, config: Any, resources: Any) -> ClusterSpec:
        """Say what the cluster of a `flyteplugins.pytorch.Elastic` config consists of.

        It has a node for each of `nnodes`, at most. How many ranks a node starts, and all else
        that the config says, each task says anew: no change of it costs a new cluster.
        """
        del resources
        _require_torch()
        least, most = nodes(config.nnodes)
        _check(config, most)
        return ClusterSpec(
            engine=self.name,
            roles=(
                Role(
                    "node",
                    f"{_PACKAGE}.node:run_node",
                    replicas=most,
                    scalable=least != most,
                    least=least,
                    most=most,
                    bounds='nnodes="{least}:{most}"',
                ),
            ),
            preload=self.preload,
            driver_preload=self.driver_preload,
            connect=f"{_PACKAGE}.driving:connect",
            run=f"{_PACKAGE}.driving:run",
        )

    def configure(self, options: Mapping[str, str]) -> Any:
        """Build an `Elastic` config from ``--nnodes``, ``--nproc`` and ``--max-restarts``."""
        _require_torch()
        if unknown := set(options) - set(self.options):
            raise UsageError(
                f"PyTorch has no option --{min(unknown)}",
                fix="It takes --nproc (ranks a node), --nnodes and --max-restarts.",
            )
        numbers = {}
        for option, default, least in (("nproc", "1", 1), ("max-restarts", "3", 0)):
            text = options.get(option, default)
            if not text.isdecimal() or int(text) < least:
                what = f"--{option} takes a whole number of at least {least}"
                raise UsageError(what, seen=repr(text))
            numbers[option] = int(text)
        nnodes: Any = options.get("nnodes", options.get("workers", "1"))
        try:
            _, most = nodes(nnodes)
        except EngineError as error:
            raise UsageError(
                "--nnodes takes a number, or a range such as 1:2", seen=error.seen
            ) from None
        from flyteplugins.pytorch import Elastic

        config = Elastic(
            nnodes=int(nnodes) if nnodes.isdecimal() else nnodes,
            nproc_per_node=numbers["nproc"],
            max_restarts=numbers["max-restarts"],
        )
        _check(config, most)
        return config

    def links(self, facts: Facts) -> dict[str, str]:
        """Return nothing: torch has no page."""
        del facts
        return {}

    def remarks(self, config: Any) -> list[str]:
        """Say when `max_restarts`, where somebody chose it, does not restart."""
        usual = type(config).__dataclass_fields__["max_restarts"].default
        if config.max_restarts in (0, usual):
            return []
        return ["max_restarts counts ranks that were killed: after an exception none starts again"]

    def ignored(self, config: Any) -> Mapping[str, str]:
        """Name what processes on this machine cannot have."""
        reasons: dict[str, str] = {}
        policy = config.run_policy
        for field, reason in {
            "clean_pod_policy": "there are no pods; ranks go when their cell ends",
            "ttl_seconds_after_finished": "the cluster lives as long as the notebook",
            "backoff_limit": "max_restarts and --retries say how often to try again",
        }.items():
            if getattr(policy, field, None) is not None:
                reasons[f"run_policy.{field}"] = reason
        for key in OWN_STORE:
            if key in (config.rdzv_configs or {}):
                reasons[f"rdzv_configs.{key}"] = "the rendezvous is a file of the private folder"
        return reasons


def nodes(nnodes: Any) -> tuple[int, int]:
    """Return the least and the most nodes that `Elastic.nnodes` asks for.

    Raises
    ------
    EngineError
        It is neither a number nor a range.
    """
    match = re.fullmatch(r"\s*(\d+)\s*(?::\s*(\d+)\s*)?", str(nnodes))
    if isinstance(nnodes, bool) or not isinstance(nnodes, int | str) or match is None:
        least = most = 0
    else:
        least, most = int(match[1]), int(match[2] or match[1])
    if not 1 <= least <= most:
        raise EngineError(
            "nnodes must be a number of nodes, or a range from few to many",
            seen=f"nnodes={nnodes!r}",
            fix='Write Elastic(nnodes=1, ...) or nnodes="1:2".',
        )
    return least, most


def _require_torch() -> None:
    require("PyTorch", "pytorch", "torch", "flyteplugins.pytorch")
    require_version("PyTorch", "torch", *_LEAST)


def _check(config: Any, most: int) -> None:
    _whole(config, "nproc_per_node", 1, "a node needs at least one rank")
    _whole(config, "max_restarts", 0, "max_restarts must be a whole number")
    interval = config.monitor_interval
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not interval > 0:
        raise EngineError(
            "monitor_interval must be a number of seconds above 0",
            seen=f"monitor_interval={interval!r}",
        )
    if config.rdzv_backend != "c10d":
        raise EngineError(
            "on this machine ranks find each other through c10d alone",
            seen=f"rdzv_backend={config.rdzv_backend!r}",
            fix='Leave rdzv_backend out, or write rdzv_backend="c10d".',
        )
    if config.nproc_per_node * most > _MOST_RANKS:
        raise EngineError(
            f"one machine is asked for {config.nproc_per_node * most} ranks",
            seen=f"it has {machine_cpus()} CPUs",
            fix=f"At most {_MOST_RANKS} can be asked for.",
        )
    deadline = getattr(config.run_policy, "active_deadline_seconds", None)
    if deadline is not None and not deadline > 0:
        raise EngineError(
            "active_deadline_seconds must be above 0", seen=f"active_deadline_seconds={deadline!r}"
        )


def _whole(config: Any, field: str, least: int, what: str) -> None:
    value = getattr(config, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        fix = f"Write Elastic(..., {field}={max(least, 2)})."
        raise EngineError(what, seen=f"{field}={value!r}", fix=fix)
