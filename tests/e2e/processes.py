"""Real nodes as processes for the end-to-end tests, and the plainest clients there are to talk to them.

The clients here are written against the protocols' own pages, not against Hopmesh's code: a mistake that the node and
its own client share would not be seen otherwise.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

MESH = str(Path(sys.executable).parent / "mesh")
START_S = 20.0


@dataclass
class NodeProcess:
    """One `mesh run`. Addresses are what its ready line told."""

    name: str
    region: str
    arguments: list[str]
    folder: Path
    process: trio.Process | None = None
    events: str = ""
    link: str = ""
    admin: str = ""
    log: Path = field(default_factory=Path)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def stop(self) -> int:
        """SIGTERM, and wait for the end."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            with trio.move_on_after(15):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
                raise AssertionError(f"{self.name} did not stop within 15 s")
        return self.process.returncode

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Mesh:
    """A set of nodes on loopback. Everything started is stopped at the end of `running`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, NodeProcess] = {}

    async def start(self, name: str, region: str, *arguments: str) -> NodeProcess:
        """Start a node with ports that the system chooses, and wait until it serves."""
        node = NodeProcess(name, region, list(arguments), self.folder / name)
        self.nodes[name] = node
        await self._launch(node, ("127.0.0.1:0",) * 3)
        return node

    async def restart(self, node: NodeProcess) -> None:
        """Start it again on the ports it had."""
        assert node.process is not None
        await node.process.wait()
        await self._launch(node, (node.events, node.link, node.admin))

    async def _launch(self, node: NodeProcess, ports: tuple[str, ...]) -> None:
        node.folder.mkdir(exist_ok=True)
        node.log = node.folder / "log"
        flags = [f"--{what}={port}" for what, port in zip(("events", "link", "admin"), ports, strict=True)]
        command = [
            MESH,
            "run",
            f"--id={node.name}",
            f"--region={node.region}",
            f"--data={node.folder / 'data'}",
        ]
        with node.log.open("ab") as log:
            node.process = await trio.lowlevel.open_process(
                [*command, *flags, *node.arguments], stdout=subprocess.PIPE, stderr=log
            )
        line = b""
        with trio.fail_after(START_S):
            assert node.process.stdout is not None
            while not line.endswith(b"\n"):
                data = await node.process.stdout.receive_some()
                if not data:
                    raise AssertionError(f"{node.name} did not start: {node.log.read_text()[-2000:]}")
                line += data
        told = dict(pair.split("=", 1) for pair in line.decode().split()[1:])
        assert told["id"] == node.name
        node.events, node.link, node.admin = told["events"], told["link"], told["admin"]

    async def stop(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self.nodes.values():
                if node.process is not None:
                    nursery.start_soon(node.stop)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Mesh]:
    """A mesh that is gone at the end, whatever happened."""
    mesh = Mesh(folder)
    try:
        yield mesh
    finally:
        with trio.CancelScope(shield=True):
            for node in mesh.nodes.values():
                if node.process is not None and node.process.returncode is None:
                    node.process.send_signal(signal.SIGCONT)
            await mesh.stop()


def bridge(*others: NodeProcess) -> list[str]:
    """`--bridge` flags: one per region, with the addresses of its nodes."""
    by_region: dict[str, list[str]] = {}
    for other in others:
        by_region.setdefault(other.region, []).append(other.link)
    return [f"--bridge={region}={','.join(addresses)}" for region, addresses in by_region.items()]


# -- plain clients ---------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def http(
    address: str,
    method: str,
    target: str,
    *,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    stream: trio.SocketStream | None = None,
) -> Answer:
    """One HTTP/1.1 request on a connection of its own, or on `stream` (keep-alive)."""
    host, _, port = address.rpartition(":")
    own = stream is None
    stream = stream or await trio.open_tcp_stream(host, int(port))
    lines = [f"{method} {target} HTTP/1.1", f"Host: {address}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    try:
        await stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)
        data = b""
        while b"\r\n\r\n" not in data:
            got = await stream.receive_some(65536)
            assert got, f"connection closed in the head of the answer: {data!r}"
            data += got
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *more = head.decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in more)}
        length = int(found.get("content-length", "0"))
        while len(rest) < length:
            got = await stream.receive_some(65536)
            assert got, "connection closed in the body of the answer"
            rest += got
        return Answer(int(first.split()[1]), found, rest)
    finally:
        if own:
            await stream.aclose()


class Subscriber:
    """An SSE subscription: the receipt it began with and the events since."""

    def __init__(self) -> None:
        self.receipt: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.closed = False
        self.told: list[tuple[str, int, dict[str, Any]]] = []
        """What a replay said: its name, how many events had come before it, and what."""
        self._changed = trio.Event()

    async def run(
        self, address: str, query: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        host, _, port = address.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        request = f"GET /v1/events?{query} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
        await stream.send_all(request.encode())
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                data += await self._more(stream)
            head, _, data = data.partition(b"\r\n\r\n")
            assert b" 200 " in head.split(b"\r\n")[0], (head, data)
            chunked = b"transfer-encoding: chunked" in head.lower()
            text = b""
            while True:
                if chunked:
                    data, text = _unchunk(data, text)
                else:
                    data, text = b"", text + data
                while b"\n\n" in text:
                    block, _, text = text.partition(b"\n\n")
                    if self._block(block):
                        task_status.started()
                self._changed.set()
                self._changed = trio.Event()
                data += await self._more(stream)
        except EOFError:
            self.closed = True
            self._changed.set()
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async def _more(self, stream: trio.SocketStream) -> bytes:
        try:
            data = await stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise EOFError
        return bytes(data)

    def _block(self, block: bytes) -> bool:
        fields: dict[str, str] = {}
        for line in block.decode().split("\n"):
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
        if fields.get("event") == "subscribed":
            self.receipt = json.loads(fields["data"])
            return True
        if fields.get("event") == "event":
            self.ids.append(fields["id"])
            self.events.append(json.loads(fields["data"]))
        elif fields.get("event") in ("live", "gap"):
            self.told.append((fields["event"], len(self.events), json.loads(fields["data"])))
        return False

    async def wait(self, count: int, timeout_s: float = 10.0) -> None:
        """Until so many events arrived; fails with what was there at the time-out."""
        with trio.move_on_after(timeout_s):
            while len(self.events) < count:
                await self._changed.wait()
        assert len(self.events) >= count, f"{len(self.events)} of {count} events after {timeout_s} s"


def _unchunk(data: bytes, text: bytes) -> tuple[bytes, bytes]:
    """Take whole chunks off `data`."""
    while True:
        line, found, rest = data.partition(b"\r\n")
        if not found:
            return data, text
        size = int(line.partition(b";")[0], 16)
        if len(rest) < size + 2:
            return data, text
        if size == 0:
            raise EOFError
        text += rest[:size]
        data = rest[size + 2 :]


async def until(condition: Any, timeout_s: float, what: str, every_s: float = 0.05) -> float:
    """Poll an async condition; returns the seconds it took, fails after the time-out."""
    begun = trio.current_time()
    while not await condition():
        if trio.current_time() - begun > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        await trio.sleep(every_s)
    return trio.current_time() - begun


async def items(node: NodeProcess, what: str) -> list[dict[str, Any]]:
    """A list of the admin API."""
    answer = await http(node.admin, "GET", f"/v1/{what}")
    assert answer.status == 200, answer.body
    return list(answer.json["items"])


async def metrics(node: NodeProcess) -> dict[str, float]:
    """Metric lines: name with labels -> value."""
    answer = await http(node.admin, "GET", "/metrics")
    assert answer.status == 200
    lines = [line for line in answer.body.decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def total(nodes: Iterable[NodeProcess], prefix: str, *, but: tuple[str, ...] = ()) -> float:
    """Sum of the metrics that begin with `prefix` over running nodes, without those that contain one of `but`."""
    found = 0.0
    for node in nodes:
        if node.process is not None and node.process.returncode is None:
            for name, value in (await metrics(node)).items():
                if name.startswith(prefix) and not any(word in name for word in but):
                    found += value
    return found


async def publish_many(
    node: NodeProcess, events: list[tuple[str, str]], *, batch: int = 100
) -> list[dict[str, Any]]:
    """Publish (topic, key) events with data 0, 1, 2, ... in structured batches over one connection; the answers' events."""
    host, _, port = node.events.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    answers: list[dict[str, Any]] = []
    async with stream:
        for begin in range(0, len(events), batch):
            body = [
                {
                    "specversion": "1.0",
                    "id": str(begin + at),
                    "source": "/test",
                    "type": "test.event",
                    "topic": topic,
                    "partitionkey": key,
                    "data": {"n": begin + at},
                }
                for at, (topic, key) in enumerate(events[begin : begin + batch])
            ]
            answer = await http(
                node.events,
                "POST",
                "/v1/events",
                headers=[("Content-Type", "application/cloudevents-batch+json")],
                body=json.dumps(body).encode(),
                stream=stream,
            )
            assert answer.status == 202, answer.body
            answers += answer.json["events"]
    return answers


