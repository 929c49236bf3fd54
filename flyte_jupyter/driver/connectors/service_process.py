"""The gRPC service that a Flyte backend speaks to, for connectors of a notebook.

It is the SDK's own service. What is added here: it listens on loopback alone and to those who know
its token, it knows classes that only the notebook defines, and it ends when the notebook's kernel
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from flyte_jupyter.driver.flyte_sdk.connector_server import add_services, load_installed
from flyte_jupyter.driver.flyte_sdk.connector_tasks import register, registered

_HEALTH = "/grpc.health.v1.Health/"
_LOOK = 1.0
"""Seconds between looks whether the kernel still lives."""


def main() -> None:
    """Run as ``python -m flyte_jupyter.driver.connectors.service_process FD KERNEL``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fd, kernel = int(sys.argv[1]), int(sys.argv[2])
    with socket.socket(fileno=fd) as sock:
        order = _received(sock)
        # Not on the loop, where a connector may block: it ends with the kernel whatever that does.
        threading.Thread(target=_end_with, args=(sock, kernel), daemon=True).start()
        asyncio.run(_serve(sock, order))
    os._exit(1)


def _received(sock: socket.socket) -> dict[str, Any]:
    with sock.makefile("rb") as stream:
        order: dict[str, Any] = pickle.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return order


def _end_with(sock: socket.socket, kernel: int) -> None:
    """End this process when the kernel closes its end of the channel, or is gone."""
    while os.getppid() == kernel:
        readable, _, _ = select.select([sock], [], [], _LOOK)
        if readable and not sock.recv(1):
            break
    os._exit(0)


async def _serve(sock: socket.socket, order: dict[str, Any]) -> None:
    sys.path[:] = order["path"]
    with contextlib.suppress(OSError):
        os.chdir(order["cwd"])
    try:
        server, port = await _started(order["connectors"], order["port"], order["token"])
        answer = {"port": port, "types": [c.task_type_name for c in registered()]}
    except Exception as error:  # noqa: BLE001 - who asked for it says it
        answer = {"error": f"{type(error).__name__}: {error}"}
    sock.sendall(json.dumps(answer).encode() + b"\n")
    if "error" not in answer:
        await server.wait_for_termination()


async def _started(connectors: bytes, port: int, token: str) -> tuple[Any, int]:
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    load_installed()
    if connectors:
        register(pickle.loads(each.data) for each in pickle.loads(connectors) if each.data)
    # Else another server could listen on the same port, and be asked in the place of this one.
    options = [("grpc.so_reuseport", 0)]
    server = grpc.aio.server(interceptors=[_token_wanted(grpc, token)], options=options)
    names = add_services(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", *names):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError:
        raise OSError(f"port {port} is taken") from None
    await server.start()
    return server, bound


def _token_wanted(grpc: Any, token: str) -> Any:
    """Return what refuses calls that do not bring the token; only health is for everybody."""

    class Doorkeeper(grpc.aio.ServerInterceptor):
        async def intercept_service(
            self, continuation: Callable[[Any], Awaitable[Any]], details: Any
        ) -> Any:
            given = dict(details.invocation_metadata).get("authorization", "")
            known = hmac.compare_digest(given, f"Bearer {token}")
            if known or details.method.startswith(_HEALTH):
                return await continuation(details)

            async def refuse(request: Any, context: Any) -> None:
                del request
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing")

            return grpc.unary_unary_rpc_method_handler(refuse)

    return Doorkeeper()


if __name__ == "__main__":
    main()
