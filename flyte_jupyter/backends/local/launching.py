"""Starting a supervisor, with or without knowing yet what it will be for.

A supervisor can be started warm: its zygote imports what clusters need while the user still types.
It becomes a cluster's when one is asked for, if nothing that matters to an import has changed:
environment variables are read by libraries when they are imported, so a cluster that declares some,
or a notebook that has set some meanwhile, starts cold.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flyte_jupyter.backends.local import processes, runtime_folder
from flyte_jupyter.backends.local.channel import Channel
from flyte_jupyter.backends.local.python_process import start_python
from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder

DRIVER_PRELOAD = ("flyte_jupyter.driver.preload",)
"""What every driver imports."""


def platform_method(method: str = "auto") -> str:
    """Return how members start on this platform: ``fork`` or ``spawn``."""
    if method != "auto":
        return method
    return "fork" if sys.platform == "linux" else "spawn"


@dataclass
class Supervisor:
    """A supervisor's process, as its parent sees it.

    Parameters
    ----------
    folder
        The cluster's folder, which the supervisor makes.
    process
        The process.
    sock
        The control channel.
    environ
        The environment that its processes begin with.
    """

    folder: RuntimeFolder
    process: subprocess.Popen[bytes]
    sock: socket.socket
    environ: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls) -> Supervisor:
        """Start one.

        Raises
        ------
        OSError
            There is no private folder for it, or no process can be started.
        """
        folder = runtime_folder.new()
        environ = dict(os.environ)
        process, sock = start_python(
            "flyte_jupyter.backends.local.supervisor",
            [str(os.getpid()), str(folder.path)],
            {**environ, processes.MARK: folder.mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        return cls(folder, process, sock, environ)

    def end(self) -> None:
        """Let it go, and wait until it has gone."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # a forked child may hold a copy of it
        self.sock.close()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


class WarmSupervisor:
    """At most one supervisor that has imported and waits for its cluster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Supervisor | None = None
        self._taken = False

    def preload(self, modules: Sequence[str], path: Sequence[str]) -> None:
        """Have modules imported ahead; the first call starts the supervisor."""
        with self._lock, contextlib.suppress(OSError):
            if self._taken or platform_method() != "fork":
                return
            if self._waiting is None:
                self._waiting = Supervisor.start()
            order = {"do": "preload", "modules": list(modules), "path": list(path)}
            Channel(self._waiting.sock).send(order)

    def take(self, environ: Mapping[str, str]) -> Supervisor | None:
        """Return the supervisor that waits, if a cluster can begin with it.

        Parameters
        ----------
        environ
            Variables that the cluster declares.
        """
        with self._lock:
            waiting, self._waiting, self._taken = self._waiting, None, True
        if waiting is None:
            return None
        if waiting.process.poll() is None and not environ and waiting.environ == dict(os.environ):
            return waiting
        waiting.end()
        return None

    def discard(self) -> None:
        """End the one that waits; a later `preload` starts another."""
        with self._lock:
            waiting, self._waiting, self._taken = self._waiting, None, False
        if waiting is not None:
            waiting.end()


warm = WarmSupervisor()
