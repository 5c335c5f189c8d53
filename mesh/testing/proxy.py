"""The lines between real nodes: a TCP proxy in front of every link port that can spoil what passes, as networks do.

Decides when bytes come out at the other end, and how a connection ends: stalled, reset, half closed, slowed, delayed, in both
directions or in one. Bytes that pass are never changed. Looks into a connection once: its first frame says which node dialled,
so that one address of a node serves all its neighbours, and each pair of nodes has a line of its own.
Invariant: of each direction of a connection at most `CHUNK_BYTES` are held here, `DELAYED_CHUNKS` times that while it is delayed;
then the sender waits, as on a real line. What ails a line ends with what began it, also when ailments overlap.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import Final

import trio

from mesh.net.supervise import unwrapped
from mesh.wire.codec import FrameError, FrameReader
from mesh.wire.frames import Open

CHUNK_BYTES: Final = 64 * 1024
DELAYED_CHUNKS: Final = 64
OPEN_S: Final = 5.0
"""How long a dialler has to say who it is."""
OPEN_BYTES: Final = 64 * 1024
"""A first frame is never longer."""
SLICE_S: Final = 0.05
"""A narrow line passes what it may in pieces of this length."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Ailment:
    """What one fault does to one direction. rate_bytes_s: 0 is no bound."""

    stalled: bool = False
    rate_bytes_s: float = 0.0
    delay_s: float = 0.0


@dataclass(slots=True)
class Way:
    """One direction of a line. passed_bytes: in all, over all its connections."""

    passed_bytes: int = 0
    stalled: bool = False
    rate_bytes_s: float = 0.0
    delay_s: float = 0.0
    _ailments: list[Ailment] = field(default_factory=list)
    _passable: trio.Event = field(default_factory=trio.Event)

    def begin(self, ailment: Ailment) -> None:
        """The worst of all ailments counts; delays add up."""
        self._ailments.append(ailment)
        self._weigh()

    def end(self, ailment: Ailment) -> None:
        """Idempotent."""
        if ailment in self._ailments:
            self._ailments.remove(ailment)
            self._weigh()

    def _weigh(self) -> None:
        rates = [one.rate_bytes_s for one in self._ailments if one.rate_bytes_s]
        self.stalled = any(one.stalled for one in self._ailments)
        self.rate_bytes_s = min(rates, default=0.0)
        self.delay_s = sum(one.delay_s for one in self._ailments)
        if not self.stalled:
            self._passable.set()
            self._passable = trio.Event()

    async def passable(self) -> None:
        """Wait while it is stalled."""
        while self.stalled:
            await self._passable.wait()

    @property
    def chunk_bytes(self) -> int:
        """What is read at once."""
        if not self.rate_bytes_s:
            return CHUNK_BYTES
        return max(1, min(CHUNK_BYTES, int(self.rate_bytes_s * SLICE_S)))


class Passage:
    """One connection that passes. dialler: the node that made it; `ends` are its two sockets, by the node behind each."""

    def __init__(self, dialler: str, target: str, near: trio.SocketStream, far: trio.SocketStream) -> None:
        self.ends = {dialler: near, target: far}
        self._copying: dict[str, trio.CancelScope] = {}

    def reset(self) -> None:
        """Both ends see a RST. Idempotent."""
        for stream in self.ends.values():
            abort(stream)

    def half_close(self, source: str) -> None:
        """Bytes from `source` end with a FIN at the other node; the other direction goes on."""
        scope = self._copying.get(source)
        if scope is not None:
            scope.cancel()

    async def run(self, line: Line, first: bytes, dialler: str) -> None:
        """Pass both directions until both have ended, or one was broken off."""
        near, far = self.ends
        async with trio.open_nursery() as nursery:
            for source, sink in ((near, far), (far, near)):
                already = first if source == dialler else b""
                nursery.start_soon(self._one_way, line.ways[source, sink], source, sink, already)

    async def _one_way(self, way: Way, source: str, sink: str, first: bytes) -> None:
        into, out = self.ends[source], self.ends[sink]
        try:
            with trio.CancelScope() as scope:
                self._copying[source] = scope
                await _copy(way, into, out, first)
            await out.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self.reset()


