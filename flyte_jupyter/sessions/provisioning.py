"""Clusters of the session's environments: at most one running each, as it is declared now."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from flyte_jupyter.backends.backend import Backend, ClusterStatus
from flyte_jupyter.backends.local.backend import LocalBackend, new_key
from flyte_jupyter.backends.local.packages import Overlays
from flyte_jupyter.config import FlyteJupyter
from flyte_jupyter.engines.engine import ClusterSpec, Role
from flyte_jupyter.errors import ClusterError
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.environments import Environment
from flyte_jupyter.sessions.secret_store import SecretStore
from flyte_jupyter.sessions.secret_values import resolve_secrets, secret_names

Preparing: TypeAlias = Callable[[str], AbstractContextManager[Callable[[str], None]]]


@contextlib.contextmanager
def _unseen(name: str) -> Iterator[Callable[[str], None]]:
    del name
    yield lambda _: None


class Provisioner:
    """Starts clusters, keeps them in line with their declarations, and takes them down.

    Its coroutines run on the session's loop. What starts a cluster is a plain function that returns
    one: it asks for secrets before, on the thread that calls it, so that a resolver which blocks
    keeps nobody else waiting, and an interrupt reaches it.

    Parameters
    ----------
    config
        The session's settings.
    report
        Called with lines that the user should read.
    """

    def __init__(self, config: FlyteJupyter, report: Callable[[str], None]) -> None:
        self.clusters: dict[str, Cluster] = {}
        self._config, self._report = config, report
        self.secrets = SecretStore()
        self._backend: Backend | None = None
        self._by_id: dict[str, Cluster] = {}
        self.preparing: Preparing = _unseen
        """Shows the progress of what is made before a cluster of an environment can start."""

    @property
    def backend(self) -> Backend:
        """Where clusters live; made with the first one."""
        if self._backend is None:
            config = self._config
            method, modules = config.start_method, config.preload
            self._backend = LocalBackend(self._on_status, method, modules, self._overlays)
        return self._backend

    def _overlays(self) -> Overlays:
        config = self._config
        chosen = os.path.abspath(os.path.expanduser(config.packages_folder))  # noqa: PTH100, PTH111
        folder = Path(chosen) if config.packages_folder else None
        keep = config.image_conflicts == "keep"
        return Overlays(folder, config.provided_packages, keep=keep)

    def running(self, environment: Environment) -> Cluster | None:
        """Return the environment's cluster if it starts or runs."""
        cluster = self.clusters.get(environment.name)
        return cluster if cluster is not None and cluster.running else None

    def new(self, environment: Environment) -> Cluster:
        """Return a cluster that is declared and no more."""
        return Cluster(environment, self.backend, self._config)

    def start(self, cluster: Cluster) -> Coroutine[Any, Any, Cluster]:
        """Return what begins to start a cluster, with the values that its secrets have now.

        It gives the cluster, or else another one of that environment, whose start somebody began
        meanwhile: two would be one too many.

        Raises
        ------
        EngineError, ImageError, UsageError, ClusterError
            It cannot be described or started.
        """
        asked = self._prepared(cluster.environment)
        return self._start(cluster, asked, self._secrets(cluster.environment))

    async def _start(
        self, cluster: Cluster, asked: ClusterSpec, secrets: Mapping[str, str | None]
    ) -> Cluster:
        while before := self.clusters.get(cluster.name):
            if before.running:
                return before
            if before.state != "stopping":
                break
            await before.stop()
        cluster.on_dead = self._dismiss
        self.clusters[cluster.name] = self._by_id[cluster.id] = cluster
        await cluster.start(asked, secrets, new_key())
        return cluster

    def is_in_line(self, cluster: Cluster, environment: Environment) -> bool:
        """Tell whether a running cluster is what its environment declares now; from any thread."""
        if cluster.spec != _asked(environment):
            return False
        cluster.environment = environment
        return True

    def bring_in_line(
        self, cluster: Cluster, environment: Environment
    ) -> Coroutine[Any, Any, Cluster]:
        """Return what makes a running cluster what its environment declares now.

        It is scaled if only the number of members differs, and started anew otherwise.

        Raises
        ------
        EngineError, UsageError, ClusterError
            It cannot be described or started; the cluster runs on as it was.
        """
        asked = _asked(environment)
        if cluster.spec and _without_replicas(cluster.spec) == _without_replicas(asked):
            return _rescale(cluster, environment, asked)
        if cluster.used:
            raise ClusterError(
                f"{environment.name} is declared differently now",
                seen="a run is under way on its cluster, which would have to start anew",
                fix=f"Wait for the run or cancel it; %flyte down {environment.name} ends both.",
            )
        asked = self._prepared(environment)
        return self._renew(cluster, environment, asked, self._secrets(environment))

    async def _renew(
        self,
        cluster: Cluster,
        environment: Environment,
        asked: ClusterSpec,
        secrets: Mapping[str, str | None],
    ) -> Cluster:
        self._report(f"{environment.name} is declared differently now: its cluster starts anew.")
        await cluster.stop()
        return await self._start(self.new(environment), asked, secrets)

    def _prepared(self, environment: Environment) -> ClusterSpec:
        """Describe what an environment asks for, and make what that needs to start."""
        asked = _asked(environment)
        with self.preparing(environment.name) as progress:
            remarks = self.backend.prepare(asked, progress)
        for remark in remarks:
            self._report(f"{environment.name}: {remark}.")
        return asked

    def _secrets(self, environment: Environment) -> dict[str, str | None]:
        return resolve_secrets(environment, self._config.secret_resolver, self.secrets)

    def _on_status(self, name: str, status: ClusterStatus) -> None:
        if cluster := self._by_id.get(name):
            cluster.take(status)
            if cluster.state in ("stopped", "failed"):
                self._by_id.pop(name, None)

    def _dismiss(self, cluster: Cluster) -> None:
        """Let the supervisor of a failed cluster go: its logs have been read."""
        self.backend.dismiss(cluster.id)

    async def stop(self, clusters: Iterable[Cluster]) -> None:
        """Take clusters down, all at once, and wait until nothing of them is left."""
        await asyncio.gather(*(cluster.stop() for cluster in clusters))

    async def close(self) -> None:
        """Take everything down, and wait also for what has failed and is on its way out."""
        await self.stop(c for c in self.clusters.values() if c.running or c.state == "stopping")
        if self._backend is not None:
            await self._backend.close()

    async def scale(self, cluster: Cluster, replicas: int, wait: float, group: str = "") -> None:
        """Change the number of workers of a group, and wait a while for that to have happened.

        Raises
        ------
        ClusterError
            The engine cannot be scaled, or not to that number, or there is no cluster.
        """
        role = await cluster.scale(replicas, group)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cluster.settled(role, replicas), wait)

    async def restart(self, cluster: Cluster) -> None:
        """Replace the driver of a cluster, and wait for the new one."""
        await cluster.ready()
        await cluster.restart_driver()
        await cluster.ready()


def _asked(environment: Environment) -> ClusterSpec:
    """Describe what an environment asks for, with the name of each secret for its value."""
    return environment.spec(secret_names(environment))


async def _rescale(cluster: Cluster, environment: Environment, asked: ClusterSpec) -> Cluster:
    """Give a cluster as many members as are asked for now, unless it was asked for as many."""
    if asked != cluster.spec:
        cluster.spec = asked  # its bounds are those that hold from now on
        for role in asked.roles:
            if role.scalable:
                await cluster.scale(role.replicas, role.name)
    cluster.environment = environment
    return cluster


def _without_replicas(spec: ClusterSpec) -> ClusterSpec:
    return replace(spec, roles=tuple(map(_without_number, spec.roles)))


def _without_number(role: Role) -> Role:
    if not role.scalable:
        return role
    args = {name: value for name, value in role.args.items() if name not in role.shares}
    return replace(role, replicas=0, args=args, least=None, most=None, bounds="")
