"""The notebook's side of one driver: requests, replies, and the driver's output.

It lives on the session's event loop. What arrives on the output channel is relayed as it comes;
a run is over when its reply has arrived and the driver has said that it is idle, so that nothing
which the run printed comes after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import zmq
from jupyter_client.blocking.client import BlockingKernelClient

from flyte_jupyter.driver import replies, wire
from flyte_jupyter.driver.channels import Channel
from flyte_jupyter.driver.comms import CommBridge
from flyte_jupyter.driver.relay import NotebookSink, Relay, Sink, TextSink
from flyte_jupyter.errors import RemoteError

_WELCOME = 2.0

Answer: TypeAlias = Callable[[str, bool], Awaitable[str | None]]
"""Asks the user: called with a prompt and whether to hide what is typed; None means nobody can."""

OnCall: TypeAlias = Callable[[wire.NestedCall, list[Any]], None]
"""Told of nested calls: what a task says, and its buffers."""


@dataclass(frozen=True)
class Hearing:
    """Who hears what a task says while it runs.

    Parameters
    ----------
    answer
        Answers its `input()`; without it the task is told that nobody can.
    on_mapped
        Called once the driver has mapped inputs that came in shared memory.
    on_call
        Called with what it says of other tasks that it calls.
    """

    answer: Answer | None = None
    on_mapped: Callable[[], None] = lambda: None
    on_call: OnCall | None = None


class DriverClient:
    """Speaks to one driver process, for as long as it lives.

    Parameters
    ----------
    connection
        What a connection file would hold.
    """

    def __init__(self, connection: Mapping[str, Any]) -> None:
        # Only to make sockets and messages: nothing here waits for either.
        self._client = BlockingKernelClient()
        self._client.load_connection_info(dict(connection))  # type: ignore[arg-type]
        self._task_address = f"ipc://{connection['ip']}-{connection['task_port']}"
        self._relay = Relay(self._on_comm)
        self._comms = CommBridge(self._forward, self._relay.sink)
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._idle: dict[str, asyncio.Event] = {}
        self._answers: dict[str, Answer] = {}
        self._mapped: dict[str, Callable[[], None]] = {}
        self._on_call: dict[str, OnCall] = {}
        self._requests: dict[str, str] = {}  # of runs, each the one that is under way
        self._tasks: list[asyncio.Task[None]] = []
        self._channels: dict[str, Channel] = {}
        self._welcome = asyncio.Event()
        self._subshell: asyncio.Future[str | None] | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def connect(self) -> None:
        """Open the channels, and return when no output can be missed any more."""
        self._client.start_channels(hb=False)
        socket = self._client.iopub_channel.socket
        assert socket is not None
        socket.rcvhwm = 0
        self._channels = {
            "iopub": self._channel(self._client.iopub_channel.socket, self._on_output),
            "shell": self._channel(self._client.shell_channel.socket, self._on_reply),
            "control": self._channel(self._client.control_channel.socket, self._on_reply),
            "stdin": self._channel(self._client.stdin_channel.socket, self._on_question),
            "task": self._channel(self._task_socket(), self._on_reply),
        }
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._welcome.wait(), _WELCOME)

    def _channel(self, socket: Any, receive: Callable[[dict[str, Any]], None]) -> Channel:
        return Channel(socket, self._client.session, lambda message, _: receive(message))

    def _task_socket(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._client.context.socket(zmq.DEALER)
        socket.linger = 1000
        socket.identity = self._client.session.bsession  # that of stdin, by which a task asks
        socket.connect(self._task_address)
        return socket

    async def run(
        self,
        request: wire.TaskRequest,
        buffers: Sequence[Any],
        sink: Sink,
        *,
        hearing: Hearing | None = None,
        beside: bool = False,
    ) -> tuple[wire.TaskReply, list[Any]]:
        """Have the driver run one task.

        Parameters
        ----------
        request, buffers
            The task.
        sink
            Where its output goes.
        hearing
            Who hears what the task says meanwhile.
        beside
            Whether it shall run in a thread, beside what runs on the driver's main thread.

        Returns
        -------
        reply, buffers
            What it returned.
        """
        message = self._client.session.msg(wire.REQUEST, cast(dict[str, Any], request))
        name = message["header"]["msg_id"]
        self._relay.route(name, sink, until_ended=True)
        self._requests[request["run"]] = name
        self._idle[name] = asyncio.Event()
        hearing = hearing or Hearing()
        self._mapped[name] = hearing.on_mapped
        if hearing.answer:
            self._answers[name] = hearing.answer
        if hearing.on_call:
            self._on_call[request["run"]] = hearing.on_call
        reply = self._expect(name)
        message["buffers"] = list(buffers)
        try:
            self._channels["control" if beside else "task"].send(message)
            answered = await reply
            if answered["content"].get("where") != "inputs":
                self._mapped.pop(name, lambda: None)()  # where it was not worth a word of its own
            if not answered["content"]["quiet"]:
                await self._idle[name].wait()
        finally:
            self._relay.end(name)
            self._on_call.pop(request["run"], None)
            self._requests.pop(request["run"], None)
            for table in (self._idle, self._mapped, self._answers, self._replies):
                cast(dict[str, Any], table).pop(name, None)
        return cast(wire.TaskReply, answered["content"]), answered["buffers"]

    def interrupt(self, run: str) -> None:
        """Raise KeyboardInterrupt in a run, wherever in the driver it runs, or once it begins."""
        if request := self._requests.get(run):
            self._send("control", wire.INTERRUPT, {"run": run, "request": request})

    def received(self, run: str) -> None:
        """Tell the driver that what a run returned has been mapped; heard while it is busy, too."""
        self._send("control", wire.RECEIVED, {"run": run})

    def answer_call(self, call: str, reply: wire.TaskReply, buffers: Sequence[Any]) -> None:
        """Give a task what another one returned that it called."""
        self._send("control", wire.RETURN, {"call": call, "reply": reply}, buffers)

    def _send(
        self, channel: str, kind: str, content: dict[str, Any], buffers: Sequence[Any] = ()
    ) -> None:
        """Send what has no reply, unless the connection has been closed."""
        if self._closed:
            return
        message = self._client.session.msg(kind, content)
        message["buffers"] = list(buffers)
        self._channels[channel].send(message)

    def drop(self, ref: str) -> None:
        """Tell the driver that a value is not needed any more; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._send, "task", wire.DROP, {"refs": [ref]})

    def lose(self, error: Exception) -> None:
        """Fail what is under way: the driver is gone."""
        for future in self._replies.values():
            if not future.done():
                future.set_exception(error)
        for event in self._idle.values():
            event.set()

    def close(self) -> None:
        """Close the channels."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for channel in self._channels.values():
            channel.close()
        with contextlib.suppress(Exception):
            self._comms.close()
        self._client.stop_channels()
        self._client.context.destroy(linger=0)

    # -- reading ----------------------------------------------------------------------------

    def _expect(self, name: str) -> asyncio.Future[dict[str, Any]]:
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._replies[name] = future
        return future

    def _on_output(self, message: dict[str, Any]) -> None:
        kind = message["header"]["msg_type"]
        parent = message["parent_header"].get("msg_id", "")
        if kind == "iopub_welcome":
            self._welcome.set()
        elif kind == "status":
            if message["content"]["execution_state"] == "idle" and parent in self._idle:
                self._idle[parent].set()
        elif kind == "execute_input":
            self._mapped.pop(parent, lambda: None)()
        elif kind == wire.CALL:
            self._hear_call(message["content"], message["buffers"])
        else:
            try:
                self._relay.pass_on(message)
            except Exception as error:  # noqa: BLE001 - the run goes on without it
                TextSink().stream("stderr", f"flyte-jupyter: lost a {kind} message: {error}\n")

    def _hear_call(self, said: wire.NestedCall, buffers: list[Any]) -> None:
        if on_call := self._on_call.get(said["run"]):
            on_call(said, buffers)
        elif name := said.get("call"):
            # Of a thread that has outlived its run: it would wait for ever.
            error = RemoteError(f"the run {said['run']} has ended, and calls no more tasks")
            self.answer_call(name, *replies.told(error, "cluster"))

    def _on_reply(self, message: dict[str, Any]) -> None:
        future = self._replies.get(message["parent_header"].get("msg_id", ""))
        if future and not future.done():
            future.set_result(message)

    def _on_question(self, message: dict[str, Any]) -> None:
        if message["header"]["msg_type"] != "input_request":
            return
        answer = self._answers.get(message["parent_header"].get("msg_id", ""))
        task = asyncio.ensure_future(self._reply_to(answer, message["content"]))
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _reply_to(self, answer: Answer | None, content: dict[str, Any]) -> None:
        value = await answer(content["prompt"], content["password"]) if answer else "\x04"
        if value is not None:
            reply = self._client.session.msg("input_reply", {"value": value})
            self._channels["stdin"].send(reply)

    # -- comms ------------------------------------------------------------------------------

    def _on_comm(self, message: dict[str, Any], sink: Sink) -> None:
        self._comms.from_driver(message, sink)

    def _forward(
        self, kind: str, content: dict[str, Any], metadata: dict[str, Any], buffers: list[Any]
    ) -> None:
        """Hand a comm message of the page to the driver; on the page's thread."""
        sink = _present_sink()
        beside = threading.current_thread() is not threading.main_thread()

        def send() -> None:
            if beside:
                task = asyncio.ensure_future(
                    self._send_beside(kind, content, metadata, buffers, sink)
                )
                self._tasks.append(task)
                task.add_done_callback(self._tasks.remove)
            else:
                self._send_shell(kind, content, metadata, buffers, sink=sink)

        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(send)

    async def _send_beside(
        self,
        kind: str,
        content: dict[str, Any],
        metadata: dict[str, Any],
        buffers: list[Any],
        sink: Sink | None,
    ) -> None:
        """Send to a subshell of the driver: the page used one, to be heard while a cell runs."""
        if self._subshell is None:
            self._subshell = asyncio.ensure_future(self._make_subshell())
        self._send_shell(kind, content, metadata, buffers, sink=sink, subshell=await self._subshell)

    async def _make_subshell(self) -> str | None:
        message = self._client.session.msg("create_subshell_request", {})
        reply = self._expect(message["header"]["msg_id"])
        self._channels["control"].send(message)
        content = (await reply)["content"]
        return content.get("subshell_id") if content.get("status") == "ok" else None

    def _send_shell(
        self,
        kind: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        buffers: Sequence[Any] = (),
        *,
        sink: Sink | None = None,
        subshell: str | None = None,
    ) -> None:
        if self._closed:
            return  # a ref or a widget of a driver that is gone
        message = self._client.session.msg(kind, content, metadata=metadata)
        if subshell:
            message["header"]["subshell_id"] = subshell
        message["buffers"] = list(buffers)
        if sink:
            self._relay.route(message["header"]["msg_id"], sink)
        with contextlib.suppress(zmq.ZMQError):
            self._channels["shell"].send(message)


def _present_sink() -> Sink | None:
    """Return the sink of what this thread is handling: a callback of a widget, mostly."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return NotebookSink(shell) if shell is not None else None
