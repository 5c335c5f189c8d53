"""What every transport promises, and saying goodbye over one."""

from __future__ import annotations

import inspect

import pytest
import trio
import trio.testing

from mesh.net.link_websocket import WebSocketTransport
from mesh.net.memory import MemoryTransport, pair
from mesh.net.tcp import TcpTransport
from mesh.net.transport import LINGER_BYTES, READ_BYTES, LinkLost, Transport, TransportStream, linger


async def test_lingering_ends_with_the_other_end_or_after_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    a, b = pair()
    await b.send(b"unread")
    begun = trio.current_time()
    await linger(a)
    assert trio.current_time() - begun == pytest.approx(1.0)
    a, b = pair()
    begun = trio.current_time()
    await b.send_eof()
    await linger(a)
    assert trio.current_time() == begun


async def test_a_stream_over_it_hands_out_the_first_bytes_and_tells_its_end() -> None:
    a, b = pair()
    stream = TransportStream(b, b"GET ")
    ended: list[bool] = []
    stream.when_ended = lambda: ended.append(True)
    await a.send(b"rest")
    assert await stream.receive_some() == b"GET "
    assert await stream.receive_some(2) == b"re"
    await stream.send_all(bytearray(b"hi"))
    assert await a.receive() == b"hi"
    a.abort()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")
    await stream.aclose()
    assert ended == [True]


async def test_a_streams_guard_sees_everything_and_may_break_it() -> None:
    a, b = pair()
    stream = TransportStream(b, b"one")
    seen: list[bytes] = []

    def guard(data: bytes) -> str:
        seen.append(data)
        return "enough" if data == b"two" else ""

    stream.guard = guard
    await a.send(b"two")
    assert await stream.receive_some() == b"one"
    with pytest.raises(trio.BrokenResourceError, match="enough"):
        await stream.receive_some()
    assert seen == [b"one", b"two"]
    assert stream.ended


IMPLEMENTATIONS = (TcpTransport, WebSocketTransport, MemoryTransport)
METHODS = [
    name for name, one in vars(Transport).items() if inspect.isfunction(one) and not name.startswith("_")
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", IMPLEMENTATIONS, ids=lambda kind: kind.__name__)
def test_every_transport_is_called_in_the_same_way(kind: type[Transport], name: str) -> None:
    wanted, found = getattr(Transport, name), getattr(kind, name)
    assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(wanted)
    for one in (wanted, found):
        assert inspect.signature(one).return_annotation in ("None", "int", "bytes")
    shapes = [
        [(p.name, p.kind, p.default) for p in inspect.signature(one).parameters.values()]
        for one in (wanted, found)
    ]
    assert shapes[0] == shapes[1]
    assert inspect.signature(found).return_annotation == inspect.signature(wanted).return_annotation


def test_transports_are_told_apart_by_their_kind() -> None:
    assert METHODS == ["receive", "send", "send_now", "send_eof", "aclose", "abort"]
    assert [kind.kind for kind in IMPLEMENTATIONS] == ["tcp", "ws", "memory"]


async def test_lingering_reads_no_more_than_its_bound(autojump_clock: trio.testing.MockClock) -> None:
    """An end that has been told to go and sends on without end costs a few megabytes, not a second of whatever it has."""
    a, b = pair()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        try:
            while True:
                await b.send(bytes(READ_BYTES))
                sent += READ_BYTES
        except LinkLost:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        begun = trio.current_time()
        await linger(a)
        assert trio.current_time() - begun < 1.0
    assert LINGER_BYTES <= sent < 2 * LINGER_BYTES


async def test_lingering_over_a_broken_connection_is_no_error() -> None:
    a, b = pair()
    b.abort()
    await linger(a)
    with pytest.raises(LinkLost):
        await a.receive()


def test_a_lost_link_says_why_in_a_sentence() -> None:
    lost = LinkLost("the other end closed")
    assert str(lost) == lost.detail == "the other end closed"
