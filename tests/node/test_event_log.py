"""A node's event log: kept from every region, replayed without gap or duplicate, and what happens when its disk fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from node.memory_mesh import Box, MemoryMesh, memory_mesh, until

from mesh.core.replay import TAIL_EVENTS
from mesh.model.event import Delivery, NewEvent, Told
from mesh.model.limits import Limits
from mesh.model.reasons import Close, Drop, LogGap
from mesh.model.topic_rules import TopicRule, TopicRules
from mesh.node import event_log
from mesh.node.event_log import EventLog
from mesh.node.runner import Node
from mesh.node.service import RefusedError
from mesh.store.eventlog import EventLogEngine, LogFailed
from mesh.store.eventlog_memory import MemoryLog
from mesh.store.eventlog_sqlite import SqliteLog

RULES = TopicRules([TopicRule("orders/tmp/#"), TopicRule("orders/#", retain_s=3_600.0)])


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINGER_S", "TRIM_S", "RETRY_S"):
        monkeypatch.setattr(event_log, name, 0.005)


class Reader(Box):
    """A client's sink. `open`: whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.deliveries: list[Delivery] = []
        self.told: list[Told] = []
        self.open = trio.Event()
        self.open.set()

    def deliver(self, deliveries: list[Delivery]) -> None:
        super().deliver(deliveries)
        self.deliveries += deliveries
        self.told += [one.told for one in deliveries if one.told is not None]

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()
        await self.open.wait()

    @property
    def live(self) -> bool:
        return any(told.name == "live" for told in self.told)

    @property
    def reasons(self) -> list[str]:
        return [str(told.fields["reason"]) for told in self.told if told.name == "gap"]

    @property
    def numbers(self) -> list[int]:
        return [int(event.data) for event in self.got]

    def flags(self) -> list[bool]:
        return [one.replayed for one in self.deliveries for _ in one.events]


class Keeper:
    """A log on a node, with an engine of the test's."""

    def __init__(self, node: Node, rules: TopicRules, open_engine: Callable[[bool], EventLogEngine]) -> None:
        self.node = node
        self.log = EventLog(node, rules, open_engine, wall_s=lambda: self.wall_s)
        self.wall_s = 1_700_000_000.0
        node.clients.log = self.log

    async def replay(
        self, nursery: trio.Nursery, since: str, filter: str = "orders/#", sid: int = 1
    ) -> Reader:
        reader = Reader()
        session = self.node.clients.open_session(reader, protocol="inproc", name="test")
        await self.start(nursery, session, since, filter, sid)
        return reader

    async def start(self, nursery: trio.Nursery, session: int, since: str, filter: str, sid: int) -> None:
        run = self.node.clients.replay(session, [(sid, filter)], since)  # type: ignore[arg-type]
        await run.find()
        nursery.start_soon(run.run)


@asynccontextmanager
async def keeping(
    mesh: MemoryMesh,
    node: Node,
    open_engine: Callable[[bool], EventLogEngine],
    rules: TopicRules = RULES,
) -> AsyncIterator[Keeper]:
    keeper = Keeper(node, rules, open_engine)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.log.run)
        yield keeper
        await keeper.log.stop()
        nursery.cancel_scope.cancel()


def publish(node: Node, *numbers: int, topic: str = "orders/eu") -> list[str]:
    """Their mesh_ids."""
    events = [NewEvent(topic, "", 0, None, b"%d" % number) for number in numbers]
    first = node.clients.publish(events).first
    return [str(first._replace(seq=first.seq + at)) for at in range(len(numbers))]


