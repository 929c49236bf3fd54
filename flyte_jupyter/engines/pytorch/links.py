"""Nodes and ranks, as the driver knows them during one task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

from flyte_jupyter.engines.pytorch.frames import FrameSocket
from flyte_jupyter.engines.pytorch.meeting import Meeting
from flyte_jupyter.engines.pytorch.screen import Screen

_STREAMS = ("stdout", "stderr")
_CHUNK = 1 << 16


class NodeLink:
    """A node that has been asked to do a task.

    Parameters
    ----------
    index
        Its number.
    link
        The connection on which it was asked; closing it ends what the node does.
    meeting
        Where nodes meet.
    loop
        The driver's.
    """

    def __init__(
        self, index: int, link: FrameSocket, meeting: Meeting, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.index, self.link = index, link
        self.ended = self.leaving = False
        self.gone = asyncio.Event()
        self._meeting, self._loop = meeting, loop

    def leave(self) -> None:
        """Let it end by itself."""
        self.leaving = True

    def close(self) -> None:
        """Hang up."""
        if self.link.sock.fileno() >= 0:
            self._loop.remove_reader(self.link.sock)
        self.link.close()
        self.gone.set()
        self._meeting.close()


class RankLink:
    """A process that has connected as a rank.

    Parameters
    ----------
    link
        The connection.
    loop
        The driver's.
    screen
        Where what it prints is shown.

    Attributes
    ----------
    old
        Whether the group has begun anew since.
    over
        Whether nothing more is expected of it.
    crashed
        Whether it is gone and has not said how the cell ended.
    reply, frames, when
        What it said at its end.
    """

    def __init__(self, link: FrameSocket, loop: asyncio.AbstractEventLoop, screen: Screen) -> None:
        self.link, self._loop, self._screen = link, loop, screen
        self.number = self.node = self.world = self._pid = -1
        self.greeted = self.old = self.over = self.crashed = self.leaving = False
        self.reply: dict[str, Any] | None = None
        self.frames: list[bytes] = []
        self.when = 0.0
        self.pipes: list[int] = []
        self._process = -1

    @property
    def failed(self) -> bool:
        """Whether an exception ended the cell."""
        return self.reply is not None and self.reply["status"] != "ok"

    def greet(self, said: dict[str, Any]) -> None:
        """Take in who it is."""
        self.number, self.world, self.node = said["rank"], said["world"], said["node"]
        self.pipes, self.link.fds = list(self.link.fds), []
        for fd, stream in zip(self.pipes, _STREAMS, strict=True):
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._on_pipe, fd, stream)
        self._pid = said["pid"]
        with contextlib.suppress(AttributeError, OSError):  # not Linux, or it is gone
            # It waits for nothing yet, so the number is still its own.
            self._process = os.pidfd_open(self._pid)
        self.greeted = True

    def show(self, stream: str, data: bytes) -> None:
        """Show text of its own."""
        self._screen.text(self.number, self.node, stream, data)

    def _on_pipe(self, fd: int, stream: str) -> None:
        """Show what C code or a child process of it has written."""
        with contextlib.suppress(BlockingIOError):
            if data := os.read(fd, _CHUNK):
                self.show(stream, data)
            else:
                self._loop.remove_reader(fd)

    def drain(self) -> None:
        """Show all that such code has written so far."""
        for fd, stream in zip(self.pipes, _STREAMS, strict=False):
            with contextlib.suppress(BlockingIOError):
                while data := os.read(fd, _CHUNK):
                    self.show(stream, data)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has come to its end."""
        if not self.greeted or self.reply or self.over:
            return
        with contextlib.suppress(OSError):
            if self._process >= 0:
                signal.pidfd_send_signal(self._process, number)
            else:
                os.kill(self._pid, number)

    def leave(self) -> None:
        """Let it go."""
        self.leaving = True
        with contextlib.suppress(OSError):
            self.link.say("leave")

    def close(self) -> None:
        """Let go of everything that belongs to it."""
        for fd in self.pipes:
            self._loop.remove_reader(fd)
            os.close(fd)
        self.pipes.clear()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1
        if self.link.sock.fileno() >= 0:
            self._loop.remove_reader(self.link.sock)
        self.link.close()
