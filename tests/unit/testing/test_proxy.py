"""A line passes bytes as they are, and is spoiled exactly as long and in the direction that a fault says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from mesh.testing.proxy import Ailment, Line, Proxy, Way
from mesh.wire.codec import encode
from mesh.wire.frames import PROTOCOL, LinkKind, Open


def opening(node: str) -> bytes:
    """The first frame of a link that `node` dials."""
    return encode(
        Open(
            PROTOCOL, "test", "r", node, "i", 1, 1, LinkKind.PEER, "", "", 0, "127.0.0.1:1", 1 << 20, 1 << 10
        )
    )


class Server:
    """The node behind a front: what it was sent, and the connections it has."""

    def __init__(self) -> None:
        self.streams: list[trio.SocketStream] = []
        self.clients: list[trio.SocketStream] = []
        self.accepted = trio.Event()
        self.release = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        self.accepted.set()
        await self.release.wait()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, Server]]:
    """Node "b" behind a proxy."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server, proxy = Server(), Proxy()
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        proxy.targets["b"] = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        await nursery.start(proxy.serve, "b")
        try:
            with trio.fail_after(10):
                yield proxy, server
        finally:
            for stream in (*server.clients, *server.streams):
                stream.socket.close()
            server.release.set()
            nursery.cancel_scope.cancel()


async def dial(proxy: Proxy, server: Server, first: bytes = opening("a")) -> trio.SocketStream:
    host, _, port = proxy.fronts["b"].rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    server.clients.append(stream)
    await stream.send_all(first)
    return stream


async def read(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await stream.receive_some()
        assert more, f"ended after {len(data)} of {count} bytes"
        data += bytes(more)
    return data


async def linked(
    proxy: Proxy, server: Server, node: str = "a"
) -> tuple[trio.SocketStream, trio.SocketStream, Line]:
    """Both ends of a connection to b that has said who it is."""
    server.accepted = trio.Event()
    near = await dial(proxy, server, opening(node))
    await server.accepted.wait()
    far = server.streams[-1]
    assert await read(far, len(opening(node))) == opening(node)
    return near, far, proxy.line(node, "b")


async def is_reset(stream: trio.SocketStream) -> bool:
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        return True
    return False


async def test_bytes_pass_both_ways_as_they_are() -> None:
    async with proxied() as (proxy, server):
        near, far, line = await linked(proxy, server)
        sent = bytes(range(256)) * 4 * 1024
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, sent)
            assert await read(far, len(sent)) == sent
        await far.send_all(b"back")
        assert await read(near, 4) == b"back"
        assert line.ways["a", "b"].passed_bytes == len(opening("a")) + len(sent)
        assert line.ways["b", "a"].passed_bytes == 4


async def test_each_dialler_has_a_line_of_its_own() -> None:
    async with proxied() as (proxy, server):
        await linked(proxy, server)
        other, _, line = await linked(proxy, server, "c")
        line.reset()
        assert await is_reset(other)
        assert len(proxy.line("a", "b").passages) == 1, "the other line is as it was"


async def test_who_does_not_say_who_it_is_does_not_pass() -> None:
    async with proxied() as (proxy, server):
        stream = await dial(proxy, server, b"GET / HTTP/1.1\r\n\r\n")
        assert await is_reset(stream)
        assert (proxy.strangers, server.streams) == (1, [])


async def test_a_reset_is_seen_by_both_ends_and_new_connections_pass() -> None:
    async with proxied() as (proxy, server):
        near, far, line = await linked(proxy, server)
        line.reset()
        assert await is_reset(near)
        assert await is_reset(far)
        await linked(proxy, server)


async def test_a_cut_line_refuses_until_it_is_whole() -> None:
    async with proxied() as (proxy, server):
        line = proxy.line("a", "b")
        line.refusals += 1
        assert await is_reset(await dial(proxy, server))
        line.refusals -= 1
        await linked(proxy, server)


