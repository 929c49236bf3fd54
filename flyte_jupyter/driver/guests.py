"""Tasks in threads of the driver, beside the one on its main thread.

A task that calls another of its own environment waits for it, and so may a whole map of them: they
cannot have the main thread. Their requests come by the control channel, which is heard whatever the
main thread does.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import pickle
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from flyte_jupyter.driver import local_imports, replies, wire
from flyte_jupyter.driver.functions import RESULT
from flyte_jupyter.driver.output.streams import DriverStream
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.errors import FlyteJupyterError

if TYPE_CHECKING:
    from flyte_jupyter.driver.kernel import DriverKernel
    from flyte_jupyter.driver.wire import TaskReply, TaskRequest

_DEAF = 0.2
"""Seconds after which a task that awaits nothing is interrupted as one that blocks."""


class Guests:
    """The tasks of one driver that run in threads.

    Parameters
    ----------
    kernel
        The driver.
    """

    def __init__(self, kernel: DriverKernel) -> None:
        self._kernel = kernel
        self._running: dict[str, _Guest] = {}

    def request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Begin a task; the reply follows when it has ended."""
        guest = _Guest(self._kernel, parent)
        self._running[guest.run] = guest

        def serve() -> None:
            reply, frames = guest.serve()
            self._running.pop(guest.run, None)
            self._answer(stream, ident, parent, reply, frames)
            guest.close()

        # In an empty context, so that nothing of it is taken for that of a cell.
        run = contextvars.Context().run
        try:
            threading.Thread(target=run, args=(serve,), name=guest.run, daemon=True).start()
        except RuntimeError as error:  # no more threads
            self._running.pop(guest.run, None)
            answer = replies.failure(cast(Any, self._kernel.shell), error, "cluster")
            self._answer(stream, ident, parent, *answer)

    def _answer(
        self, stream: Any, ident: Any, parent: dict[str, Any], reply: TaskReply, frames: list[Any]
    ) -> None:
        session: Any = self._kernel.session
        if not reply.setdefault("quiet", False):
            self._kernel.say_idle(parent)

        def send() -> None:
            session.send(stream, wire.REPLY, reply, parent, ident=ident, buffers=frames)

        # A socket belongs to its thread.
        control: Any = self._kernel.control_thread
        control.io_loop.add_callback(send)

    def are_here(self) -> bool:
        """Whether the present thread is that of one of them."""
        return threading.get_ident() in {guest.ident for guest in list(self._running.values())}

    def interrupt(self, run: str) -> bool:
        """Raise KeyboardInterrupt in a task, by the name of its run; tells whether it is here."""
        guest = self._running.get(run)
        if guest is not None:
            guest.interrupt()
        return guest is not None


class _Guest:
    """One task in a thread."""

    def __init__(self, kernel: DriverKernel, parent: dict[str, Any]) -> None:
        self._kernel, self._parent = kernel, parent
        self._request: TaskRequest = parent["content"]
        self.run = self._request["run"]
        self._lock = threading.Lock()
        self._interrupted = self._heard = False
        self.ident = 0
        self._thread = 0  # while code of the user's runs there
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._runner = asyncio.Runner()

    def serve(self) -> tuple[TaskReply, list[Any]]:
        """Do the task on this thread; it is answered, whatever happens."""
        started, self.ident = time.perf_counter(), threading.get_ident()
        published = self._kernel.published
        shell: Any = self._kernel.shell
        message = self._parent["header"]["msg_id"]
        try:
            shell.set_thread_parent(self._parent)
            cast(Any, DriverStream.transcript).begin(message, self.run)
            reply, frames = self._runner.run(self._perform())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the notebook raises it
            reply, frames = replies.failure(shell, replies.meant(error, self._interrupted), "cell")
        with contextlib.suppress(Exception):  # a full disk: the reply must come
            self._kernel.finish_output(self._parent)
        reply["seconds"] = time.perf_counter() - started
        reply["quiet"] = published == self._kernel.published
        return reply, frames

    async def _perform(self) -> tuple[TaskReply, list[Any]]:
        from flyte_jupyter.driver.work import Work, perform

        kernel, request = self._kernel, self._request
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        buffers = [bytes(self._parent["buffers"][0]), *self._parent["buffers"][1:]]
        try:
            inputs = transfer.unpack(
                request["inputs"], buffers[1:], kept=kernel.kept, keep_classes=request["own"]
            )
        except FlyteJupyterError as problem:
            return replies.failure(kernel.shell, problem, "inputs")
        kernel.learn(request["cells"])
        kernel.have_calls_answered()
        local_imports.forget_changed()
        kernel.publish_mapped(request, self._parent)
        namespace: dict[str, Any] = {}
        work = Work(request, pickle.loads(buffers[0]), inputs, kernel.folder / "data")
        ending = await perform(kernel.shell, work, namespace, self._inside)
        if ending.error is not None:
            error = replies.meant(ending.error, self._interrupted)
            return replies.failure(kernel.shell, error, "cell", ending.traceback)
        try:
            parcel = transfer.pack({RESULT: namespace[RESULT]}, folder=kernel.folder)
        except Exception as error:  # noqa: BLE001 - a user's object may raise anything
            return replies.failure(kernel.shell, error, "outputs")
        if parcel.header["segments"]:
            kernel.sent[self.run] = parcel
        return {"status": "ok", "outputs": parcel.header, "refs": {}}, parcel.frames

    def close(self) -> None:
        """End what it has left behind, which nobody waits for."""
        with contextlib.suppress(Exception):
            self._runner.close()

    # -- interrupts -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """Let interrupts in while code of the user's runs, and at no other time."""
        with self._lock:
            if self._interrupted:
                raise KeyboardInterrupt
            self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        while True:
            try:
                with self._lock:
                    thread, self._thread = self._thread or threading.get_ident(), 0
                    _raise_in(thread, None)  # one that has been sent and has not struck yet
            except KeyboardInterrupt:
                continue  # it has struck here; once more, for it may have spared the rest
            return

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in it: where it awaits something, or else in Python code."""
        with self._lock:
            self._interrupted = True
            loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: the task has ended
                loop.call_soon_threadsafe(self._cancel)
        timer = threading.Timer(_DEAF, self._strike)
        timer.daemon = True
        timer.start()

    def _cancel(self) -> None:
        self._heard = True
        if self._task and self._thread:
            self._task.cancel()

    def _strike(self) -> None:
        with self._lock:
            if self._thread and not self._heard:
                _raise_in(self._thread, KeyboardInterrupt)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Have a thread raise an exception at its next bytecode, or none that was to be raised."""
    error = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)
