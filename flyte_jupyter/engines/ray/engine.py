"""The Ray engine: a head and a node for each replica of a worker group, with token authentication.

Nothing here imports Ray: `private.py`, `processes.py` and `driver.py` do, where the cluster runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from flyte_jupyter.engines.engine import ClusterSpec, Facts, Option, Role
from flyte_jupyter.engines.quantities import cores, machine_cpus, memory_bytes
from flyte_jupyter.engines.ray import groups, runtime_env
from flyte_jupyter.engines.ray.groups import HEAD, Resources
from flyte_jupyter.engines.requirements import require, require_version
from flyte_jupyter.errors import EngineError, UsageError

_PROCESSES = "flyte_jupyter.engines.ray.processes"
_DRIVER = "flyte_jupyter.engines.ray.driver"
_LEAST = (2, 49)
_GROUP = "workers"
_START_PARAMS = ("num-cpus", "num-gpus", "memory", "object-store-memory", "resources", "labels")
_HEAD_SHARE = 4
"""Of so many parts of the memory for objects the head takes one; scaling must not change it."""
_SHARES = ("cpus", "nodes")
"""Arguments of a node that follow from how many there are."""


class RayEngine:
    """Describes Ray clusters."""

    name: ClassVar[str] = "ray"
    config_type: ClassVar[str] = "flyteplugins.ray.RayJobConfig"
    preload: ClassVar[tuple[str, ...]] = (_PROCESSES,)
    driver_preload: ClassVar[tuple[str, ...]] = (_DRIVER, "flyteplugins.ray")
    pages_lack: ClassVar[str] = (
        "Ray's dashboard agents are not started: logs, figures of nodes and workers, profiles, and "
        "jobs submitted to it do not work. %flyte logs and %flyte status have logs and processes."
    )
    options: ClassVar[Mapping[str, Option]] = {
        "workers": Option("how many workers; 1 by default"),
        "worker-cpu": Option("CPUs of each, such as 2; by default they share the machine"),
        "worker-memory": Option("memory of each, such as 4Gi"),
        "worker-gpu": Option("GPUs of each"),
        "group": Option("name of the worker group; `workers` by default"),
        "address": Option("a running cluster to use instead, such as host:6379"),
    }

    def describe(self, config: Any, resources: Any) -> ClusterSpec:
        """Say what the cluster of a `flyteplugins.ray.RayJobConfig` consists of.

        A node takes the resources of its group. Where it asks for no CPUs, worker nodes share the
        machine and the head has none, unless it is alone.
        """
        del resources
        _require_ray()
        runtime_env.check(config.runtime_env)
        given = runtime_env.for_ray(config.runtime_env, elsewhere=bool(config.address))
        job = {"runtime_env": given, "address": config.address or ""}
        if config.address:
            return ClusterSpec(
                engine=self.name,
                preload=self.preload,
                driver_preload=self.driver_preload,
                connect=f"{_DRIVER}:connect",
                driver_args=job,
            )
        groups.check_groups(config.worker_node_config)
        return ClusterSpec(
            engine=self.name,
            roles=tuple(_roles(config)),
            preload=self.preload,
            driver_preload=self.driver_preload,
            prepare=f"{_PROCESSES}:prepare",
            connect=f"{_DRIVER}:connect",
            retire=f"{_PROCESSES}:retire",
            driver_args=job,
            linger=_linger(config),
            packages=runtime_env.packages(config.runtime_env),
        )

    def configure(self, options: Mapping[str, str]) -> Any:
        """Build a `RayJobConfig` from ``--workers``, ``--worker-cpu`` and the like."""
        _require_ray()
        if unknown := set(options) - set(self.options):
            raise UsageError(
                f"Ray has no option --{min(unknown)}",
                fix=f"It takes {', '.join(f'--{name}' for name in sorted(self.options))}.",
            )
        count = options.get("workers", "1")
        if not count.isdecimal() or int(count) < 1:
            raise UsageError("--workers takes a whole number of at least 1", seen=f"{count!r}")
        gpu = options.get("worker-gpu")
        if gpu is not None and not gpu.isdecimal():
            raise UsageError("--worker-gpu takes a whole number", seen=f"{gpu!r}")
        import flyte
        from flyteplugins.ray import RayJobConfig, WorkerNodeConfig

        requests = None
        if set(options) & {"worker-cpu", "worker-memory", "worker-gpu"}:
            requests = flyte.Resources(
                cpu=options.get("worker-cpu"),
                memory=options.get("worker-memory"),
                gpu=int(gpu) if gpu else None,
            )
            cores(requests), memory_bytes(requests)
        group = WorkerNodeConfig(
            group_name=options.get("group", _GROUP), replicas=int(count), requests=requests
        )
        config = RayJobConfig(worker_node_config=[group], address=options.get("address"))
        groups.check_groups(config.worker_node_config)
        return config

    def links(self, facts: Facts) -> dict[str, str]:
        """Return the dashboard, which is started by the first visit."""
        pages = [fact["dashboard"] for fact in facts.get(HEAD, ()) if fact.get("dashboard")]
        return {"Ray dashboard": pages[0]} if pages else {}

    def ignored(self, config: Any) -> Mapping[str, str]:
        """Name what processes on this machine cannot have."""
        reasons = runtime_env.ignored(config.runtime_env, elsewhere=bool(config.address))
        if config.address:
            return reasons
        if config.ttl_seconds_after_finished is not None and not config.shutdown_after_job_finishes:
            reasons["ttl_seconds_after_finished"] = "it goes with shutdown_after_job_finishes"
        if config.enable_autoscaling or config.autoscaler_options:
            started = "replicas nodes are started, at least one of each group"
            reasons["enable_autoscaling"] = f"{started}; %flyte scale changes that"
        for where, group, _ in _groups(config):
            if group.pod_template is not None:
                reasons[f"{where}.pod_template"] = "only a Kubernetes backend has it"
            for key in set(group.ray_start_params or {}) - set(_START_PARAMS):
                reasons[f"{where}.ray_start_params.{key}"] = "a local node is started without it"
        return reasons

    def remarks(self, config: Any) -> list[str]:
        """Say what nodes were promised that this machine does not have, and where a cell works."""
        said = runtime_env.remarks(config.runtime_env)
        if config.address:
            return said
        nodes = [(groups.read_resources(g, where), n) for where, g, n in _groups(config)]
        return said + groups.beyond(nodes)


def _groups(config: Any) -> list[tuple[str, Any, int]]:
    found = []
    if config.head_node_config is not None:
        found.append(("head_node_config", config.head_node_config, 1))
    return found + [(_where(group), group, count) for group, count in groups.started(config)]


def _where(group: Any) -> str:
    name = str(group.group_name)
    return f"worker_node_config[{name if name.isprintable() else repr(name)}]"


def _roles(config: Any) -> list[Role]:
    workers = groups.started(config)
    count = sum(replicas for _, replicas in workers)
    head = Resources()
    if config.head_node_config is not None:
        head = groups.read_resources(config.head_node_config, "head_node_config")
    machine = machine_cpus()
    alone = 0 if count else machine
    roles = [
        Role(
            HEAD,
            f"{_PROCESSES}:run_head",
            args={"group": HEAD, **_args(head, alone, _HEAD_SHARE if count else 1)},
            vital=True,
        )
    ]
    for group, replicas in workers:
        asked = groups.read_resources(group, _where(group))
        roles.append(
            Role(
                group.group_name,
                f"{_PROCESSES}:run_worker",
                replicas=replicas,
                args={"group": group.group_name, **_args(asked, *_share(machine, count))},
                after=(HEAD,),
                scalable=True,
                shares=_SHARES if asked.cpus is None else _SHARES[1:],
                least=group.min_replicas,
                most=group.max_replicas,
                bounds=_bounds(group),
            )
        )
    return roles


def _share(cpus: int, nodes: int) -> tuple[int, int]:
    """Return how many CPUs a node has where nobody says, and how many nodes there are for that."""
    nodes = max(1, nodes)
    return max(1, cpus // nodes), nodes


def _bounds(group: Any) -> str:
    fields = {"least": "min_replicas", "most": "max_replicas"}
    return ", ".join(f"{f}={{{end}}}" for end, f in fields.items() if getattr(group, f) is not None)


def _args(asked: Resources, cpus: int, nodes: int) -> dict[str, Any]:
    """Return the arguments of a node: `nodes` share what memory nobody has asked for."""
    return {
        "cpus": cpus if asked.cpus is None else asked.cpus,
        "gpus": asked.gpus or 0,
        "memory": asked.memory or 0,
        "store": asked.store or 0,
        "custom": dict(asked.custom),
        "labels": dict(asked.labels),
        "nodes": nodes,
    }


def _linger(config: Any) -> float | None:
    """Return how long the cluster stays after a run; None if a job does not end it."""
    seconds = config.ttl_seconds_after_finished
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0
    ):
        raise EngineError(
            "ttl_seconds_after_finished must be a whole number of seconds", seen=repr(seconds)
        )
    return float(seconds or 0) if config.shutdown_after_job_finishes else None


def _require_ray() -> None:
    require("Ray", "ray", "ray", "flyteplugins.ray")
    require_version("Ray", "ray", *_LEAST)
