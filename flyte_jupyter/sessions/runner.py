"""Runs of the session: what is under way, what has been, and the values that stayed behind."""

from __future__ import annotations

import asyncio
import queue
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from flyte_jupyter.cells.local_modules import LocalModules
from flyte_jupyter.cells.sizes import human_size
from flyte_jupyter.config import FlyteJupyter
from flyte_jupyter.driver.relay import Sink, TextSink
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.transfer import PackError, Parcel
from flyte_jupyter.errors import EnvironmentNotFound
from flyte_jupyter.sessions.beside import beside
from flyte_jupyter.sessions.cache import Cached, CellCache, policy_of
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.environments import Environment
from flyte_jupyter.sessions.event_loop import EventLoopThread
from flyte_jupyter.sessions.execution import Execution, Relayed
from flyte_jupyter.sessions.packing import Packed, pack_for
from flyte_jupyter.sessions.provisioning import Provisioner
from flyte_jupyter.sessions.refs import Ref
from flyte_jupyter.sessions.run_logs import PrintedLogs
from flyte_jupyter.sessions.runs import CellTask, Run, RunRecord
from flyte_jupyter.sessions.sent_runs import Order, SentRun
from flyte_jupyter.sessions.waiting import TURN, see_through

_RUNS_KEPT = 200


@dataclass(frozen=True)
class Console:
    """Where a run's output goes, and who answers its questions.

    Parameters
    ----------
    sink
        Where output goes; this process's own streams by default.
    ask
        Answers `input()` of the task, on the thread that waits for the run; called with the prompt
        and whether to hide what is typed. Without it the task is told that nobody can.
    """

    sink: Sink | None = None
    ask: Callable[[str, bool], str] | None = None


class Runner:
    """Carries runs out on the clusters of a provisioner.

    Parameters
    ----------
    loop
        The session's loop.
    clusters
        Where runs find their cluster.
    config
        The session's settings.
    report
        Called with lines that the user should read.
    """

    def __init__(
        self,
        loop: EventLoopThread,
        clusters: Provisioner,
        config: FlyteJupyter,
        report: Callable[[str], None],
    ) -> None:
        self.config = config
        self.local_modules = LocalModules()
        self.transform: Callable[[str], str] = str
        self.runs: deque[RunRecord] = deque(maxlen=_RUNS_KEPT)
        self._printed = PrintedLogs()
        self._loop, self._clusters, self._report = loop, clusters, report
        self._executions: dict[str, Execution | SentRun] = {}
        self._cache = CellCache(config, self._to_python, report)
        self._named: set[tuple[str, int]] = set()
        self._placing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.environment: Callable[[Mapping[str, Any]], Environment] = _no_environment
        self.connectors: Callable[[], bytes] = bytes
        """Returns those that the notebook defines, pickled."""
        self.nested = self

    def submit(self, environment: Environment, task: CellTask, console: Console) -> Run:
        """Start a run; `Session.submit` says more."""
        with self.local_modules.travelling_by_value():
            key, cached = self._cache.look_up(environment.declared, task)
            if connectors := self.connectors():
                task = replace(task, connectors=connectors)
        if cached is not None:
            run = self._from_cache(environment, task, cached)
        else:
            run = self._execute(*self._place(environment, task), console, key)
        self._list(run)
        return run

    def _place(self, environment: Environment, task: CellTask) -> tuple[Cluster, CellTask, Packed]:
        """Return the cluster that a task runs on, and the task packed for it."""
        cluster = self._clusters.running(environment)
        if cluster is not None:
            # Nearly always it is; then the way to the loop and back is spared.
            if not self._clusters.is_in_line(cluster, environment):
                cluster = self._loop.run(self._clusters.bring_in_line(cluster, environment))
            return cluster, *self._pack(cluster, task)
        # What cannot be pickled is said before a cluster is started for it.
        made = self._clusters.new(environment)
        task, packed = self._pack(made, task)
        try:
            cluster = self._loop.run(self._clusters.start(made))
        except BaseException:
            packed.parcel.close()
            raise
        if cluster is made:
            return made, task, packed
        packed.parcel.close()  # a call of a task was faster, and its cluster keeps other inputs
        return cluster, *self._pack(cluster, task)

    def _pack(self, cluster: Cluster, task: CellTask) -> tuple[CellTask, Packed]:
        """Pack inputs; refs of other drivers are fetched, for only their own knows them."""
        values = _known_to(cluster.driver, task.values)
        if task.call is not None:
            args = tuple(_known_to(cluster.driver, dict(enumerate(values["args"]))).values())
            kwargs = _known_to(cluster.driver, values["kwargs"])
            values = {**values, "args": args, "kwargs": kwargs}
        task, packed = self._pack_possible(cluster, replace(task, values=values))
        self._name_large(packed.parcel)
        return task, packed

    def _pack_possible(self, cluster: Cluster, task: CellTask) -> tuple[CellTask, Packed]:
        """Pack what can be; what cannot may be left from before, and is bound anew by the cell."""
        try:
            return task, pack_for(cluster, task.values, self.local_modules)
        except PackError as error:
            name = error.variable
            if name not in task.binds:
                raise
            kind = type(task.values[name]).__name__
            self._report(f"`{name}` ({kind}) cannot be sent and was left out: the cell binds it.")
        values = {each: value for each, value in task.values.items() if each != name}
        return self._pack_possible(cluster, replace(task, values=values))

    def _name_large(self, parcel: Parcel) -> None:
        """Say once of each large input that it travels."""
        for name, size in parcel.sizes.items():
            if size >= self.config.large_input and (name, size) not in self._named:
                self._named.add((name, size))
                self._report(f"`{name}` travels along: {human_size(size)}.")

    def _execute(
        self, cluster: Cluster, task: CellTask, packed: Packed, console: Console, key: str = ""
    ) -> Run:
        run = Run(task, cluster.name, self)
        execution = Execution(run, cluster, console.sink or TextSink(), console.ask, self)
        self._use_cache(execution, key)
        self._add(execution)
        try:
            self._loop.submit(execution.perform(packed))
        except KeyboardInterrupt:
            self.cancel(run)
            raise
        return run

    def send(self, environment: str, task: CellTask, order: Order) -> Run:
        """Start a run on a Flyte deployment."""
        run = Run(replace(task, values={}), environment, self)
        execution = SentRun(run, order, self.config)
        self._add(execution)
        self._list(run)
        try:
            self._loop.submit(execution.perform())
        except KeyboardInterrupt:
            self.cancel(run)
            raise
        return run

    async def nest(self, parent: Execution, environment: Environment, task: CellTask) -> Relayed:
        """Make a run for a call of a task; on the session's loop."""
        run, cluster = await self._begin_nested(parent, environment, task)
        execution = Relayed(run, cluster, parent.sink, None, self)
        execution.caller = parent
        self._add(execution)
        return execution

    async def _begin_nested(
        self, parent: Execution, environment: Environment, task: CellTask
    ) -> tuple[Run, Cluster]:
        run = Run(task, environment.name, self, parent.run.id)
        self._list(run)
        try:
            return run, await self._placed(environment)
        except asyncio.CancelledError as error:
            run.end("cancelled", error)
            raise
        except BaseException as error:
            run.end("failed", error)
            raise

    def _list(self, run: Run) -> None:
        self.runs.append(run.record)
        self._printed.add(run.record.printed)

    async def recall(
        self, parent: Execution, environment: Environment, task: CellTask
    ) -> tuple[Run, Execution | None]:
        """Make a run for a call of a task that has a cache; it has ended if its value is kept.

        Its values are looked at here, as those of others are not.
        """

        def look_up() -> tuple[str, Cached | None]:
            with self.local_modules.travelling_by_value():
                return self._cache.look_up(environment.declared, task)

        key, cached = await beside(look_up, lambda _: None)
        if cached is not None:
            run = self._from_cache(environment, task, cached, parent.run.id)
            self._list(run)
            return run, None
        run, cluster = await self._begin_nested(parent, environment, task)
        execution = Execution(run, cluster, parent.sink, None, self)
        execution.caller = parent
        self._use_cache(execution, key)
        self._add(execution)
        return run, execution

    def _add(self, execution: Execution | SentRun) -> None:
        run = execution.run
        self._executions[run.id] = execution
        run.on_done(lambda: self._forget(run))

    async def _placed(self, environment: Environment) -> Cluster:
        """Return an environment's cluster, started if there is none, and as it is declared now.

        One that is at work is taken as it is: the caller's own could not be started anew.
        """
        async with self._placing[environment.name]:
            clusters, cluster = self._clusters, self._clusters.running(environment)
            if cluster is None:
                return await self._started(environment)
            if cluster.used or clusters.is_in_line(cluster, environment):
                return cluster
            changing = await beside(lambda: clusters.bring_in_line(cluster, environment), _close)
            return await changing

    async def _started(self, environment: Environment) -> Cluster:
        clusters = self._clusters
        starting = await beside(lambda: clusters.start(clusters.new(environment)), _close)
        return await starting

    async def replace(self, lost: Cluster) -> Cluster:
        """Return the cluster that has taken the place of a lost one, or start it.

        One that runs is taken as it is: another run has started it, perhaps as declared since.
        """
        environment = lost.environment
        async with self._placing[environment.name]:
            return self._clusters.running(environment) or await self._started(environment)

    def _forget(self, run: Run) -> None:
        self._executions.pop(run.id, None)

    def wait(self, run: Run, tick: Callable[[float], None] | None = None) -> Any:
        """Wait for a run in the foreground; `Session.wait` says more."""
        execution = self._executions.get(run.id)
        if execution is None:
            return run.result()
        started = time.monotonic()
        run.on_done(lambda: execution.calls.put(None))

        def turn() -> None:
            if call := _next(execution.calls):
                call()
            elif tick:
                tick(time.monotonic() - started)

        def interrupted(again: bool) -> None:
            self._loop.loop.call_soon_threadsafe(execution.interrupt, again)

        see_through(lambda: run.done, turn, interrupted)
        return run.result()

    def cancel(self, run: Run) -> None:
        """Stop a run; from any thread."""
        if execution := self._executions.get(run.id):
            self._loop.loop.call_soon_threadsafe(execution.interrupt, False)

    def fetch(self, cluster: Cluster, ref: Ref) -> Any:
        """Bring the value of a ref here."""
        task = CellTask(code="", name="get", values={"value": ref}, returns=("value",))
        return self.wait(self._execute(cluster, *self._pack(cluster, task), Console()))

    def sizes(self, values: Mapping[str, object]) -> dict[str, int]:
        """Return how many bytes each value takes when it is sent; a ref takes none.

        Raises
        ------
        CaptureError
            One cannot be pickled.
        """
        sent = {name: value for name, value in values.items() if not isinstance(value, Ref)}
        with self.local_modules.travelling_by_value():
            parcel = transfer.pack(sent)
        parcel.close()
        return parcel.sizes

    # -- the cache --------------------------------------------------------------------------

    def _to_python(self, cell: str) -> str:
        return self.transform(cell)

    def _use_cache(self, execution: Execution, key: str) -> None:
        """Have a run keep its result, and wait for equal ones if its cache has it so."""
        if not key:
            return
        run = execution.run  # what refers to the execution would keep it until a collection
        execution.keep = lambda: self._cache.keep(key, run)
        policy = policy_of(execution.environment.declared, run.task)
        # One that a task calls does not wait: an equal one may wait for its caller's place.
        if policy.serialize and execution.caller is None:
            execution.turn = lambda: self._after_equal_runs(run, key, policy)

    @asynccontextmanager
    async def _after_equal_runs(self, run: Run, key: str, policy: Any) -> AsyncIterator[bool]:
        async with self._cache.turn(key):
            _, cached = await beside(lambda: self._cache.find(key, policy), lambda _: None)
            if cached is not None:
                self._end_as(run, cached)
            yield cached is not None

    def _from_cache(
        self, environment: Environment, task: CellTask, cached: Cached, parent: str = ""
    ) -> Run:
        run = Run(task, environment.name, self, parent)
        self._end_as(run, cached)
        return run

    def _end_as(self, run: Run, cached: Cached) -> None:
        run.outputs = cached.outputs
        run.end("cached")
        self._report(
            f"{run.id}: the result of {cached.made} is in {run.environment}'s cache; nothing ran."
        )


def _known_to(driver: str, values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Fetch refs among values that a driver does not know."""
    return {
        name: value.get()
        if isinstance(value, Ref) and not (value.alive and value.belongs_to(driver))
        else value
        for name, value in values.items()
    }


def _no_environment(about: Mapping[str, Any]) -> Environment:
    name = about["environment"]["name"]
    raise EnvironmentNotFound(f"no environment is called {name!r}")


def _close(coroutine: Coroutine[Any, Any, Any]) -> None:
    coroutine.close()


def _next(calls: queue.SimpleQueue[Callable[[], None] | None]) -> Callable[[], None] | None:
    """Return what the waiting thread is asked to call; None if nothing comes for a moment."""
    try:
        return calls.get(timeout=TURN)
    except queue.Empty:
        return None
