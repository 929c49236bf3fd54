"""The local backend: the notebook kernel's side of the supervisors.

One supervisor a cluster, started here and spoken to over an inherited socket pair. The kernel keeps
no list of processes and cleans nothing up itself: when its end of the socket closes, for whatever
reason, the supervisor does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import secrets
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flyte_jupyter.backends.backend import (
    DRIVER,
    ClusterStatus,
    DriverAddress,
    DriverLaunch,
    Listener,
)
from flyte_jupyter.backends.local import processes
from flyte_jupyter.backends.local.launching import Supervisor, platform_method, warm
from flyte_jupyter.backends.local.packages import Overlays
from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder
from flyte_jupyter.driver import wire
from flyte_jupyter.engines.engine import ClusterSpec
from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import ClusterError
from flyte_jupyter.platforms import require_platform


@dataclasses.dataclass
class _Cluster:
    folder: RuntimeFolder
    process: subprocess.Popen[bytes]
    writer: asyncio.StreamWriter
    key: str
    status: ClusterStatus
    gone: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    following: asyncio.Task[None] | None = None


class LocalBackend:
    """Clusters as processes of this machine; `backends.backend.Backend` says what it offers.

    Parameters
    ----------
    listener
        Told of every change.
    method
        ``fork``, ``spawn``, or ``auto`` for what suits the platform.
    preload
        Further modules to import before drivers are started.
    overlays
        Returns what finds and installs packages, as it is configured now.
    """

    def __init__(
        self,
        listener: Listener,
        method: str = "auto",
        preload: Sequence[str] = (),
        overlays: Callable[[], Overlays] = Overlays,
    ) -> None:
        require_platform()
        self._listener = listener
        self._method = platform_method(method)
        self._preload = list(preload)
        self._clusters: dict[str, _Cluster] = {}
        self._overlays = overlays
        self._paths: dict[tuple[PackageLayer, ...], Path | None] = {(): None}

    def prepare(self, spec: ClusterSpec, progress: Callable[[str], None]) -> tuple[str, ...]:
        """Install what processes need beyond the kernel's packages, unless it is there."""
        if not spec.packages:
            return ()
        overlay = self._overlays().prepare(spec.packages, progress)
        self._paths[spec.packages] = overlay.path
        return overlay.remarks

    async def create(self, name: str, spec: ClusterSpec, driver: DriverLaunch) -> None:
        """Begin to start a cluster, unless one of that name is there."""
        if name in self._clusters:
            return
        supervisor = None
        if self._method == "fork":
            supervisor = await asyncio.to_thread(warm.take, spec.env)
        try:
            supervisor = supervisor or Supervisor.start()
        except OSError as error:
            raise ClusterError(
                f"the supervisor of {name.partition('#')[0]} cannot be started", seen=str(error)
            ) from None
        folder, process = supervisor.folder, supervisor.process
        reader, writer = await asyncio.open_connection(sock=supervisor.sock, limit=2**26)
        status: ClusterStatus = {"state": "starting", "reason": "", "members": [], "facts": {}}
        cluster = _Cluster(folder, process, writer, driver.key, status)
        self._clusters[name] = cluster
        cluster.following = asyncio.create_task(self._follow(name, cluster, reader))
        launch = {
            "do": "launch",
            "spec": spec.as_json(),
            "driver": {"key": driver.key, "settings": dict(driver.settings)},
            "cwd": driver.cwd,
            "path": list(driver.path),
            "packages": str(self._paths[spec.packages] or ""),
            "method": self._method,
            "preload": self._preload,
        }
        writer.write(json.dumps(launch).encode() + b"\n")
        with contextlib.suppress(OSError):
            await writer.drain()

    async def _follow(self, name: str, cluster: _Cluster, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):  # a supervisor may be killed amid a line
            while line := await reader.readline():
                cluster.status = json.loads(line)
                self._listener(name, cluster.status)
        try:
            await asyncio.to_thread(self._bury, cluster)
        except RuntimeError:  # no threads any more: the interpreter is ending
            self._bury(cluster)
        if cluster.status["state"] not in ("stopped", "failed"):
            reason = f"its supervisor ended: {self._last_words(cluster)}"
            cluster.status = {**cluster.status, "state": "failed", "reason": reason, "members": []}
            self._listener(name, cluster.status)
        if cluster.process.stderr:
            cluster.process.stderr.close()
        self._clusters.pop(name, None)
        cluster.writer.close()
        cluster.gone.set()

    @staticmethod
    def _bury(cluster: _Cluster) -> None:
        """Wait for the supervisor, and clean up behind one that was killed."""
        cluster.process.wait()
        if cluster.folder.path.exists():
            processes.kill_marked(cluster.folder.mark)
            cluster.folder.remove()

    @staticmethod
    def _last_words(cluster: _Cluster) -> str:
        how = processes.describe_exit(cluster.process.returncode)
        text = cluster.process.stderr.read() if cluster.process.stderr else b""
        lines = text.decode(errors="replace").strip().splitlines()
        return f"{how}\n{lines[-1]}" if lines else how

    async def get(self, name: str) -> ClusterStatus | None:
        """Return the last known status; None if there is no such cluster."""
        cluster = self._clusters.get(name)
        return cluster.status if cluster else None

    async def scale(self, name: str, role: str, replicas: int) -> None:
        """Ask for another number of members."""
        await self._say(name, {"do": "scale", "role": role, "replicas": replicas})

    async def restart_driver(self, name: str) -> None:
        """End the driver and what it has started, and start another."""
        await self._say(name, {"do": "restart_driver"})

    def dismiss(self, name: str) -> None:
        """Close the channel to a cluster that has failed, once its logs have been read."""
        if cluster := self._clusters.get(name):
            with contextlib.suppress(OSError, RuntimeError):
                cluster.writer.write_eof()

    async def delete(self, name: str) -> None:
        """Take a cluster down and return when nothing of it is left."""
        cluster = self._clusters.get(name)
        if cluster is None:
            return
        await self._say(name, {"do": "stop"})
        with contextlib.suppress(OSError, RuntimeError):
            cluster.writer.write_eof()
        await cluster.gone.wait()

    async def close(self) -> None:
        """Take every cluster down, and wait for those that have failed to be gone."""
        await asyncio.gather(*(self.delete(name) for name in list(self._clusters)))

    async def _say(self, name: str, message: dict[str, Any]) -> None:
        if cluster := self._clusters.get(name):
            # RuntimeError: its end has been asked for already, there is nothing more to say.
            with contextlib.suppress(OSError, RuntimeError):
                cluster.writer.write(json.dumps(message).encode() + b"\n")
                await cluster.writer.drain()

    def address(self, name: str) -> DriverAddress:
        """Say where the present driver listens."""
        cluster = self._clusters.get(name)
        if cluster is None:
            raise ClusterError(f"{name} has no cluster")
        generation = next(
            (m["generation"] for m in cluster.status["members"] if m["role"] == DRIVER), 0
        )
        return DriverAddress(
            wire.connection(cluster.folder.path, generation, cluster.key), generation
        )

    def folder(self, name: str) -> Path | None:
        """Return the cluster's folder."""
        cluster = self._clusters.get(name)
        return cluster.folder.path if cluster else None

    def log(self, name: str, log: str, *, last: int = 65536) -> str:
        """Return the end of one log of a cluster."""
        folder = self.folder(name)
        if folder is None:
            return ""
        path = folder / "logs" / Path(log).name
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - last))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def new_key() -> str:
    """Return a key to sign a driver's messages with."""
    return secrets.token_hex(32)
