"""A notebook without a page: a real kernel, and what a front end would see of each of its cells.

`Notebook` runs cells and keeps every message that came back, sorted by the cell that it belongs to,
so that a test can say which cell shows what. Nothing here waits for a fixed time: all waiting is
for messages or for processes, with a deadline that only a hang reaches.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.manager import KernelManager

from tests import leaks

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
DEADLINE = 60.0
"""Seconds after which a cell is given up; far more than anything here takes."""


def plain(text: str) -> str:
    """Take the colours out of a text."""
    return _ANSI.sub("", text)


def task(body: str, options: str = "", environment: str = "env") -> str:
    """Return the text of a task cell."""
    return f"%%flyte_task {environment} {options}\n{textwrap.dedent(body)}"


class Cell:
    """One execution of a cell, and what its place in the page would show.

    Parameters
    ----------
    code
        Its text.
    message
        Id of its request.
    answers
        What to type when it asks.
    """

    def __init__(self, code: str, message: str, answers: Sequence[str] = ()) -> None:
        self.code, self.message = code, message
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.reply: dict[str, Any] | None = None
        self.idle = False

    @property
    def done(self) -> bool:
        """Whether it has ended: replied, and all its output is there."""
        return self.reply is not None and self.idle

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the contents of its messages of some kinds, in order."""
        return [m["content"] for m in self.messages if m["header"]["msg_type"] in kinds]

    def stream(self, name: str) -> str:
        """Return all text of one stream."""
        return "".join(c["text"] for c in self.of("stream") if c["name"] == name)

    @property
    def stdout(self) -> str:
        """Text printed."""
        return self.stream("stdout")

    @property
    def stderr(self) -> str:
        """Text on standard error."""
        return self.stream("stderr")

    @property
    def displays(self) -> list[dict[str, Any]]:
        """Mime bundles displayed, updates not among them."""
        return [c["data"] for c in self.of("display_data")]

    @property
    def result(self) -> str:
        """Text of its ``Out[n]``; empty if it has none."""
        results = self.of("execute_result")
        return str(results[-1]["data"]["text/plain"]) if results else ""

    @property
    def error(self) -> Failure | None:
        """The error it shows."""
        errors = self.of("error")
        return Failure(errors[-1]) if errors else None

    @property
    def shown(self) -> str:
        """Everything it shows as text: streams, displays, results and errors, in order."""
        parts = []
        for content in self.of("stream", "display_data", "execute_result", "error"):
            data = content.get("data", {})
            text = content.get("text") or data.get("text/plain") or ""
            parts.append(text or "\n".join(content.get("traceback", ())))
        return plain("".join(parts))


