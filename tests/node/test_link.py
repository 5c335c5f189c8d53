"""Two links, driver to driver, over loopback: TCP and WebSocket."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.net.dial import dial
from mesh.net.link import Link
from mesh.net.link_listener import LinkListener, Pending
from mesh.net.listener import open_listener
from mesh.net.supervise import Crashes
from mesh.net.transport import Transport
from mesh.wire.codec import encode_data
from mesh.wire.frames import BatchHeader, CloseLink, Data, Frame, Hello, Leg

LIMITS = Limits()
BODY = b"b" * 60_000


def header(n: int) -> BatchHeader:
    return BatchHeader(Leg.BRIDGE, 0, "eu", "eu-1", 1, ("us",), 0, 8, 0, (), n, 10)


class Host:
    """A node that records frames and sends what is in `data`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.data: deque[bytes] = deque()
        self.lost: list[tuple[Close, str]] = []
        self.changed = trio.Event()

    def received(self, link: int, frames: list[Frame]) -> None:
        self.frames.extend(frames)
        self.changed.set()
        self.changed = trio.Event()

    def pull_data(self, link: int) -> bytes | None:
        return self.data.popleft() if self.data else None

    def link_lost(self, link: int, reason: Close, detail: str) -> None:
        self.lost.append((reason, detail))
        self.changed.set()

    async def until_frames(self, count: int) -> None:
        with trio.fail_after(10):
            while len(self.frames) < count:
                await self.changed.wait()


class Pair:
    def __init__(self) -> None:
        self.near, self.far = Host(), Host()
        self.far_link: Link


@asynccontextmanager
async def linked(transport: str) -> AsyncIterator[tuple[Pair, Link, Link]]:
    ends = Pair()
    accepted = trio.Event()

    async def accept(connection: Transport, pending: Pending) -> None:
        ends.far_link = Link(2, connection, ends.far, LIMITS, accepted=True)
        pending.opened()
        accepted.set()
        await ends.far_link.run()

    listener = await open_listener("listen.link", "127.0.0.1:0")
    port = LinkListener(listener, accept, LIMITS, crashes=Crashes(), count_refusal=lambda reason: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(port.serve)
        async with dial(listener.address, transport, 5) as connection:
            link = Link(1, connection, ends.near, LIMITS)
            nursery.start_soon(link.run)
            link.send(Hello(0, 0))
            await accepted.wait()
            await ends.far.until_frames(1)
            yield ends, link, ends.far_link
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_control_and_data_arrive_whole_and_in_order_both_ways(transport: str) -> None:
    async with linked(transport) as (ends, near, far):
        for link, sender, receiver in ((near, ends.near, ends.far), (far, ends.far, ends.near)):
            receiver.frames.clear()
            sender.data.extend(encode_data(header(n), BODY) for n in range(50))
            link.data_ready()
            for n in range(500):
                link.send(Hello(n, n))
            await receiver.until_frames(550)
            data = [frame for frame in receiver.frames if isinstance(frame, Data)]
            hellos = [frame for frame in receiver.frames if isinstance(frame, Hello)]
            assert [frame.header.batch for frame in data] == list(range(50))
            assert all(frame.body == BODY for frame in data)
            assert [frame.n for frame in hellos] == list(range(500))
            assert receiver.frames.index(hellos[-1]) < len(receiver.frames) - 20, "control overtakes data"
        assert near.statistics().bytes_out == far.statistics().bytes_in
        assert near.statistics().kind == transport


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_close_tells_the_other_end_why(transport: str) -> None:
    async with linked(transport) as (ends, near, _far):
        near.close(Close.DRAINING, "this node leaves")
        with trio.fail_after(5):
            while not ends.far.lost or not ends.near.lost:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert ends.far.frames[-1] == CloseLink("draining", "this node leaves")
        assert ends.near.lost == [(Close.DRAINING, "this node leaves")]
        assert len(ends.far.lost) == 1


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_reset_is_told_at_both_ends(transport: str) -> None:
    async with linked(transport) as (ends, near, _far):
        near.transport.abort()
        with trio.fail_after(5):
            while not ends.far.lost or not ends.near.lost:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert ends.near.lost[0][0] is Close.LINK_LOST
        assert ends.far.lost[0][0] is Close.LINK_LOST


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_a_refused_peer_that_is_still_sending_reads_why(transport: str) -> None:
    """With bytes unread a plain close would be a reset, and the reason would be lost."""
    async with linked(transport) as (ends, near, far):
        ends.near.data.extend(encode_data(header(n), BODY) for n in range(200))
        near.data_ready()
        far.close(Close.REGION_MISMATCH, "this is eu")
        with trio.fail_after(5):
            while not ends.near.lost:
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert CloseLink("region_mismatch", "this is eu") in ends.near.frames
