"""What deletes external jobs when their driver cannot: a small process that outlives it.

A driver may be killed at any moment. Its keeper holds, for each job that runs, what it takes to
delete it, and waits for the end of a channel that the driver alone holds. When that ends, and jobs
are left, it deletes them and goes; five seconds later it is gone in any case. So nobody else needs
to end it, and nobody may.
"""

from __future__ import annotations

import itertools
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import cloudpickle

from flyte_jupyter.driver.connectors import KEEPER

LIFE = 5
"""Seconds that it has after its driver's end."""


class Kept:
    """A job that is kept in mind until it is released."""

    def __init__(self, keeper: Keeper, name: int) -> None:
        self._keeper, self._name = keeper, name

    def release(self) -> None:
        """Forget it: it has ended, or has been deleted."""
        self._keeper.send(("release", self._name))


class Keeper:
    """The driver's side of its keeper."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()

    def start(self) -> None:
        """Start the process, unless it is there.

        Raises
        ------
        OSError
            It cannot be started.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", KEEPER, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._sock = ours
        self.send(("place", (os.getcwd(), list(sys.path))))  # noqa: PTH109 - as text

    def keep(self, connector: Any, meta: Any, secrets: Mapping[str, str]) -> Kept:
        """Have a job deleted if this process ends before it is released."""
        name = next(self._numbers)
        job = cloudpickle.dumps((connector, meta, dict(secrets)))
        self.send(("keep", (name, job)))
        return Kept(self, name)

    def send(self, message: tuple[str, Any]) -> None:
        """Tell the process something."""
        data = pickle.dumps(message)
        with self._lock:
            assert self._sock is not None
            self._sock.sendall(len(data).to_bytes(8, "little") + data)


keeper = Keeper()
"""This driver's."""
