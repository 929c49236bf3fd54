"""A small external service that takes jobs over HTTP, and does as it is told."""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Job:
    """One job: when it began, what was asked for, and what was asked of it."""

    asked: dict[str, Any]
    begun: float = field(default_factory=time.monotonic)
    looks: int = 0
    deleted: bool = False


class TrainingService:
    """Jobs at `endpoint`; each takes `seconds` and ends in `ending`.

    `answers` overrides what looks at a job get: a status code and a body each.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.seconds = 0.0
        self.ending: dict[str, Any] = {"status": "finished"}
        self.answers: list[tuple[int, Any]] = []
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/jobs"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def alive(self) -> list[str]:
        """Jobs that still run."""
        now = time.monotonic()
        return [
            name
            for name, job in self.jobs.items()
            if not job.deleted and now - job.begun < self.seconds
        ]

    def post(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"job-{next(self._numbers)}"
        self.jobs[name] = Job(asked)
        return 200, {"job_id": name}

    def get(self, name: str) -> tuple[int, Any]:
        job = self.jobs[name]
        job.looks += 1
        if self.answers:
            return self.answers.pop(0)
        if time.monotonic() - job.begun < self.seconds:
            return 200, {"status": "running"}
        return 200, {"results": f"s3://models/{name}.bin", **self.ending}

    def delete(self, name: str) -> tuple[int, Any]:
        self.jobs[name].deleted = True
        return 200, {}

    def _handler(service) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self._say(*service.post(json.loads(body)))

            def do_GET(self) -> None:
                self._say(*service.get(self.path.rpartition("/")[2]))

            def do_DELETE(self) -> None:
                self._say(*service.delete(self.path.rpartition("/")[2]))

            def _say(self, code: int, data: Any) -> None:
                body = data.encode() if isinstance(data, str) else json.dumps(data).encode()
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler
