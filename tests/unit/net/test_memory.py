"""The in-process transport behaves as a socket does, in the loop's clock."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.net.memory import pair
from mesh.net.transport import LinkLost


async def test_bytes_arrive_in_order_after_the_latency(autojump_clock: trio.testing.MockClock) -> None:
    a, b = pair(0.04)
    begun = trio.current_time()
    await a.send(b"one")
    await trio.sleep(0.01)
    await a.send(b"two")
    assert await b.receive() == b"one"
    assert trio.current_time() - begun == pytest.approx(0.04)
    assert await b.receive() == b"two"
    assert trio.current_time() - begun == pytest.approx(0.05)


async def test_pieces_are_no_longer_than_asked() -> None:
    a, b = pair(piece_bytes=2)
    await a.send(b"abcde")
    assert [await b.receive() for _ in range(3)] == [b"ab", b"cd", b"e"]
    await b.send(b"xyz")
    assert await a.receive(1) == b"x"


async def test_a_full_buffer_holds_the_sender_until_the_other_end_reads() -> None:
    a, b = pair(buffer_bytes=4)
    assert a.send_now(b"abcdef") == 4
    assert a.send_now(b"x") == 0
    got = bytearray()

    async def read() -> None:
        while len(got) < 9:
            got.extend(await b.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await a.send(b"efghi")
    assert bytes(got) == b"abcdefghi"


async def test_the_end_of_the_stream_comes_after_what_is_under_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    a, b = pair(0.1)
    await a.send(b"last")
    await a.aclose()
    assert await b.receive() == b"last"
    assert await b.receive() == b""
    with pytest.raises(LinkLost):
        await b.send(b"x")


async def test_an_abort_is_a_reset_for_both_ends() -> None:
    a, b = pair()
    await a.send(b"lost")
    a.abort()
    a.abort()
    for end in (a, b):
        with pytest.raises(LinkLost):
            await end.receive()
        with pytest.raises(LinkLost):
            await end.send(b"x")
        with pytest.raises(LinkLost):
            end.send_now(b"x")


async def test_whoever_waits_is_woken_by_an_abort() -> None:
    a, b = pair()

    async def wait() -> None:
        with pytest.raises(LinkLost, match="reset"):
            await b.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        a.abort()


async def test_a_cancelled_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    a, b = pair(1.0)
    await a.send(b"kept")
    with trio.move_on_after(0.5):
        await b.receive()
    assert await b.receive() == b"kept"
