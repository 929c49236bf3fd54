"""The driver's stdout and stderr: live, in order, and never a flood.

ipykernel keeps a buffer a stream and flushes each every 0.2 s. Here both share one, so that what
was printed in turn arrives in turn, and it is flushed every 20 ms. What a run prints is written to
its log in full; how much of it is sent to the notebook, its transcript decides.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO

import zmq
from ipykernel.iostream import IOPubThread, OutStream
from zmq.eventloop.zmqstream import ZMQStream

from flyte_jupyter.driver.output.descriptors import KeptPipe
from flyte_jupyter.driver.output.transcript import RunText, Transcript


@dataclass
class _Entry:
    parent: dict[str, Any]
    stream: str
    pieces: list[str]
    logged: int = 0


class _Buffer:
    """Text that waits for the next flush, of both streams and in the order it was written."""

    limit = 4 * 2**20

    def __init__(self) -> None:
        # A finalizer may print at any moment of this thread, also while it is in here.
        self._lock = threading.RLock()
        self._logging = threading.RLock()
        self._entries: list[_Entry] = []
        self._first = 0  # entries before it are in the log
        self._size = 0
        self._added = self._sent = 0

    @property
    def empty(self) -> bool:
        """Whether all that was added has been handed on for sending."""
        return self._added == self._sent

    def add(self, parent: dict[str, Any], stream: str, text: str) -> bool:
        """Append text; returns whether so much has piled up that the writer should wait."""
        with self._lock:
            last = self._entries[-1] if self._entries else None
            if last and last.stream == stream and last.parent is parent:
                last.pieces.append(text)
            else:
                self._entries.append(_Entry(parent, stream, [text]))
            self._size += len(text)
            self._added += 1
            return self._size > self.limit

    def log(self, write: Callable[[dict[str, Any], str], None]) -> None:
        """Call `write` with the parent and text of what has not been logged yet, in order."""
        with self._logging:
            with self._lock:
                entries = self._entries[self._first :]
                fresh = _fresh(entries)
                self._first += max(0, len(entries) - 1)  # the last may grow
            for parent, text in fresh:
                write(parent, text)

    def hand_on(
        self,
        write: Callable[[dict[str, Any], str], None],
        send: Callable[[dict[str, Any], str, str], None],
    ) -> None:
        """Log what has not been logged, call `send` with everything, and forget it."""
        with self._logging:
            with self._lock:
                added = self._added
                entries, self._entries, self._first, self._size = self._entries, [], 0, 0
                fresh = _fresh(entries)
            for parent, text in fresh:
                write(parent, text)
        for entry in entries:
            send(entry.parent, entry.stream, "".join(entry.pieces))
        self._sent = added


def _fresh(entries: list[_Entry]) -> list[tuple[dict[str, Any], str]]:
    """Take what of entries has not been logged, each with its parent."""
    fresh = []
    for entry in entries:
        # It may grow meanwhile, by what a finalizer prints.
        if entry.logged < (there := len(entry.pieces)):
            fresh.append((entry.parent, "".join(entry.pieces[entry.logged : there])))
            entry.logged = there
    return fresh


_buffer = _Buffer()


class _Forks:
    """Whether this process has been forked: only then may a child's displays be on their way."""

    seen = False

    @classmethod
    def note(cls) -> None:
        cls.seen = True

    @classmethod
    def forget(cls) -> None:
        cls.seen = False


os.register_at_fork(after_in_parent=_Forks.note, after_in_child=_Forks.forget)


class DriverIOPub(IOPubThread):
    """ipykernel's output thread, which hears its forked children over a Unix socket.

    Its own way is a port on loopback, which every user of the machine could connect to.

    Parameters
    ----------
    socket
        The output channel.
    session
        What signs its messages.
    path
        Where the socket for children is made, in a folder that only the owner can enter.
    """

    def __init__(self, socket: Any, session: Any, path: str) -> None:
        self._pipe_path = path
        self.published = 0
        """How many messages it was given; whether it is the same is what counts."""
        super().__init__(socket, pipe=True, session=session)

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        """Send a message, from any thread."""
        self.published += 1
        super().send_multipart(*args, **kwargs)

    def _setup_pipe_in(self) -> None:
        self._pipe_uuid = os.urandom(16)
        pipe = self.socket.context.socket(zmq.PULL)
        pipe.linger = 0
        pipe.bind(f"ipc://{self._pipe_path}")
        self._pipe_in = ZMQStream(pipe, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self) -> tuple[Any, Any]:
        context: Any = zmq.Context()  # a new one: this runs in a forked child
        pipe = context.socket(zmq.PUSH)
        pipe.linger = 3000
        pipe.connect(f"ipc://{self._pipe_path}")
        return context, pipe


