"""What every transport promises, and saying goodbye over one."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.net.memory import pair
from mesh.net.transport import TransportStream, linger


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
