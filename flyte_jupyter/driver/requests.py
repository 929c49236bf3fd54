"""How tasks reach the driver's main thread, and how an interrupt reaches the one that runs there.

ipykernel reads its shell channel in a thread of its own, which hands each message to the main
thread: it is checked and parsed twice, and every reply goes back the same way. Tasks have a socket
that the main thread's loop reads itself. They take turns with what comes by the shell channel, as
cells do.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from typing import TYPE_CHECKING, Any

from flyte_jupyter.driver import wire
from flyte_jupyter.driver.channels import Channel

if TYPE_CHECKING:
    import zmq

    from flyte_jupyter.driver.kernel import DriverKernel


class Requests:
    """Answers the requests for tasks of one driver, one after the other.

    Parameters
    ----------
    kernel
        The driver.
    socket
        Where they come; a router.
    """

    def __init__(self, kernel: DriverKernel, socket: zmq.Socket[bytes]) -> None:
        self._kernel = kernel
        self._channel = Channel(socket, kernel.session, self._take)
        self._serving: set[asyncio.Task[None]] = set()

    def _take(self, request: dict[str, Any], sender: list[bytes]) -> None:
        # In a context of its own: what a task sets there is not for the next.
        context = contextvars.copy_context()
        task = asyncio.get_running_loop().create_task(self._serve(request, sender), context=context)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, request: dict[str, Any], sender: list[bytes]) -> None:
        kernel: Any = self._kernel
        # ipykernel's own, by which what comes by the shell channel knows whether a cell runs.
        async with kernel._main_asyncio_lock:
            if request["msg_type"] == wire.DROP:
                kernel.drop(request["content"]["refs"])
                return
            kernel.set_parent(sender, request, channel="shell")
            kernel.pre_handler_hook()
            try:
                reply, frames = await self._kernel.task_request(request)
            finally:
                kernel.post_handler_hook()
            message = kernel.session.msg(wire.REPLY, reply, parent=request)
            message["buffers"] = frames
            self._channel.send(message, sender)
            if not reply["quiet"]:
                self._kernel.say_idle(request)
            self._kernel.collector.end()


class Interrupts:
    """Sees to it that an interrupt strikes the request that it names, and no other.

    It may come before that, which is on another channel: then it strikes when the task begins. The
    main thread takes no lock here, in which an interrupt could leave it.

    Parameters
    ----------
    kernel
        The driver.
    """

    def __init__(self, kernel: DriverKernel) -> None:
        self._kernel: Any = kernel
        self._present = ""
        self._due: deque[str] = deque(maxlen=64)

    def begin(self, request: str) -> None:
        """Let interrupts of a request in; on the main thread.

        Raises
        ------
        KeyboardInterrupt
            One has come before.
        """
        self._present = request
        if self._take(request):
            raise KeyboardInterrupt

    def end(self) -> None:
        """Let no more in: the task has ended."""
        self._present = ""

    def interrupt(self, request: str) -> None:
        """Interrupt a task; on the control thread."""
        self._due.append(request)
        # Either this or `begin` finds it there, whichever is later.
        if self._present == request and self._take(request):
            self._kernel._send_interrupt_children()

    def _take(self, request: str) -> bool:
        try:
            self._due.remove(request)
        except ValueError:
            return False
        return True
