"""WebSocket links over loopback: bytes through messages, and who gets no link."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing
from node.link_sockets import OPENING, both, outcome

from mesh.net.link_websocket import (
    LINK_PATH,
    LINK_SUBPROTOCOL,
    MESSAGE_BYTES,
)
from mesh.net.transport import LinkLost


async def test_bytes_go_both_ways_whole_however_long() -> None:
    data = os.urandom(3 * MESSAGE_BYTES + 5)
    async with both() as (a, b):
        for sender, receiver in ((a, b), (b, a)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, data)
                got = b""
                while len(got) < len(data):
                    piece = await receiver.receive()
                    assert 0 < len(piece) <= 65536
                    got += piece
            assert got == data
        assert a.send_now(b"x") == 0


@pytest.mark.parametrize("closer", [0, 1])
async def test_a_close_is_the_end_of_the_stream_for_the_other_end(closer: int) -> None:
    async with both() as ends:
        await ends[closer].send(b"last")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends[closer].aclose)
            assert await ends[1 - closer].receive() == b"last"
            assert await ends[1 - closer].receive() == b""
        with pytest.raises(LinkLost):
            await ends[1 - closer].send(b"x")


async def test_an_abort_is_lost_for_the_other_end() -> None:
    async with both() as (a, b):
        a.abort()
        with pytest.raises(LinkLost):
            await b.receive()


async def test_another_path_or_subprotocol_is_told_404(autojump_clock: trio.testing.MockClock) -> None:
    for sent in (
        OPENING.replace(LINK_PATH.encode(), b"/other"),
        OPENING.replace(LINK_SUBPROTOCOL.encode(), b"chat"),
    ):
        detail, answered = await outcome(sent, half_close=False)
        assert "asked the link port" in detail
        assert answered.startswith(b"HTTP/1.1 404")
        assert answered.endswith(b"This port carries links between nodes.\n")


async def test_a_web_page_gets_no_link(autojump_clock: trio.testing.MockClock) -> None:
    sent = OPENING.replace(b"\r\n\r\n", b"\r\nOrigin: http://localhost:8000\r\n\r\n")
    detail, answered = await outcome(sent, half_close=False)
    assert detail == "a web page asked for a link"
    assert answered.startswith(b"HTTP/1.1 403")
