"""Carrying one run out: attempts, time limit, interrupts, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import os
import queue
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from flyte_jupyter.driver.client import DriverClient
from flyte_jupyter.driver.relay import Sink
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.transfer import Parcel
from flyte_jupyter.driver.wire import TaskReply, TaskRequest
from flyte_jupyter.errors import ClusterError, ClusterLost, DriverLost, TaskTimeout
from flyte_jupyter.sessions.beside import beside
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.packing import Packed, pack_for
from flyte_jupyter.sessions.refs import Ref
from flyte_jupyter.sessions.remote_errors import rebuild, with_traceback
from flyte_jupyter.sessions.runs import Run


class Owner(Protocol):
    """What an execution needs of the session."""

    @property
    def config(self) -> Any:
        """The session's settings."""

    @property
    def local_modules(self) -> Any:
        """What travels by value."""

    def fetch(self, cluster: Cluster, ref: Ref) -> Any:
        """Bring a ref's value here."""


class _Home:
    """What a ref knows of where it comes from; `refs.Home` says what it is for."""

    def __init__(self, cluster: Cluster, client: DriverClient, owner: Owner) -> None:
        self._cluster, self._client, self._owner = cluster, client, owner

    @property
    def driver(self) -> str:
        return self._cluster.driver

    def fetch(self, ref: Ref) -> Any:
        return self._owner.fetch(self._cluster, ref)

    def drop(self, ref: str) -> None:
        self._client.tidy({"drop": [ref]})


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
        self._sink, self._ask, self._owner = sink, ask, owner
        self._task: asyncio.Task[Any] | None = None
        self._keeping: asyncio.Future[None] | None = None
        self._client: DriverClient | None = None
        self._interrupted = self._timed_out = self._replaced = False
        self._mapped = self._interrupt_waits = False
        self._killer: asyncio.TimerHandle | None = None

    async def perform(self, packed: Packed) -> None:
        """See the run through to its end, whatever that is."""
        self._task = asyncio.current_task()
        try:
            if self._interrupted:  # before this coroutine took its first step
                raise asyncio.CancelledError
            with self.cluster.in_use():
                await self._attempts(packed)
            await self._keep_result()
            self.run.end("succeeded")
        except KeyboardInterrupt as stop:
            self.run.end("cancelled", stop)
        except asyncio.CancelledError:
            stopped = KeyboardInterrupt("the run was stopped before it ran")
            self.run.end("cancelled", with_traceback(stopped, []))
        except BaseException as error:  # noqa: BLE001 - it is the run's to raise, whatever it is
            self.run.end("failed", error)
        finally:
            packed.parcel.close()
            if self._killer:
                self._killer.cancel()

    async def _attempts(self, packed: Packed) -> None:
        used = False
        for left in range(self.run.task.retries, -1, -1):
            await self._reach_cluster()
            async with self.cluster.turn:
                await self._reach_cluster()  # again: it may have gone while this run waited
                if self._interrupted:
                    raise asyncio.CancelledError
                if used or packed.driver not in ("", self.cluster.driver):
                    packed.parcel.close()
                    packed = await self._pack_again()
                used = True
                try:
                    await self._attempt(packed.parcel)
                except Exception as error:
                    gone = isinstance(error, ClusterLost)
                    if not left or gone or self._timed_out or self._interrupted:
                        raise
                    more = "1 more attempt" if left == 1 else f"{left} more attempts"
                    self._sink.stream("stderr", f"{self.run.id} failed; {more}.\n")
                else:
                    return
                finally:
                    packed.parcel.close()

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
                lambda: pack_for(self.cluster, values, modules), lambda late: late.parcel.close()
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
        if self.keep is None or self._interrupted:
            return
        self._keeping = asyncio.ensure_future(self.keep())
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeping

    async def _attempt(self, parcel: Parcel) -> None:
        self._client = client = await self.cluster.client()
        self._mapped = self._interrupt_waits = False
        self.run.begin()
        limit = self.run.task.timeout
        timer = asyncio.get_running_loop().call_later(limit, self._time_out) if limit else None
        try:
            reply, buffers = await client.run(
                self._request(parcel),
                [self.environment.declaration(), *parcel.frames],
                self._sink,
                answer=self._answer if self._ask else None,
                on_mapped=lambda: self._on_mapped(parcel),
            )
        except DriverLost:
            self._explain_loss()
            raise
        finally:
            if timer:
                timer.cancel()
            self.run.record.keep_log(self.cluster.folder)
        self._receive(reply, buffers, client)

    def _on_mapped(self, parcel: Parcel) -> None:
        parcel.confirm()
        self.run.record.keep_log(self.cluster.folder)
        self._mapped = True
        if self._interrupt_waits:
            self._interrupt_driver()

    def _request(self, parcel: Parcel) -> TaskRequest:
        task = self.run.task
        return {
            "run": self.run.id,
            "code": task.code,
            "count": task.count,
            "line": task.line,
            "cells": self._unknown_cells(),
            "inputs": parcel.header,
            "returns": list(task.returns),
            "keeps": list(task.keeps),
            "allow_stdin": self._ask is not None,
            "cwd": os.getcwd(),  # noqa: PTH109 - as text
            "ranks": task.ranks,
        }

    def _unknown_cells(self) -> dict[str, tuple[int, str]]:
        """Return the text of cells that the driver needs for tracebacks, and has not got yet."""
        known = self.cluster.known_cells
        unknown = {name: n for name, n in self.run.task.cells.items() if name not in known}
        known.update(unknown)
        return {name: (n, "".join(linecache.getlines(name))) for name, n in unknown.items()}

    # -- what comes back --------------------------------------------------------------------

    def _receive(self, reply: TaskReply, buffers: list[Any], client: DriverClient) -> None:
        if reply["status"] == "error":
            raise self._error(reply, buffers)
        try:
            outputs = dict(transfer.unpack(reply["outputs"], buffers))
        finally:
            if reply["outputs"]["segments"]:
                client.tidy({"received": self.run.id})
        home = _Home(self.cluster, client, self._owner)
        for name, info in reply["refs"].items():
            outputs[name] = Ref(info, home, self.environment.name)
        self.run.outputs = outputs

    def _error(self, reply: TaskReply, buffers: list[Any]) -> BaseException:
        if self._timed_out:
            return self._timeout_error()
        if self._interrupted and reply["ename"] == "KeyboardInterrupt":
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
        if self._mapped:
            self._interrupt_driver()
        else:
            # A driver that has not begun with the task would take it for nobody's.
            self._interrupt_waits = True
        loop = asyncio.get_running_loop()
        self._killer = loop.call_later(self._owner.config.interrupt_grace, self._replace_driver)

    def _interrupt_driver(self) -> None:
        if self._client:
            self._client.interrupt()

    def _replace_driver(self) -> None:
        if not self.run.done and not self._replaced:
            self._replaced = True
            task = asyncio.get_running_loop().create_task(self.cluster.restart_driver())
            task.add_done_callback(lambda _: None)

    def _time_out(self) -> None:
        self._timed_out = True
        self._send_interrupt()

    def _timeout_error(self) -> TaskTimeout:
        return TaskTimeout(
            f"{self.run.id} ran longer than its {self.run.task.timeout:g} s",
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
