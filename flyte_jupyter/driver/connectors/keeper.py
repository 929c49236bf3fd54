"""What deletes external jobs when their driver cannot: a small process that outlives it.

A driver may be killed at any moment. Its keeper holds, for each job that runs, what it takes to
delete it, and waits for the end of a channel that the driver alone holds. When that ends, and jobs
are left, it deletes them and goes; five seconds later it is gone in any case. So nobody else needs
to end it, and nobody may.
"""

from __future__ import annotations

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
        """Be ready to keep a job of a connector.

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
        self._messages.put(("ready", None))
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

    # -- the thread -------------------------------------------------------------------------

    def _speak(self) -> None:
        while True:
            message = self._messages.get()
            with contextlib.suppress(OSError):
                if self._process is None or self._process.poll() is not None:
                    self._start()
                else:
                    self._send(message)

    def _start(self) -> None:
        """Start the process, and tell it of all that there is to keep."""
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
        self._send(("place", (os.getcwd(), list(sys.path))))  # noqa: PTH109 - as text
        for name, job in list(self._jobs.items()):
            self._send(("keep", (name, job)))

    def _send(self, message: tuple[str, Any]) -> None:
        data = pickle.dumps(message)
        assert self._sock is not None
        self._sock.sendall(len(data).to_bytes(8, "little") + data)


keeper = Keeper()
"""This driver's."""
