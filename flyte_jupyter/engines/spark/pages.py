"""Spark's web pages, for the one person who knows their path.

Every user of the machine can connect to a port on loopback. So Spark's own pages are told to answer
only to a signed token (`org.apache.spark.ui.JWSFilter`), and are served here, below a path that
cannot be guessed, by a small proxy that presents one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
_PORT_FILE = "ui"
_DROPPED = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})
_TIMEOUT = 30.0


def note_port(folder: Path, port: int) -> None:
    """Have the proxy find the pages of a session that the driver has made."""
    path = folder / "spark" / _PORT_FILE
    path.with_suffix(".new").write_text(str(port))
    path.with_suffix(".new").replace(path)


def signed(key: str) -> str:
    """Return a token of RFC 7515 with an empty claim, signed with a key in URL-safe base64."""
    head = _base64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = f"{head}.{_base64(b'{}')}"
    signature = hmac.new(base64.urlsafe_b64decode(key), body.encode(), hashlib.sha256).digest()
    return f"{body}.{_base64(signature)}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Pages:
    """The proxy.

    Parameters
    ----------
    folder
        The cluster's folder, where the driver writes down the port of its pages.
    key
        What Spark's pages check tokens with.
    token
        The path below which the proxy answers.
    """

    def __init__(self, folder: Path, key: str, token: str) -> None:
        self.token = token
        self.authorization = f"Bearer {signed(key)}"
        self.ports: dict[str, int] = {}
        self._port_file = folder / "spark" / _PORT_FILE

    def serve(self) -> str:
        """Begin to answer, on a thread of its own; returns the address below which it does."""
        server = _Server((HOST, 0), _Handler)
        server.pages = self
        threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()
        return f"http://{HOST}:{server.server_port}/{self.token}"

    def port(self, name: str) -> int:
        """Return the port of the pages called `name`: ``ui`` or ``master``; 0 for none."""
        if name != "ui":
            return self.ports.get(name, 0)
        try:
            return int(self._port_file.read_text())
        except (OSError, ValueError):
            return 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    pages: Pages

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that goes away is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Keep paths, which hold the token, out of the log."""

    def do_GET(self) -> None:
        """Fetch a page from Spark."""
        self._forward()

    do_POST = do_HEAD = do_GET  # noqa: N815 - the parent's words

    def _forward(self) -> None:
        token, _, rest = self.path.removeprefix("/").partition("/")
        pages = self.server.pages
        if not hmac.compare_digest(token.encode(), pages.token.encode()):
            self.send_error(404)
            return
        name = rest.partition("/")[0].partition("?")[0]
        port = pages.port(name)
        if not port:
            self.send_error(404 if name not in ("ui", "master") else 503)
            return
        # Whoever stands before us says below which path we are; Spark's links begin with that.
        root = f"{self.headers.get('X-Forwarded-Context', '')}/{token}/{name}"
        try:
            self._fetch(port, rest.removeprefix(name) or "/", root)
        except (OSError, http.client.HTTPException):
            self.send_error(502)

    def _fetch(self, port: int, path: str, root: str) -> None:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _DROPPED}
        headers["Authorization"] = self.server.pages.authorization
        headers["X-Forwarded-Context"] = root
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT)
        try:
            connection.request(self.command, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() == "location":
                self.send_header(key, _below(value, port, root))
            elif key.lower() not in _DROPPED:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _below(location: str, port: int, root: str) -> str:
    """Have a redirection lead to where we are."""
    path = location.removeprefix(f"http://{HOST}:{port}")
    return path if path.startswith((root, "http:", "https:")) else root + path
