"""A node that asks who is there, for the end-to-end tests: its files, a server of an issuer's keys, and clients that show tokens."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trio
import trio_websocket
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from processes import Answer, Mesh, NodeProcess, http, until

from mesh.access.token_file import new_token, token_line


class Files:
    """The files of [auth] in a folder. `tokens` holds each name's token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.acl = folder / "mesh.acl"
        self.token_file = folder / "tokens"
        self.config = folder / "mesh.toml"
        self.tokens: dict[str, str] = {}
        self._lines: dict[str, str] = {}

    def token(self, name: str, *more: str) -> str:
        """A new token; the file has its line."""
        token = self.tokens[name] = new_token()
        self._lines[name] = token_line(name, token, more)
        self._write_tokens()
        return token

    def take_back(self, name: str) -> None:
        del self._lines[name]
        self._write_tokens()

    def _write_tokens(self) -> None:
        replace(self.token_file, "# tokens\n" + "".join(line + "\n" for line in self._lines.values()))

    def rules(self, text: str) -> None:
        replace(self.acl, text)

    def write_config(self, *auth: str, more: str = "") -> list[str]:
        """The configuration; returns the flags that name it. auth: more lines of [auth]."""
        tokens = [f'tokens_file = "{self.token_file}"'] if self._lines else []
        lines = ["[auth]", f'acl = "{self.acl}"', *tokens, *auth, more]
        self.config.write_text("\n".join(lines) + "\n")
        return ["--config", str(self.config)]


def replace(path: Path, text: str) -> None:
    """As careful writers do: whole, by another name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def bearer(token: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {token}")]


async def publish(
    node: NodeProcess, token: str, topic: str, body: bytes = b"hello", query: str = ""
) -> Answer:
    return await http(node.events, "POST", f"/v1/events/{topic}{query}", headers=bearer(token), body=body)


class Watcher:
    """An event stream (SSE) of one who shows a token. `events`: topics, in order. `closing`: what the node said at the end."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.data: list[Any] = []
        self.closing: dict[str, Any] | None = None
        self.ended = False

    async def run(
        self,
        node: NodeProcess,
        query: str,
        headers: Sequence[tuple[str, str]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        host, _, port = node.events.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        lines = [f"GET /v1/events?{query} HTTP/1.0", "Host: x", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in headers]
        async with stream:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode())
            text = b""
            while data := await stream.receive_some(65536):
                text += data.replace(b"\r\n", b"\n")
                while b"\n\n" in text:
                    block, _, text = text.partition(b"\n\n")
                    if block.startswith(b"HTTP/"):
                        assert b" 200 " in block, (block, text)
                    else:
                        self._take(block.decode(), task_status)
        self.ended = True

    def _take(self, block: str, task_status: trio.TaskStatus[None]) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        told = json.loads(fields.get("data", "null"))
        if fields.get("event") == "subscribed":
            task_status.started()
        elif fields.get("event") == "event":
            self.topics.append(told["topic"])
            self.data.append(told["event"].get("data", told["event"].get("data_base64")))
        elif fields.get("event") == "closing":
            self.closing = told

    async def wait(self, count: int) -> None:
        async def there() -> bool:
            return len(self.topics) >= count

        await until(there, 10, f"{count} events; there are {self.topics}")

    async def end(self) -> dict[str, Any]:
        async def over() -> bool:
            return self.ended

        await until(over, 15, "the node ends the stream")
        assert self.closing is not None
        return self.closing


@asynccontextmanager
async def websocket(
    node: NodeProcess, token: str = "", *, path: str = "/v1/ws", offered: Sequence[str] = ("mesh.v1.json",)
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    host, _, port = node.events.rpartition(":")
    # The library leaves the stream of a connection that the other end closed to its collector: it is closed here.
    async with await trio.open_tcp_stream(host, int(port)) as stream, trio.open_nursery() as nursery:
        socket = await trio_websocket.wrap_client_stream(
            nursery, stream, node.events, path, subprotocols=list(offered), extra_headers=headers
        )
        yield socket
        await socket.aclose()
        nursery.cancel_scope.cancel()


async def refused(node: NodeProcess, token: str, path: str = "/v1/ws") -> Answer:
    """The answer to a WebSocket opening that is not accepted."""
    opening = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "mesh.v1.json"),
    ]
    answer = await http(node.events, "GET", path, headers=[*opening, *bearer(token)])
    assert answer.status != 101
    return answer


async def op(socket: trio_websocket.WebSocketConnection, **fields: Any) -> dict[str, Any]:
    """Send an op; its answer, passing over events."""
    await socket.send_message(json.dumps(fields))
    with trio.fail_after(10):
        while True:
            answer: dict[str, Any] = json.loads(await socket.get_message())
            if answer["op"] != "event":
                return answer


async def closed(socket: trio_websocket.WebSocketConnection) -> tuple[int, str]:
    """Read to the end; the close code and reason."""
    try:
        with trio.fail_after(15):
            while True:
                await socket.get_message()
    except trio_websocket.ConnectionClosed as end:
        return (end.reason.code, end.reason.reason or "") if end.reason is not None else (1006, "")


def audit_lines(node: NodeProcess) -> list[dict[str, Any]]:
    path = node.folder / "data" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def audited(node: NodeProcess, **fields: str) -> dict[str, Any]:
    """The first audit line with these fields, waited for."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = [
            line
            for line in audit_lines(node)
            if all(str(line[name]) == value for name, value in fields.items())
        ]
        return bool(found)

    await until(there, 10, f"an audit line with {fields}")
    return found[0]


class Issuer:
    """An issuer of JWTs: keys by kid, and a server of the public ones. `asked` counts requests; `broken`: answers 500."""

    def __init__(self) -> None:
        self.keys: dict[str, ECKey | RSAKey] = {}
        self.asked = 0
        self.broken = False
        self.url = ""

    def new_key(self, kid: str, kind: str = "EC") -> None:
        made = (
            ECKey.generate_key("P-256", {"kid": kid})
            if kind == "EC"
            else RSAKey.generate_key(2048, {"kid": kid})
        )
        self.keys[kid] = made

    def jwks(self) -> bytes:
        return json.dumps(KeySet(list(self.keys.values())).as_dict(private=False)).encode()

    def token(self, kid: str, now_s: float, **claims: Any) -> str:
        key = self.keys[kid]
        algorithm = "ES256" if isinstance(key, ECKey) else "RS256"
        told = {"iss": "https://issuer", "aud": "mesh", "exp": int(now_s) + 600, "sub": "app"} | claims
        return jwt.encode({"alg": algorithm, "kid": kid}, told, key)

    @contextmanager
    def serving(self) -> Iterator[None]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = b"no" if issuer.broken else issuer.jwks()
                self.send_response(500 if issuer.broken else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


async def start(
    mesh: Mesh, files: Files, *auth: str, name: str = "a-1", more: str = "", flags: Sequence[str] = ()
) -> NodeProcess:
    """A node with the files of [auth]."""
    assert "MESH_TOKEN" not in os.environ
    return await mesh.start(name, "a", *files.write_config(*auth, more=more), *flags)
