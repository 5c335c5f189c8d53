"""A pair of transports inside one process, with a delay in the loop's clock: whole nodes are tested without sockets.

Decides when bytes arrive: in order, `latency_s` after they were sent, in pieces of at most `piece_bytes`. A full buffer
makes the sender wait, as a socket does.
Never loses, reorders or changes a byte; `mesh.testing` has the worlds that do.
Invariant: bytes sent = bytes received + bytes under way.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from mesh.model.certificate import PeerCertificate
from mesh.net.transport import READ_BYTES, LinkLost

BUFFER_BYTES: Final = 256 * 1024


class _Pipe:
    """One direction. Whoever waits is woken by any change; the conditions are checked again."""

    def __init__(self, latency_s: float, buffer_bytes: int) -> None:
        self.latency_s = latency_s
        self.buffer_bytes = buffer_bytes
        self.pieces: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.ended = False  # the sender has sent its last byte
        self.broken = ""  # why neither side can use it any more
        self.changed = trio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def put(self, data: bytes) -> int:
        taken = data[: max(0, self.buffer_bytes - self.size)]
        if taken:
            self.pieces.append((trio.current_time() + self.latency_s, taken))
            self.size += len(taken)
            self.wake()
        return len(taken)

    def cut(self, reason: str) -> None:
        self.broken = self.broken or reason
        self.pieces.clear()
        self.size = 0
        self.wake()


class MemoryTransport:
    """One end of a pair; made by `pair`. Keeps: Transport. Cost: one copy a piece."""

    kind = "memory"
    sends_now = True
    certificate: PeerCertificate | None = None

    def __init__(self, inward: _Pipe, outward: _Pipe, remote: str, piece_bytes: int) -> None:
        self.remote = remote
        self._in = inward
        self._out = outward
        self._piece_bytes = piece_bytes
        self._closed = False

    async def receive(self, most: int = READ_BYTES) -> bytes:
        """See Transport."""
        await trio.lowlevel.checkpoint()
        most = min(most, self._piece_bytes)
        pipe = self._in
        while True:
            if self._closed:
                raise LinkLost("the connection was closed at this end")
            if pipe.pieces:
                due, data = pipe.pieces[0]
                if due <= trio.current_time():
                    return self._take(pipe, data, most)
                with trio.move_on_at(due):
                    await pipe.changed.wait()
                continue
            if pipe.broken:
                raise LinkLost(pipe.broken)
            if pipe.ended:
                return b""
            await pipe.changed.wait()

    @staticmethod
    def _take(pipe: _Pipe, data: bytes, most: int) -> bytes:
        due, _ = pipe.pieces.popleft()
        if len(data) > most:
            pipe.pieces.appendleft((due, data[most:]))
            data = data[:most]
        pipe.size -= len(data)
        pipe.wake()
        return data

    async def send(self, data: bytes) -> None:
        """See Transport."""
        await trio.lowlevel.checkpoint()
        while data:
            taken = self.send_now(data)
            data = data[taken:]
            if data:
                await self._out.changed.wait()

    def send_now(self, data: bytes) -> int:
        """See Transport."""
        if self._closed:
            raise LinkLost("the connection was closed at this end")
        if self._out.broken:
            raise LinkLost(self._out.broken)
        if self._out.ended:
            raise LinkLost("the end of the stream was sent already")
        return self._out.put(data)

    async def send_eof(self) -> None:
        """See Transport. Takes no latency: the other end reads what is under way first anyway."""
        self._out.ended = True
        self._out.wake()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """See Transport."""
        if not self._closed:
            self._closed = True
            self._out.ended = True
            self._in.cut("the other end reset the connection")
            self._out.wake()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """See Transport."""
        if not self._closed:
            self._closed = True
            self._in.cut("the other end reset the connection")
            self._out.cut("the other end reset the connection")


def pair(
    latency_s: float = 0.0,
    *,
    buffer_bytes: int = BUFFER_BYTES,
    piece_bytes: int = READ_BYTES,
    names: tuple[str, str] = ("memory:a", "memory:b"),
) -> tuple[MemoryTransport, MemoryTransport]:
    """Two connected ends.

    Args:
        latency_s: from sending to arriving, in the loop's clock (the same both ways).
        buffer_bytes: bytes under way in one direction before a sender waits.
        piece_bytes: the most one `receive` returns; 1 shows a codec each byte alone.
        names: the addresses of the two ends; each end's `remote` is the other's name.
    """
    there, back = _Pipe(latency_s, buffer_bytes), _Pipe(latency_s, buffer_bytes)
    first = MemoryTransport(back, there, names[1], piece_bytes)
    second = MemoryTransport(there, back, names[0], piece_bytes)
    return first, second
