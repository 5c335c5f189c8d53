"""A relay delays each way, keeps the order, and a cut breaks what passes and refuses what comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from mesh.testing.relay import Relay

DELAY_S = 0.03


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@asynccontextmanager
async def relayed(delay_s: float = DELAY_S) -> AsyncIterator[Relay]:
    """A relay before a server that sends everything back."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        relay = Relay(f"127.0.0.1:{listener.socket.getsockname()[1]}", delay_s)
        await nursery.start(relay.serve)
        yield relay
        nursery.cancel_scope.cancel()


async def dial(relay: Relay) -> trio.SocketStream:
    host, _, port = relay.address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def read(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    with trio.fail_after(5):
        while len(data) < count:
            more = await stream.receive_some()
            if not more:
                break
            data += bytes(more)
    return data


async def test_each_way_takes_the_delay_and_bytes_keep_their_order() -> None:
    async with relayed() as relay:
        stream = await dial(relay)
        begun = trio.current_time()
        sent = bytes(range(256)) * 64
        await stream.send_all(sent)
        assert await read(stream, len(sent)) == sent
        assert trio.current_time() - begun >= 2 * DELAY_S
        await stream.aclose()


async def test_a_cut_breaks_what_passes_and_refuses_what_comes_until_it_heals() -> None:
    async with relayed(0.0) as relay:
        stream = await dial(relay)
        await stream.send_all(b"x")
        assert await read(stream, 1) == b"x"
        relay.cut()
        assert await ended(stream)
        assert await ended(await dial(relay))
        relay.heal()
        again = await dial(relay)
        await again.send_all(b"y")
        assert await read(again, 1) == b"y"
        await again.aclose()


async def ended(stream: trio.SocketStream) -> bool:
    """Whether the other end closes or resets within a moment."""
    with trio.fail_after(5):
        try:
            async with stream:
                return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True


async def test_nobody_behind_it_closes_the_connection() -> None:
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        await listener.aclose()
        relay = Relay(f"127.0.0.1:{port}", 0.0)
        await nursery.start(relay.serve)
        assert await ended(await dial(relay))
        nursery.cancel_scope.cancel()


async def test_a_relay_names_its_address_only_once_it_serves() -> None:
    assert Relay("127.0.0.1:1", 0.0).address == ""
    async with relayed() as relay:
        assert relay.address.startswith("127.0.0.1:")
    with pytest.raises(OSError, match="all attempts to connect"):
        await dial(relay)
