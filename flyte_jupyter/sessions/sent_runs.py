"""Runs on a Flyte deployment: the session's side of them.

A run that was taken there is the deployment's: it goes on when the kernel ends. Whoever interrupts
the wait for it has it aborted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import re
import secrets
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyte_jupyter.config import FlyteJupyter
from flyte_jupyter.deployment.following import Progress, failure, follow, outputs_of
from flyte_jupyter.deployment.quiet import quietly
from flyte_jupyter.deployment.submission import (
    INTERRUPTED,
    MaybeTaken,
    RunOptions,
    configure,
    images_of,
    submit,
    upload,
)
from flyte_jupyter.deployment.tasks import Sending
from flyte_jupyter.deployment.view import ENDED, RunView
from flyte_jupyter.driver.functions import RESULT
from flyte_jupyter.driver.output.transcript import RunText
from flyte_jupyter.driver.relay import Sink, TextSink
from flyte_jupyter.errors import DeploymentError
from flyte_jupyter.images.building import ensure
from flyte_jupyter.sessions.beside import beside
from flyte_jupyter.sessions.remote_errors import with_traceback
from flyte_jupyter.sessions.runs import Run

_LONGEST_NAME = 30
_LAST_TRY = 3.0
"""Seconds that an abort has which may have been asked for before."""
_UNDER_WAY = ("running", *ENDED)


@dataclass(frozen=True)
class Order:
    """What is to be sent, and what belongs to it here.

    Parameters
    ----------
    sending
        What is sent.
    namespace
        The notebook's variables, where types of exceptions may be.
    sink
        Where its output goes; this process's own streams by default.
    context
        What `flyte.get_custom_context` gives in the task.
    """

    sending: Sending
    namespace: Mapping[str, Any]
    sink: Sink | None = None
    context: Mapping[str, str] = field(default_factory=dict)


class SentRun:
    """Sends one run and follows it.

    Parameters
    ----------
    run
        The run, as the session lists it.
    order
        What is sent, and how.
    config
        The session's settings: what of its text is shown, and how long an abort may take.
    """

    def __init__(self, run: Run, order: Order, config: FlyteJupyter) -> None:
        self.run, self._order, self._grace = run, order, config.interrupt_grace
        sending, sink = order.sending, order.sink or TextSink()
        self._sending, self._sink = sending, sink
        self.calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._view = RunView(sink, sending.task.name, run.id)
        self._name = _name_for(run.id)
        self._remote: Any = None
        self._task: asyncio.Task[Any] | None = None
        self._submitting: asyncio.Future[Any] | None = None
        self._interrupted = self._over = False
        self._impatient = asyncio.Event()
        self._progress: Progress | None = None
        self._giving_up = False
        self._text = _text_of(run, config)

    async def perform(self) -> None:
        """See the run through to its end, whatever that is."""
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        try:
            if self._interrupted:  # before this coroutine took its first step
                raise asyncio.CancelledError
            await self._send_and_follow()
            self.run.end("succeeded")
        except asyncio.CancelledError:
            if self._interrupted:
                await self._give_up()
        except BaseException as error:  # noqa: BLE001 - it is the run's to raise, whatever it is
            if self._remote is None and not isinstance(error, MaybeTaken):
                self._view.show("not sent")
            cancelled = isinstance(error, KeyboardInterrupt)
            self.run.end("cancelled" if cancelled else "failed", error)
        finally:
            self._over = True
            # An interrupt of what follows it, or the end of the session, which the run outlives.
            stopped = KeyboardInterrupt(self._why_stopped())
            self.run.end("cancelled", with_traceback(stopped, []))
            self._text.close()

    def _why_stopped(self) -> str:
        if self._interrupted:
            return "the run was stopped"
        return f"nobody follows it any more; it goes on: {self.run.link}" if self.run.link else ""

    async def _send_and_follow(self) -> None:
        self.run.record.state = "starting"
        self._view.show("sending")
        env = await configure()
        for image in images_of(self._sending.environment):
            await beside(
                functools.partial(ensure, image, self._on_step, lambda: self._over), lambda _: None
            )
        inputs = await upload(self._sending, self._on_step)
        options = RunOptions(self._name, self._order.context, env, self._on_step)
        # Whatever comes in between: a run that is taken has to be known, if only to be aborted.
        self._submitting = asyncio.ensure_future(submit(self._sending, inputs, options))
        self._remote = await asyncio.shield(self._submitting)
        self.run.record.link = self._remote.url
        if self._interrupted:
            raise asyncio.CancelledError
        try:
            details = await follow(self._remote, self._on_progress, self._on_text)
        finally:
            self._show(self._text.finish())
        if details.phase.value not in ("succeeded", "recovered"):
            raise self._failure(details)
        await self._receive()

    def _failure(self, details: Any) -> BaseException:
        error, lines = failure(details, self.run.id, self._order.namespace)
        if self._interrupted and details.phase.value == "aborted":
            error = KeyboardInterrupt()
        return with_traceback(error, lines)

    async def _receive(self) -> None:
        outputs, displays = await outputs_of(self._remote, self._sending.outputs)
        if self.run.task.call is not None:
            values = list(outputs.values())
            outputs = {RESULT: values[0] if len(values) == 1 else tuple(values) or None}
        self.run.outputs = outputs
        if self._sending.task.report:
            with contextlib.suppress(Exception):  # it is on the run's page, too
                self._view.show_report(await self._remote.get_report.aio())
        self._view.show_all(displays, self.run.task.count)

    def _on_step(self, step: str) -> None:
        """Show what is being done; from any thread, and perhaps too late."""

        def show() -> None:
            if not self._over and self._remote is None:
                self._view.show(f"sending, {step.strip()}")

        with contextlib.suppress(RuntimeError):  # the session has ended
            self._loop.call_soon_threadsafe(show)

    def _on_progress(self, progress: Progress) -> None:
        self._progress = progress
        self._view.show(progress.phase, progress)
        if progress.phase in _UNDER_WAY and progress.attempt > self.run.record.attempts:
            self.run.begin()
            self.run.record.attempts = progress.attempt

    def _on_text(self, text: str) -> None:
        self._text.log(text)
        self._show(self._text.show("stdout", text))

    def _show(self, texts: list[tuple[str, str]]) -> None:
        for stream, text in texts:
            self._sink.stream(stream, text)

    # -- interrupts -------------------------------------------------------------------------

    def interrupt(self, at_once: bool) -> None:
        """Have it aborted; give up waiting for that if it takes long, or `at_once`."""
        if self.run.done:
            return
        again, self._interrupted = self._interrupted, True
        if self._task is None:
            return  # it will see that when it begins
        if again:
            if at_once:
                self._impatient.set()
                self._stop_waiting()
        elif self._remote is None or self._has_ended:
            self._stop_waiting()
        else:
            aborting = self._loop.create_task(self._abort())
            aborting.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._loop.call_later(self._grace, self._stop_waiting)

    async def _abort(self) -> None:
        await quietly(lambda: self._remote.abort.aio(reason=INTERRUPTED))

    @property
    def _has_ended(self) -> bool:
        return self._progress is not None and self._progress.phase in ENDED

    async def _abort_when_taken(self) -> bool:
        """Abort what was being sent, once it is there; tells whether nothing of it goes on."""
        if self._submitting is None:
            return True
        try:
            self._remote = await self._submitting
        except DeploymentError as error:
            return not isinstance(error, MaybeTaken)
        self.run.record.link = self._remote.url
        await self._abort()
        return True

    def _stop_waiting(self) -> None:
        if not self.run.done and self._task is not None and not self._giving_up:
            self._giving_up = True
            self._task.cancel()

    async def _give_up(self) -> None:
        """Say of a run that was interrupted what is not known of it."""
        self._giving_up = True
        if self._has_ended:
            line = f"{self.run.id} has ended; its outputs were not brought: {self.run.link}\n"
            self._sink.stream("stderr", line)
            return
        if self._remote is not None:
            ended = await self._within(self._abort(), min(self._grace, _LAST_TRY))
        else:
            ended = await self._within(self._abort_when_taken(), self._grace)
        if ended:
            self._view.show("aborted", self._progress)
        else:
            where = self.run.record.link or f"look for {self._name}"
            line = f"{self.run.id} was asked to stop, and may go on: {where}\n"
            self._sink.stream("stderr", line)

    async def _within(self, work: Coroutine[Any, Any, Any], seconds: float) -> bool:
        """Tell whether work ended well in time, before the user has lost patience; it goes on."""
        working = self._loop.create_task(work)
        impatient = self._loop.create_task(self._impatient.wait())
        try:
            await asyncio.wait(
                [working, impatient], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            impatient.cancel()
        if not working.done():
            working.add_done_callback(lambda done: done.cancelled() or done.exception())
            return False
        return not working.exception() and working.result() is not False


def _name_for(run: str) -> str:
    """Return a name that no other run of the deployment has."""
    plain = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    token = secrets.token_hex(5)
    return f"r-{plain}"[: _LONGEST_NAME - len(token) - 1].rstrip("-") + f"-{token}"


def _text_of(run: Run, config: FlyteJupyter) -> RunText:
    """Return where a run's text goes: all of it to a file without a name."""
    descriptor, path = tempfile.mkstemp(prefix="flyte-jupyter-")
    try:
        text = RunText(Path(path), run.id, config.output_limit, config.output_rate)
        text.log("")
        run.record.printed.hold(descriptor)
    finally:
        os.close(descriptor)
        os.unlink(path)  # noqa: PTH108 - as it was made
    return text
