"""What driver, nodes and ranks say to each other: frames on Unix sockets of the private folder.

A frame is a letter, a length and that many bytes. Text has letters of its own (`OUT`, `ERR`), for
there may be much of it; everything else is a pickled dictionary (`SAY`) whose `"is"` names it. A
rank sends each piece of text at once, in one system call: what it has sent outlives it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

_HEAD = struct.Struct("=cI")
_CHUNK = 1 << 18
_MOST_FDS = 4
OUT, ERR, SAY = b"o", b"e", b"s"


class FrameReader:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the letter and the body of each frame that is complete now."""
        self._data += data
        at = 0
        while len(self._data) - at >= _HEAD.size:
            letter, length = _HEAD.unpack_from(self._data, at)
            end = at + _HEAD.size + length
            if len(self._data) < end:
                break
            yield letter, bytes(self._data[at + _HEAD.size : end])
            at = end
        del self._data[:at]


class FrameSocket:
    """One end of a connection; sending blocks, from any thread.

    Parameters
    ----------
    sock
        A connected Unix socket, which it owns.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: list[int] = []
        self._reader = FrameReader()
        self._lock = threading.Lock()
        self._waiting: list[tuple[bytes, bytes]] = []

    @classmethod
    def connect(cls, path: str) -> FrameSocket:
        """Connect to where somebody listens.

        Raises
        ------
        OSError
            Nobody does.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def send(self, letter: bytes, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame; descriptors arrive with it.

        Raises
        ------
        OSError
            The other end is gone.
        """
        data = memoryview(_HEAD.pack(letter, len(body)) + body)
        with self._lock:
            sent = socket.send_fds(self.sock, [data], list(fds)) if fds else 0
            self.sock.sendall(data[sent:])

    def say(self, is_: str, fds: Sequence[int] = (), /, **content: Any) -> None:
        """Send a dictionary.

        Raises
        ------
        OSError
            The other end is gone.
        """
        self.send(SAY, pickle.dumps({"is": is_, **content}, protocol=5), fds)

    def receive(self) -> list[tuple[bytes, bytes]] | None:
        """Take in what has arrived, without waiting; None at the end."""
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, _CHUNK, _MOST_FDS, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            return None
        self.fds += fds
        return list(self._reader.feed(data)) if data else None

    def hear(self) -> dict[str, Any] | None:
        """Wait for the next dictionary; None at the end."""
        while not self._waiting:
            data = self.sock.recv(_CHUNK)
            if not data:
                return None
            self._waiting += self._reader.feed(data)
        said: dict[str, Any] = pickle.loads(self._waiting.pop(0)[1])
        return said

    def close(self) -> None:
        """Close it, and the descriptors that nobody took."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds.clear()
        self.sock.close()
