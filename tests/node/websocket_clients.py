"""Clients of the events port that speak WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio_websocket
from node.events_port import Port, RawClient

WHOLE = '{"specversion":"1.0","id":"1","source":"/","type":"t"}'


class Ops:
    """A client of mesh.v1.json on an independent WebSocket."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self.socket = socket

    async def send(self, **op: Any) -> None:
        await self.socket.send_message(json.dumps(op))

    async def receive(self) -> dict[str, Any]:
        return json.loads(await self.socket.get_message())

    async def call(self, **op: Any) -> dict[str, Any]:
        await self.send(**op)
        return await self.receive()


@asynccontextmanager
async def ops_client(port: Port) -> AsyncIterator[Ops]:
    async with port.websocket() as socket:
        yield Ops(socket)


@asynccontextmanager
async def raw_socket(
    port: Port, path: str = "/v1/ws", subprotocol: str = "mesh.v1.json"
) -> AsyncIterator[RawClient]:
    client = await port.connect()
    async with client.stream:
        status, headers, _ = await client.upgrade(path, subprotocol)
        assert (status, headers["sec-websocket-protocol"]) == (101, subprotocol)
        yield client