async def _copy(way: Way, source: trio.SocketStream, sink: trio.SocketStream, first: bytes) -> None:
    """Until `source` ends. What is under way with a delay is written in order behind it."""
    put, take = trio.open_memory_channel[tuple[float, bytes]](DELAYED_CHUNKS)
    waiting = 0

    async def deliver() -> None:
        nonlocal waiting
        async with take:
            async for due, data in take:
                await trio.sleep_until(due)
                await way.passable()
                try:
                    way.passed_bytes += len(data)
                    await sink.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return  # whoever reads from that end sees it, too, and ends the passage
                waiting -= 1

    with unwrapped():
        async with trio.open_nursery() as nursery, put:
            nursery.start_soon(deliver)
            data = first
            while True:
                if data:
                    await way.passable()
                    if way.delay_s or waiting:
                        waiting += 1
                        await put.send((trio.current_time() + way.delay_s, data))
                    else:
                        way.passed_bytes += len(data)
                        await sink.send_all(data)
                    if way.rate_bytes_s:
                        await trio.sleep(len(data) / way.rate_bytes_s)
                data = bytes(await source.receive_some(way.chunk_bytes))
                if not data:
                    await way.passable()  # the end of a stalled connection shows only when it passes again
                    return


def abort(stream: trio.SocketStream) -> None:
    """Close with a RST. Idempotent."""
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except (trio.ClosedResourceError, OSError):
        return
    stream.socket.close()


class Line:
    """Everything between two nodes, whoever dialled."""

    def __init__(self, a: str, b: str) -> None:
        self.nodes = (a, b)
        self.ways = {(a, b): Way(), (b, a): Way()}
        self.passages: set[Passage] = set()
        self.refusals = 0
        """Faults that let no connection be made now."""

    def refuses(self) -> bool:
        """Whether it is cut now."""
        return self.refusals > 0

    def reset(self) -> None:
        """Every connection ends with a RST for both nodes."""
        for passage in list(self.passages):
            passage.reset()

    def half_close(self, source: str) -> None:
        """On every connection, what `source` says ends with a FIN."""
        for passage in list(self.passages):
            passage.half_close(source)


class Proxy:
    """All lines of a mesh. A node is dialled at its `front`, and reached at its `target` as long as it has one."""

    def __init__(self) -> None:
        self.fronts: dict[str, str] = {}
        self.targets: dict[str, str] = {}
        self.lines: dict[frozenset[str], Line] = {}
        self.strangers = 0
        """Connections that did not say in time which node they are of."""

    def line(self, a: str, b: str) -> Line:
        """The line between two nodes; made if it is the first time that somebody asks."""
        pair = frozenset((a, b))
        if pair not in self.lines:
            self.lines[pair] = Line(a, b)
        return self.lines[pair]

    async def serve(self, node: str, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Stand in front of a node until cancelled; tells the front's address."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = listener.socket.getsockname()[:2]
        self.fronts[node] = f"{host}:{port}"
        task_status.started(self.fronts[node])

        async def one(near: trio.SocketStream) -> None:
            await self._one(near, node)

        await trio.serve_listeners(one, [listener])

    async def _one(self, near: trio.SocketStream, node: str) -> None:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        dialler, first = await _opening(near)
        if not dialler or dialler == node:
            self.strangers += 1
            abort(near)
            return
        line = self.line(dialler, node)
        await line.ways[dialler, node].passable()
        target = self.targets.get(node, "")
        if line.refuses() or not target:
            abort(near)
            return
        host, _, port = target.rpartition(":")
        try:
            far = await trio.open_tcp_stream(host, int(port))
        except OSError:
            abort(near)
            return
        if line.refuses():  # cut in between
            abort(near)
            abort(far)
            return
        passage = Passage(dialler, node, near, far)
        line.passages.add(passage)
        try:
            await passage.run(line, first, dialler)
        finally:
            line.passages.discard(passage)
            near.socket.close()
            far.socket.close()


async def _opening(stream: trio.SocketStream) -> tuple[str, bytes]:
    """The node that dialled and what it has sent so far; "" when it does not say so in time."""
    reader, said = FrameReader(OPEN_BYTES), b""
    with trio.move_on_after(OPEN_S):
        try:
            while True:
                data = bytes(await stream.receive_some(CHUNK_BYTES))
                if not data:
                    break
                said += data
                frames = reader.feed(data)
                if frames:
                    return (frames[0].node if isinstance(frames[0], Open) else ""), said
        except (FrameError, trio.BrokenResourceError, OSError):
            pass
    return "", said
