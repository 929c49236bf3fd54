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
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flyte_jupyter.cells.local_modules import LocalModules
from flyte_jupyter.config import FlyteJupyter
from flyte_jupyter.driver.relay import Sink
from flyte_jupyter.errors import ClusterError
from flyte_jupyter.images.recipe import image_of, is_image
from flyte_jupyter.sessions import connectors, functions
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.connector_service import ConnectorService
from flyte_jupyter.sessions.connectors import Known
from flyte_jupyter.sessions.environments import Environment, check_name, find
from flyte_jupyter.sessions.event_loop import EventLoopThread
from flyte_jupyter.sessions.nesting import declared_as
from flyte_jupyter.sessions.provisioning import Preparing, Provisioner
from flyte_jupyter.sessions.runner import Console, Runner
from flyte_jupyter.sessions.runs import CellTask, Run, RunRecord
from flyte_jupyter.sessions.secret_store import SecretStore
from flyte_jupyter.sessions.sending import Sender
from flyte_jupyter.sessions.sent_runs import Order

if TYPE_CHECKING:
    from flyte_jupyter.images.building import Built


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
        self.declared: dict[str, Any] = {}
        self._loop = EventLoopThread()
        self._clusters = Provisioner(self.config, self._say)
        self._runner = Runner(self._loop, self._clusters, self.config, self._say)
        self._runner.environment = self._environment_of_call
        self._runner.connectors = self._connectors
        self._sender = Sender(self._runner)
        self._named: set[tuple[str, str]] = set()
        self.connector_service: ConnectorService | None = None
        self._pid = os.getpid()
        atexit.register(self.close)

    # -- environments -----------------------------------------------------------------------

    def environment(self, name: Any) -> Environment:
        """Return an environment by variable, by its own name, or the object itself.

        What this has returned is returned as it is.

        Raises
        ------
        EnvironmentNotFound
            There is none of that name.
        EngineError
            No engine runs what it asks for.
        """
        if isinstance(name, Environment):
            return name
        environment = Environment.of(self.declared_as(name))
        self._name_ignored(environment)
        return environment

    def declared_as(self, name: Any) -> Any:
        """Return a `flyte.TaskEnvironment` by variable, by its own name, or as it is.

        Raises
        ------
        EnvironmentNotFound
            There is none of that name.
        """
        return find(name, self.namespace, self.declared) if isinstance(name, str) else name

    def _environment_of_call(self, about: Mapping[str, Any]) -> Environment:
        found = declared_as(about["environment"], self.namespace, self.declared)
        self._name_ignored_of_task(about["name"], about["not_honoured"])
        return self._alone_of_its_name(self.environment(found))

    def _alone_of_its_name(self, environment: Environment) -> Environment:
        """Refuse an environment of whose name there is another: they would share a cluster."""
        cluster = self.clusters.get(environment.name)
        if cluster is None or cluster.environment.declared is not environment.declared:
            check_name(environment.declared, self.namespace)
        return environment

    def _connectors(self) -> bytes:
        return connectors.travelling(self.namespace, self.local_modules.holds)

    def _say(self, line: str) -> None:
        self.report(line)

    def declare(self, environment: Any) -> Environment:
        """Add an environment that no variable holds.

        Raises
        ------
        EngineError
            No engine runs what it asks for; it is not added then.
        """
        found = self.environment(environment)
        self.declared[environment.name] = environment
        return found

    def _name_ignored(self, environment: Environment) -> None:
        for field, reason in environment.not_honoured().items():
            self._say_once(environment.name, f"{field} is not honoured here: {reason}")
        for remark in environment.remarks():
            self._say_once(environment.name, remark)

    def _name_ignored_of_task(self, name: str, reasons: Mapping[str, str]) -> None:
        for field, reason in reasons.items():
            self._say_once(name, f"{field} of the task is not honoured here: {reason}")

    def _say_once(self, of: str, remark: str) -> None:
        if (of, remark) not in self._named:
            self._named.add((of, remark))
            self.report(f"{of}: {remark}.")

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
        environment = self._alone_of_its_name(self.environment(name))
        cluster = self._clusters.running(environment)
        if cluster is not None:
            return self._loop.run(self._clusters.bring_in_line(cluster, environment))
        return self._loop.run(self._clusters.start(self._clusters.new(environment)))

    @property
    def secrets(self) -> SecretStore:
        """The secrets that were typed into this session."""
        return self._clusters.secrets

    @property
    def clusters(self) -> dict[str, Cluster]:
        """The last cluster of each environment, by the environment's name."""
        return self._clusters.clusters

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
            self._loop.run(self._clusters.stop(clusters))
        return [cluster.name for cluster in clusters]

    def scale(self, name: Any, replicas: int, *, group: str = "", wait: float = 30.0) -> Cluster:
        """Change the number of workers of a running cluster.

        It is brought in line with what its environment declares now before.

        Parameters
        ----------
        name
            The environment.
        replicas
            How many workers there shall be.
        group
            Of which group, where a cluster has several.
        wait
            Seconds to wait for that to have happened.

        Raises
        ------
        ClusterError
            It has none, or its engine cannot be scaled, or not to that number.
        """
        cluster = self.cluster(name)
        if cluster.running:
            cluster = self.up(name)
        self._loop.run(self._clusters.scale(cluster, replicas, wait, group))
        return cluster

    def restart(self, name: Any) -> Cluster:
        """Replace the driver of a cluster; its workers stay."""
        cluster = self.cluster(name)
        self._loop.run(self._clusters.restart(cluster))
        return cluster

    def log_of(self, cluster: Cluster, member: str, last: int) -> str:
        """Return the end of a member's log, or of those of all members of a role."""

        def read(log: str) -> str:
            return self._clusters.backend.log(cluster.id, log, last=last)

        of_role = [m for m in cluster.members() if m["role"] == member]
        if len(of_role) < 2:  # nothing to tell apart
            return read(of_role[0]["log"] if of_role else f"{member}.log")
        return "".join(f"--- {member}-{m['index']} ---\n{read(m['log'])}" for m in of_role)

    # -- images -----------------------------------------------------------------------------

    def image(self, name: Any) -> Any:
        """Return the `flyte.Image` of an environment, or the one that a variable holds.

        Raises
        ------
        EnvironmentNotFound
            There is neither of that name.
        ImageError
            What there is is no image that could be built.
        """
        found = self.namespace.get(name) if isinstance(name, str) else name
        if is_image(found):
            return found
        return image_of(self.declared_as(name))

    def build(
        self,
        name: Any,
        *,
        builder: str = "",
        registry: str = "",
        force: bool = False,
        progress: Callable[[str], None] = print,
    ) -> Built:
        """Build the real image of an environment, or one that a variable holds, and push it.

        Tasks of this session do not need that: it is for those that run elsewhere.

        Parameters
        ----------
        name
            The environment or the image.
        builder, registry, force, progress
            As `images.building.build` has them.

        Raises
        ------
        EnvironmentNotFound
            There is neither of that name.
        ImageError
            Nothing was built.
        """
        from flyte_jupyter.images.building import build

        image = self.image(name)
        return build(image, builder=builder, registry=registry, force=force, progress=progress)

    # -- connectors -------------------------------------------------------------------------

    def connectors(self) -> list[Known]:
        """Return the connectors that tasks of this notebook find."""
        return connectors.known(self.namespace, self.local_modules.holds)

    def serve_connectors(self, port: int = 0) -> ConnectorService:
        """Serve the connectors by gRPC on loopback, as a Flyte backend has them served.

        One that runs already is replaced, so that it knows connectors as they are now.

        Parameters
        ----------
        port
            Where to listen; 0 for a free port.

        Raises
        ------
        ConnectorError
            It did not start.
        """
        self.stop_connectors()
        with self.local_modules.travelling_by_value():
            own = self._connectors()
        self.connector_service = ConnectorService(own, port)
        return self.connector_service

    def stop_connectors(self) -> bool:
        """Stop that service; tells whether it ran."""
        service, self.connector_service = self.connector_service, None
        if service is None:
            return False
        service.stop()
        return True

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
        environment = self._alone_of_its_name(self.environment(name))
        return self._runner.submit(environment, task, Console(sink, ask))

    def run(
        self,
        function: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        sink: Sink | None = None,
        cells: Mapping[str, int] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Run:
        """Call a task function on its environment's cluster, which is started if there is none.

        Parameters
        ----------
        function
            What `@env.task` made.
        args, kwargs
            Its arguments. They and its value cross as they are, whatever their type.
        sink
            Where its output goes; this process's own streams by default.
        cells
            The notebook's cells, as `CellTask` has them.
        context
            What `flyte.get_custom_context` gives in it and in what it calls.

        Returns
        -------
        Run
            It is under way.

        Raises
        ------
        UsageError
            It is no task, or cannot be called so.
        EnvironmentNotFound
            Its environment is gone.
        CaptureError
            An argument cannot be pickled; nothing has been started then.
        """
        task = functions.as_run(function, args, kwargs or {}, cells or {})
        if context:
            task = replace(task, values={**task.values, "context": dict(context)})
        declared = functions.environment_of(function, self.namespace, self.declared)
        from flyte_jupyter.driver.flyte_sdk.overrides import not_honoured  # there is Flyte by now

        self._name_ignored_of_task(task.name, not_honoured(function))
        return self.submit(declared, task, sink=sink)

    def send(self, name: Any, task: CellTask, *, sink: Sink | None = None) -> Run:
        """Run a cell on the Flyte deployment that the SDK is configured for.

        Parameters
        ----------
        name
            The environment.
        task
            What to run.
        sink
            Where its output goes; this process's own streams by default.

        Returns
        -------
        Run
            It is under way; what the deployment says to it, waiting for it raises.

        Raises
        ------
        CaptureError
            An input cannot be pickled.
        UsageError
            It asks for what a deployment has not.
        """
        declared = self.declared_as(name)
        sending = self._sender.cell(declared, task)
        return self._runner.send(declared.name, task, Order(sending, self.namespace, sink))

    def send_call(
        self,
        function: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        sink: Sink | None = None,
        cells: Mapping[str, int] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Run:
        """Call a task function on the Flyte deployment that the SDK is configured for.

        Parameters, and what it returns and raises, are those of `run`.
        """
        task = functions.as_run(function, args, kwargs or {}, cells or {})
        declared = functions.environment_of(function, self.namespace, self.declared)
        sending = self._sender.call(declared, function, task)
        order = Order(sending, self.namespace, sink, context or {})
        return self._runner.send(declared.name, task, order)

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
        return self._runner.wait(run, tick)

    def sizes(self, values: Mapping[str, object]) -> dict[str, int]:
        """Return how many bytes each value takes when it is sent.

        Raises
        ------
        CaptureError
            One cannot be pickled.
        """
        return self._runner.sizes(values)

    @property
    def runs(self) -> list[RunRecord]:
        """The last runs as they are now, oldest first."""
        return list(self._runner.runs)

    @property
    def local_modules(self) -> LocalModules:
        """Modules of the user's that travel by value."""
        return self._runner.local_modules

    def reload_local_modules(self) -> None:
        """Reload local modules that were edited, if the settings have it so, and say which.

        To be called before the values of a task are looked up.
        """
        if self.config.autoreload:
            for name in self.local_modules.refresh(self.report):
                self.report(f"{name} has changed and was reloaded.")

    def read_cells_with(self, transform: Callable[[str], str]) -> None:
        """Have cells turned into Python by `transform` where their code is compared."""
        self._runner.transform = transform

    def show_preparing_with(self, view: Preparing) -> None:
        """Have what is made before a cluster can start shown by `view`."""
        self._clusters.preparing = view

    # -- the end ----------------------------------------------------------------------------

    def close(self) -> None:
        """Take everything down. Safe to call again; the session can be used again afterwards."""
        if os.getpid() != self._pid:
            return  # a forked child of the kernel owns nothing
        atexit.unregister(self.close)
        with contextlib.suppress(Exception):
            self.stop_connectors()
        with contextlib.suppress(Exception):
            if self.clusters:
                self._loop.run(self._clusters.close(), self.config.stop_timeout + 1)
        self._loop.stop()

    def __repr__(self) -> str:
        up = [cluster for cluster in self.clusters.values() if cluster.running]
        return f"<flyte-jupyter session: {len(up)} clusters, {len(self.runs)} runs>"


async def _shielded(coroutine: Any) -> Any:
    return await asyncio.shield(asyncio.ensure_future(coroutine))


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
