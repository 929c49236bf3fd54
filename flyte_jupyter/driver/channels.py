"""Receiving on an event loop what one end of a connection sends to the other.

The coroutines that zmq, jupyter_client and ipykernel offer take several turns of the loop for each
message, or another thread, which is what a short cell waits for. Here a message takes one turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import zmq

Receive: TypeAlias = Callable[[dict[str, Any], list[bytes]], None]
"""Called with a message, and with who sent it where the socket tells its peers apart."""


class Channel:
    """One socket, whose messages are handed on as they come.

    To be made, and used, on the loop's thread.

    Parameters
    ----------
    socket
        A plain socket.
    session
        jupyter_client's, which signs messages and checks signatures.
    receive
        Called with each message.
    """

    def __init__(self, socket: zmq.Socket[bytes], session: Any, receive: Receive) -> None:
        self._socket, self._session, self._receive = socket, session, receive
        self._fd = self._socket.FD
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)
        self._loop.call_soon(self._read)

    def send(self, message: dict[str, Any], to: list[bytes] | None = None) -> None:
        """Send a message of the session, to one of its peers where there may be several."""
        self._session.send(self._socket, message, ident=to)
        # zmq tells once that something has come, and sending may have been where it was told.
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        if self._socket.closed or not cast(int, self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            return
        # It is also told once for many messages; each has a turn, so that a flood blocks nothing.
        self._loop.call_soon(self._read)
        try:
            sender, message = self._session.recv(self._socket)
        except ValueError:
            return  # not signed with this driver's key
        if message is not None:
            self._receive(message, sender)

    def close(self) -> None:
        """Hear no more; the socket is its owner's to close."""
        self._loop.remove_reader(self._fd)
