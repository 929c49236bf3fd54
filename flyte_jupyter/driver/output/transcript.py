"""The text of a driver's runs: all of it in a log, as much of it in the notebook as is good there.

What is sent to the notebook is bounded by a token bucket: a burst of some size, then a trickle;
beyond it one line says how much is only in the log, and the last lines follow when the run ends. So
neither a million lines nor a runaway loop can freeze a page or fill a memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

_LONGEST_NAME = 100
_TAIL_BYTES = 2048
_TEXTS = 64


def log_name(run: str) -> str:
    """Return the name of a run's log: users name runs as they like."""
    # The number at its end tells it from all others.
    return f"run-{quote(run, safe=' ')[-_LONGEST_NAME:]}.log"


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

    def show(self, stream: str, text: str) -> list[tuple[str, str]]:
        """Return what of `text` of a stream to send to the notebook: stream and text."""
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

    def log(self, text: str) -> None:
        """Write to the log, where text is complete."""
        with contextlib.suppress(OSError):  # a full disk must not keep text from the notebook
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._fd = os.open(self._path, flags, 0o600)
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
    """The texts of a driver's runs, by the message that started each.

    Parameters
    ----------
    folder
        Where the logs are.
    burst, rate
        Limits of what is shown; `RunText` says more.
    present
        Told where the log of the present run is.
    """

    def __init__(
        self,
        folder: Path,
        burst: int,
        rate: int,
        present: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._folder, self._burst, self._rate, self._present = folder, burst, rate, present
        self._lock = threading.Lock()
        self._texts: dict[str, RunText] = {}
        self._under_way: dict[str, Path] = {}
        self._ended: deque[str] = deque()

    def begin(self, message: str, run: str) -> None:
        """Expect text whose parent is `message`, and take it for the run's."""
        path = self._folder / log_name(run)
        with self._lock:
            self._present(path)
            self._under_way[message] = path
            self._texts[message] = RunText(path, run, self._burst, self._rate)
            while len(self._texts) > _TEXTS and self._ended:
                # A thread of an old run may still print; its text is then only sent.
                self._texts.pop(self._ended.popleft()).close()

    def end(self, message: str) -> None:
        """Expect no more than late text; another run may be under way that began before."""
        with self._lock:
            if self._under_way.pop(message, None) is None:
                return
            self._ended.append(message)
            if self._under_way:
                self._present(next(reversed(self._under_way.values())))

    def of(self, message: str) -> RunText | None:
        """Return the text that belongs to a message."""
        return self._texts.get(message)
