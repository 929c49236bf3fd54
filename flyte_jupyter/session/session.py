"""The session: the one owner of environments, clusters and runs of a kernel.

Magics, widgets and scripts all go through it. Its logic is written once, as coroutines on the
session's own loop; the methods without an underscore are their synchronous faces, to be called from
the notebook's thread.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir

from flyte_jupyter.backends.backend import Backend, ClusterStatus
from flyte_jupyter.backends.local.backend import LocalBackend
from flyte_jupyter.backends.local.sweep import sweep
from flyte_jupyter.cells.local_modules import LocalModules
from flyte_jupyter.config import FlyteJupyter
from flyte_jupyter.driver import transfer
from flyte_jupyter.driver.relay import Sink, TextSink
from flyte_jupyter.driver.transfer import Parcel
from flyte_jupyter.engines.engine import ClusterSpec
from flyte_jupyter.errors import ClusterError
from flyte_jupyter.session.cache import CellCache
from flyte_jupyter.session.clusters import Cluster
from flyte_jupyter.session.environments import Environment, find, resolve_secrets
from flyte_jupyter.session.event_loop import EventLoopThread
from flyte_jupyter.session.execution import Execution, pack_for
from flyte_jupyter.session.refs import Ref
from flyte_jupyter.session.runs import ENDED, CellTask, Run

_RUNS_KEPT = 200
_RUNNING = ("starting", "ready")


class Session:
    """Environments, clusters and runs of one kernel.

    Parameters
    ----------
    config
        Settings; a fresh set by default.
    namespace
        The notebook's variables, where environments are looked for.
    report
        Called with lines that the user should read.
    """

    def __init__(
        self,
        config: FlyteJupyter | None = None,
        namespace: Mapping[str, object] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config or FlyteJupyter()
        self.namespace: Mapping[str, object] = {} if namespace is None else namespace
        self.report = report or _to_stderr
        self.transform: Callable[[str], str] = str
        self.declared: dict[str, Any] = {}
        self.clusters: dict[str, Cluster] = {}
        self.runs: deque[Run] = deque(maxlen=_RUNS_KEPT)
        self.local_modules = LocalModules()
        self._loop = EventLoopThread()
        self._backend: Backend | None = None
        self._executions: dict[str, Execution] = {}
        self._named: set[tuple[str, str]] = set()
        self._pid = os.getpid()
        atexit.register(self.close)

    # -- environments -----------------------------------------------------------------------

    def environment(self, name: Any) -> Environment:
        """Return an environment by variable, by its own name, or the object itself.

        Raises
        ------
        EnvironmentNotFound
            There is none of that name.
        EngineError
            No engine runs what it asks for.
        """
        declared = find(name, self.namespace, self.declared) if isinstance(name, str) else name
        environment = Environment.of(declared)
        self._name_ignored(environment)
        return environment

    def declare(self, environment: Any) -> Environment:
        """Add an environment that no variable holds."""
        self.declared[environment.name] = environment
        return self.environment(environment)

    def _name_ignored(self, environment: Environment) -> None:
        for field, reason in environment.not_honoured().items():
            if (environment.name, field) not in self._named:
                self._named.add((environment.name, field))
                self.report(f"{environment.name}: {field} is not honoured here: {reason}.")

    # -- clusters ---------------------------------------------------------------------------

    def up(self, name: Any) -> Cluster:
        """Begin to start an environment's cluster; `ready` waits for it.

        A cluster that runs already is brought in line with what the environment declares now:
        scaled if only the number of members differs, started anew otherwise.

        Raises
        ------
        EngineError, UsageError, ClusterError
            It cannot be described or started.
        """
        environment = self.environment(name)
        cluster = self._running(environment)
        if cluster is not None:
            return self._loop.run(self._bring_in_line(cluster, environment))
        cluster = Cluster(environment, self._get_backend(), self.config)
        self._loop.run(self._start(cluster))
        return cluster

    def _running(self, environment: Environment) -> Cluster | None:
        cluster = self.clusters.get(environment.name)
        return cluster if cluster is not None and cluster.state in _RUNNING else None

    def _spec(self, environment: Environment) -> ClusterSpec:
        return environment.spec(resolve_secrets(environment, self.config.secret_resolver))

    async def _start(self, cluster: Cluster) -> None:
        spec = self._spec(cluster.environment)
        before = self.clusters.get(cluster.name)
        if before is not None and before.state == "stopping":
            await before.stop()
        cluster.on_dead = self._dismiss
        self.clusters[cluster.name] = cluster
        await cluster.start(spec, secrets.token_hex(32))

    async def _bring_in_line(self, cluster: Cluster, environment: Environment) -> Cluster:
        spec, before = self._spec(environment), cluster.spec
        if spec == before or (before and await _rescale(cluster, before, spec)):
            cluster.environment = environment
            return cluster
        self.report(f"{environment.name} is declared differently now: its cluster starts anew.")
        await cluster.stop()
        cluster = Cluster(environment, self._get_backend(), self.config)
        await self._start(cluster)
        return cluster

    def _get_backend(self) -> Backend:
        if self._backend is None:
            config = self.config
            self._backend = LocalBackend(self._on_status, config.start_method, config.preload)
        return self._backend

    def _on_status(self, name: str, status: ClusterStatus) -> None:
        if cluster := self.clusters.get(name):
            cluster.take(status)

    def _dismiss(self, cluster: Cluster) -> None:
        """Let the supervisor of a failed cluster go: its logs have been read."""
        backend = self._backend
        if isinstance(backend, LocalBackend):
            backend.dismiss(cluster.name)

    def ready(self, cluster: Cluster, timeout: float | None = None) -> Cluster:
        """Wait until a cluster can run tasks.

        Raises
        ------
        ClusterError
            It did not start.
        TimeoutError
            It is not ready within `timeout` seconds, and goes on starting.
        """
        self._loop.run(asyncio.wait_for(_shielded(cluster.ready()), timeout))
        return cluster

    def cluster(self, name: Any) -> Cluster:
        """Return the cluster of an environment.

        Raises
        ------
        ClusterError
            It has none.
        """
        environment = self.environment(name)
        cluster = self.clusters.get(environment.name)
        if cluster is None or cluster.state not in ("starting", "ready", "stopping"):
            raise ClusterError(
                f"{environment.name} has no cluster",
                seen=cluster.reason if cluster and cluster.reason else "",
                fix=f"Start it with %flyte up {environment.name}",
            )
        return cluster

    def down(self, name: Any = None) -> list[str]:
        """Take the cluster of an environment down, or all; returns their environments' names."""
        clusters = list(self.clusters.values()) if name is None else [self.cluster(name)]
        clusters = [c for c in clusters if c.state in ("starting", "ready", "stopping")]
        if clusters:
            self._loop.run(_stop_all(clusters))
        return [cluster.name for cluster in clusters]

    def scale(self, name: Any, replicas: int, *, wait: float = 30.0) -> Cluster:
        """Change the number of workers of a running cluster.

        Raises
        ------
        ClusterError
            It has none, or its engine cannot be scaled.
        """
        cluster = self.cluster(name)
        self._loop.run(_scale(cluster, replicas, wait))
        return cluster

    def restart(self, name: Any) -> Cluster:
        """Replace the driver of a cluster; its workers stay."""
        cluster = self.cluster(name)
        self._loop.run(_restart(cluster))
        return cluster

    def log_of(self, cluster: Cluster, member: str, last: int) -> str:
        """Return the end of a member's log."""
        return self._get_backend().log(cluster.name, f"{member}.log", last=last)

    # -- runs -------------------------------------------------------------------------------

    def submit(
        self,
        name: Any,
        task: CellTask,
        *,
        sink: Sink | None = None,
        ask: Callable[[str, bool], str] | None = None,
    ) -> Run:
        """Run a cell in an environment; its cluster is started if there is none.

        Parameters
        ----------
        name
            The environment.
        task
            What to run.
        sink
            Where its output goes; this process's own streams by default.
        ask
            Answers `input()` of the task, on the thread that waits for the run; without it the
            task is told that nobody can.

        Returns
        -------
        Run
            It is under way.

        Raises
        ------
        CaptureError
            An input cannot be pickled; nothing has been started then.
        """
        environment = self.environment(name)
        key = self._cache.key(environment.declared, task)
        if key and (cached := self._cache.read(environment.declared, key)):
            return self._from_cache(environment, task, *cached)
        cluster = self._running(environment)
        if cluster is None:
            # What cannot be pickled is said before a cluster is started for it.
            cluster = Cluster(environment, self._get_backend(), self.config)
            task, parcel = self._pack(cluster, task)
            try:
                self._loop.run(self._start(cluster))
            except BaseException:
                parcel.close()
                raise
        else:
            cluster = self._loop.run(self._bring_in_line(cluster, environment))
            task, parcel = self._pack(cluster, task)
        run = self._execute(cluster, task, parcel, sink, ask)
        self.runs.append(run)
        if key:
            run.on_success(lambda: self._cache.write(key, run.outputs))
        return run

    def _from_cache(
        self, environment: Environment, task: CellTask, outputs: dict[str, Any], made: str
    ) -> Run:
        run = Run(task, environment.name, self)
        run.outputs = outputs
        run.end("cached")
        self.runs.append(run)
        self.report(
            f"{run.id}: the result of {made} is in {environment.name}'s cache; nothing ran."
        )
        return run

    @property
    def _cache(self) -> CellCache:
        folder = self.config.cache_folder
        default = Path(jupyter_data_dir()) / "flyte_jupyter" / "cache"
        return CellCache(
            Path(folder) if folder else default, self.config.cache_limit, self.transform
        )

    def _pack(self, cluster: Cluster, task: CellTask) -> tuple[CellTask, Parcel]:
        task = self._fetch_foreign(task, cluster)
        return task, pack_for(cluster, task.values, self.local_modules)

    def _execute(
        self,
        cluster: Cluster,
        task: CellTask,
        parcel: Parcel,
        sink: Sink | None = None,
        ask: Callable[[str, bool], str] | None = None,
    ) -> Run:
        run = Run(task, cluster.name, self)
        execution = Execution(run, cluster, sink or TextSink(), ask, self)
        self._executions[run.id] = execution
        run.on_done(lambda: self._forget(run))
        self._loop.submit(execution.perform(parcel))
        return run

    def _forget(self, run: Run) -> None:
        self._executions.pop(run.id, None)

    def sizes(self, values: Mapping[str, object]) -> dict[str, int]:
        """Return how many bytes each value takes when it is sent.

        Raises
        ------
        CaptureError
            One cannot be pickled.
        """
        sizes = {}
        refs = {name for name, value in values.items() if isinstance(value, Ref)}
        with self.local_modules.travelling_by_value():
            rest = {name: value for name, value in values.items() if name not in refs}
            parcel = transfer.pack(rest)
            sizes.update(parcel.sizes)
            parcel.close()
        return sizes

    def _fetch_foreign(self, task: CellTask, cluster: Cluster) -> CellTask:
        """Fetch refs of other drivers: only their own understands them."""
        foreign = {
            name: value.get()
            for name, value in task.values.items()
            if isinstance(value, Ref) and not (value.alive and value.belongs_to(cluster.driver))
        }
        return replace(task, values={**task.values, **foreign}) if foreign else task

    def wait(self, run: Run, tick: Callable[[float], None] | None = None) -> Any:
        """Wait for a run in the foreground and return its result.

        While it waits, questions of the task are answered. An interrupt goes to the task; a second
        one replaces the driver.

        Parameters
        ----------
        run
            What to wait for.
        tick
            Called about ten times a second with the seconds waited, to show progress.
        """
        execution = self._executions.get(run.id)
        if execution is None:
            return run.result()
        started = time.monotonic()
        run.on_done(lambda: execution.calls.put(None))
        interrupts = 0
        while run.state not in ENDED:
            try:
                call = execution.calls.get(timeout=0.1 if tick else None)
                if call is not None:
                    call()
            except queue.Empty:
                if tick:
                    tick(time.monotonic() - started)
            except KeyboardInterrupt:
                interrupts += 1
                self._loop.loop.call_soon_threadsafe(execution.interrupt, interrupts > 1)
        return run.result()

    def cancel(self, run: Run) -> None:
        """Stop a run; from any thread."""
        if execution := self._executions.get(run.id):
            self._loop.loop.call_soon_threadsafe(execution.interrupt, False)

    # -- refs -------------------------------------------------------------------------------

    def fetch(self, cluster: Cluster, ref: Ref) -> Any:
        """Bring the value of a ref here."""
        task = CellTask(code="", name="get", values={"value": ref}, returns=("value",))
        return self.wait(self._execute(cluster, *self._pack(cluster, task)))

    # -- the end ----------------------------------------------------------------------------

    def sweep(self) -> str:
        """Remove what killed sessions left behind; returns a line about it, or nothing."""
        return sweep()

    def close(self) -> None:
        """Take everything down. Safe to call again; the session can be used again afterwards."""
        if os.getpid() != self._pid:
            return  # a forked child of the kernel owns nothing
        atexit.unregister(self.close)
        running = [
            c for c in self.clusters.values() if c.state in ("starting", "ready", "stopping")
        ]
        with contextlib.suppress(Exception):
            if running:
                self._loop.run(_stop_all(running), self.config.stop_timeout + 1)
        self.clusters.clear()
        self._backend = None
        self._loop.stop()

    def __repr__(self) -> str:
        up = [c for c in self.clusters.values() if c.state in ("starting", "ready")]
        return f"<flyte-jupyter session: {len(up)} clusters, {len(self.runs)} runs>"


