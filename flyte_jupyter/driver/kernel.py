"""The driver: a Jupyter kernel beside the cluster, in which task code runs.

A subclass of ipykernel's kernel, so that streams, rich display, comms, `input()`, interrupts and
tracebacks are Jupyter's own. It adds one channel, by which come requests that carry a task and its
buffers, and word of what the notebook no longer needs.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import zmq
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp

from flyte_jupyter.driver import local_imports, nested, replies, shell, threads, wire
from flyte_jupyter.driver.guests import Guests
from flyte_jupyter.driver.job import Job, Outcome, named
from flyte_jupyter.driver.leavings import Collector, LiveCell
from flyte_jupyter.driver.output.descriptors import PresentLog, crash_path
from flyte_jupyter.driver.output.streams import DriverIOPub, DriverStream
from flyte_jupyter.driver.output.transcript import Transcript
from flyte_jupyter.driver.refs import RefStore
from flyte_jupyter.driver.replies import Ending
from flyte_jupyter.driver.requests import Interrupts, Requests
from flyte_jupyter.driver.returning import Returned, give_back, salvage
from flyte_jupyter.driver.surroundings import Surroundings
from flyte_jupyter.driver.values import forwarding, transfer
from flyte_jupyter.driver.values.by_value import sharing_globals
from flyte_jupyter.driver.values.placing import placing_definitions
from flyte_jupyter.driver.values.transfer import KeptBuffers, Parcel
from flyte_jupyter.driver.wire import TaskReply, TaskRequest
from flyte_jupyter.errors import FlyteJupyterError, UsageError


class DriverKernel(IPythonKernel):
    """Runs tasks of one environment: cells one after the other, called functions beside them."""

    shell_class = shell.ZMQInteractiveShell

    def __init__(self, **kwargs: Any) -> None:
        with _lazy_modules_hidden():
            super().__init__(**kwargs)
        self.member: Any = None
        self.folder = Path()
        self.streams: tuple[Any, Any] = sys.stdout, sys.stderr
        self.provided: dict[str, Any] = {}
        self.refs = RefStore("")
        self.surroundings = Surroundings(())
        self.kept = KeptBuffers()
        self.sent: dict[str, Parcel | forwarding.Forwarded] = {}
        self._returned: dict[str, Callable[[], dict[str, Any]]] = {}
        self.collector = Collector()
        self.task_socket: zmq.Socket[bytes] | None = None
        self.requests: Requests | None = None
        self.interrupts = Interrupts(self)
        self.guests = Guests(self)
        self._answering = threading.Lock()
        self.control_handlers[wire.REQUEST] = self.guests.request
        self.control_handlers[wire.INTERRUPT] = self._interrupt
        self.control_handlers[wire.RECEIVED] = self._let_go
        self.live = LiveCell(self.comm_manager)
        for kind in ("comm_msg", "comm_close"):
            self.shell_handlers[kind] = self.live.after(self.shell_handlers[kind])

    def attach(self, member: Any, settings: dict[str, Any]) -> None:
        """Learn which cluster this is the driver of.

        Parameters
        ----------
        member
            The engine's view of this process.
        settings
            Limits of output, from the session's configuration.
        """
        self.member = member
        self.folder = member.folder
        self.surroundings = Surroundings(settings["path"])
        self.refs = RefStore(f"{member.folder.name[-6:]}.{member.generation}")
        self.refs.publish()
        DriverStream.transcript = Transcript(
            member.folder / "logs",
            settings["output_limit"],
            settings["output_rate"],
            PresentLog(member.folder, member.generation).note,
        )

    def start(self) -> None:
        """Take messages, tasks among them."""
        super().start()
        self.io_loop.add_callback(self._take_tasks)

    def _take_tasks(self) -> None:
        assert self.task_socket is not None
        self.requests = Requests(self, self.task_socket)

    def raw_input(self, prompt: str = "") -> str:
        """Ask the user, unless a task in a thread does: nobody waits for one alone."""
        self._refuse_guests()
        return str(super().raw_input(prompt))

    def getpass(self, *args: Any, **kwargs: Any) -> str:
        """Ask the user for what is not shown."""
        self._refuse_guests()
        return str(super().getpass(*args, **kwargs))

    def _refuse_guests(self) -> None:
        if self.guests.are_here():
            raise UsageError(
                "a task that was called beside another cannot ask",
                fix="Ask in a plain cell; the answer travels as an argument.",
            )

    def have_calls_answered(self) -> None:
        """Have the notebook run what tasks call."""
        with self._answering:  # several tasks may be a driver's first
            if wire.RETURN not in self.control_handlers:
                self._install_controller()

    def _install_controller(self) -> None:
        from flyte_jupyter.driver.flyte_sdk import calls, context, controller, data, overrides

        answering = controller.NotebookController(self)
        context.use_controller(answering)
        calls.behave_as_on_a_cluster()
        data.initialize_on_demand()
        overrides.note_overrides()
        self.control_handlers[wire.RETURN] = answering.take_return

    def _publish_status(self, status: str, channel: str, parent: Any = None) -> None:
        """Say nothing by itself: `say_idle` is all that anybody listens for."""

    def say_idle(self, parent: dict[str, Any]) -> None:
        """Say that all has been published that belongs to a request."""
        session: Any = self.session
        idle = {"execution_state": "idle"}
        session.send(self.iopub_socket, "status", idle, parent, ident=b"status")

    def _interrupt(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Interrupt a run, wherever it runs; on the control thread."""
        del stream, ident
        if not self.guests.interrupt(parent["content"]["run"]):
            self.interrupts.interrupt(parent["content"]["request"])

    # -- the request ------------------------------------------------------------------------

    async def task_request(self, parent: dict[str, Any]) -> tuple[TaskReply, list[Any]]:
        """Run a task on the main thread, and return what to reply."""
        content: TaskRequest = parent["content"]
        buffers = [bytes(parent["buffers"][0]), *parent["buffers"][1:]]
        message = parent["header"]["msg_id"]
        cast(Any, DriverStream.transcript).begin(message, content["run"])
        started, published = time.perf_counter(), self.published
        self.collector.begin()
        self._forward_input(content["allow_stdin"])
        try:
            reply, frames = await self._perform(content, buffers, parent)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the notebook raises it
            where = "cluster" if isinstance(error, FlyteJupyterError) else "cell"
            reply, frames = self._failure(error, where)
        finally:
            # An interrupt from here on is too late, and must not cost the reply.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.interrupts.end()
            self._restore_input()
            self._restore_streams()
        reply["seconds"] = time.perf_counter() - started
        self.finish_output(parent)
        reply["quiet"] = published == self.published
        return reply, frames

    @property
    def published(self) -> int:
        """How many messages have been published, by whomever."""
        thread: Any = self.iopub_thread
        return int(thread.published)

    def _restore_streams(self) -> None:
        """Print again where the notebook hears it: the cell may have put anything there."""
        for output in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                output.flush()
        sys.stdout, sys.stderr = self.streams

    def finish_output(self, parent: dict[str, Any]) -> None:
        """Send all that the run has printed, before its reply."""
        stdout, stderr = self.streams
        if isinstance(stdout, DriverStream):
            stdout.drain()
        for output in (stdout, stderr):
            output.flush()
        if isinstance(stdout, DriverStream):
            stdout.finish(parent["header"])

    async def _perform(
        self, content: TaskRequest, buffers: list[Any], parent: dict[str, Any]
    ) -> tuple[TaskReply, list[Any]]:
        if content["code"]:  # else a ref's value is fetched, and nothing runs
            self.live.release()
            self._returned.clear()
            if self.member.args["run"]:
                return await self._perform_elsewhere(content, buffers, parent)
        main = shell.new_main()
        try:
            # What a function is called with is not what it finds around it.
            sharing = contextlib.nullcontext() if content["call"] else sharing_globals(vars(main))
            with placing_definitions(vars(main)), sharing:
                inputs = transfer.unpack(content["inputs"], buffers[1:], kept=self.kept)
        except FlyteJupyterError as problem:
            return self._failure(problem, "inputs")
        self.learn(content["cells"])
        self.begin(content, parent)
        self.connect()
        self.have_calls_answered()
        self._follow(content)
        if not content["code"]:  # what the notebook could not rebuild may be asked for again
            inputs |= self._returned.pop(content["run"], dict)()
        inputs = {**self.provided, **inputs}
        with (
            shell.fresh_namespace(self.shell, {} if content["call"] else inputs, main) as namespace,
            self.live.watch(namespace),
        ):
            from flyte_jupyter.driver.work import Work, perform_on_main

            work = Work(content, pickle.loads(buffers[0]), inputs, self.folder / "data")
            ending = await perform_on_main(self.shell, work, namespace)
            if content["call"] and ending.error is not None:
                return self._failure(ending.error, "cell", ending.traceback)
            if ending.error is None:
                returned = give_back(content, namespace, self.folder)
            else:
                returned = salvage(content, namespace, inputs, self.folder)
            if content["code"] and not content["call"] and returned.parcel.sizes:
                values = {name: namespace[name] for name in returned.parcel.sizes}
                self._returned[content["run"]] = values.copy
            return self._answer(content, returned, ending)

    def learn(self, cells: dict[str, tuple[int, str]]) -> None:
        """Take the text of the notebook's cells, for tracebacks."""
        shell.learn_cells(self.shell, cells)

    def begin(self, content: TaskRequest, parent: dict[str, Any]) -> None:
        """Let interrupts of a run in, and say that its inputs are there."""
        self.interrupts.begin(parent["header"]["msg_id"])
        self.publish_mapped(content, parent)

    def publish_mapped(self, content: TaskRequest, parent: dict[str, Any]) -> None:
        """Say that the inputs are mapped: who sent them lets go of its copy when it reads this."""
        if content["inputs"]["segments"]:
            self._publish_execute_input(content["code"], parent, content["count"])

    def connect(self) -> None:
        """Let the engine make this process a client of its cluster, once.

        Raises
        ------
        Exception
            Whatever the engine's function raises; then it is tried again when this is called again.
        """
        if connect := self.member.args["connect"]:
            self.provided = named(connect)(self.member) or {}
            self.member.args["connect"] = ""

    def _follow(self, content: TaskRequest) -> None:
        """Work as the notebook works, with local modules as they are now."""
        self.surroundings.follow(content["around"])
        cast(Any, self.shell).notebooks_extensions = content["around"].get("extensions", [])
        local_imports.forget_changed()

    def _answer(
        self, content: TaskRequest, returned: Returned, ending: Ending | None = None
    ) -> tuple[TaskReply, list[Any]]:
        """Return the reply of a run whose code has ended, well unless `ending` says otherwise."""
        reply: TaskReply = {"status": "ok"}
        frames: list[Any] = []
        if ending is not None and ending.error is not None:
            reply, frames = self._failure(ending.error, "cell", ending.traceback)
        elif returned.problem is not None:
            reply, frames = self._failure(returned.problem, "outputs")
        parcel = returned.parcel
        if parcel.header["segments"]:  # else the reply holds it all, and no word of it will come
            self.sent[content["run"]] = parcel
        reply["payload"] = shell.take_payload(self.shell)
        refs = {name: self.refs.keep(value) for name, value in returned.kept.items()}
        reply |= {"outputs": parcel.header, "refs": refs, "before": len(frames)}
        return reply, [*frames, *parcel.frames]

    async def _perform_elsewhere(
        self, content: TaskRequest, buffers: list[Any], parent: dict[str, Any]
    ) -> tuple[TaskReply, list[Any]]:
        """Have the engine run the cell, in processes that are not this one."""
        try:
            inputs = forwarding.forward(content["inputs"], buffers[1:], kept=self.kept)
        except FlyteJupyterError as problem:
            return self._failure(problem, "inputs")
        try:
            self.begin(content, parent)
            self.connect()
            self._follow(content)
            job = Job(self, content, pickle.loads(buffers[0]), inputs, parent)
            outcome: Outcome = await named(self.member.args["run"])(job)
        finally:
            inputs.close()
        if (outputs := outcome.outputs) is not None:
            self._returned[content["run"]] = functools.partial(
                transfer.unpack, outputs.header, outputs.frames
            )
            if outputs.header["segments"]:
                self.sent[content["run"]] = outputs
        return outcome.reply, list(outcome.frames)

    def _failure(
        self, error: BaseException, where: Any, traceback: list[str] | None = None
    ) -> tuple[TaskReply, list[Any]]:
        return replies.failure(self.shell, error, where, traceback)

    # -- housekeeping -----------------------------------------------------------------------

    def _let_go(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Let go of what a run returned, for it has been received; on the control thread."""
        del stream, ident
        # The values' own code may run as they go: on the main thread, where they were made.
        self.io_loop.add_callback(self._returned.pop, parent["content"]["run"], None)
        if parcel := self.sent.pop(parent["content"]["run"], None):
            parcel.close()

    def drop(self, refs: list[str]) -> None:
        """Let go of values that the notebook does not need any more."""
        for name in refs:
            self.refs.drop(name)


@contextlib.contextmanager
def _lazy_modules_hidden() -> Iterator[None]:
    """Keep modules whose import Flyte has put off (pandas, half a second) from being imported.

    ipykernel asks every module for its file, for a debugger; that alone would do it.
    """
    lazy = {n: m for n, m in sys.modules.items() if type(m).__name__ == "_LazyModule"}
    for name in lazy:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.modules.update({name: m for name, m in lazy.items() if name not in sys.modules})


class DriverApp(IPKernelApp):
    """ipykernel's application, less what belongs to a person's own kernel."""

    kernel_class = DriverKernel
    task_port = 0
    outstream_class = "flyte_jupyter.driver.output.streams.DriverStream"

    def init_iopub(self, context: Any) -> None:
        """Open the output channel, with no limit on what waits and no port for children."""
        socket = context.socket(zmq.XPUB)
        socket.linger = 1000
        socket.sndhwm = 0  # what waits is bounded where it is written
        self._bind_socket(socket, self.iopub_port)
        self.configure_tornado_logger()
        self.iopub_thread = DriverIOPub(socket, self.session, f"{self.ip}-children")
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_kernel(self) -> None:
        """Make the kernel, and the channel by which it gets tasks."""
        super().init_kernel()
        self.kernel.task_socket = socket = self.context.socket(zmq.ROUTER)
        socket.linger = 1000
        self._bind_socket(socket, self.task_port)

    def close(self) -> None:
        """Close all channels."""
        self.kernel.task_socket.close()
        super().close()

    def init_extensions(self) -> None:
        """Load nothing: extensions of the user's profile belong to the notebook."""

    def init_code(self) -> None:
        """Run no start-up files, for the same reason."""

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """Read no configuration, for the same reason."""

    def write_connection_file(self, **kwargs: Any) -> None:
        """Write none: the notebook made the key, and no file needs to hold it."""

    def log_connection_info(self) -> None:
        """Tell nobody how to connect; only keep what the kernel asks for."""
        channels = ("shell", "iopub", "stdin", "hb", "control")
        self._ports = {channel: getattr(self, f"{channel}_port") for channel in channels}

    def init_connection_file(self) -> None:
        """Read none, for the same reason."""


def main(member: Any) -> None:
    """Be the driver of a cluster until it goes.

    Parameters
    ----------
    member
        The engine's view of this process; its arguments hold the key and the settings.
    """
    # Where Python crashed is added to the log, once it says what C code had to say before.
    flags = os.O_WRONLY | os.O_CREAT
    faulthandler.enable(os.open(crash_path(member.folder, member.generation), flags, 0o600))
    DriverStream.driver = (member.folder, member.generation)
    connection = wire.connection(member.folder, member.generation, member.args["key"])
    app = DriverApp.instance(user_ns={}, log_level="WARN", quiet=True)
    app.session.key = connection.pop("key").encode()
    app.session.signature_scheme = connection.pop("signature_scheme")
    for name, value in connection.items():
        setattr(app, name, value)
    app.config.HistoryManager.enabled = False
    app.config.IPKernelApp.quiet = True  # that it is there tells libraries that they are in Jupyter
    app.initialize([])
    settings = member.args["settings"]
    app.kernel.attach(member, settings)
    local_imports.install(settings["local_roots"])
    nested.register(app.shell)
    threads.inherit_context()
    _leave_politely()
    with contextlib.suppress(Exception):  # the first task tries again, and says what is wrong
        app.kernel.connect()
    member.ready()
    app.start()


def _leave_politely() -> None:
    """On SIGTERM run exit handlers, as a process that ends by itself would, and go.

    A forked child ends at once, as any does: what those handlers remove is the driver's.
    """

    def leave(number: int, frame: Any) -> None:
        del number, frame
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        os._exit(0)

    def restore() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(threading.get_ident()))

    def in_child() -> None:
        if signal.getsignal(signal.SIGTERM) is leave:  # and not the task's own
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        restore()

    signal.signal(signal.SIGTERM, leave)
    masks: dict[int, set[int]] = {}
    # A signal that comes to a child before this has been done has to wait: Python would drop it.
    os.register_at_fork(
        before=lambda: masks.update({threading.get_ident(): _block(signal.SIGTERM)}),
        after_in_parent=restore,
        after_in_child=in_child,
    )


def _block(number: int) -> set[int]:
    """Have this thread not take a signal; returns what it did not take before."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, [number]))