class Failure:
    """An error as a notebook shows it."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.name: str = content["ename"]
        self.value: str = content["evalue"]
        self.traceback = plain("\n".join(content["traceback"]))

    def __repr__(self) -> str:
        return f"{self.name}: {self.value}\n{self.traceback}"


class Notebook:
    """A kernel of its own.

    Parameters
    ----------
    cwd
        Folder beside which its local modules lie.
    env
        Environment variables beside this process's own.
    extension
        Whether to load the extension at once.
    """

    def __init__(
        self, cwd: Path | str, env: dict[str, str] | None = None, *, extension: bool = True
    ) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self._log = open(os.devnull, "w")  # noqa: SIM115
        self._options = {
            "cwd": str(cwd),
            "env": {**os.environ, **(env or {})},
            "stdout": self._log,
            "stderr": self._log,
        }
        self.manager.start_kernel(**self._options)
        self.cells: dict[str, Cell] = {}
        self.last: Cell | None = None
        self.comms: list[dict[str, Any]] = []
        """Comm messages of all cells, as the page would take them."""
        self._own()
        self._connect()
        if extension:
            self.run("%load_ext flyte_jupyter")

    def _own(self) -> None:
        self.pid: int = self.manager.provisioner.pid  # type: ignore[union-attr]
        leaks.owners.add(self.pid)

    def _connect(self) -> None:
        self.client = self.manager.blocking_client()
        self.client.start_channels(hb=False)
        self._sockets = {
            name: getattr(self.client, f"{name}_channel").socket
            for name in ("iopub", "shell", "stdin", "control")
        }
        self._poller = zmq.Poller()
        for socket in self._sockets.values():
            self._poller.register(socket, zmq.POLLIN)
        self._greet()

    def _greet(self) -> None:
        """Run nothing until the output channel is heard, as every front end has to."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            cell = self.submit("0")
            with contextlib.suppress(TimeoutError):
                self.wait(cell, timeout=2)
                return
        raise TimeoutError("the kernel does not answer")

    # -- cells ------------------------------------------------------------------------------

    def submit(self, code: str, answers: Sequence[str] = ()) -> Cell:
        """Run a cell and do not wait for it."""
        stdin = bool(answers)
        message = self.client.execute(code, allow_stdin=stdin, stop_on_error=False)
        cell = self.cells[message] = Cell(code, message, answers)
        return cell

    def wait(self, cell: Cell, timeout: float = DEADLINE) -> Cell:
        """Wait for a cell to end."""
        self.until(lambda: cell.done, timeout, f"the cell to end:\n{cell.code}")
        return cell

    def run(self, code: str, answers: Sequence[str] = (), timeout: float = DEADLINE) -> Cell:
        """Run a cell that must not fail."""
        cell = self.wait(self.submit(code, answers), timeout)
        assert cell.error is None, f"{cell.code}\n{cell.error}"
        return cell

    def task(
        self, body: str, options: str = "", answers: Sequence[str] = (), environment: str = "env"
    ) -> Cell:
        """Run a task cell that must not fail."""
        return self.run(task(body, options, environment), answers)

    def fail(self, code: str, timeout: float = DEADLINE) -> Failure:
        """Run a cell that must fail, and return its error."""
        cell = self.wait(self.submit(code), timeout)
        assert cell.error is not None, f"it did not fail:\n{cell.code}\n{cell.shown}"
        return cell.error

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the notebook; it must have a literal's repr."""
        return ast.literal_eval(self.run(expression).result or "None")

    def until(
        self, condition: Callable[[], object], timeout: float = DEADLINE, what: str = "it"
    ) -> None:
        """Take in messages until a condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {timeout:g} s for {what}")
            self.pump(50)

    def until_printed(self, cell: Cell, text: str = "") -> None:
        """Wait until a cell has printed something; it must not fail before."""
        self.until(lambda: cell.error or (cell.stdout and text in cell.stdout), what=f"{text!r}")
        assert cell.stdout, f"{cell.code}\n{cell.error}"
        assert text in cell.stdout, f"{cell.code}\n{cell.error}"

    def pump(self, patience: int = 0) -> None:
        """Take in what has arrived, waiting at most `patience` milliseconds for anything."""
        ready = dict(self._poller.poll(patience))
        for name, socket in self._sockets.items():
            while socket in ready and socket.poll(0):
                _, message = self.client.session.recv(socket, mode=zmq.NOBLOCK)
                if message is not None:
                    self._take(name, message)

    def _take(self, channel: str, message: dict[str, Any]) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        if kind.startswith("comm_"):
            self.comms.append(message)
        cell = self.cells.get(message["parent_header"].get("msg_id", ""))
        if cell is None:
            return
        if channel == "shell" and kind == "execute_reply":
            cell.reply = content
        elif channel == "stdin":
            cell.asked.append(content)
            if cell.answers:
                self.client.input(cell.answers.pop(0))
        elif kind == "status":
            cell.idle = cell.idle or content["execution_state"] == "idle"
        elif channel == "iopub":
            cell.messages.append(message)

    def send_comm(self, comm: str, data: dict[str, Any]) -> Cell:
        """Send a comm message as the page does; returns where its output is collected."""
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)
        name = message["header"]["msg_id"]
        cell = self.cells[name] = Cell("", name)
        return cell

    def complete(self, code: str) -> list[str]:
        """Return what the kernel offers at the end of a text."""
        name = self.client.complete(code)
        replies: list[dict[str, Any]] = []
        end = time.monotonic() + DEADLINE
        while not replies and time.monotonic() < end:
            _, message = self.client.session.recv(self._sockets["shell"], mode=0)
            if message and message["parent_header"].get("msg_id") == name:
                replies.append(message["content"])
        return list(replies[0]["matches"])

    # -- processes --------------------------------------------------------------------------

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Return the processes of its clusters whose name begins so: ``driver``, ``worker-1``."""
        found = []
        for process, _ in leaks.marked(self.pid):
            with contextlib.suppress(psutil.Error):
                if process.name().startswith(f"flyte:{name}"):
                    found.append(process)
        return found

    def process(self, name: str) -> psutil.Process:
        """Return the one process of that name; waits for it."""
        found: list[psutil.Process] = []
        assert leaks.until(lambda: found.extend(self.processes(name)) or found), name
        return found[0]

    def interrupt(self) -> None:
        """Interrupt as the stop button does."""
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        """Restart the kernel as the page's button does."""
        self._disconnect()
        self.manager.restart_kernel()
        leaks.owners.discard(self.pid)
        self._own()
        self._connect()

    def kill(self) -> None:
        """Kill the kernel with SIGKILL, and nothing else."""
        os.kill(self.pid, signal.SIGKILL)
        self._forget()

    def _forget(self) -> None:
        self._disconnect()
        leaks.owners.discard(self.pid)
        with contextlib.suppress(Exception):
            self.manager.shutdown_kernel(now=True)
        self._log.close()

    def shutdown(self) -> None:
        """End the kernel as closing the notebook does. Safe to call again."""
        if self.pid in leaks.owners:
            self.manager.shutdown_kernel()
            self._forget()

    def _disconnect(self) -> None:
        self.client.stop_channels()
        self.client.context.destroy(linger=0)


@contextlib.contextmanager
def notebook(cwd: Path | str, *cells: str, **options: Any) -> Iterator[Notebook]:
    """Start a notebook, run cells in it, and end it in the end."""
    book = Notebook(cwd, **options)
    try:
        for cell in cells:
            book.run(cell)
        yield book
    finally:
        book.shutdown()
