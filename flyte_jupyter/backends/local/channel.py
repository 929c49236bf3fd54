"""JSON lines over a Unix socket, with file descriptors beside them.

What the processes of a local cluster say to each other. Both ends are made with `socketpair` and
inherited, so there is no name that anybody else could open.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any

_CHUNK = 65536
_MOST_FDS = 16


class Channel:
    """A blocking end of a socket pair.

    Parameters
    ----------
    sock
        The connected socket; the channel owns it from here on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: list[int] = []
        self._pending = b""

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Write one message; descriptors arrive with it, in order.

        Raises
        ------
        OSError
            The other end is gone.
        """
        data = json.dumps(message).encode() + b"\n"
        if fds:
            sent = socket.send_fds(self.sock, [data], list(fds))
            data = data[sent:]
        self.sock.sendall(data)

    def receive(self) -> list[dict[str, Any]] | None:
        """Wait for something to arrive and return the messages complete so far; None at the end."""
        data, fds, _, _ = socket.recv_fds(self.sock, _CHUNK, _MOST_FDS)
        self.fds += fds
        if not data:
            return None
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (messages := self.receive()) is not None:
            yield from messages

    def close(self) -> None:
        """Close the socket; the other end reads an end of file."""
        self.sock.close()