async def test_a_stalled_line_tells_nobody_and_loses_nothing() -> None:
    async with proxied() as (proxy, server):
        near, far, line = await linked(proxy, server)
        ailment = Ailment(stalled=True)
        before = line.ways["a", "b"].passed_bytes
        line.ways["a", "b"].begin(ailment)
        await near.send_all(b"held")
        await far.send_all(b"heard")  # the other way is as it was: one-way
        assert await read(near, 5) == b"heard"
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert line.ways["a", "b"].passed_bytes == before
        line.ways["a", "b"].end(ailment)
        assert await read(far, 4) == b"held"


async def test_the_end_of_a_stalled_connection_shows_only_afterwards() -> None:
    async with proxied() as (proxy, server):
        near, far, line = await linked(proxy, server)
        ailment = Ailment(stalled=True)
        line.ways["a", "b"].begin(ailment)
        await near.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.move_on_after(0) as at_once:
            await far.receive_some()
        assert at_once.cancelled_caught
        line.ways["a", "b"].end(ailment)
        assert await far.receive_some() == b""


async def test_a_connection_over_a_stalled_line_opens_afterwards() -> None:
    async with proxied() as (proxy, server):
        ailment = Ailment(stalled=True)
        line = proxy.line("a", "b")
        line.ways["a", "b"].begin(ailment)
        await dial(proxy, server)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.streams == []
        line.ways["a", "b"].end(ailment)
        await server.accepted.wait()


async def test_a_half_closed_line_still_passes_the_other_way() -> None:
    async with proxied() as (proxy, server):
        near, far, line = await linked(proxy, server)
        line.half_close("a")
        assert await far.receive_some() == b""
        await far.send_all(b"on")
        assert await read(near, 2) == b"on"
        await far.aclose()
        assert await near.receive_some() == b""


async def test_a_narrow_line_takes_its_time() -> None:
    async with proxied() as (proxy, server):
        near, far, line = await linked(proxy, server)
        line.ways["a", "b"].begin(Ailment(rate_bytes_s=100e3))
        begun = trio.current_time()
        # What is read first was asked for before the line became narrow; the next piece waits for its time.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(2 * 10_000))
            await read(far, 2 * 10_000)
            nursery.start_soon(near.send_all, bytes(10_000))
            await read(far, 10_000)
        assert trio.current_time() - begun > 0.15


async def test_a_delay_keeps_the_order_and_its_end_overtakes_nothing() -> None:
    async with proxied() as (proxy, server):
        near, far, line = await linked(proxy, server)
        ailment = Ailment(delay_s=0.1)
        line.ways["a", "b"].begin(ailment)
        begun = trio.current_time()
        await near.send_all(b"first ")
        await trio.testing.wait_all_tasks_blocked(0.01)
        line.ways["a", "b"].end(ailment)
        await near.send_all(b"second")
        assert await read(far, 12) == b"first second"
        assert trio.current_time() - begun >= 0.1


async def test_a_node_that_is_gone_is_seen_to_be_gone() -> None:
    async with proxied() as (proxy, server):
        near, _, _ = await linked(proxy, server)
        del proxy.targets["b"]
        server.release.set()
        assert await near.receive_some() == b""
        assert await is_reset(await dial(proxy, server))


@pytest.mark.parametrize("first", [0, 1])
def test_ailments_overlap_and_each_ends_by_itself(first: int) -> None:
    way = Way()
    ailments = [Ailment(stalled=True, delay_s=0.5), Ailment(rate_bytes_s=10.0, delay_s=0.25)]
    for one in [*ailments, Ailment(rate_bytes_s=20.0)]:
        way.begin(one)
    assert (way.stalled, way.rate_bytes_s, way.delay_s) == (True, 10.0, 0.75)
    way.end(ailments[first])
    way.end(ailments[first])
    assert way.stalled is (first == 1)
    assert way.rate_bytes_s == (10.0 if first == 0 else 20.0)
    way.end(ailments[1 - first])
    assert (way.stalled, way.rate_bytes_s, way.delay_s) == (False, 20.0, 0.0)
