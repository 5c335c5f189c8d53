"""A node's ports with fixed answers: a small HTTP server on this machine, for the command's tests.

`answers` maps "METHOD /path?query" or "METHOD /path" to (status, content type, body) or to a JSON-able value (then 200).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeNode:
    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.bodies: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    def answer(self, method: str, target: str) -> tuple[int, str, bytes]:
        self.asked.append(f"{method} {target}")
        path = target.partition("?")[0]
        found = self.answers.get(f"{method} {target}", self.answers.get(f"{method} {path}"))
        if found is None:
            told = {
                "status": 404,
                "code": "MESH-A005",
                "title": "there is no such thing",
                "detail": "no such path",
            }
            return 404, "application/problem+json", json.dumps(told | {"where": path, "remedy": ""}).encode()
        if isinstance(found, tuple):
            return found
        return 200, "application/json", json.dumps(found).encode()


@contextmanager
def fake_node() -> Iterator[FakeNode]:
    node = FakeNode()

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            node.bodies.append((dict(self.headers), body))
            status, kind, answer = node.answer(self.command, self.path)
            self.send_response(status)
            self.send_header("content-type", kind)
            if kind == "text/event-stream":
                self.send_header("connection", "close")
            else:
                self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = False
    node.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield node
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
