"""Dialling a link port: by name and by address, and a sentence where it does not work."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from mesh.model.limits import Limits
from mesh.net.dial import TRANSPORTS, dial
from mesh.net.link_listener import LinkListener, Pending
from mesh.net.listener import open_listener
from mesh.net.supervise import Crashes
from mesh.net.transport import LinkLost, Transport


async def test_dialling_reaches_a_listener_by_name_and_by_address() -> None:
    listener = await open_listener("listen.link", "127.0.0.1:0")
    try:
        for host in ("127.0.0.1", "localhost"):
            async with dial(f"{host}:{listener.port}", "tcp", 5) as transport:
                assert transport.kind == "tcp"
                assert transport.remote == f"{host}:{listener.port}"
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("no-port", "HOST:PORT"),
        ("nowhere.invalid:1", "cannot be resolved"),
        ("a..b:1", "cannot be resolved"),
    ],
)
async def test_what_cannot_be_dialled_is_told_in_a_sentence(address: str, sentence: str) -> None:
    with pytest.raises(LinkLost, match=sentence):
        async with dial(address, "tcp", 5):
            pass


async def test_a_refused_and_a_silent_address_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(LinkLost, match=f"127.0.0.1:{port}: connection refused"):
        async with dial(f"127.0.0.1:{port}", "tcp", 5):
            pass
    with pytest.raises(LinkLost, match="no answer within 0 s"):
        async with dial(f"127.0.0.1:{port}", "tcp", 0):
            pass
    with pytest.raises(ValueError, match="unknown transport"):
        async with dial(f"127.0.0.1:{port}", "pigeon", 5):
            pass


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_connection_is_closed_when_the_body_ends_and_what_it_raises_comes_out(
    transport: str,
) -> None:
    ended = trio.Event()

    async def accept(connection: Transport, pending: Pending) -> None:
        try:
            while await connection.receive():
                pending.opened()
        except LinkLost:
            pass
        ended.set()

    async def use() -> None:
        async with dial(listener.address, transport, 5) as connection:
            await connection.send(b"x")
            assert connection.kind == transport
            raise KeyError("mine")

    listener = await open_listener("listen.link", "127.0.0.1:0")
    port = LinkListener(listener, accept, Limits(), crashes=Crashes(), count_refusal=lambda reason: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(port.serve)
        with pytest.raises(KeyError, match="mine"):
            await use()
        with trio.fail_after(5):
            await ended.wait()
        nursery.cancel_scope.cancel()


async def test_a_listener_that_says_nothing_to_a_websocket_costs_no_more_than_the_time_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(LinkLost, match="WebSocket opening"):
            async with dial(f"127.0.0.1:{server.getsockname()[1]}", "ws", 3):
                pytest.fail("it opened")
    assert trio.current_time() <= 4