class DriverStream(OutStream):
    """ipykernel's stream, with a buffer shared by stdout and stderr, and a transcript."""

    flush_interval = 0.02
    transcript: Transcript | None = None
    driver: ClassVar[tuple[Path, int]]
    """The cluster's folder, and which driver of it this is."""

    _pipes: ClassVar[list[KeptPipe]] = []
    _draining: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._in_child: tuple[int, TextIO] | None = None
        # Else ipykernel would leave the descriptors alone where pytest has started the notebook.
        super().__init__(*args, **{**kwargs, "watchfd": "force"})

    def _setup_stream_redirects(self, name: str) -> None:
        pipe = KeptPipe(*self.driver, name)
        self._pipes.append(pipe)
        self._exc = None
        self._original_stdstream_fd = getattr(sys, name).fileno()
        self._original_stdstream_copy = os.dup(self._original_stdstream_fd)
        os.dup2(pipe.write_end, self._original_stdstream_fd)
        os.close(pipe.write_end)
        self.watch_fd_thread = threading.Thread(target=self._watch, args=(pipe,), daemon=True)
        self.watch_fd_thread.start()

    def _watch(self, pipe: KeptPipe) -> None:
        """Take what is written to the descriptor for what is written to the stream."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode

        def hand_on(data: bytes) -> None:
            with contextlib.suppress(OSError):  # a full disk
                os.write(self._original_stdstream_copy, data)
            if text := decode(data):
                self.write(text)
                _buffer.log(self._log)  # not at the next flush only: there may be none

        while self._should_watch:
            pipe.take(hand_on)

    def write(self, string: str) -> int | None:
        """Buffer text in the order in which it was written, whichever stream it was."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        if not self._is_master_process():
            return self._descriptor().write(string)
        if _buffer.add(self.parent_header, self.name, string):
            self.flush()  # back pressure: printing must not outrun sending
        else:
            self._schedule_flush()
        return len(string)

    def _descriptor(self) -> TextIO:
        """Return what a forked child writes to: the descriptor, by the line, as any process would.

        ipykernel would send its text to the notebook, past the log and its bounds.
        """
        pid = os.getpid()
        if self._in_child is None or self._in_child[0] != pid:  # a child of the child has its own
            fd, errors = self._original_stdstream_fd, "backslashreplace"
            text = os.fdopen(fd, "w", 1, "utf-8", errors, newline="", closefd=False)
            self._in_child = pid, text
        return self._in_child[1]

    def flush(self) -> None:
        """Wait until everything is on its way; ipykernel asks for that several times a cell."""
        if not self._is_master_process():
            self._descriptor().flush()
        elif not _buffer.empty:
            super().flush()

    def drain(self) -> None:
        """Flush, with what C code and child processes have written to descriptors 1 and 2."""
        with self._draining:
            for pipe in self._pipes:
                pipe.settle()
        if _Forks.seen:
            super().flush()
        else:
            self.flush()

    def _flush(self) -> None:
        super()._flush()  # for its own account of what is pending
        if self._is_master_process():
            _buffer.hand_on(self._log, self._show)

    def _log(self, parent: dict[str, Any], text: str) -> None:
        if run := self._text(parent):
            run.log(text)

    def _show(self, parent: dict[str, Any], name: str, written: str) -> None:
        text = self._text(parent)
        for stream, shown in text.show(name, written) if text else [(name, written)]:
            self._send(parent, stream, shown)

    def finish(self, parent: dict[str, Any]) -> None:
        """Send the last lines of a flood; called when its run ends, after a flush."""
        text = self._text(parent)
        for stream, shown in text.finish() if text else ():
            self._send(parent, stream, shown)
        if self.transcript:
            self.transcript.end(parent.get("msg_id", ""))

    def _text(self, parent: dict[str, Any]) -> RunText | None:
        return self.transcript.of(parent.get("msg_id", "")) if self.transcript else None

    def _send(self, parent: dict[str, Any], name: str, text: str) -> None:
        content = {"name": name, "text": text}
        message = self.session.msg("stream", content, parent=parent)
        self.session.send(self.pub_thread, message, ident=b"stream." + name.encode())
