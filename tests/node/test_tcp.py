"""TCP transports and dialling, over loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from mesh.net.tcp import TcpTransport
from mesh.net.transport import LinkLost, linger


def connected() -> tuple[TcpTransport, TcpTransport]:
    """Two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return TcpTransport(client), TcpTransport(accepted)


@asynccontextmanager
async def both() -> AsyncIterator[tuple[TcpTransport, TcpTransport]]:
    a, b = connected()
    try:
        yield a, b
    finally:
        a.abort()
        b.abort()


async def test_bytes_go_both_ways_and_the_address_is_printable() -> None:
    async with both() as (a, b):
        await a.send(b"there")
        assert await b.receive() == b"there"
        assert b.send_now(b"back") == 4
        assert await a.receive(2) == b"ba"
        assert await a.receive() == b"ck"
        assert a.remote.startswith("127.0.0.1:")


async def test_a_megabyte_arrives_whole_while_the_reader_is_slow() -> None:
    data = bytes(range(256)) * 4096
    async with both() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(a.send, data)
        await trio.testing.wait_all_tasks_blocked()
        got = b""
        while len(got) < len(data):
            got += await b.receive()
        assert got == data


async def test_send_now_takes_what_fits_and_then_nothing() -> None:
    async with both() as (a, b):
        taken = 0
        while now := a.send_now(b"x" * 100_000):
            taken += now
        assert a.send_now(b"x") == 0
        got = 0
        while got < taken:
            got += len(await b.receive())
        assert got == taken
        assert a.send_now(b"again") == 5


async def test_what_was_put_back_is_received_first() -> None:
    async with both() as (a, b):
        await a.send(b"GET /")
        first = await b.receive(4)
        b.unread(first)
        assert await b.receive(2) == b"GE"
        assert await b.receive() == b"T "
        assert await b.receive() == b"/"


async def test_the_end_of_the_stream_leaves_the_other_direction_open() -> None:
    async with both() as (a, b):
        await a.send_eof()
        assert await b.receive() == b""
        await b.send(b"still")
        assert await a.receive() == b"still"


async def test_an_abort_is_a_reset_for_the_other_end_and_wakes_this_one() -> None:
    async with both() as (a, b):

        async def wait() -> None:
            with pytest.raises(LinkLost, match="closed at this end"):
                await a.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            a.abort()
        with pytest.raises(LinkLost, match="reset"):
            await b.receive()
        with pytest.raises(LinkLost):
            b.send_now(b"x")
        with pytest.raises(LinkLost):
            await a.send(b"x")
        await a.send_eof()
        await a.aclose()


async def test_a_blocked_sender_is_woken_when_this_end_closes() -> None:
    async with both() as (a, _):

        async def send() -> None:
            with pytest.raises(LinkLost):
                await a.send(b"x" * (64 << 20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            await a.aclose()


async def test_last_words_arrive_although_the_other_end_had_sent_more() -> None:
    """A plain close with unread bytes sends a reset, which would destroy them."""
    async with both() as (a, b), trio.open_nursery() as nursery:
        await a.send(b"x" * 50_000)
        await b.send(b"you are refused")
        nursery.start_soon(linger, b)
        await a.send(b"x" * 50_000)
        got = b""
        while piece := await a.receive():
            got += piece
        assert got == b"you are refused"
        await a.aclose()