async def sees_regions(node: NodeProcess, *regions: str, timeout_s: float = 15.0) -> float:
    """Until the node has a route in use to each region."""

    async def has() -> bool:
        routes = await items(node, "routes")
        used = {
            r["region"] for r in routes if r["node"] == node.name and r["state"] in ("selected", "in_use")
        }
        return used >= set(regions)

    return await until(has, timeout_s, f"{node.name} has routes to {regions}")


class Relay:
    """A TCP relay in front of a link port: `cut` breaks what passes and refuses what comes, `heal` ends that."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.link = ""
        self._up = True
        self._passing: set[trio.CancelScope] = set()

    def cut(self) -> None:
        self._up = False
        for scope in self._passing:
            scope.cancel()

    def heal(self) -> None:
        self._up = True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        host, port = listener.socket.getsockname()[:2]
        self.link = f"{host}:{port}"
        task_status.started()
        await trio.serve_listeners(self._one, [listener])

    async def _one(self, stream: trio.SocketStream) -> None:
        host, _, port = self.target.rpartition(":")
        if not self._up:
            return
        with trio.CancelScope() as scope:
            self._passing.add(scope)
            other = await trio.open_tcp_stream(host, int(port))
            async with other, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, stream, other, nursery.cancel_scope)
                nursery.start_soon(self._pump, other, stream, nursery.cancel_scope)
        self._passing.discard(scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
