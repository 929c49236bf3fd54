"""The driver's stdout and stderr: live, in order, and never a flood.

ipykernel keeps a buffer a stream and flushes each every 0.2 s. Here both share one, so that what
was printed in turn arrives in turn, and it is flushed every 20 ms. What a run prints is written to
its log in full. What is sent to the notebook is bounded by a token bucket: a burst of some size,
then a trickle; beyond it one line says how much is only in the log, and the last lines follow when
the run ends. So neither a million lines nor a runaway loop can freeze a page or fill a memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread, OutStream
from zmq.eventloop.zmqstream import ZMQStream

_TAIL_BYTES = 2048


class RunText:
    """The text of one run: all of it in a file, some of it for the notebook.

    Parameters
    ----------
    path
        The run's log.
    run
        Name of the run, for the line that says where the rest is.
    burst, rate
        Bytes shown at once, and bytes a second by which that grows again.
    """

    def __init__(self, path: Path, run: str, burst: int, rate: int) -> None:
        self.run = run
        self._path = path
        self._fd = -1
        self._burst, self._rate = burst, rate
        self._tokens = float(burst)
        self._refilled = time.monotonic()
        self._hidden_lines = self._hidden_bytes = 0
        self._tail: deque[tuple[str, str]] = deque()
        self._tail_size = 0

    def write(self, stream: str, text: str) -> list[tuple[str, str]]:
        """Log `text` of a stream; return what to send to the notebook: stream and text."""
        self._log(text)
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        shown: list[tuple[str, str]] = []
        room = int(self._tokens)
        if self._hidden_bytes and room > self._rate:
            shown += self._resume()
            room = int(self._tokens)
        if self._hidden_bytes or len(text) > room:
            # Cut where a line ends: half a line would run into the notice.
            cut = 0 if self._hidden_bytes else text.rfind("\n", 0, room) + 1
            if cut:
                shown.append((stream, text[:cut]))
                self._tokens -= cut
            self._hide(stream, text[cut:])
        else:
            shown.append((stream, text))
            self._tokens -= len(text)
        return shown

    def _log(self, text: str) -> None:
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._fd = os.open(self._path, flags, 0o600)
        with contextlib.suppress(OSError):  # a full disk must not keep text from the notebook
            os.write(self._fd, text.encode(errors="backslashreplace"))

    def _hide(self, stream: str, text: str) -> None:
        self._hidden_bytes += len(text)
        self._hidden_lines += text.count("\n")
        self._tail.append((stream, text[-_TAIL_BYTES:]))
        self._tail_size += len(self._tail[-1][1])
        while self._tail_size - len(self._tail[0][1]) >= _TAIL_BYTES:
            self._tail_size -= len(self._tail.popleft()[1])

    def _resume(self) -> list[tuple[str, str]]:
        """Say what was left out, and follow with the last of it."""
        hidden = self._hidden_bytes - self._tail_size
        notice: list[tuple[str, str]] = []
        tail = list(self._tail)
        if hidden > 0:
            stream, text = tail[0]
            tail[0] = (stream, text.partition("\n")[2])  # the first line is cut
            lines = self._hidden_lines - sum(t.count("\n") for _, t in tail)
            size = f"{hidden / 2**20:.1f} MiB"
            notice.append(
                ("stderr", f"[… {lines:,} lines ({size}) are only in %flyte logs {self.run} …]\n")
            )
        notice += tail
        self._tokens -= self._tail_size
        self._tail.clear()
        self._tail_size = self._hidden_bytes = self._hidden_lines = 0
        return notice

    def finish(self) -> list[tuple[str, str]]:
        """Return the last lines of what was left out, if anything was."""
        return self._resume() if self._hidden_bytes else []

    def close(self) -> None:
        """Close the log."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Transcript:
    """The texts of a driver's runs, by the message that started each."""

    def __init__(self, folder: Path, burst: int, rate: int) -> None:
        self._folder, self._burst, self._rate = folder, burst, rate
        self._texts: dict[str, RunText] = {}

    def begin(self, message: str, run: str) -> None:
        """Expect text whose parent is `message`, and take it for the run's."""
        path = self._folder / f"run-{run}.log"
        self._texts[message] = RunText(path, run, self._burst, self._rate)
        while len(self._texts) > 64:
            # A thread of an old run may still print; its text is then only sent.
            self._texts.pop(next(iter(self._texts))).close()

    def of(self, message: str) -> RunText | None:
        """Return the text that belongs to a message."""
        return self._texts.get(message)


class _Buffer:
    """Text that waits for the next flush, of both streams and in the order it was written."""

    limit = 4 * 2**20

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[tuple[dict[str, Any], str, list[str]]] = []
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
            if last and last[1] == stream and last[0] is parent:
                last[2].append(text)
            else:
                self._entries.append((parent, stream, [text]))
            self._size += len(text)
            self._added += 1
            return self._size > self.limit

    def hand_on(self, send: Callable[[dict[str, Any], str, str], None]) -> None:
        """Call `send` with everything, parent, stream and text, and forget it."""
        with self._lock:
            entries, self._entries, self._size = self._entries, [], 0
            added = self._added
        for parent, stream, pieces in entries:
            send(parent, stream, "".join(pieces))
        self._sent = added


_buffer = _Buffer()


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
        super().__init__(socket, pipe=True, session=session)

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

    def write(self, string: str) -> int | None:
        """Buffer text in the order in which it was written, whichever stream it was."""
        if not self._is_master_process():
            return super().write(string)  # type: ignore[no-any-return]
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        if _buffer.add(self.parent_header, self.name, string):
            self.flush()  # back pressure: printing must not outrun sending
        else:
            self._schedule_flush()
        return len(string)

    def flush(self) -> None:
        """Wait until everything is on its way; ipykernel asks for that several times a cell."""
        if not (self._is_master_process() and _buffer.empty):
            super().flush()

    def drain(self) -> None:
        """Flush, and let the threads that read descriptors 1 and 2 hand over what they have.

        What C code and child processes write comes that way: it is not in the buffer before such a
        thread had its turn, which it has while this one waits.
        """
        super().flush()

    def _flush(self) -> None:
        super()._flush()  # what forked children wrote
        _buffer.hand_on(self._log_and_send)

    def _log_and_send(self, parent: dict[str, Any], name: str, written: str) -> None:
        text = self._text(parent)
        for stream, shown in text.write(name, written) if text else [(name, written)]:
            self._send(parent, stream, shown)

    def finish(self, parent: dict[str, Any]) -> None:
        """Send the last lines of a flood; called when its run ends, after a flush."""
        text = self._text(parent)
        for stream, shown in text.finish() if text else ():
            self._send(parent, stream, shown)

    def _text(self, parent: dict[str, Any]) -> RunText | None:
        return self.transcript.of(parent.get("msg_id", "")) if self.transcript else None

    def _send(self, parent: dict[str, Any], name: str, text: str) -> None:
        content = {"name": name, "text": text}
        message = self.session.msg("stream", content, parent=parent)
        self.session.send(self.pub_thread, message, ident=b"stream." + name.encode())
