"""What an engine's `run` gets to run a task's cell somewhere else than in the driver."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyte_jupyter.driver.output.streams import DriverStream
from flyte_jupyter.driver.values.forwarding import Forwarded

if TYPE_CHECKING:
    from flyte_jupyter.driver.kernel import DriverKernel
    from flyte_jupyter.driver.wire import RefInfo, TaskReply, TaskRequest


def named(target: str) -> Callable[..., Any]:
    """Import what ``"module:function"`` names."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Parameters
    ----------
    reply, frames
        What the notebook is told.
    outputs
        Holds the shared memory that the reply refers to, if any.
    """

    reply: TaskReply
    frames: Sequence[bytes | memoryview] = ()
    outputs: Forwarded | None = None


class Job:
    """One task, and the driver's means of showing what comes of it.

    Parameters
    ----------
    kernel
        The driver.
    request
        The task.
    declaration
        The environment's name and plugin config.
    inputs
        The task's inputs, for any number of processes; valid until the job has ended.
    parent
        The notebook's message, to which output belongs.
    """

    def __init__(
        self,
        kernel: DriverKernel,
        request: TaskRequest,
        declaration: dict[str, Any],
        inputs: Forwarded,
        parent: dict[str, Any],
    ) -> None:
        self.request, self.declaration, self.inputs = request, declaration, inputs
        self.member = kernel.member
        self._kernel, self._parent = kernel, parent

    @property
    def config(self) -> Any:
        """The environment's plugin config."""
        return self.declaration["config"]

    @property
    def local_roots(self) -> list[str]:
        """Folders whose modules travel by value."""
        roots: list[str] = self.member.args["settings"]["local_roots"]
        return roots

    def write(self, stream: str, text: str) -> None:
        """Print text in the task's cell, within the limits that hold for any."""
        target: Any = getattr(sys, stream)
        target.write(text)

    def publish(
        self,
        kind: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        buffers: Sequence[Any] = (),
    ) -> None:
        """Send a message of Jupyter's output channel, after all that was printed before."""
        if isinstance(sys.stdout, DriverStream):
            sys.stdout.flush()
        session: Any = self._kernel.session
        session.send(
            self._kernel.iopub_socket,
            kind,
            content,
            metadata=metadata,
            parent=self._parent,
            ident=kind.encode(),
            buffers=list(buffers),
        )

    def keep(self, value: object, source: object = None) -> RefInfo:
        """Keep a value in the driver, as `-r` asks for, and what it came from."""
        return self._kernel.refs.keep(value, source)

    def source(self, ref: str) -> Any:
        """Return what a value that the driver keeps came from; None if it is not kept any more."""
        return self._kernel.refs.source(ref)

    @contextlib.contextmanager
    def on_interrupt(self, act: Callable[[], None]) -> Iterator[None]:
        """Call `act` on the event loop when the user interrupts, instead of raising."""
        loop = asyncio.get_running_loop()
        previous = signal.getsignal(signal.SIGINT)
        loop.add_signal_handler(signal.SIGINT, act)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, previous)
