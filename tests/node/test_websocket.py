"""Opening WebSockets at both ends, and what hostile ends do to them; a link is what they carry here."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node.link_sockets import OPENING, accepted, connected, frame, outcome

from mesh.net.link_websocket import (
    MESSAGE_BYTES,
    accept_link,
    dial_link,
)
from mesh.net.memory import MemoryTransport, pair
from mesh.net.transport import LinkLost

# -- the accepting end against hostile clients -------------------------------------------------------------------


async def test_every_cut_of_the_opening_ends_the_connection_and_nothing_hangs() -> None:
    for end in range(1, len(OPENING)):
        detail, _ = await outcome(OPENING[:end])
        assert "opening" in detail or "protocol" in detail, (end, detail)


@pytest.mark.parametrize("linger", [True, False])
async def test_a_reset_in_the_middle_of_the_opening_is_noticed_at_once(linger: bool) -> None:
    client, server = connected()
    async with trio.open_nursery() as nursery:
        results: list[str] = []

        async def run() -> None:
            results.append(await accepted(server, 60))

        nursery.start_soon(run)
        await client.send(OPENING[:60])
        await trio.testing.wait_all_tasks_blocked(0.01)
        if linger:
            await client.aclose()
        else:
            client.abort()
    assert results == ["the other end closed the connection during the WebSocket opening"]


async def test_a_client_that_never_finishes_its_opening_is_timed_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    detail, _ = await outcome(OPENING[:-2], half_close=False, timeout_s=5)
    assert detail == "no WebSocket opening within 5 s"
    assert trio.current_time() < 10


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (frame(1, b"text"), "text message"),
        (frame(2, b"x" * (MESSAGE_BYTES + 1)), "code 1009"),
        (frame(3, b""), "WebSocket"),
        (frame(0, b"continuation of nothing"), "WebSocket"),
        (b"\x82\x04abcd", "WebSocket"),
        (frame(2, b"", final=False) + frame(0, b"", final=False) * 20_000, "WebSocket"),
        (frame(9, b"ping") * 20_000, "WebSocket"),
        (frame(8, b"\x03\xe8"), "end"),
        (frame(8, b"\x03"), "WebSocket"),
        (frame(1, b"\xff\xfe"), "WebSocket"),
        (b"\x82", "WebSocket connection was lost"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_link_with_a_sentence(sent: bytes, detail: str) -> None:
    found, answered = await outcome(OPENING, opened=sent)
    assert detail in found
    assert answered.startswith(b"HTTP/1.1 101")


WHOLE = (
    OPENING
    + frame(2, b"abc")
    + frame(9, b"p")
    + frame(2, b"de", final=False)
    + frame(0, b"f")
    + frame(8, b"")
)


@settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, len(WHOLE)), st.binary(max_size=12), st.booleans())
def test_garbage_at_any_byte_never_crashes_the_accepting_end(
    place: int, garbage: bytes, instead: bool
) -> None:
    rest = WHOLE[place + len(garbage) :] if instead else WHOLE[place:]

    async def one() -> None:
        with trio.fail_after(5):
            await outcome(WHOLE[:place] + garbage + rest)

    trio.run(one, clock=trio.testing.MockClock(autojump_threshold=0))


# -- the dialling end against what is no node --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "HTTP status 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP status 200"),
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n", "HTTP status 503"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "protocol"),
        (b"SSH-2.0-OpenSSH\r\n", "closed the connection during the WebSocket opening"),
        (b"\x00\x00\x00\x10garbage", "protocol"),
        (b"", "closed the connection during the WebSocket opening"),
    ],
)
async def test_another_server_at_the_address_is_told_apart(answer: bytes, detail: str) -> None:
    client, server = pair()

    async def serve(server: MemoryTransport) -> None:
        await server.receive()
        await server.send(answer)
        await server.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, server)
        with pytest.raises(LinkLost, match=detail):
            async with dial_link(client, "h:1", 5):
                pass


async def test_a_server_that_never_answers_is_timed_out(autojump_clock: trio.testing.MockClock) -> None:
    client, _server = pair()
    with pytest.raises(LinkLost, match="within 3 s"):
        async with dial_link(client, "h:1", 3):
            pass


async def test_what_the_body_raises_comes_out_as_itself() -> None:
    client, server = pair()
    dialled = trio.Event()

    async def accept() -> None:
        async with accept_link(server, await server.receive(), 5):
            await dialled.wait()
            raise KeyError("accepting body")

    async def accept_and_tell() -> None:
        with pytest.raises(KeyError, match="accepting body"):
            await accept()

    async def begin() -> None:
        async with dial_link(client, "h:1", 5):
            dialled.set()
            raise KeyError("dialling body")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_and_tell)
        with pytest.raises(KeyError, match="dialling body"):
            await begin()
