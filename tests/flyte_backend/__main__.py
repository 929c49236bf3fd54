"""Serve a backend on loopback until standard input ends: `python -m tests.flyte_backend FOLDER`."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from flyteidl2.cluster.service_connect import ClusterServiceASGIApplication
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyServiceASGIApplication
from flyteidl2.workflow.queue_service_connect import QueueServiceASGIApplication
from flyteidl2.workflow.run_service_connect import RunServiceASGIApplication
from flyteidl2.workflow.state_service_connect import StateServiceASGIApplication

from tests.flyte_backend.services import Backend

_SERVICES = (
    ClusterServiceASGIApplication,
    DataProxyServiceASGIApplication,
    RunServiceASGIApplication,
    QueueServiceASGIApplication,
    StateServiceASGIApplication,
)


class Site:
    """The services, and a store whose signed addresses lead here."""

    def __init__(self, backend: Backend) -> None:
        self._folder = backend.folder
        self._services = {app.path: app for app in (kind(backend) for kind in _SERVICES)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        service = self._services.get(path.rpartition("/")[0])
        if service is not None:
            await service(scope, receive, send)
            return
        status, body = 404, b"not found"
        if path.startswith("/store/"):
            file = self._folder / path.removeprefix("/store/")
            if scope["method"] == "PUT":
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(await _whole(receive))
                status, body = 200, b""
            elif file.is_file():
                status, body = 200, file.read_bytes()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def _whole(receive: Any) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _serve(folder: Path) -> None:
    backend = Backend(folder)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    backend.endpoint = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(Site(backend), log_level="warning", timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    print(backend.endpoint, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await backend.close()
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
