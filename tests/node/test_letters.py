"""Dead letters of one node as another one sees and treats them, over the mesh's own links."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from node.memory_mesh import Box, MemoryMesh, memory_mesh, until
from unit.core.custody.memory_store import MemoryStore, event, header

from mesh.model.errors import MeshError
from mesh.model.event import NewEvent
from mesh.model.reasons import Drop
from mesh.node.inspect import Item, What
from mesh.node.letters import ACTS, Act, Query
from mesh.node.runner import Node


async def pair(mesh: MemoryMesh) -> tuple[Node, Node, MemoryStore]:
    """n1 without a journal, and n2 with one."""
    store = MemoryStore()
    one, two = mesh.node("eu", "n1", alone=True), mesh.node("eu", "n2", store=store)
    mesh.link(one, two)
    await until(lambda: bool(one.machine.links.peers) and bool(two.machine.links.peers))
    two.machine.custody.intake.informed = lambda now: True
    return one, two, store


def dead(node: Node, seq: int, topic: str = "orders/x", why: Drop = Drop.EXPIRED) -> int:
    data = b'{"specversion":"1.0","id":"%d","source":"/s","type":"t"}' % seq
    return node.machine.custody.letters.put(header(), event(seq, topic, data), "r/us", why, 2, 1.5)


def listener(node: Node, filter: str) -> Box:
    box = Box()
    session = node.clients.open_session(box, protocol="ws", name="shop")
    node.clients.subscribe(session, 1, filter)
    return box


def letters_of(of: Node, **query: object) -> list[Item]:
    [page] = of.inspection.view(What.DEAD_LETTERS, json.dumps(query).encode() if query else b"")
    assert isinstance(page["letters"], list)
    return page["letters"]


async def test_an_item_has_the_fields_that_the_page_lists(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        _, two, _ = await pair(mesh)
        lsn = dead(two, 5)
        assert letters_of(two) == [
            {
                "id": f"n2/{lsn}",
                "lsn": lsn,
                "topic": "orders/x",
                "reason": "expired",
                "part": "r/us",
                "region": "us",
                "attempts": 2,
                "path": ["us"],
                "mesh_id": "us/u1/7/5",
                "first_seen": "2023-11-14T22:13:18.500Z",
                "died_at": "2023-11-14T22:13:20.000Z",
                "age_s": 0.0,
                "bytes": 55,
                "replaying": False,
                "node": "n2",
            }
        ]


async def test_a_page_is_narrowed_and_begins_where_it_is_told(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        _, two, _ = await pair(mesh)
        for seq in range(5):
            dead(two, seq, "mail" if seq % 2 else "orders/x")
        assert [item["lsn"] for item in letters_of(two, topic="orders/#", limit=2)] == [1, 3]
        assert [item["lsn"] for item in letters_of(two, node="n2", after=3)] == [4, 5]
        assert [item["lsn"] for item in letters_of(two, node="n1", after=3)] == [1, 2, 3, 4, 5]
        assert letters_of(two, node="n3") == [], "this node's turn is over"
        assert letters_of(two, reason="no_members") == []
        with pytest.raises(ValueError, match="int"):
            two.inspection.view(What.DEAD_LETTERS, b'{"after":"x"}')


async def test_another_node_shows_replays_and_drops_what_this_one_holds(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, store = await pair(mesh)
        box = listener(two, "orders/#")
        await until(lambda: bool(two.machine.forwarder.plans.of("orders/x").local))
        kept, gone, bad = dead(two, 1), dead(two, 2), dead(two, 3, "unwanted")
        store.sync()
        answer = await one.inspection.ask_region(
            What.DEAD_LETTERS, 2.0, json.dumps({"topic": "orders/#"}).encode()
        )
        [page] = answer.answered["n2"]
        assert isinstance(page["letters"], list)
        assert [item["lsn"] for item in page["letters"]] == [kept, gone]
        [shown, unknown] = await one.inspection.letters("n2", Act.SHOW, [kept, 99], 2.0)
        assert (shown["event"], unknown["why"]) == (
            {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"},
            "unknown",
        )
        [dropped] = await one.inspection.letters("n2", Act.DROP, [gone], 2.0)
        assert (dropped["why"], dropped["id"]) == ("", f"n2/{gone}")
        again, nobody = await one.inspection.letters("n2", Act.REPLAY, [kept, bad], 2.0)
        assert (again["why"], nobody["why"]) == ("", "nobody")
        assert again["mesh_id"] == f"eu/n2/{two.settings.epoch}/{box.got[0].seq}"
        assert [got.data for got in box.got] == [b'{"specversion":"1.0","id":"1","source":"/s","type":"t"}']
        assert [item["lsn"] for item in letters_of(two)] == [bad]


async def test_a_replay_is_answered_when_it_is_on_the_disk_and_not_before(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, store = await pair(mesh)
        listener(one, "orders/#")
        await until(lambda: bool(two.machine.forwarder.plans.of("orders/x").nodes))
        lsn = dead(two, 1)
        store.sync()
        for asked in (one, two):
            with pytest.raises(MeshError) as late:
                await asked.inspection.letters("n2", Act.REPLAY, [lsn], 0.5)
            assert late.value.code == "MESH-A012"
            [under_way] = await one.inspection.letters("n2", Act.DROP, [lsn], 0.5)
            assert under_way["why"] == "under_way", "it is not dropped meanwhile"
            if asked is one:
                store.sync()
                two.stored()
                assert letters_of(two) == []
                lsn = dead(two, 2)
                store.sync()
                two.stored()
        done: list[Item] = []

        async def ask(node: Node) -> None:
            done.extend(await node.inspection.letters("n2", Act.REPLAY, [dead(two, 3), dead(two, 4)], 5.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, one)
            nursery.start_soon(ask, two)
            await trio.sleep(1.0)
            assert done == []
            store.sync()
            two.stored()
        assert [item["why"] for item in done] == ["", "", "", ""]
        assert letters_of(two) == []


async def test_who_is_no_member_and_who_does_not_answer_is_told(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, _ = await pair(mesh)
        with pytest.raises(MeshError) as stranger:
            await one.inspection.letters("n9", Act.SHOW, [1], 1.0)
        assert stranger.value.code == "MESH-A005"
        monkeypatch.setattr(two.inspection, "answer", lambda questions: None)
        with pytest.raises(MeshError) as silent:
            await one.inspection.letters("n2", Act.DROP, [1], 1.0)
        assert silent.value.code == "MESH-A012"
        assert len(one.machine.inboxes) == 0


async def test_odd_acts_and_acts_of_another_region_do_nothing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, _ = await pair(mesh)
        far = mesh.node("us", "u1")
        mesh.link(two, far)
        await until(lambda: "eu" in far.machine.control.routes.fib)
        lsn = dead(two, 1)
        for node, topic, data, reply_to in (
            (far, ACTS + "drop", b"[%d]" % lsn, "us/u1/1"),
            (one, ACTS + "burn", b"[%d]" % lsn, "eu/n1/1"),
            (one, ACTS + "drop", b"all", "eu/n1/1"),
            (one, ACTS + "drop", b"[%d]" % lsn, "garbage"),
        ):
            assert node.machine.ask("eu", "n2", topic, data, (reply_to, "1"), trio.current_time()) is None
            node.after_call()
        await trio.sleep(1.0)
        assert [item["lsn"] for item in letters_of(two)] == [lsn]


async def test_news_of_a_dead_letter_is_for_the_region_and_nobody_may_publish_there(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, _ = await pair(mesh)
        far = mesh.node("us", "u1")
        mesh.link(two, far)
        await until(lambda: "eu" in far.machine.control.routes.fib)
        near, here, away = (listener(node, "$mesh/dlq/#") for node in (one, two, far))
        await until(lambda: bool(two.machine.forwarder.plans.of("$mesh/dlq/expired/x").nodes))
        dead(two, 1)
        two.machine.publish([NewEvent("orders/x", "", 0, None, b"{}")], trio.current_time())
        two.machine.start_wait(trio.current_time())
        two.after_call()
        await trio.sleep(1.0)
        assert (
            [got.topic for got in near.got]
            == ["$mesh/dlq/expired/orders/x"]
            == [got.topic for got in here.got]
        )
        assert away.got == []


def test_a_query_that_was_made_is_read() -> None:
    import msgspec

    query = Query(topic="a/#", reason="expired", part="r/us", node="n1", after=3, limit=2)
    assert msgspec.json.decode(msgspec.json.encode(query), type=Query) == query
