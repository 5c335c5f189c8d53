"""A TCP relay that stands for a wide-area line: it delays each direction and can be cut.

Decides when bytes come out at the other end; never looks at them. Used by the demo; works with any protocol.
Bound: `WINDOW_BYTES` under way in each direction, then the sender waits, as on a line of that length.
"""

from __future__ import annotations

import math
from typing import Final

import trio

WINDOW_BYTES: Final = 4 << 20
CHUNK_BYTES: Final = 64 * 1024


class Relay:
    """Args: target: HOST:PORT behind the line. delay_s: one way. `address` is where to dial, once `serve` has started."""

    def __init__(self, target: str, delay_s: float) -> None:
        self.target = target
        self.delay_s = delay_s
        self.address = ""
        self._cut = False
        self._passing: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self._cut = True
        for scope in self._passing:
            scope.cancel()

    def heal(self) -> None:
        """Let connections through again."""
        self._cut = False

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = listener.socket.getsockname()[:2]
        self.address = f"{host}:{port}"
        task_status.started()
        await trio.serve_listeners(self._one, [listener])

    async def _one(self, stream: trio.SocketStream) -> None:
        if self._cut:
            return
        host, _, port = self.target.rpartition(":")
        with trio.CancelScope() as scope:
            self._passing.add(scope)
            try:
                other = await trio.open_tcp_stream(host, int(port))
                async with other, trio.open_nursery() as nursery:
                    nursery.start_soon(self._way, stream, other, nursery.cancel_scope)
                    nursery.start_soon(self._way, other, stream, nursery.cancel_scope)
            except OSError:
                return  # nobody there: the other end sees the connection close
            finally:
                self._passing.discard(scope)

    async def _way(self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
        """One direction: what is read now comes out `delay_s` later, in order."""
        put, take = trio.open_memory_channel[tuple[float, bytes]](math.ceil(WINDOW_BYTES / CHUNK_BYTES))

        async def deliver() -> None:
            async for due, data in take:
                await trio.sleep_until(due)
                await sink.send_all(data)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deliver)
                async with put:
                    while data := await source.receive_some(CHUNK_BYTES):
                        await put.send((trio.current_time() + self.delay_s, bytes(data)))
        except BaseExceptionGroup as group:
            others = group.split((trio.BrokenResourceError, trio.ClosedResourceError))[1]
            if others is not None:
                raise others from None
        both.cancel()
