"""What came at least once is in the log once, whatever its engine and its process do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from node.kept import keep
from node.memory_mesh import until
from node.test_event_log import RULES, Keeper, Reader, publish

from mesh.core.custody.log_shares import LOG
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, LogGap
from mesh.model.topic_rules import TopicRules
from mesh.node import event_log
from mesh.node.runner import Node
from mesh.node.settings import NodeSettings
from mesh.store.eventlog import EventLogEngine, LogFailed
from mesh.store.eventlog_memory import MemoryLog
from mesh.store.eventlog_sqlite import SqliteLog
from mesh.testing.memory_store import MemoryStore


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINGER_S", "TRIM_S", "RETRY_S"):
        monkeypatch.setattr(event_log, name, 0.005)


@asynccontextmanager
async def life(
    store: MemoryStore,
    engine: EventLogEngine,
    epoch: int = 7,
    *,
    rules: TopicRules = RULES,
    limits: Limits | None = None,
    log: bool = True,
) -> AsyncIterator[Keeper]:
    """One process of node eu/n1, which ends without saying so: nothing is written or settled at its end."""
    settings = NodeSettings("eu", "n1", f"i{epoch}", epoch, "test", alone=True, limits=limits or Limits())
    node = Node(settings, store=store, rules=rules)
    keeper = Keeper(node, rules, lambda aside: engine)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        keeper.log.attach()
        if log:
            await nursery.start(keeper.log.run)
        yield keeper
        nursery.cancel_scope.cancel()


async def replayed(keeper: Keeper) -> Reader:
    async with trio.open_nursery() as nursery:
        reader = await keeper.replay(nursery, "1h")
        await until(lambda: reader.live)
    return reader


def open_parts(store: MemoryStore) -> list[str]:
    return [part for entry in store.outstanding() for part in entry.parts]


async def test_a_record_is_settled_when_the_log_has_synced_it_and_not_before() -> None:
    store, engine = MemoryStore(), MemoryLog()
    synced: list[bool] = []
    append = engine.append

    def watched(entries: Any, gaps: Any = (), *, synced_: bool = False, **more: bool) -> None:
        synced.append(more["synced"])
        append(entries, gaps)

    engine.append = watched  # type: ignore[method-assign]
    async with life(store, engine) as keeper:
        await until(lambda: not keeper.log._unnoted)
        publish(keeper.node, 1, 2)
        await until(lambda: engine.statistics().events == 2)
        assert synced[-1] is False, "what came at most once pays for no sync"
        keep(keeper.node, "3", "4", topic="orders/eu")
        assert open_parts(store) == [LOG]
        assert keeper.log.tail is not None
        assert keeper.log.tail.next == 5, "numbered in the call in which sessions get it"
        await until(lambda: not open_parts(store))
        assert engine.statistics().events == 4
        assert synced[-1] is True
        assert (await replayed(keeper)).numbers == [1, 2, 3, 4]


async def test_what_the_log_did_not_write_is_taken_in_by_the_next_process_once(tmp_path: Path) -> None:
    store = MemoryStore()
    engine = SqliteLog(tmp_path)
    async with life(store, engine) as keeper:
        keep(keeper.node, *map(str, range(10)), topic="orders/eu", key="k")
        await until(lambda: not open_parts(store))
        engine.append = failing  # type: ignore[method-assign]
        keep(keeper.node, *map(str, range(10, 20)), topic="orders/eu", key="k")
    engine.close()
    assert open_parts(store) == [LOG]
    engine = SqliteLog(tmp_path)
    settle = store.settle
    store.settle = lambda lsn, part: False  # type: ignore[method-assign]
    async with life(store, engine, 8) as keeper:
        await until(lambda: engine.statistics().events == 20)
        keep(keeper.node, "20", topic="orders/eu", key="k")
        assert (await replayed(keeper)).numbers == list(range(21)), "before what comes now"
        await until(lambda: engine.statistics().events == 21)
    engine.close()
    store.settle = settle  # type: ignore[method-assign]
    assert open_parts(store) == [LOG, LOG], "written, and the journal was not told in time"
    engine = SqliteLog(tmp_path)
    async with life(store, engine, 9) as keeper:
        await until(lambda: not open_parts(store))
        assert (await replayed(keeper)).numbers == list(range(21))
    engine.close()


def failing(*_: Any, **__: Any) -> None:
    raise LogFailed(LogGap.IO_ERROR, "for a test")


async def test_a_replay_that_begins_before_the_log_has_caught_up_waits_for_it() -> None:
    store, engine = MemoryStore(), MemoryLog()
    async with life(store, engine, log=False) as keeper:
        ids = keep(keeper.node, *map(str, range(100)), topic="orders/eu")
        assert open_parts(store) == [LOG], "nobody else wants it, and the log is not open yet"
    async with life(store, engine, 8) as keeper, trio.open_nursery() as nursery:
        assert keeper.log.debts.waiting
        since_an_event = await keeper.replay(nursery, ids[49])
        whole = await keeper.replay(nursery, "1h", sid=2)
        await until(lambda: since_an_event.live and whole.live)
        assert since_an_event.numbers == list(range(50, 100))
        assert whole.numbers == list(range(100))
        nursery.cancel_scope.cancel()


async def test_more_than_fits_into_memory_waits_in_the_journal_and_is_no_gap() -> None:
    store, engine = MemoryStore(), MemoryLog()
    limits = Limits(log_pending_bytes=100 * 210)
    async with life(store, engine, limits=limits) as keeper, trio.open_nursery() as nursery:
        await until(lambda: not keeper.log._unnoted)
        engine.failing = LogFailed(LogGap.NO_SPACE, "no space left")
        for number in range(500):
            keep(keeper.node, str(number), topic="orders/eu")
        assert keeper.log.tail is not None
        assert 50 < keeper.log.tail.pending < 150
        assert keeper.log.item()["waiting"] == 500
        reader = await keeper.replay(nursery, "1h")
        await until(lambda: len(reader.got) == keeper.log.tail.pending)  # type: ignore[union-attr]
        assert not reader.live, "it would miss what has no position yet"
        engine.failing = None
        await until(lambda: reader.live)
        assert reader.numbers == list(range(500))
        assert reader.reasons == []
        await until(lambda: not open_parts(store))
        assert keeper.node.machine.counters.drops == {}
        nursery.cancel_scope.cancel()


async def test_what_waits_is_bounded_and_the_oldest_of_it_become_a_gap_that_is_counted() -> None:
    store, engine = MemoryStore(), MemoryLog()
    limits = Limits(log_pending_bytes=10 * 210, durable_events=20)
    async with life(store, engine, limits=limits) as keeper:
        await until(lambda: not keeper.log._unnoted)
        engine.failing = LogFailed(LogGap.NO_SPACE, "no space left")
        for number in range(100):
            keep(keeper.node, str(number), topic="orders/eu")
        assert keeper.log.tail is not None
        in_memory = keeper.log.tail.pending
        assert keeper.log.debts.events == 20
        assert keeper.node.machine.counters.drops == {Drop.NOT_LOGGED: 80 - in_memory}
        engine.failing = None
        await until(lambda: not keeper.log.debts.waiting and keeper.log.failure is None)
        reader = await replayed(keeper)
        assert reader.numbers == [*range(in_memory), *range(80, 100)]
        await until(lambda: not open_parts(store))


async def test_without_a_rule_that_retains_nothing_is_owed_any_more() -> None:
    store, engine = MemoryStore(), MemoryLog()
    async with life(store, engine, log=False) as keeper:
        keep(keeper.node, "1", topic="orders/eu")
    assert open_parts(store) == [LOG]
    settings = NodeSettings("eu", "n1", "i8", 8, "test", alone=True)
    node = Node(settings, store=store)
    assert open_parts(store) == []
    assert node.machine.counters.drops == {Drop.INTEREST_GONE: 1}


async def test_a_record_that_the_journal_lost_is_counted_and_holds_up_nothing() -> None:
    store, engine = MemoryStore(), MemoryLog()
    async with life(store, engine, log=False) as keeper:
        keep(keeper.node, "1", topic="orders/eu")
        keep(keeper.node, "2", topic="orders/eu")
    settings = NodeSettings("eu", "n1", "i8", 8, "test", alone=True)
    node = Node(settings, store=store, rules=RULES)
    first, second = node.machine.custody.log.take()
    parts, head, body = store._records[first.lsn]
    store._records[first.lsn] = (parts, head, body[:1])
    keeper = Keeper(node, RULES, lambda aside: engine)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        keeper.log.keep([first, second])
        await nursery.start(keeper.log.run)
        assert (await replayed(keeper)).numbers == [2]
        await until(lambda: not open_parts(store))
        assert node.machine.counters.drops == {Drop.JOURNAL_DAMAGED: 1}
        nursery.cancel_scope.cancel()


async def test_the_logs_interest_outlives_its_process_as_a_durable_clients_does() -> None:
    async with life(MemoryStore(), MemoryLog(), log=False) as keeper:
        told = keeper.node.machine.control.tables._writable().live
        assert {"forders/#", "Forders/#"} <= told.keys()
        assert keeper.node.clients.receivers.clients() == [], "but it is no client"
