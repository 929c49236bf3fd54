"""A small server that speaks enough of OpenAI's API for an agent to call tools."""

from __future__ import annotations

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatService:
    """Answers chat completions: first with a call of each tool it is told of, then with what came.

    Parameters
    ----------
    arguments
        What to call tools with, by name.
    """

    def __init__(self, arguments: dict[str, dict[str, Any]]) -> None:
        self.arguments = arguments
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(asked)
        came = [m["content"] for m in asked["messages"] if m["role"] == "tool"]
        if came:
            return {"role": "assistant", "content": f"Tools said: {', '.join(map(str, came))}"}
        calls = [
            {
                "id": f"call-{next(self._numbers)}",
                "type": "function",
                "function": {
                    "name": tool["function"]["name"],
                    "arguments": json.dumps(self.arguments[tool["function"]["name"]]),
                },
            }
            for tool in asked["tools"]
        ]
        return {"role": "assistant", "content": None, "tool_calls": calls}

    def _handler(service) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.keys.add(self.headers.get("authorization", ""))
                message = service.answer(asked)
                reason = "tool_calls" if message.get("tool_calls") else "stop"
                body = json.dumps(
                    {
                        "id": "chat-1",
                        "object": "chat.completion",
                        "created": 0,
                        "model": asked["model"],
                        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
                        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
                    }
                ).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler
