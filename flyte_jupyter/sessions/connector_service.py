"""The connectors of a session as a gRPC service, in a process that ends with it."""

from __future__ import annotations

import contextlib
import html
import json
import os
import pickle
import secrets
import socket
import subprocess
import sys
from typing import Any

from flyte_jupyter.backends.local.python_process import start_python
from flyte_jupyter.errors import ConnectorError

_PROCESS = "flyte_jupyter.driver.connectors.service_process"
_START = 60.0
"""Seconds that it may take to start: plugins are imported."""
_STOP = 3.0


class ConnectorService:
    """A running service.

    Parameters
    ----------
    connectors
        Those that only the notebook has, pickled.
    port
        Where to listen; 0 for a free port.

    Raises
    ------
    ConnectorError
        It could not be started.
    """

    def __init__(self, connectors: bytes, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        self._process, self._sock = start_python(
            _PROCESS,
            [str(os.getpid())],
            dict(os.environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        order = {
            "connectors": connectors,
            "port": port,
            "token": self.token,
            "cwd": os.getcwd(),  # noqa: PTH109 - as text
            "path": list(sys.path),
        }
        try:
            answer = self._asked(pickle.dumps(order))
        except BaseException:
            self.stop()
            raise
        self.port: int = answer["port"]
        self.task_types: list[str] = answer["types"]

    def _asked(self, order: bytes) -> dict[str, Any]:
        self._sock.settimeout(_START)
        try:
            self._sock.sendall(len(order).to_bytes(8, "little") + order)
            with self._sock.makefile("rb") as stream:
                line = stream.readline()
        except OSError:  # it took too long, or has ended
            line = b""
        answer: dict[str, Any] = json.loads(line or b'{"error": "it said nothing"}')
        if "error" in answer:
            raise ConnectorError(
                "the connector service did not start",
                seen=answer["error"],
                fix="Type: %pip install 'flyte-jupyter[connectors]'"
                if "ModuleNotFoundError" in answer["error"]
                else "",
            )
        return answer

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process.poll() is None

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What each call has to bring."""
        return [("authorization", f"Bearer {self.token}")]

    def channel(self) -> Any:
        """Return a `grpc.Channel` to it; calls take `metadata` as theirs."""
        import grpc

        return grpc.insecure_channel(self.address)

    def stop(self) -> None:
        """Stop it and wait until it has gone. Safe to call again."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __repr__(self) -> str:
        state = f"at {self.address}" if self.running else "stopped"
        return f"<ConnectorService {state}: {', '.join(self.task_types) or 'no connectors'}>"

    def _repr_html_(self) -> str:
        return html.escape(repr(self)[1:-1])
