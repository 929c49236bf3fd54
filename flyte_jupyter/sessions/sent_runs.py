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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flyte_jupyter.deployment.following import Follower, Progress, failure, outputs_of
from flyte_jupyter.deployment.submission import INTERRUPTED, abort_by_name, images_of, submit
from flyte_jupyter.deployment.tasks import Sending
from flyte_jupyter.deployment.view import RunView
from flyte_jupyter.driver.functions import RESULT
from flyte_jupyter.driver.relay import Sink, TextSink
from flyte_jupyter.images.building import ensure
from flyte_jupyter.sessions.beside import beside
from flyte_jupyter.sessions.remote_errors import with_traceback
from flyte_jupyter.sessions.runs import Run

_LONGEST_NAME = 30
_UNDER_WAY = ("running", "succeeded", "failed", "aborted", "timed_out")


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
    sending
        What is sent.
    order
        How it is sent.
    grace
        Seconds that the deployment has to confirm an abort.
    """

    def __init__(self, run: Run, order: Order, grace: float) -> None:
        self.run, self._order, self._grace = run, order, grace
        sending, sink = order.sending, order.sink or TextSink()
        self._sending, self._sink = sending, sink
        self.calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._view = RunView(sink, sending.task.name, run.id)
        self._name = _name_for(run.id)
        self._remote: Any = None
        self._task: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._log = _private_file()
        run.record.printed.hold(self._log)

    async def perform(self) -> None:
        """See the run through to its end, whatever that is."""
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        try:
            if self._interrupted:
                raise asyncio.CancelledError
            await self._send_and_follow()
            self.run.end("succeeded")
        except KeyboardInterrupt as stop:
            self.run.end("cancelled", stop)
        except asyncio.CancelledError:
            await self._give_up()
        except BaseException as error:  # noqa: BLE001 - it is the run's to raise, whatever it is
            if self._remote is None:
                self._view.show("not sent")
            self.run.end("failed", error)
        finally:
            os.close(self._log)

    async def _send_and_follow(self) -> None:
        self.run.record.state = "starting"
        self._view.show("sending")
        for image in images_of(self._sending.environment):
            await beside(functools.partial(ensure, image, self._on_step), lambda _: None)
        self._remote = await submit(self._sending, self._name, self._order.context, self._on_step)
        self.run.record.link = self._remote.url
        if self._interrupted:
            raise asyncio.CancelledError
        details = await Follower(self._remote, self._on_progress, self._on_line).follow()
        if details.phase.value not in ("succeeded", "recovered"):
            raise self._failure(details)
        await self._receive()

    def _failure(self, details: Any) -> BaseException:
        error, lines = failure(details, self.run.id, self._order.namespace)
        return with_traceback(KeyboardInterrupt() if self._interrupted else error, lines)

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
        loop = self._loop
        loop.call_soon_threadsafe(self._view.show, f"sending, {step.strip()}")

    def _on_progress(self, progress: Progress) -> None:
        self._view.show(progress.phase, progress)
        if progress.phase in _UNDER_WAY and progress.attempt > self.run.record.attempts:
            self.run.begin()
            self.run.record.attempts = progress.attempt

    def _on_line(self, line: str) -> None:
        text = f"{line}\n"
        os.write(self._log, text.encode())
        self._sink.stream("stdout", text)

    # -- interrupts -------------------------------------------------------------------------

    def interrupt(self, at_once: bool) -> None:
        """Have it aborted; give up waiting for that if it takes long, or `at_once`."""
        if self.run.done or self._task is None:
            return
        again, self._interrupted = self._interrupted, True
        if self._remote is None or (again and at_once):
            self._task.cancel()
        elif not again:
            loop = asyncio.get_running_loop()
            aborting = loop.create_task(self._abort())
            aborting.add_done_callback(lambda done: done.cancelled() or done.exception())
            loop.call_later(self._grace, self._stop_waiting)

    async def _abort(self) -> None:
        await self._remote.abort.aio(reason=INTERRUPTED)

    def _stop_waiting(self) -> None:
        if not self.run.done and self._task is not None:
            self._task.cancel()

    async def _give_up(self) -> None:
        """End a run of which nobody knows whether the deployment has it, or has ended it."""
        known = self._remote is not None
        if not known:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._grace):
                    known = not await abort_by_name(self._name)
        if known:
            where = self.run.record.link or self._name
            self._sink.stream(
                "stderr", f"{self.run.id} was asked to stop, and may go on: {where}\n"
            )
        self._view.show("aborted")
        self.run.end("cancelled", with_traceback(KeyboardInterrupt("the run was stopped"), []))


def _name_for(run: str) -> str:
    """Return a name that no other run of the deployment has."""
    plain = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    token = secrets.token_hex(5)
    return f"r-{plain}"[: _LONGEST_NAME - len(token) - 1].rstrip("-") + f"-{token}"


def _private_file() -> int:
    """Open a file that nobody else has and that goes with its last descriptor."""
    with tempfile.TemporaryFile(prefix="flyte-jupyter-") as file:
        return os.dup(file.fileno())
