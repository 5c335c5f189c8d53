"""The link port: plain and WebSocket links on one port, and strangers who cannot keep peers out."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from mesh.model.limits import Limits
from mesh.net.dial import dial
from mesh.net.link_listener import LinkListener, Pending
from mesh.net.listener import Listener, open_listener
from mesh.net.supervise import Crashes
from mesh.net.transport import LinkLost, Transport


class LinkPort:
    """A link port whose links say "ok" after their first bytes, which open them when they begin with "O"."""

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self.refusals: Counter[str] = Counter()
        self.links = LinkListener(
            listener,
            self.accept,
            limits,
            crashes=Crashes(),
            count_refusal=lambda reason: self.refusals.update([reason]),
        )
        self.address = listener.address

    async def accept(self, transport: Transport, pending: Pending) -> None:
        while data := await transport.receive():
            if data.startswith(b"O"):
                pending.opened()
            await transport.send(b"ok" + transport.kind.encode())


@asynccontextmanager
async def link_port(limits: Limits) -> AsyncIterator[LinkPort]:
    port = LinkPort(await open_listener("listen.link", "127.0.0.1:0"), limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(port.links.serve)
        yield port
        nursery.cancel_scope.cancel()


async def open_link(address: str, transport: str = "tcp") -> bool:
    async with dial(address, transport, 5) as link:
        await link.send(b"O")
        return await link.receive() == b"ok" + transport.encode()


async def test_tcp_and_websocket_links_share_one_port() -> None:
    async with link_port(Limits()) as port:
        assert await open_link(port.address, "tcp")
        assert await open_link(port.address, "ws")
        assert port.links.half_open == 0


async def test_a_thousand_half_open_connections_do_not_keep_peers_out() -> None:
    limits = Limits(half_open_links=50)
    async with link_port(limits) as port, dial(port.address, "tcp", 5) as peer:
        await peer.send(b"O")
        assert await peer.receive() == b"oktcp"
        strangers = []
        for n in range(1000):
            strangers.append(socket.create_connection(("127.0.0.1", port.links.listener.port)))
            if n % 100 == 0:
                assert await open_link(port.address)
        assert await open_link(port.address, "ws")
        assert port.links.half_open <= 50
        await peer.send(b"still open")
        assert await peer.receive() == b"oktcp"
        assert port.refusals["half_open_evicted"] >= 950
        for sock in strangers:
            sock.close()


async def test_the_oldest_stranger_goes_first_whatever_it_has_sent() -> None:
    async with (
        link_port(Limits(half_open_links=2)) as port,
        dial(port.address, "tcp", 5) as first,
        dial(port.address, "tcp", 5) as second,
    ):
        await first.send(b"half an opening")
        assert await first.receive() == b"oktcp"
        await second.send(b"h")
        assert await second.receive() == b"oktcp"
        async with dial(port.address, "tcp", 5) as third:
            await third.send(b"O")
            assert await third.receive() == b"oktcp"
            with pytest.raises(LinkLost):
                await first.receive()
        await second.send(b"O")
        assert await second.receive() == b"oktcp"


async def test_silence_and_an_early_end_are_counted() -> None:
    async with link_port(Limits(open_timeout_s=0.05)) as port:
        async with dial(port.address, "tcp", 5) as silent:
            with pytest.raises(LinkLost):
                await silent.receive()
        async with dial(port.address, "tcp", 5) as short:
            await short.send_eof()
            with pytest.raises(LinkLost):
                await short.receive()
        assert port.refusals == {"open_timeout": 1, "closed_before_open": 1}


async def test_more_links_than_allowed_are_refused() -> None:
    async with link_port(Limits(peer_links=2, half_open_links=1)) as port:
        async with trio.open_nursery() as nursery:

            async def hold(*, task_status: trio.TaskStatus[None]) -> None:
                async with dial(port.address, "tcp", 5) as link:
                    await link.send(b"O")
                    await link.receive()
                    task_status.started()
                    await trio.sleep_forever()

            for _ in range(3):
                await nursery.start(hold)
            async with dial(port.address, "tcp", 5) as link:
                with pytest.raises(LinkLost):
                    await link.receive()
            nursery.cancel_scope.cancel()
        assert port.refusals["too_many_links"] == 1


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /v1/link HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /v1/other HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET " + b"x" * 100_000,
    ],
)
async def test_a_web_client_on_the_link_port_is_refused_and_counted(request_head: bytes) -> None:
    async with link_port(Limits()) as port:
        async with dial(port.address, "tcp", 5) as client:
            try:
                await client.send(request_head)
                while await client.receive():
                    pass
            except LinkLost:
                pass
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert port.refusals == {"websocket_refused": 1}
        assert await open_link(port.address)
