"""Running a command that may take minutes, so that it can be watched and interrupted."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

_TURN = 0.1
"""Seconds after which the waiting thread looks whether it has been interrupted."""
_END = 5.0
"""Seconds that the launcher may take to end what it has started."""
_COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR", "PY_COLORS")
_LAUNCHER = "flyte_jupyter.backends.local.packages.launcher"


class CommandFailed(Exception):
    """A command ended with an error.

    Parameters
    ----------
    output
        Everything that it wrote.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        super().__init__(output[-2000:])


def output_of(
    command: Sequence[str],
    environ: Mapping[str, str],
    progress: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> str:
    """Run a command and return what it wrote.

    It ends when this process does, and when the wait for it is interrupted.

    Parameters
    ----------
    command
        An absolute path and its arguments.
    environ
        All of its environment, but for what asks for colours: a notebook's kernel does.
    progress
        Called with each line that it writes.
    stopped
        Asked now and then, on a thread that no interrupt reaches; ends the command as one does.

    Raises
    ------
    CommandFailed
        It ended with an error.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", _LAUNCHER, *command],
        env=_without_colours(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    assert process.stdin is not None
    lines: list[str] = []
    try:
        for line in _lines_of(process, stopped):
            lines.append(line)
            if line.strip():
                progress(line.strip())
    finally:
        process.stdin.close()  # which ends it, if it has not ended
        process.wait(_END)
    if process.returncode:
        raise CommandFailed("".join(lines))
    return "".join(lines)


def _without_colours(environ: Mapping[str, str]) -> dict[str, str]:
    plain = {name: value for name, value in environ.items() if name not in _COLOURS}
    return {**plain, "NO_COLOR": "1"}


def _lines_of(process: subprocess.Popen[str], stopped: Callable[[], bool]) -> Iterator[str]:
    """Yield what a process writes, waiting in turns so that an interrupt is heard."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        # It alone reads and closes the stream: nobody else could without waiting for it.
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="installer", daemon=True).start()
    while True:
        if stopped():
            raise KeyboardInterrupt
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=_TURN)
            if line is None:
                return
            yield line
