"""What deletes external jobs when their driver cannot: a small process that outlives it.

A driver may be killed at any moment. Its keeper holds, for each job that runs, what it takes to
delete it, and waits for the end of a channel that the driver alone holds. When that ends, and jobs
are left, it deletes them and goes; five seconds later it is gone in any case. So nobody else needs
to end it, and nobody may.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import cloudpickle

from flyte_jupyter.driver.connectors import KEEPER
from flyte_jupyter.errors import ConnectorError, one_line

_START = 10.0
"""Seconds that it may take to be there."""
LIFE = 5
"""Seconds that it has after its driver's end."""


class Pledge:
    """The promise that a job will be deleted, from before it is launched until it is released."""

    def __init__(self, keeper: Keeper, connector: bytes) -> None:
        self._keeper, self._connector = keeper, connector
        self._name = -1

    def keep(self, meta: Any) -> None:
        """Have the job of these metadata deleted if this process ends before it is released."""
        self._name = self._keeper.add(cloudpickle.dumps((self._connector, meta)))

    def release(self) -> None:
        """Forget it: there is none, it has ended, or it has been deleted."""
        self._keeper.remove(self._name)

    def redeem(self) -> None:
        """Have the job deleted now, if there is one, and again in the end if that fails."""
        self._keeper.delete(self._name)


class Keeper:
    """The driver's side of its keeper.

    A thread speaks to the process: an interrupt between two halves of a message would be the end of
    all that come after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[int, bytes] = {}
        self._numbers = itertools.count()
        self._messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def pledge(self, connector: Any, secrets: Mapping[str, str]) -> Pledge:
        """Be ready to keep a job of a connector; waits until the process is there.

        Raises
        ------
        ConnectorError
            It cannot be taken to another process, so that its jobs could be left behind.
        """
        try:
            data = cloudpickle.dumps((connector, dict(secrets)))
        except Exception as error:
            raise ConnectorError(
                f"{connector.name} cannot be pickled",
                seen=one_line(error),
                fix="Make clients and connections in `create`, `get` and `delete`, not before.",
            ) from error
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._speak, name="keeper", daemon=True)
                self._thread.start()
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._messages.put(("ready", ready))
        try:
            ready.result(_START)
        except (OSError, TimeoutError) as error:
            raise ConnectorError(
                "nothing could be started that sees to the job when this driver cannot",
                seen=one_line(error),
            ) from error
        return Pledge(self, data)

    def add(self, job: bytes) -> int:
        """Keep a job; returns its name."""
        name = next(self._numbers)
        self._jobs[name] = job
        self._messages.put(("keep", (name, job)))
        return name

    def remove(self, name: int) -> None:
        """Keep a job no longer."""
        if self._jobs.pop(name, None) is not None:
            self._messages.put(("release", name))

    def delete(self, name: int) -> None:
        """Delete a job now."""
        if name in self._jobs:
            self._messages.put(("delete", name))

    # -- the thread -------------------------------------------------------------------------

    def _speak(self) -> None:
        while True:
            kind, content = self._messages.get()
            if kind == "ready":
                self._get_ready(content)
                continue
            try:
                self._send((kind, content))
            except OSError:
                with contextlib.suppress(OSError):
                    self._start()  # which tells it of all there is

    def _get_ready(self, ready: concurrent.futures.Future[None]) -> None:
        try:
            if self._process is None or self._process.poll() is not None:
                self._start()
        except OSError as error:
            ready.set_exception(error)
        else:
            ready.set_result(None)

    def _start(self) -> None:
        """Start the process, hear that it is there, and tell it of all that there is to keep."""
        if self._sock is not None:
            self._sock.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", KEEPER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # What the driver prints to goes away with it.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._sock = ours
        ours.settimeout(_START)
        if not ours.recv(1):
            raise OSError(f"{KEEPER} ended at once")
        ours.settimeout(None)
        self._send(("place", (os.getcwd(), list(sys.path))))  # noqa: PTH109 - as text
        for name, job in list(self._jobs.items()):
            self._send(("keep", (name, job)))

    def _send(self, message: tuple[str, Any]) -> None:
        data = pickle.dumps(message)
        if self._sock is None:
            raise OSError("it was never started")
        self._sock.sendall(len(data).to_bytes(8, "little") + data)

    def forget(self) -> None:
        """Leave it to the parent of this process, which has just been forked."""
        if self._sock is not None:
            self._sock.close()  # else the keeper would wait for this process too
        self.__init__()  # type: ignore[misc]


keeper = Keeper()
"""This driver's."""
os.register_at_fork(after_in_child=keeper.forget)
