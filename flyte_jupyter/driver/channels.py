"""Receiving from a driver, on the session's event loop.

The coroutines that zmq and jupyter_client offer take several turns of the loop for each message,
which is what a short cell waits for. Here a message takes one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import zmq


class Channel:
    """One socket to a driver, whose messages are handed on as they come.

    To be made, and used, on the loop's thread.

    Parameters
    ----------
    channel
        jupyter_client's own, which has a plain socket.
    receive
        Called with each message.
    """

    def __init__(self, channel: Any, receive: Callable[[dict[str, Any]], None]) -> None:
        self._channel, self._receive = channel, receive
        self._socket: zmq.Socket[bytes] = channel.socket
        self._fd = self._socket.FD
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)
        self._loop.call_soon(self._read)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message of the session."""
        self._channel.send(message)
        # zmq tells once that something has come, and sending may have been where it was told.
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        if self._socket.closed or not cast(int, self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            return
        # It is also told once for many messages; each has a turn, so that a flood blocks nothing.
        self._loop.call_soon(self._read)
        try:
            _, message = self._channel.session.recv(self._socket)
        except ValueError:
            return  # not signed with this driver's key
        if message is not None:
            self._receive(message)

    def close(self) -> None:
        """Hear no more; the socket is its owner's to close."""
        self._loop.remove_reader(self._fd)
