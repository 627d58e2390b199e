"""A scripted OpenAI-compatible chat server on a local port: the outside edge of served policies, worlds and judges."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer:
    """Answers ``/v1/chat/completions`` with the next of ``replies`` (the last one repeats): a status, headers and a
    body, or a function of the request. ``bodies`` and ``headers`` keep what was sent; ``models``: what
    ``/v1/models`` lists."""

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.models: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        try:
            return reply(body) if callable(reply) else reply
        finally:
            with self.lock:
                self.in_flight -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._send(*server.answer(body, {k.lower(): v for k, v in self.headers.items()}))

            def do_GET(self) -> None:
                served = {"data": [{"id": name} for name in server.models]}
                self._send(200 if self.path == "/v1/models" else 404, {}, json.dumps(served))

            def _send(self, status: int, headers: dict[str, str], text: str) -> None:
                try:
                    self.send_response(status)
                    for key, value in {**headers, "content-length": str(len(text.encode()))}.items():
                        self.send_header(key, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client's deadline passed

            def log_message(self, *args: Any) -> None:
                return

        return Handler


def ok(content: str | None, finish: str = "stop", **message: Any) -> tuple[int, dict[str, str], str]:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 11, "completion_tokens": 3}
    return 200, {}, json.dumps({"model": "served-1", "choices": [choice], "usage": usage})
