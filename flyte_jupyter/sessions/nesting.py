"""Tasks that tasks call: each on its own environment's cluster, values from driver to driver."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from flyte_jupyter.driver import replies
from flyte_jupyter.driver.client import DriverClient
from flyte_jupyter.driver.flyte_sdk.environments import last_declared
from flyte_jupyter.driver.functions import RESULT
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.transfer import Parcel
from flyte_jupyter.driver.wire import NestedCall, TaskReply
from flyte_jupyter.errors import EnvironmentNotFound
from flyte_jupyter.sessions.beside import beside
from flyte_jupyter.sessions.clusters import places_for
from flyte_jupyter.sessions.environments import Environment, named
from flyte_jupyter.sessions.functions import as_run, limits_of
from flyte_jupyter.sessions.packing import Packed, pack_for
from flyte_jupyter.sessions.runs import CellTask, Run

if TYPE_CHECKING:
    from flyte_jupyter.sessions.execution import Execution, Relayed


class Passed:
    """A parcel of another driver, which keeps it until its call has been answered."""

    def __init__(self, header: Any, frames: list[Any]) -> None:
        self.header, self.frames = header, frames

    def confirm(self) -> None:
        """Do nothing: the driver that packed it needs no word."""

    close = confirm


class Runs(Protocol):
    """What nested calls need of the session."""

    def environment(self, about: Mapping[str, Any]) -> Environment:
        """Return the environment of a task that is called, by what its caller says of it."""

    async def recall(
        self, parent: Execution, environment: Environment, task: CellTask
    ) -> tuple[Run, Execution | None]:
        """Make a run for a call of a task that has a cache; it has ended if its value is kept."""

    async def nest(self, parent: Execution, environment: Environment, task: CellTask) -> Relayed:
        """Make a run for a call, under that of its caller; its cluster is started if need be."""


class Nesting:
    """The calls of one run that is under way.

    Parameters
    ----------
    parent
        The run that calls.
    client
        The driver that it runs in.
    runs
        The session.
    """

    def __init__(self, parent: Execution, client: DriverClient, runs: Runs) -> None:
        self._parent, self._client, self._runs = parent, client, runs
        self._running: dict[str, Execution] = {}
        self._held: dict[str, Callable[[], None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unanswered: set[str] = set()
        # Of its own environment it has one place already, and waits there for what it calls: one
        # that has no other would wait for ever.
        capacity = parent.environment.capacity
        self.places = places_for(None if capacity is None else max(capacity - 1, 1))
        self._stopped = False

    def hear(self, said: NestedCall, buffers: list[Any]) -> None:
        """Do what a task says of its calls."""
        if name := said.get("call"):
            self._unanswered.add(name)
            if self._stopped:
                self._answer(name, *_told_to_stop())
                return
            self._tasks[name] = task = asyncio.ensure_future(self._serve(name, said, buffers))
            task.add_done_callback(functools.partial(self._forget, name))
        elif name := said.get("cancel"):
            self._stop(name)
        elif let_go := self._held.pop(said.get("received", ""), None):
            let_go()

    def _stop(self, name: str) -> None:
        if child := self._running.get(name):
            child.interrupt(False)
        elif task := self._tasks.get(name):
            task.cancel()  # while its cluster starts

    def stop(self) -> None:
        """Stop what is under way, and what is yet called.

        Who waits for it is told at once: where it waits in C code, no interrupt is heard.
        """
        self._stopped = True
        for name in list(self._tasks):
            self._answer(name, *_told_to_stop())
            self._stop(name)

    async def close(self) -> None:
        """Stop what is still under way: nobody waits for it any more."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        while self._held:
            self._held.popitem()[1]()

    async def _serve(self, name: str, said: NestedCall, buffers: list[Any]) -> None:
        try:
            reply, frames = await self._run(name, said, buffers)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller raises it
            reply, frames = replies.told(error, "cluster")
        if not self._answer(name, reply, frames) and (let_go := self._held.pop(name, None)):
            let_go()  # nobody will say that it has been received

    def _answer(self, name: str, reply: TaskReply, frames: Sequence[Any]) -> bool:
        """Answer a call, unless that has been done."""
        if name not in self._unanswered:
            return False
        self._unanswered.remove(name)
        self._client.answer_call(name, reply, frames)
        return True

    def _forget(self, name: str, task: asyncio.Task[None]) -> None:
        del task
        self._tasks.pop(name, None)
        self._running.pop(name, None)
        self._answer(name, *_told_to_stop())  # it was stopped before its first step

    async def _run(
        self, name: str, said: NestedCall, buffers: list[Any]
    ) -> tuple[TaskReply, list[Any]]:
        about = pickle.loads(buffers[0])
        # What is said of it is of the cell that called.
        environment: Environment = self._parent.sink.run(self._runs.environment, about)
        if about["cache"].is_enabled():
            return await self._recall(name, said, buffers, environment, about["group"])
        task = CellTask(
            code=f"{about['name']}(...)",
            name=about["name"],
            group=about["group"],
            returns=(RESULT,),
            cache=about["cache"],
            cells=self._parent.run.task.cells,
            call={},
            **limits_of(about["timeout"], about["retries"]),
        )
        passed = Passed(said["inputs"], buffers[1:])
        child = await self._runs.nest(self._parent, environment, task)
        self._begin(name, child)
        await child.perform(Packed(passed, ""))
        with contextlib.ExitStack() as until_received:
            # Its driver has the value until then: a cluster that goes by itself has to wait.
            until_received.enter_context(child.cluster.in_use())
            if child.answer is not None:
                answer = child.answer
                if (answer[0].get("outputs") or {}).get("segments"):
                    until_received.callback(child.let_go)
                    self._held[name] = until_received.pop_all().close
                return answer
        error = child.run.exception()
        assert error is not None
        raise error

    def _begin(self, name: str, child: Execution) -> None:
        self._running[name] = child
        caller: Execution | None = self._parent
        while caller is not None and caller.cluster is not child.cluster:
            caller = caller.caller
        if caller is not None:
            child.places = caller.nested_places

    async def _recall(
        self,
        name: str,
        said: NestedCall,
        buffers: list[Any],
        environment: Environment,
        group: str,
    ) -> tuple[TaskReply, list[Any]]:
        values: dict[str, Any] = await beside(
            lambda: transfer.unpack(said["inputs"], buffers[1:], keep_classes=True),
            lambda _: None,
        )
        cells = self._parent.run.task.cells
        task = as_run(values["task"], values["args"], values["kwargs"], cells)
        task = replace(task, values={**values, **task.values}, group=group)
        run, child = await self._runs.recall(self._parent, environment, task)
        if child is not None:
            self._begin(name, child)
            try:
                packed = await beside(
                    lambda: pack_for(
                        child.cluster, task.values, child.local_modules, travelled=True
                    ),
                    lambda late: late.parcel.close(),
                )
            except BaseException as problem:
                run.end("failed", problem)
                raise
            await child.perform(packed)
        if error := run.exception():
            raise error
        folder = self._parent.cluster.folder
        parcel: Parcel = await beside(
            lambda: transfer.pack(run.outputs, folder=folder), lambda late: late.close()
        )
        if parcel.header["segments"]:
            self._held[name] = parcel.close
        reply: TaskReply = {"status": "ok", "outputs": parcel.header, "refs": {}}
        return reply, parcel.frames


def _told_to_stop() -> tuple[TaskReply, list[Any]]:
    return replies.told(KeyboardInterrupt(), "cluster")


def declared_as(
    fields: Mapping[str, Any], namespace: Mapping[str, object], known: Mapping[str, Any]
) -> Any:
    """Return an environment by its name, or one made of what a task knows of it.

    The notebook's variables come first; then all that Flyte knows, for a local module may hold it,
    or a list, or only another one that depends on it.
    """
    try:
        return named(fields["name"], namespace, known)
    except EnvironmentNotFound:
        import flyte

        return last_declared(fields["name"]) or flyte.TaskEnvironment(**fields)
