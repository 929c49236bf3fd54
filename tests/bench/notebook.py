"""A notebook without a page: a real kernel, and a client that sees what Lab would see."""

from __future__ import annotations

import ast
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psutil
from jupyter_client.manager import KernelManager

from tests.bench.clusters import Cluster
from tests.bench.processes import TOKEN, end, new_token, with_token

_TIMEOUT = 300.0
TIMED = """\
import time

async def timed(call, rounds):
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        await call()
        times.append(time.perf_counter() - started)
    return times
"""
"""Code for a kernel: it times calls, in seconds each."""


class CellFailed(Exception):
    """A cell of the benchmark raised."""


@dataclass
class Cell:
    """What came of a cell."""

    seconds: float = 0.0
    """From sending it to its reply and the kernel's being idle again."""
    streams: list[tuple[float, str]] = field(default_factory=list)
    """Its text, with the time on the wall at which each piece arrived here."""
    result: str = ""
    """Text of its last expression."""

    @property
    def value(self) -> Any:
        """Its last expression, if that is a literal."""
        return ast.literal_eval(self.result)


class Notebook:
    """One kernel and its client.

    Use it as a context; `killed` and `leave` end it otherwise than politely.
    """

    def __init__(self) -> None:
        self.token = new_token()
        self.manager = KernelManager(kernel_name="python3")
        cwd = Path(os.environ["JUPYTER_RUNTIME_DIR"]).with_name("cwd")
        self.manager.start_kernel(
            env={**os.environ, TOKEN: self.token},
            cwd=str(cwd),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.client = self.manager.client()
        try:
            self.client.start_channels(hb=False)
            self.client.wait_for_ready(timeout=_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Notebook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The kernel's process."""
        pid: int = cast(Any, self.manager.provisioner).pid
        return pid

    def processes(self) -> list[psutil.Process]:
        """Return the kernel and everything that was ever started from it, whoever adopted it."""
        return with_token(self.token)

    def send(self, code: str) -> str:
        """Send a cell without waiting for it."""
        message: str = self.client.execute(code)
        return message

    def run(self, code: str, timeout: float = _TIMEOUT) -> Cell:
        """Run a cell to its end.

        Raises
        ------
        CellFailed
            It raised.
        """
        cell, sent = Cell(), time.perf_counter()
        name = self.send(code)
        reply = self._finish(name, cell, timeout)
        cell.seconds = time.perf_counter() - sent
        if reply["status"] != "ok":
            trace = "\n".join(reply.get("traceback", []))
            raise CellFailed(f"{code}\n{trace}")
        return cell

    def interrupt(self, message: str) -> Cell:
        """Interrupt a cell that was sent; its time is that until it is at its end.

        Raises
        ------
        CellFailed
            It ended by anything but a KeyboardInterrupt.
        """
        cell, sent = Cell(), time.perf_counter()
        self.manager.interrupt_kernel()
        reply = self._finish(message, cell, _TIMEOUT)
        cell.seconds = time.perf_counter() - sent
        if reply.get("ename") != "KeyboardInterrupt":
            raise CellFailed(f"interrupted, it ended with {reply}")
        return cell

    def _finish(self, name: str, cell: Cell, timeout: float) -> dict[str, Any]:
        """Wait for the end of a cell, and return what its reply says."""
        self._listen(name, cell, timeout)
        reply = self.client.get_shell_msg(timeout=timeout)
        while reply["parent_header"].get("msg_id") != name:
            reply = self.client.get_shell_msg(timeout=timeout)
        content: dict[str, Any] = reply["content"]
        return content

    def _listen(self, name: str, cell: Cell, timeout: float) -> None:
        while True:
            message = self.client.get_iopub_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") != name:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                cell.streams.append((time.time(), content["text"]))
            elif kind == "execute_result":
                cell.result = content["data"]["text/plain"]
            elif kind == "status" and content["execution_state"] == "idle":
                return

    def await_text(self, message: str) -> None:
        """Wait until a cell that was sent prints something.

        Raises
        ------
        CellFailed
            It raised before.
        """
        while True:
            told = self.client.get_iopub_msg(timeout=_TIMEOUT)
            if told["parent_header"].get("msg_id") != message:
                continue
            if told["msg_type"] == "error":
                raise CellFailed("\n".join(told["content"]["traceback"]))
            if told["msg_type"] == "stream":
                return

    def close(self) -> None:
        """Shut the kernel down, and kill what it leaves behind; a peer leaves much."""
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        end(self.processes())


@contextmanager
def with_extension() -> Iterator[Notebook]:
    """Start a notebook in which the extension is loaded."""
    with Notebook() as notebook:
        notebook.run("%load_ext flyte_jupyter")
        yield notebook


@contextmanager
def with_cluster(*clusters: Cluster) -> Iterator[Notebook]:
    """Start a notebook that has declared environments and used them."""
    with with_extension() as notebook:
        for cluster in clusters:
            notebook.run(cluster.declare)
            notebook.run(cluster.use)
        yield notebook


@contextmanager
def ipyparallel_engine(notebook: Notebook) -> Iterator[None]:
    """Give a notebook the peer: ``%%px`` and ``view`` on one ipyparallel engine."""
    notebook.run(
        "import ipyparallel as ipp\n"
        "cluster = ipp.Cluster(n=1, log_level=40)\n"
        "client = cluster.start_and_connect_sync(activate=True)\n"
        "view = client[0]"
    )
    try:
        yield
    finally:
        notebook.run("client.close(); cluster.stop_cluster_sync()")


def in_turns(notebook: Notebook, cells: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """Run cells in turns and return the seconds that each took; the first rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in cells}
    names = list(cells)
    for number in range(-3, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds = notebook.run(cells[name]).seconds
            if number >= 0:
                times[name].append(seconds)
    return times
