"""The driver of a link, over the memory transport and the mock clock."""

from __future__ import annotations

from collections import deque

import pytest
import trio
import trio.testing

from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.net.link import CLOSE_S, OPEN_BYTES, WRITE_BYTES, Link
from mesh.net.memory import MemoryTransport, pair
from mesh.net.transport import LinkLost, Transport
from mesh.wire.codec import FrameReader, encode
from mesh.wire.frames import CloseLink, Control, Frame, Hello, SeqnoRequest

LIMITS = Limits()


class Host:
    """A node that records. `replies` are sent on the link from inside `received`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.bursts = 0
        self.data: deque[bytes] = deque()
        self.lost: list[tuple[int, Close, str]] = []
        self.replies: list[Control] = []
        self.link: Link | None = None

    def received(self, link: int, frames: list[Frame]) -> None:
        self.frames.extend(frames)
        self.bursts += 1
        if self.link is not None:
            for frame in self.replies:
                self.link.send(frame)

    def pull_data(self, link: int) -> bytes | None:
        return self.data.popleft() if self.data else None

    def link_lost(self, link: int, reason: Close, detail: str) -> None:
        self.lost.append((link, reason, detail))


def made(transport: Transport, limits: Limits = LIMITS, *, accepted: bool = False) -> tuple[Link, Host]:
    host = Host()
    host.link = Link(7, transport, host, limits, accepted=accepted)
    return host.link, host


async def read_frames(transport: MemoryTransport, count: int) -> list[Frame]:
    reader = FrameReader(LIMITS.frame_bytes)
    frames: list[Frame] = []
    while len(frames) < count:
        frames.extend(reader.feed(await transport.receive()))
    return frames


async def test_frames_of_one_burst_are_handed_over_together() -> None:
    a, b = pair()
    link, host = made(a)
    await b.send(b"".join(encode(Hello(n, 0)) for n in range(5)))
    await b.send_eof()
    await link.run()
    assert host.frames == [Hello(n, 0) for n in range(5)]
    assert host.bursts == 1
    assert host.lost == [(7, Close.LINK_LOST, "the other end closed the connection without saying why")]
    assert link.statistics().frames_in == 5


async def test_frames_arrive_whole_when_every_byte_comes_alone() -> None:
    a, b = pair(piece_bytes=1)
    link, host = made(a)
    await b.send(encode(Hello(1, 2)) + encode(SeqnoRequest("r", "b", 1, 2, 3)))
    await b.send_eof()
    await link.run()
    assert host.frames == [Hello(1, 2), SeqnoRequest("r", "b", 1, 2, 3)]


async def test_an_idle_link_writes_in_the_callers_task_without_a_switch() -> None:
    a, b = pair()
    link, host = made(a)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.testing.wait_all_tasks_blocked()
        host.data.append(b"DATA")
        link.send(Hello(1, 0))
        assert link.idle
        assert link.statistics().writes_inline == 1
        assert await b.receive() == encode(Hello(1, 0)) + b"DATA"
        link.data_ready()
        assert link.statistics().writes_waited == 0
        nursery.cancel_scope.cancel()


async def test_frames_sent_before_it_runs_leave_first() -> None:
    a, b = pair(buffer_bytes=10)
    link, _ = made(a)
    link.send(Hello(1, 2**40))
    link.send(Hello(2, 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        assert await read_frames(b, 2) == [Hello(1, 2**40), Hello(2, 0)]
        nursery.cancel_scope.cancel()


async def test_many_frames_and_answers_to_one_burst_leave_in_one_write() -> None:
    a, b = pair()
    link, host = made(a)
    host.replies = [Hello(n, 0) for n in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await b.send(encode(Hello(9, 9)))
        assert await b.receive() == b"".join(encode(frame) for frame in host.replies)
        link.send_many([Hello(n, 1) for n in range(4)])
        assert await b.receive() == b"".join(encode(Hello(n, 1)) for n in range(4))
        assert link.statistics().writes_inline == 2
        nursery.cancel_scope.cancel()


async def test_control_frames_go_before_data_that_waited_longer() -> None:
    a, b = pair(buffer_bytes=1000)
    link, host = made(a)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.testing.wait_all_tasks_blocked()
        host.data.extend([b"1" * WRITE_BYTES, b"2" * WRITE_BYTES])
        link.data_ready()
        link.send(Hello(1, 0))
        got = b""
        wanted = b"1" * WRITE_BYTES + encode(Hello(1, 0)) + b"2" * WRITE_BYTES
        while len(got) < len(wanted):
            got += await b.receive()
        assert got == wanted
        assert link.statistics().blocked_s >= 0
        nursery.cancel_scope.cancel()


async def test_data_is_pulled_only_as_fast_as_the_other_end_reads() -> None:
    a, _b = pair(buffer_bytes=1000)
    link, host = made(a)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        host.data.extend(bytes([n]) * WRITE_BYTES for n in range(10))
        link.data_ready()
        await trio.testing.wait_all_tasks_blocked()
        assert len(host.data) == 9
        assert not link.idle
        nursery.cancel_scope.cancel()
    assert len(host.data) == 9


async def test_a_caller_is_not_held_up_by_a_peer_that_takes_everything() -> None:
    a, _ = pair(buffer_bytes=1 << 30)
    link, host = made(a)
    host.data.extend(b"x" * WRITE_BYTES for _ in range(100))
    link.data_ready()
    assert len(host.data) == 84


async def test_a_close_is_told_behind_what_was_queued_and_ends_the_link() -> None:
    a, b = pair()
    link, host = made(a)
    peer, other = made(b)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        nursery.start_soon(peer.run)
        await trio.testing.wait_all_tasks_blocked()
        link.send(Hello(1, 0))
        link.close(Close.REGION_MISMATCH, "this is eu")
        link.close(Close.NORMAL, "later")
        link.send(Hello(2, 0))
    assert other.frames == [Hello(1, 0), CloseLink("region_mismatch", "this is eu")]
    assert host.lost == [(7, Close.REGION_MISMATCH, "this is eu")]
    assert len(other.lost) == 1


async def test_a_close_before_it_runs_is_still_told() -> None:
    a, b = pair()
    link, host = made(a)
    link.close(Close.SELF_LINK, "own address")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        assert await read_frames(b, 1) == [CloseLink("self_link", "own address")]
        assert await b.receive() == b""
        await b.send_eof()
    assert host.lost == [(7, Close.SELF_LINK, "own address")]


async def test_nothing_is_told_to_a_peer_that_closed_itself() -> None:
    a, b = pair()
    link, _ = made(a)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        link.close(Close.PEER_CLOSED, "it said draining")
        assert await b.receive() == b""
        await b.aclose()


async def test_a_close_takes_no_longer_than_its_bound(autojump_clock: trio.testing.MockClock) -> None:
    a, _ = pair(buffer_bytes=10)
    link, host = made(a)
    link.send(Hello(1, 2**60))
    link.close(Close.DRAINING, "the peer does not read")
    begun = trio.current_time()
    await link.run()
    assert trio.current_time() - begun == pytest.approx(CLOSE_S)
    assert host.lost[0][1] is Close.DRAINING


async def test_frames_received_while_closing_are_discarded(autojump_clock: trio.testing.MockClock) -> None:
    a, b = pair()
    link, host = made(a)
    link.close(Close.NORMAL, "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await b.send(encode(Hello(1, 1)))
        await b.send_eof()
    assert host.frames == []


async def test_a_full_control_lane_closes_the_link() -> None:
    a, _ = pair(buffer_bytes=1)
    link, host = made(a, Limits(control_queue_frames=3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.testing.wait_all_tasks_blocked()
        link.send_many(Hello(n, 0) for n in range(10))
        link.send(Hello(11, 0))
    assert host.lost[0][1] is Close.SLOW_CONSUMER
    assert "are waiting" in host.lost[0][2]


async def test_the_control_lane_is_bounded_in_bytes_too() -> None:
    a, _ = pair(buffer_bytes=1)
    link, host = made(a, Limits(control_queue_bytes=100))
    link.send_many(SeqnoRequest("r" * 60, "b", 1, 2, 3) for _ in range(4))
    await link.run()
    assert host.lost[0][1] is Close.SLOW_CONSUMER


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"\x00\x00\x00\x02\xff\xff", Close.MALFORMED),
        (b"\x7f\xff\xff\xff\x01", Close.FRAME_TOO_LARGE),
        (b"\x00\x00\x00\x04\x01\xc1\xc1\xc1", Close.MALFORMED),
    ],
)
async def test_garbage_closes_the_link_after_the_frames_before_it(garbage: bytes, reason: Close) -> None:
    a, b = pair()
    link, host = made(a)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await b.send(encode(Hello(1, 0)) + garbage + b"more garbage")
        (told,) = await read_frames(b, 1)
        assert isinstance(told, CloseLink)
        assert told.reason == reason.value
        await b.aclose()
    assert host.frames == [Hello(1, 0)]
    assert [lost[1] for lost in host.lost] == [reason]


async def test_a_stranger_may_not_send_long_frames_before_its_first_one_was_taken() -> None:
    long = SeqnoRequest("r" * OPEN_BYTES, "b", 1, 2, 3)
    a, b = pair()
    link, host = made(a, accepted=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await b.send(encode(long))
        (told,) = await read_frames(b, 1)
        await b.aclose()
    assert isinstance(told, CloseLink)
    assert told.reason == Close.FRAME_TOO_LARGE.value
    a, b = pair()
    link, host = made(a, accepted=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await b.send(encode(Hello(1, 0)))
        await trio.testing.wait_all_tasks_blocked()
        await b.send(encode(long))
        await b.aclose()
    assert host.frames == [Hello(1, 0), long]


async def test_a_reset_is_told_once_to_reader_writer_and_inline_sender() -> None:
    a, b = pair()
    link, host = made(a)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.testing.wait_all_tasks_blocked()
        b.abort()
        link.send(Hello(1, 0))
        link.data_ready()
        link.close(Close.NORMAL, "too late")
    assert host.lost == [(7, Close.LINK_LOST, "the other end reset the connection")]


async def test_cancelling_it_cleans_up_and_tells_the_node_once() -> None:
    a, b = pair()
    link, host = made(a)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert host.lost == [(7, Close.NORMAL, "this end stopped the link")]
    with pytest.raises(LinkLost):
        await b.receive()
    link.send(Hello(1, 0))
    link.data_ready()


async def test_a_node_that_crashes_in_received_loses_the_link_and_the_crash_is_seen() -> None:
    a, b = pair()
    link, host = made(a)

    def crash(link: int, frames: list[Frame]) -> None:
        raise RuntimeError("mistake")

    host.received = crash  # type: ignore[method-assign]
    await b.send(encode(Hello(1, 0)))
    with pytest.raises(ExceptionGroup) as caught:
        await link.run()
    assert caught.group_contains(RuntimeError)
    assert host.lost[0][1] is Close.LINK_LOST