async def _shielded(coroutine: Any) -> Any:
    return await asyncio.shield(asyncio.ensure_future(coroutine))


async def _stop_all(clusters: Sequence[Cluster]) -> None:
    await asyncio.gather(*(cluster.stop() for cluster in clusters))


async def _scale(cluster: Cluster, replicas: int, wait: float) -> None:
    await cluster.scale(replicas)
    assert cluster.spec is not None
    role = next(r for r in cluster.spec.roles if r.scalable)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(cluster.settled(role.name, replicas), wait)


async def _restart(cluster: Cluster) -> None:
    before = cluster.driver
    await cluster.restart_driver()
    while cluster.driver == before:
        await asyncio.sleep(0.01)
    await cluster.ready()


async def _rescale(cluster: Cluster, before: Any, after: Any) -> bool:
    """Scale, if that is all there is between two descriptions; says whether it was."""
    from dataclasses import replace

    def flat(spec: Any) -> Any:
        return replace(
            spec, roles=tuple(replace(r, replicas=0) if r.scalable else r for r in spec.roles)
        )

    if flat(before) != flat(after):
        return False
    for role in after.roles:
        if role.scalable:
            await cluster.scale(role.replicas)
    cluster.spec = after
    return True


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


_session: Session | None = None


def session() -> Session:
    """Return this process's session, made when it is first asked for."""
    global _session  # noqa: PLW0603
    if _session is None or _session._pid != os.getpid():
        _session = Session()
    return _session


def set_session(new: Session | None) -> None:
    """Make `new` the session that `session` returns."""
    global _session  # noqa: PLW0603
    _session = new
