"""A client of `mesh.client` connected to a served events port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from node.events_port import Port, events_port
from node.fake_service import FakeService

from mesh.client import Client


@asynccontextmanager
async def connected(service: FakeService | None = None) -> AsyncIterator[tuple[Port, Client]]:
    async with events_port(service) as port, Client(port.url, name="shop") as client:
        yield port, client
