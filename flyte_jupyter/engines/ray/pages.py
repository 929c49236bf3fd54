"""Ray's dashboard, for the one person who knows its path, and started when that first opens it.

Ray's own asks everybody for the cluster's token, which nobody has seen. So what is served here lies
below a path that is a token of its own, adds the cluster's, and hands all requests on. Ray's pages
name their parts relative to themselves, and work below a path and behind a proxy too.

The dashboard is ten processes, which take seconds of all cores to start: no cluster that nobody
looks at should pay that.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import threading
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web

from flyte_jupyter.engines.ray.private import HOST, LocalNode

_OWN_HEADERS = (
    "host",
    "authorization",
    "cookie",
    "connection",
    "content-length",
    "accept-encoding",
)
_HOP_BY_HOP = (
    "connection",
    "transfer-encoding",
    "content-encoding",
    "content-length",
    "set-cookie",
)
_MOST = 2**30


class DashboardPages:
    """A web server that stands before the dashboard of a node.

    Parameters
    ----------
    node
        The head.
    page
        The path below which everything lies.
    token
        The cluster's token; who sends it, as Ray's own clients do, needs no path.
    """

    def __init__(self, node: LocalNode, page: str, token: str) -> None:
        self._node, self._page = node, f"/{page}/"
        self._bearer = f"Bearer {token}"
        self._opening = asyncio.Lock()
        self._address = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        path = request.raw_path
        if path.startswith(self._page):
            path = path.removeprefix(self._page)
        elif hmac.compare_digest(
            request.headers.get("Authorization", "").encode(), self._bearer.encode()
        ):
            path = path.removeprefix("/")
        else:
            return web.Response(status=404)
        if path.partition("?")[0] == "api/authentication_mode":
            return web.json_response({"authentication_mode": "disabled"})  # it is done here
        async with self._opening:
            if not self._address:
                self._address = await asyncio.to_thread(self._node.open_dashboard, _free_port())
        return await self._hand_on(request, f"http://{self._address}/{path}")

    async def _hand_on(self, request: web.Request, url: str) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _OWN_HEADERS}
        headers["Authorization"] = self._bearer
        body = await request.read()
        from yarl import URL

        async with (
            ClientSession(timeout=ClientTimeout(total=None)) as session,
            session.request(
                request.method,
                URL(url, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
            ) as given,
        ):
            kept = {k: v for k, v in given.headers.items() if k.lower() not in _HOP_BY_HOP}
            answer = web.StreamResponse(status=given.status, headers=kept)
            await answer.prepare(request)
            async for piece in given.content.iter_chunked(65536):
                await answer.write(piece)
            await answer.write_eof()
            return answer


def serve_dashboard(node: LocalNode, page: str, token: str) -> int:
    """Serve the dashboard of a node below ``/page/``, on a thread, and return the port."""
    sock = socket.socket()
    sock.bind((HOST, 0))
    port: int = sock.getsockname()[1]
    threading.Thread(
        target=lambda: asyncio.run(_serve(sock, node, page, token)), name="pages", daemon=True
    ).start()
    node.announce_dashboard(f"{HOST}:{port}")
    return port


async def _serve(sock: socket.socket, node: LocalNode, page: str, token: str) -> None:
    pages = DashboardPages(node, page, token)
    application = web.Application(client_max_size=_MOST)
    application.router.add_route("*", "/{path:.*}", pages.answer)
    runner: Any = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    await asyncio.Event().wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port
