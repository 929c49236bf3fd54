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
from tests.flyte_backend.store import Store

_SERVICES = (
    ClusterServiceASGIApplication,
    DataProxyServiceASGIApplication,
    RunServiceASGIApplication,
    QueueServiceASGIApplication,
    StateServiceASGIApplication,
)


class Site:
    """The services of a backend."""

    def __init__(self, backend: Backend) -> None:
        self._services = {app.path: app for app in (kind(backend) for kind in _SERVICES)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            service = self._services.get(scope["path"].rpartition("/")[0], _not_found)
            await service(scope, receive, send)


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"not found"})


async def _serve(folder: Path) -> None:
    store = Store()
    backend = Backend(folder, store)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    backend.endpoint = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(Site(backend), log_level="warning", timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    print(backend.endpoint, store.endpoint, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await backend.close()
    server.should_exit = True
    await serving
    store.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
