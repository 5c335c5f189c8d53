"""The registry in memory: what it has beyond the contract. (The contract: tests/contract/test_registry.py.)"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio
from trio.testing import MockClock

from registry import memory
from registry.base import Gone, NodeEntry, Put, RegionEntry, RegistryFull, RegistryUnavailable
from registry.memory import MemoryRegistry, MemoryStore

SINCE = datetime(2025, 6, 1, tzinfo=UTC)


def entry(node: str) -> NodeEntry:
    return NodeEntry(region="eu", node=node, instance="i", epoch=1, addresses=(), since=SINCE)


async def test_a_watch_wakes_at_the_change_and_at_the_end_of_a_lease(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    one, watch = MemoryRegistry(store), MemoryRegistry(store).watch()
    await watch.next()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.register, entry("a"), 10.0)
        (put,) = await watch.next()
        assert isinstance(put, Put)
        assert trio.current_time() == start
    (gone,) = await watch.next()
    assert isinstance(gone, Gone)
    assert gone.reason == "expired"
    assert trio.current_time() == start + 10.0


async def test_a_revision_of_one_client_is_good_for_another() -> None:
    store = MemoryStore()
    revision = (await MemoryRegistry(store).list()).revision
    await MemoryRegistry(store).register(entry("a"), 10.0)
    (event,) = await MemoryRegistry(store).watch(after=revision).next()
    assert isinstance(event, Put)


async def test_it_can_be_slow(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    store.delay_s = 3.0
    start = trio.current_time()
    await MemoryRegistry(store).list()
    assert trio.current_time() == start + 3.0


async def test_a_waiting_watch_notices_that_the_service_went_away() -> None:
    store = MemoryStore()
    watch = MemoryRegistry(store).watch()
    await watch.next()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def switch() -> None:
            store.switch(False)

        with pytest.raises(RegistryUnavailable):
            await watch.next()


async def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ENTRIES", 2)
    monkeypatch.setattr(memory, "REGIONS", 1)
    one = MemoryRegistry(MemoryStore())
    await one.register(entry("a"), 10.0)
    await one.register(entry("b"), 10.0)
    await one.register(entry("b"), 10.0)
    with pytest.raises(RegistryFull):
        await one.register(entry("c"), 10.0)
    token = await one.put_region(RegionEntry(region="eu", endpoints=()), None)
    await one.put_region(RegionEntry(region="eu", endpoints=("a:1",)), token)
    with pytest.raises(RegistryFull):
        await one.put_region(RegionEntry(region="us", endpoints=()), None)
