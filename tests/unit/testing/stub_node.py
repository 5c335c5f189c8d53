"""A node that keeps nothing: it answers publishes as it is told to, and hands a durable reader what it was given, until that
acknowledges it. Enough to see what the fault runner's clients do, written against docs/clients.md."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from mesh.protocols.websocket_frames import FrameReader, text_frame


@dataclass
class StubNode:
    """answers: status of each publish in turn, 0 closes without an answer; then 202. events: what waits for a reader."""

    name: str = "a-1"
    region: str = "a"
    events: str = ""
    serves: bool = True
    answers: list[int] = field(default_factory=list)
    refusal: bytes = b""
    batches: list[list[dict[str, object]]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    waiting: list[tuple[int, str]] = field(default_factory=list)
    acks: list[dict[str, object]] = field(default_factory=list)
    sockets: int = 0
    changed: trio.Event = field(default_factory=trio.Event)
    _seq: int = 0

    async def until(self, condition: object) -> None:
        assert callable(condition)
        with trio.fail_after(5):
            while not condition():
                await self.changed.wait()

    def _change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await self._serve(stream)
            except trio.BrokenResourceError:
                return

    async def _serve(self, stream: trio.SocketStream) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                if not more:
                    return
                data += bytes(more)
            head, _, data = data.partition(b"\r\n\r\n")
            self.targets.append(head.split()[1].decode())
            if b"upgrade: websocket" in head.lower():
                await self._socket(stream, data)
                return
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(data) < length:
                data += bytes(await stream.receive_some())
            body, data = data[:length], data[length:]
            self.batches.append(json.loads(body))
            status = self.answers.pop(0) if self.answers else 202
            self._change()
            if not status:
                return
            told = [{"id": event["id"], "mesh_id": self._next()} for event in self.batches[-1]]
            text = json.dumps({"accepted": len(told), "events": told}).encode()
            await stream.send_all(
                b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text)
            )

    def _next(self) -> str:
        self._seq += 1
        return f"{self.region}/{self.name}/1/{self._seq}"

    async def _socket(self, stream: trio.SocketStream, data: bytes) -> None:
        if self.refusal:
            await stream.send_all(self.refusal)
            return
        self.sockets += 1
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
            + bytes((0x89, 2))
            + b"hi"
            + text_frame(b'{"op":"resumed","client":"far","subscriptions":[],"waiting":0}')
        )
        reader = FrameReader(1 << 20)
        while True:
            for frame in reader.receive(data):
                if frame.opcode == 1:
                    await self._op(stream, json.loads(frame.payload))
            data = bytes(await stream.receive_some())
            if not data:
                return

    async def _op(self, stream: trio.SocketStream, op: dict[str, object]) -> None:
        if op["op"] == "subscribe":
            sid = op["sid"]
            answer = [{"op": "ok", "id": op["id"], "sid": sid}]
            if "wait" in op:
                answer.append({"op": "receipt", "id": op["id"], "sid": sid, "complete": True})
            for one in answer:
                await stream.send_all(text_frame(json.dumps(one).encode()))
            repeats = self.sockets > 1
            frames = [
                json.dumps(
                    {"op": "event", "sids": [sid], "topic": "t", "mesh_id": mesh_id, "redelivered": repeats}
                    | {"path": [], "event": {"specversion": "1.0", "id": str(number), "source": "/faults"}}
                ).encode()
                for number, mesh_id in self.waiting
            ]
            await stream.send_all(b"".join(map(text_frame, frames)))
        elif op["op"] == "ack":
            self.acks.append(op)
            self._change()


@asynccontextmanager
async def stub_nodes(*nodes: StubNode) -> AsyncIterator[trio.Nursery]:
    """The nodes serve; the nursery is for what talks to them."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            node.events = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.start_soon(trio.serve_listeners, node.serve, [listener])
        yield nursery
        nursery.cancel_scope.cancel()
