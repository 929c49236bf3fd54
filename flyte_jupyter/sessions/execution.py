"""Carrying one run out: attempts, time limit, interrupts, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from flyte_jupyter.driver.client import DriverClient, Hearing
from flyte_jupyter.driver.relay import Sink
from flyte_jupyter.driver.values.kept import KeptBufferError
from flyte_jupyter.driver.values.segments import SegmentError
from flyte_jupyter.driver.values.transfer import Parcel
from flyte_jupyter.driver.wire import TaskReply, TaskRequest
from flyte_jupyter.errors import (
    ClusterError,
    ClusterLost,
    ConnectorError,
    DriverLost,
    ServiceError,
    TaskTimeout,
)
from flyte_jupyter.sessions.beside import beside
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.nesting import Nesting, Runs
from flyte_jupyter.sessions.outputs import Fetcher, Outputs
from flyte_jupyter.sessions.packing import Packed, pack_for
from flyte_jupyter.sessions.refs import Ref
from flyte_jupyter.sessions.remote_errors import rebuild, with_traceback
from flyte_jupyter.sessions.runs import Run


class Owner(Fetcher, Protocol):
    """What an execution needs of the session."""

    @property
    def config(self) -> Any:
        """The session's settings."""

    @property
    def local_modules(self) -> Any:
        """What travels by value."""

    @property
    def nested(self) -> Runs:
        """Runs what tasks call."""

    async def replace(self, lost: Cluster) -> Cluster:
        """Return the cluster that has taken the place of a lost one, or start it."""