async def test_what_every_region_publishes_is_kept_and_replayed_and_then_live(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        here, peer, far = mesh.node("eu", "n1"), mesh.node("eu", "n2"), mesh.node("us", "n3")
        mesh.link(here, peer)
        mesh.link(peer, far)
        async with keeping(mesh, here, lambda aside: SqliteLog(tmp_path)) as keeper:
            await until(
                lambda: bool(far.clients.publish([NewEvent("orders/x", "", 0, None, b"0")]).each[0].regions)
            )
            await until(lambda: keeper.log.tail is not None and keeper.log.tail.next > 1)
            await trio.sleep(0.05)
            keeper.wall_s += 100
            for number in range(1, 1_000, 3):
                for at, node in enumerate((here, peer, far)):
                    publish(node, number + at)
            publish(here, 5_000, topic="orders/tmp/x")
            await until(lambda: keeper.log.tail is not None and keeper.log.tail.next > 1_000)
            reader = await keeper.replay(nursery, "50s")
            await until(lambda: reader.live)
            assert sorted(reader.numbers) == list(range(1, 1_000)), "and nothing of the first rule's topics"
            publish(far, 1_000)
            publish(here, 1_001, topic="orders/tmp/x")
            await until(lambda: len(reader.got) == 1_001)
            assert reader.flags() == [True] * 999 + [False] * 2
            assert {one.origin[1] for one in reader.deliveries if one.events} == {"n1", "n2", "n3"}
            assert {one.path for one in reader.deliveries if one.origin[1] == "n3"} == {("us",)}
            assert reader.reasons == []
            nursery.cancel_scope.cancel()


async def test_replays_of_random_readers_under_a_publisher_get_each_event_once_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        node, dice = mesh.node("eu", "n1"), Random(7)
        async with keeping(mesh, node, lambda aside: SqliteLog(tmp_path)) as keeper:
            publish(node, *range(5_000))
            readers: list[tuple[int, Reader]] = []
            ids = publish(node, 5_000, 5_001)
            begun = 5_002

            async def blink(reader: Reader) -> None:
                while not reader.live:
                    reader.open = trio.Event()
                    await trio.sleep(dice.random() * 0.01)
                    reader.open.set()
                    await trio.sleep(dice.random() * 0.002)

            for round_ in range(40):
                since, first = dice.choice([("1h", 0), (ids[0], 5_001), (ids[1], 5_002)])
                if round_ % 4 == 0:
                    reader = await keeper.replay(nursery, since)
                    readers.append((first, reader))
                    nursery.start_soon(blink, reader)
                for _ in range(dice.randrange(5)):
                    count = dice.randrange(1, 200)
                    publish(node, *range(begun, begun + count))
                    begun += count
                await trio.sleep(0.002)
            await until(lambda: all(reader.live for _, reader in readers))
            publish(node, begun)
            for first, reader in readers:
                assert reader.numbers == list(range(first, begun + 1))
                assert reader.reasons == []
                assert [told.name for told in reader.told] == ["live"]
                flags = reader.flags()
                assert flags == sorted(flags, reverse=True), "replayed ones first"
            assert keeper.log.replays == set()
            nursery.cancel_scope.cancel()


async def test_a_reader_that_does_not_read_holds_nothing_and_nobody_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        node = mesh.node("eu", "n1")
        async with keeping(mesh, node, lambda aside: SqliteLog(tmp_path)) as keeper:
            publish(node, *range(3_000))
            slow = Reader()
            slow.open = trio.Event()
            session = node.clients.open_session(slow, protocol="inproc", name="slow")
            await keeper.start(nursery, session, "1h", "orders/#", 1)
            for begin in range(3_000, 20_000, 1_000):
                publish(node, *range(begin, begin + 1_000))
                await trio.sleep(0.01)
            assert slow.got == []
            fast = await keeper.replay(nursery, "1h")
            await until(lambda: fast.live)
            assert fast.numbers == list(range(20_000))
            tail = keeper.log.tail
            assert tail is not None
            await until(lambda: tail.pending == 0)
            assert tail.next - tail.first <= TAIL_EVENTS
            slow.open.set()
            await until(lambda: slow.live)
            assert slow.numbers == list(range(20_000))
            nursery.cancel_scope.cancel()


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_what_cannot_be_replayed_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1", limits=replace(Limits(), replays=1))
        session = node.clients.open_session(Reader(), protocol="inproc", name="test")

        def refused(
            code: str, filter: str = "orders/#", since: str = "1h", group: str = "", sid: int = 1
        ) -> str:
            with pytest.raises(RefusedError) as error:
                node.clients.replay(session, [(sid, filter)], since, group)
            assert error.value.code == code
            return error.value.detail

        assert "kept here: nothing" in refused("MESH-E032")
        async with keeping(mesh, node, lambda aside: MemoryLog()):
            assert "kept here: orders/#" in refused("MESH-E032", "#")
            refused("MESH-E032", "orders2/#")
            refused("MESH-E034", group="g")
            refused("MESH-E034", "$share/g/orders/#")
            refused("MESH-E002", "orders/#/x")
            for since in ("soon", "10", "2026-13-01T00:00:00Z", "a/b/c/d", "2026-01-01", "", "1e400s"):
                refused("MESH-E011", since=since)
            node.clients.subscribe(session, 7, "orders/#")
            refused("MESH-E019", sid=7)
            run = node.clients.replay(session, [(1, "orders/eu")], "eu/n1/1/99")
            refused("MESH-E019")
            with pytest.raises(RefusedError) as error:
                node.clients.subscribe(session, 1, "orders/#")
            assert error.value.code == "MESH-E019"
            refused("MESH-E036", sid=2)
            with pytest.raises(RefusedError, match="it is empty") as error:
                await run.find()
            assert (error.value.code, error.value.status) == ("MESH-E033", 410)
            (first, *_) = publish(node, 1, 2)
            await trio.sleep(0.05)
            run = node.clients.replay(session, [(1, "orders/eu")], "eu/n1/1/99")
            with pytest.raises(RefusedError, match=f"the oldest one is {first} of 2023-11-14T22:13:20"):
                await run.find()


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_subscription_can_be_given_up_while_it_is_replayed(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        node = mesh.node("eu", "n1")
        async with keeping(mesh, node, lambda aside: MemoryLog()) as keeper:
            publish(node, *range(2_000))
            reader = Reader()
            session = node.clients.open_session(reader, protocol="inproc", name="test")
            if when == "before":
                run = node.clients.replay(session, [(1, "orders/#")], "1h")
                node.clients.unsubscribe(session, 1)
                with pytest.raises(RefusedError) as error:
                    await run.find()
                assert error.value.code == "MESH-E020"
            else:
                reader.open = trio.Event()
                await keeper.start(nursery, session, "1h", "orders/#", 1)
                await trio.sleep(0.02)
                node.clients.unsubscribe(session, 1)
            assert keeper.log.replays == set()
            node.clients.subscribe(session, 1, "orders/#")
            publish(node, 7)
            assert reader.numbers == [7]
            reader.open = trio.Event()
            await keeper.start(nursery, session, "1h", "orders/#", 2)
            node.clients.close_session(session, Close.PEER_CLOSED)
            await trio.sleep(0.02)
            assert keeper.log.replays == set()
            assert reader.numbers == [7]
            nursery.cancel_scope.cancel()


# -- when the disk fails -----------------------------------------------------------------------------------------------


async def test_events_wait_while_the_disk_is_full_and_the_rest_is_a_gap_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        node = mesh.node("eu", "n1", limits=replace(Limits(), log_pending_bytes=100 * 210))
        engine = MemoryLog()
        async with keeping(mesh, node, lambda aside: engine) as keeper:
            live = Reader()
            session = node.clients.open_session(live, protocol="inproc", name="live")
            node.clients.subscribe(session, 1, "orders/#")
            publish(node, *range(50))
            await until(lambda: engine.statistics().events == 50)
            engine.failing = LogFailed(LogGap.NO_SPACE, "no space left")
            publish(node, 50)
            await until(lambda: keeper.log.failure is not None)
            for number in range(51, 200):
                publish(node, number)
            assert keeper.log.item()["state"] == "no_space"
            kept = keeper.log.tail.next - 1 if keeper.log.tail is not None else 0
            assert 120 < kept < 160
            assert node.machine.counters.drops[Drop.NOT_LOGGED] == 200 - kept
            during = await keeper.replay(nursery, "1h")
            await until(lambda: during.live)
            assert during.numbers == list(range(kept)), "what waits is replayed, too"
            assert during.reasons == ["no_space"]
            engine.failing = None
            await until(lambda: keeper.log.failure is None)
            publish(node, *range(200, 210))
            after = await keeper.replay(nursery, "1h")
            await until(lambda: after.live)
            assert after.numbers == [*range(kept), *range(200, 210)]
            (gap,) = [told for told in after.told if told.name == "gap"]
            assert gap.fields["events"] == 200 - kept
            await until(lambda: engine.statistics().events == kept + 10)
            assert [(gap.position, gap.events) for gap in engine.gaps] == [(kept + 1, 200 - kept)]
            assert live.numbers == list(range(210)), "sessions get everything"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("where", ["append", "read", "open"])
async def test_a_damaged_log_is_set_aside_and_a_new_one_begun(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        node = mesh.node("eu", "n1")
        opened: list[tuple[bool, MemoryLog]] = []

        def damaged(*_: Any, **__: Any) -> Any:
            raise LogFailed(LogGap.DAMAGED, "for a test")

        def open_engine(aside: bool) -> MemoryLog:
            if where == "open" and not opened and not aside:
                opened.append((False, MemoryLog()))
                damaged()
            opened.append((aside, MemoryLog()))
            return opened[-1][1]

        async with keeping(mesh, node, open_engine) as keeper:
            publish(node, *range(5_000))
            await until(lambda: opened[-1][1].statistics().events == 5_000)
            if where == "open":
                assert [aside for aside, _ in opened] == [False, True]
                assert keeper.log.gaps[0].reason is LogGap.DAMAGED
                nursery.cancel_scope.cancel()
                return
            monkeypatch.setattr(opened[0][1], where, damaged)
            reader = await keeper.replay(nursery, "1h")
            if where == "append":
                await until(lambda: reader.live)
                publish(node, 5_000)
            await until(lambda: len(opened) == 2)
            assert opened[1][0], "set aside"
            await until(lambda: reader.live)
            publish(node, 5_001)
            await until(lambda: keeper.log.tail is not None and keeper.log.tail.pending == 0)
            assert "damaged" in [gap.reason.value for gap in keeper.log.gaps]
            assert keeper.log.failure is None
            assert opened[1][1].statistics().events > 0
            if where == "read":
                assert reader.reasons == ["damaged"]
            again = await keeper.replay(nursery, "1h")
            await until(lambda: again.live)
            assert "damaged" in again.reasons
            assert again.numbers[-1] == 5_001
            nursery.cancel_scope.cancel()


async def test_a_log_that_cannot_be_opened_is_tried_again_and_the_node_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        node = mesh.node("eu", "n1")
        fails = [True]

        def open_engine(aside: bool) -> MemoryLog:
            if fails[0]:
                raise LogFailed(LogGap.READ_ONLY, "read-only file system")
            return MemoryLog()

        async with keeping(mesh, node, open_engine) as keeper:
            assert keeper.log.item()["state"] == "read_only"
            session = node.clients.open_session(Reader(), protocol="inproc", name="test")
            run = node.clients.replay(session, [(1, "orders/#")], "1h")  # type: ignore[arg-type]
            with pytest.raises(RefusedError, match="read_only") as error:
                await run.find()
            assert (error.value.code, error.value.status) == ("MESH-E035", 503)
            assert publish(node, 1)
            fails[0] = False
            await until(lambda: keeper.log.tail is not None)
            publish(node, 2)
            reader = await keeper.replay(nursery, "1h")
            await until(lambda: reader.live)
            assert reader.numbers == [2]
            nursery.cancel_scope.cancel()


async def test_stopping_writes_what_waits_and_the_next_start_tells_the_gap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        node, again = mesh.node("eu", "n1"), mesh.node("eu", "n2")
        async with keeping(mesh, node, lambda aside: SqliteLog(tmp_path)):
            publish(node, *range(3_000))
        async with keeping(mesh, again, lambda aside: SqliteLog(tmp_path)) as keeper:
            keeper.wall_s += 60
            reader = await keeper.replay(nursery, "1h")
            await until(lambda: reader.live)
            assert reader.numbers == list(range(3_000))
            assert reader.reasons == ["stopped"]
            from_now = await keeper.replay(nursery, "10s")
            await until(lambda: from_now.live)
            assert (from_now.numbers, from_now.reasons) == ([], [])
            nursery.cancel_scope.cancel()


async def test_what_is_too_old_or_too_much_is_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_mesh(monkeypatch) as mesh, trio.open_nursery() as nursery:
        node = mesh.node("eu", "n1", limits=replace(Limits(), log_bytes=100_000))
        engine = MemoryLog()
        async with keeping(mesh, node, lambda aside: engine) as keeper:
            publish(node, *range(10_000))
            await until(lambda: 0 < engine.statistics().bytes <= 100_000)
            keeper.wall_s += 3_601
            await until(lambda: engine.statistics().events == 0)
            publish(node, 1)
            reader = await keeper.replay(nursery, "2h")
            await until(lambda: reader.live)
            assert reader.numbers[-1] == 1
            nursery.cancel_scope.cancel()