class _Limit:
    """A time limit that has begun; `reach` is called with it when it is over."""

    def __init__(self, seconds: float, reach: Callable[[float], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, reach, seconds) if seconds else None

    def cancel(self) -> None:
        """Stop the clock."""
        if self._timer:
            self._timer.cancel()


class Execution:
    """One run on its way through a cluster.

    Parameters
    ----------
    run, cluster
        What runs where.
    sink
        Where its output goes.
    ask
        Answers questions of the task, on the thread that waits.
    owner
        The session.
    """

    def __init__(
        self,
        run: Run,
        cluster: Cluster,
        sink: Sink,
        ask: Callable[[str, bool], str] | None,
        owner: Owner,
    ) -> None:
        self.run, self.cluster = run, cluster
        self.environment = cluster.environment
        self.calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.keep: Callable[[], Awaitable[None]] | None = None
        """Keeps what the run returned, before anybody who waits for it is woken."""
        self.turn: Callable[[], contextlib.AbstractAsyncContextManager[bool]] | None = None
        """Waits for equal runs that began before; gives whether one of them has ended this run."""
        self.sink = sink
        self.places = cluster.places
        self._uses = contextlib.ExitStack()
        self.caller: Execution | None = None
        """The one whose task called this."""
        self._ask, self._owner = ask, owner
        self._task: asyncio.Task[Any] | None = None
        self._keeping: asyncio.Future[None] | None = None
        self._client: DriverClient | None = None
        self._interrupted = self._replaced = False
        self._timed_out, self._late = 0.0, False
        self._limits: list[_Limit] = []
        self._nesting: Nesting | None = None
        self._beside = self._hopeless = False
        self._killer: asyncio.TimerHandle | None = None

    @property
    def local_modules(self) -> Any:
        """What travels by value."""
        return self._owner.local_modules

    @property
    def nested_places(self) -> Any:
        """The turns of what it calls, through others too, on its own cluster."""
        return self._nesting.places if self._nesting else self.places

    async def perform(self, packed: Packed) -> None:
        """See the run through to its end, whatever that is."""
        self._task = asyncio.current_task()
        try:
            if self._interrupted:  # before this coroutine took its first step
                raise asyncio.CancelledError
            self._limit(self.run.task.deadline, self._end_in_time)
            async with self.turn() if self.turn else contextlib.nullcontext(False) as ended:
                if ended:
                    return
                with self._uses:
                    self._uses.enter_context(self.cluster.in_use())
                    await self._attempts(packed)
                await self._keep_result()
            self.run.end("succeeded")
        except KeyboardInterrupt as stop:
            self.run.end("cancelled", stop)
        except asyncio.CancelledError:
            if self._timed_out:
                self.run.end("failed", self._timeout_error())
                return
            stopped = KeyboardInterrupt("the run was stopped before it ran")
            self.run.end("cancelled", with_traceback(stopped, []))
        except BaseException as error:  # noqa: BLE001 - it is the run's to raise, whatever it is
            self.run.end("failed", error)
        finally:
            packed.parcel.close()
            for limit in self._limits:
                limit.cancel()
            # What refers back to this would keep the run, and its refs, until the next collection.
            self._limits.clear()
            self._nesting = None
            if self._killer:
                self._killer.cancel()

    async def _attempts(self, packed: Packed) -> None:
        used, task = False, self.run.task
        for left in range(task.retries, -1, -1):
            begun, queued = False, self._limit(task.queue_timeout)
            try:
                async with self._turn(again=left < task.retries):
                    if used or packed.driver not in ("", self.cluster.driver):
                        packed.parcel.close()
                        packed = await self._pack_again()
                    begun = used = True
                    queued.cancel()
                    packed = await self._attempt_with_all(packed)
                return
            except asyncio.CancelledError:
                if not left or not self._timed_out or self._is_over():
                    raise
                asyncio.current_task().uncancel()  # type: ignore[union-attr]
            except Exception as error:
                lost = isinstance(error, ClusterLost)
                if not left or not (begun or lost) or self._is_over() or _final(error):
                    raise
            finally:
                queued.cancel()
                if used:
                    packed.parcel.close()
            self._fail_attempt(left)
            if task.backoff is not None:
                pause = task.backoff.compute_delay(task.retries - left)
                await asyncio.sleep(pause.total_seconds())

    def _fail_attempt(self, left: int) -> None:
        """Say that there is another one, for which limits of one attempt begin anew."""
        more = "1 more attempt" if left == 1 else f"{left} more attempts"
        what = self._timeout_error().what if self._timed_out else f"{self.run.id} failed"
        self.sink.stream("stderr", f"{what}; {more}.\n")
        self.run.record.state = "queued"
        self._timed_out, self._replaced = 0.0, False
        if self._killer:
            self._killer.cancel()

    def _is_over(self) -> bool:
        """Whether no attempt may follow, however many are left."""
        return self._interrupted or self._late or self._hopeless

    @contextlib.asynccontextmanager
    async def _turn(self, *, again: bool) -> AsyncIterator[None]:
        """Wait until it may run on its cluster, and hold the place meanwhile."""
        if again and self.cluster.state == "failed":
            await self._replace_cluster()
        await self._reach_cluster()
        async with self.places:
            self._beside = self._goes_beside()
            async with contextlib.nullcontext() if self._beside else self.cluster.turn:
                await self._reach_cluster()  # again: it may have gone while this run waited
                if self._interrupted:
                    raise asyncio.CancelledError
                yield

    async def _attempt_with_all(self, packed: Packed) -> Packed:
        """Attempt it; again if an input that was sent before has had to go meanwhile."""
        try:
            await self._attempt(packed.parcel)
        except KeptBufferError:
            packed.parcel.close()
            packed = await self._pack_again()
            await self._attempt(packed.parcel)
        return packed

    def _limit(self, seconds: float, reach: Callable[[float], None] | None = None) -> _Limit:
        """Stop the attempt in so many seconds, unless it is cancelled before; 0 for never."""
        limit = _Limit(seconds, reach or self._time_out)
        self._limits.append(limit)
        return limit

    async def _replace_cluster(self) -> None:
        self.run.record.state = "starting"
        lost, self.cluster = self.cluster, await self._owner.replace(self.cluster)
        self._uses.enter_context(self.cluster.in_use())
        if self.places is lost.places:  # and not those of a caller
            self.places = self.cluster.places

    def _goes_beside(self) -> bool:
        """Whether it runs in a thread of the driver, beside a task on its main thread.

        A function that another one calls must not wait for its caller; cells wait for each other,
        and so does what runs in ranks, which have no other driver than their own to call.
        """
        if self.run.task.call is None or not self.cluster.turn.locked():
            return False
        return not (self.cluster.spec and self.cluster.spec.run)

    async def _reach_cluster(self) -> None:
        self.run.record.state = "starting"
        for _ in range(2):
            try:
                return await self.cluster.ready()
            except ClusterError:
                # A driver that ends while the cluster stays is replaced within moments.
                if self.cluster.state not in ("starting", "ready"):
                    raise
        return await self.cluster.ready()

    async def _pack_again(self) -> Packed:
        """Pack for the present driver: what the one before had is not there any more."""
        values, modules = self.run.task.values, self._owner.local_modules
        while True:
            packed = await beside(
                lambda: pack_for(self.cluster, values, modules, travelled=self.caller is not None),
                lambda late: late.parcel.close(),
            )
            try:
                await self._reach_cluster()  # again: it may have gone while values were pickled
                if packed.driver == self.cluster.driver:
                    return packed
            except BaseException:
                packed.parcel.close()
                raise
            packed.parcel.close()

    async def _keep_result(self) -> None:
        # What an interrupt cut short may be half of a result.
        if self.keep is None or self._interrupted or self._timed_out:
            return
        self._keeping = asyncio.ensure_future(self.keep())
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeping

    async def _attempt(self, parcel: Parcel) -> None:
        self._client = client = await self.cluster.client()
        if self._interrupted:
            raise asyncio.CancelledError
        self.run.begin()
        self.run.record.keep_log(self.cluster.folder)
        limit = self._limit(self.run.task.timeout)
        self._nesting = nesting = Nesting(self, client, self._owner.nested)
        try:
            reply, buffers = await client.run(
                self._request(parcel),
                [self.environment.declaration(self.run.task.connectors), *parcel.frames],
                self.sink,
                hearing=Hearing(
                    answer=self._answer if self._ask else None,
                    on_mapped=parcel.confirm,
                    on_call=nesting.hear,
                ),
                beside=self._beside,
            )
            if self._killer:
                self._killer.cancel()  # it has answered: what it called may still have to be ended
            await self._receive(reply, buffers, client)
        except DriverLost:
            self._explain_loss()
            raise
        finally:
            limit.cancel()
            await nesting.close()
            self.run.record.keep_log(self.cluster.folder)

    def _request(self, parcel: Parcel) -> TaskRequest:
        task = self.run.task
        return {
            "run": self.run.id,
            "call": task.call is not None,
            "code": task.code,
            "count": task.count,
            "line": task.line,
            "cells": self._unknown_cells(),
            "inputs": parcel.header,
            "returns": list(task.returns),
            "keeps": list(task.keeps),
            "allow_stdin": self._ask is not None,
            "around": self.cluster.surroundings.changes(),
            "ranks": task.ranks,
            "own": self.caller is not None and self.caller.cluster is self.cluster,
        }

    def _unknown_cells(self) -> dict[str, tuple[int, str]]:
        """Return the text of cells that the driver needs for tracebacks, and has not got yet."""
        known = self.cluster.known_cells
        unknown = {name: n for name, n in self.run.task.cells.items() if name not in known}
        known.update(unknown)
        return {name: (n, "".join(linecache.getlines(name))) for name, n in unknown.items()}

    # -- what comes back --------------------------------------------------------------------

    async def _receive(self, reply: TaskReply, buffers: list[Any], client: DriverClient) -> None:
        outputs = Outputs(self.run, self.cluster, client, self._owner, self._ask_more)
        if reply["status"] == "error":
            if reply.get("outputs"):
                with contextlib.suppress(SegmentError):  # the error says more
                    await outputs.take(reply, buffers)
                self._say_what_stayed()
            self._hopeless = reply["where"] == "outputs"
            raise self._error(reply, buffers)
        if problem := await outputs.take(reply, buffers):
            self._hopeless = True  # another attempt would give the same
            self._say_what_stayed()
            raise problem
        if self._timed_out:  # the code has caught the interrupt, and returned what it had
            raise self._timeout_error()

    async def _ask_more(
        self, values: dict[str, Any], *, returns: Sequence[str] = (), keeps: Sequence[str] = ()
    ) -> tuple[TaskReply, list[Any]]:
        """Ask the driver for values; nothing of the user's runs."""
        assert self._client is not None
        with contextlib.closing(
            pack_for(self.cluster, values, self._owner.local_modules).parcel
        ) as parcel:
            request = self._request(parcel)
            request |= {"code": "", "returns": list(returns), "keeps": list(keeps)}
            declaration = self.environment.declaration(self.run.task.connectors)
            return await self._client.run(request, [declaration, *parcel.frames], self.sink)

    def _say_what_stayed(self) -> None:
        stayed = [n for n in self.run.task.returns if isinstance(self.run.outputs.get(n), Ref)]
        if stayed:
            names = ", ".join(f"`{name}`" for name in stayed)
            self.sink.stream("stderr", f"{names}: kept in the driver, and here as a ref.\n")

    def _error(self, reply: TaskReply, buffers: list[Any]) -> BaseException:
        if self._timed_out:
            return self._timeout_error()
        # The end of what it had called may have ended it before the interrupt did.
        said = (reply["ename"], reply["evalue"])
        if self._interrupted and ("KeyboardInterrupt" in said or said[0] == "CancelledError"):
            return with_traceback(KeyboardInterrupt(), reply["traceback"])
        return rebuild(reply, buffers)

    # -- interrupts -------------------------------------------------------------------------

    def interrupt(self, at_once: bool) -> None:
        """Interrupt what runs; replace the driver if that has been ignored, or `at_once`."""
        if self.run.done:
            return
        if self._keeping:
            self._keeping.cancel()  # the task itself has ended well
            return
        again, self._interrupted = self._interrupted, True
        if self.run.state != "running":
            if self._task:
                self._task.cancel()
        elif at_once and again:
            self._replace_driver()
        elif not again:
            self._send_interrupt()

    def _send_interrupt(self) -> None:
        if self._client:
            self._client.interrupt(self.run.id)
        if self._nesting:  # after it, for what its calls then raise is to be known for what it is
            self._nesting.stop()
        loop = asyncio.get_running_loop()
        self._killer = loop.call_later(self._owner.config.interrupt_grace, self._replace_driver)

    def _replace_driver(self) -> None:
        if self._client is not None and not self.cluster.has(self._client):
            return  # somebody else has replaced it
        if not self.run.done and not self._replaced:
            self._replaced = True
            task = asyncio.get_running_loop().create_task(self.cluster.restart_driver())
            task.add_done_callback(lambda _: None)

    def _time_out(self, limit: float) -> None:
        if self._timed_out or self.run.done:
            return
        self._timed_out = limit
        if self.run.state == "running":
            self._send_interrupt()
        elif self._task:
            self._task.cancel()

    def _end_in_time(self, deadline: float) -> None:
        """Stop the run: the only limit that allows no further attempt."""
        self._late = True
        if self._timed_out:
            self._timed_out = deadline  # what is being stopped stops for good
        else:
            self._time_out(deadline)

    def _timeout_error(self) -> TaskTimeout:
        ran = self.run.state == "running" or (self._late and self.run.attempts)
        return TaskTimeout(
            f"{self.run.id} {'ran' if ran else 'waited'} longer than its {self._timed_out:g} s",
            seen="its driver took no notice and was replaced" if self._replaced else "",
        )

    def _explain_loss(self) -> None:
        """Raise what the user did instead of what it did to the driver."""
        if self._timed_out:
            raise self._timeout_error() from None
        if self._replaced:
            raise DriverLost(
                f"the driver of {self.environment.name} was stopped and restarted",
                seen="the task took no notice of the interrupt",
                fix="Refs of the old driver are gone; its workers stayed.",
            ) from None

    # -- questions --------------------------------------------------------------------------

    async def _answer(self, prompt: str, password: bool) -> str | None:
        """Have the waiting thread ask the user."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[str | None] = loop.create_future()

        def give(value: str | None) -> None:
            if not answered.done():
                answered.set_result(value)

        def ask() -> None:
            assert self._ask is not None
            try:
                value = self._ask(prompt, password)
            except EOFError:
                value = "\x04"
            except BaseException:
                loop.call_soon_threadsafe(give, None)  # an interrupt ends the question itself
                raise
            loop.call_soon_threadsafe(give, value)

        self.calls.put(ask)
        return await answered


class Relayed(Execution):
    """A run that another driver asked for: its values go from driver to driver, unseen here."""

    answer: tuple[TaskReply, list[Any]] | None = None
    """What its driver replied in the end."""

    async def _pack_again(self) -> Packed:
        return self._passed

    async def perform(self, packed: Packed) -> None:
        """See the run through to its end, whatever that is."""
        self._passed = packed
        await super().perform(packed)

    async def _attempt(self, parcel: Any) -> None:
        self.answer = None
        await super()._attempt(parcel)

    async def _receive(self, reply: TaskReply, buffers: list[Any], client: DriverClient) -> None:
        if not self._timed_out:
            self.answer = reply, buffers
        elif reply["status"] == "ok":  # as for others, but what it returned is still over there
            if reply["outputs"]["segments"]:
                client.received(self.run.id)
            raise self._timeout_error()
        if reply["status"] == "error":
            raise self._error(reply, buffers)

    def let_go(self) -> None:
        """Tell its driver that its value has been mapped."""
        if self._client:
            self._client.received(self.run.id)


def _final(error: Exception) -> bool:
    """Whether an exception says that another attempt is of no use: Flyte's own word, or ours."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, ConnectorError):
        return not isinstance(error, ServiceError)
    return "NonRecoverableError" in kinds
