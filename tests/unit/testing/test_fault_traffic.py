"""Publishers ask until they are answered and say what they do not know; readers come back and acknowledge what they wrote down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec
import pytest
import trio
from unit.testing.stub_node import StubNode, stub_nodes

from mesh.net.supervise import unwrapped
from mesh.testing.fault_draw import Wish, draw
from mesh.testing.fault_history import History
from mesh.testing.fault_mesh import FaultMesh
from mesh.testing.fault_plan import FaultPlan, Level, Reader, Stream, TimedFault
from mesh.testing.fault_traffic import NotOffered, Traffic, promises


class StubMesh:
    def __init__(self, nodes: Sequence[StubNode]) -> None:
        self.nodes = nodes

    def of(self, region: str) -> list[StubNode]:
        return [node for node in self.nodes if node.region == region]


def plan_of(level: Level = "at-least-once", *readers: Reader, batches: int = 3) -> FaultPlan:
    stream = Stream(
        name="plain", level=level, regions=("a",), rate=1000.0, publishers=1, batch=2, keys=2, topics=2
    )
    calm = draw(1, Wish(scenario="calm", topology="three"))
    return msgspec.structs.replace(calm, streams=(stream,), readers=readers, seconds=batches * 0.002 - 0.001)


def traffic_of(plan: FaultPlan, *nodes: StubNode) -> Traffic:
    return Traffic(plan, cast(FaultMesh, StubMesh(nodes)), History(plan))


async def publish(traffic: Traffic, *, gives_up: bool = False) -> None:
    traffic.clock.began_s = trio.current_time()
    give_up = trio.Event()
    if gives_up:
        give_up.set()
    with trio.fail_after(5):
        await traffic.publish(give_up)


async def test_every_event_is_written_down_with_what_it_was_told() -> None:
    node = StubNode()
    async with stub_nodes(node):
        traffic = traffic_of(plan_of(), node)
        await publish(traffic)
    published = traffic.history.published
    assert [(event.key, event.n, event.outcome, event.mesh_id) for event in published] == [
        (f"plain-{number % 2}", number // 2 + 1, "accepted", f"a/a-1/1/{number + 1}") for number in range(6)
    ]
    sent = [event for batch in node.batches for event in batch]
    assert [event["id"] for event in sent] == [str(number) for number in range(6)]
    assert [event["topic"] for event in sent] == ["faults/plain/0", "faults/plain/1"] * 3
    assert [event["partitionkey"] for event in sent] == ["plain-0", "plain-1"] * 3
    assert set(node.targets) == {"/v1/events?level=at-least-once"}


async def test_later_is_no_answer_and_no_doubt() -> None:
    first, second = StubNode("a-1", answers=[503]), StubNode("a-2")
    async with stub_nodes(first, second):
        traffic = traffic_of(plan_of(batches=1), first, second)
        await publish(traffic)
    assert first.batches == second.batches, "the same ids to the other node"
    assert [event.mesh_id for event in traffic.history.published] == ["a/a-2/1/1", "a/a-2/1/2"]
    assert not any(event.doubtful for event in traffic.history.published)
    assert traffic.later == 1


async def test_a_lost_answer_is_a_doubt_and_is_asked_again_elsewhere() -> None:
    first, second = StubNode("a-1", answers=[0]), StubNode("a-2")
    async with stub_nodes(first, second):
        traffic = traffic_of(plan_of(batches=1), first, second)
        await publish(traffic)
    assert len(first.batches) == len(second.batches) == 1
    assert all(event.doubtful and event.outcome == "accepted" for event in traffic.history.published)


@pytest.mark.parametrize(("answer", "outcome"), [(0, "unknown"), (503, "refused")])
async def test_publishers_give_up_when_they_are_told_to(answer: int, outcome: str) -> None:
    node = StubNode(answers=[answer] * 20)
    async with stub_nodes(node):
        traffic = traffic_of(plan_of(batches=1), node)
        await publish(traffic, gives_up=True)
    assert {event.outcome for event in traffic.history.published} == {outcome}


async def test_a_refusal_for_good_is_not_asked_again() -> None:
    node = StubNode(answers=[400])
    async with stub_nodes(node):
        traffic = traffic_of(plan_of(batches=1), node)
        await publish(traffic)
    assert len(node.batches) == 1
    assert {event.outcome for event in traffic.history.published} == {"refused"}


async def test_what_the_nodes_do_not_have_ends_the_run() -> None:
    node = StubNode(answers=[501])
    async with stub_nodes(node):
        with pytest.raises(NotOffered), unwrapped():
            await publish(traffic_of(plan_of(batches=1), node))


FAR = Reader(name="far", region="a", streams=("plain",), promised=True, durable=True)


async def test_a_durable_reader_says_who_it_is_and_acknowledges_all_it_got_at_once() -> None:
    node = StubNode(waiting=[(number, f"a/a-1/1/{number}") for number in range(1, 4)])
    async with stub_nodes(node) as nursery:
        traffic = traffic_of(plan_of("at-least-once", FAR), node)
        await nursery.start(traffic.subscribers["far"].run)
        await node.until(lambda: node.acks and node.acks[-1]["mesh_id"] == "a/a-1/1/3")
    assert node.targets == ["/v1/ws?acks=explicit&client=far&durable=true"]
    assert all(ack == {"op": "ack", "mesh_id": ack["mesh_id"], "upto": True} for ack in node.acks)
    got = traffic.history.delivered["far"]
    assert [(one.number, one.mesh_id, one.connection) for one in got] == [
        (number, f"a/a-1/1/{number}", 1) for number in range(1, 4)
    ]


async def test_one_acknowledgement_each_where_the_plan_says_so() -> None:
    node = StubNode(waiting=[(1, "a/a-1/1/1"), (2, "a/a-1/1/2")])
    reader = msgspec.structs.replace(FAR, acks="each")
    async with stub_nodes(node) as nursery:
        await nursery.start(traffic_of(plan_of("at-least-once", reader), node).subscribers["far"].run)
        await node.until(lambda: len(node.acks) == 2)
    assert node.acks == [{"op": "ack", "mesh_id": f"a/a-1/1/{n}"} for n in (1, 2)]


async def test_a_crash_comes_after_reading_and_before_the_acknowledgement() -> None:
    node = StubNode(waiting=[(1, "a/a-1/1/1")])
    async with stub_nodes(node) as nursery:
        traffic = traffic_of(plan_of("at-least-once", FAR), node)
        traffic.subscribers["far"].crash(0.01)
        await nursery.start(traffic.subscribers["far"].run)
        await node.until(lambda: node.acks)
    got = traffic.history.delivered["far"]
    assert [(one.connection, one.redelivered) for one in got] == [(1, False), (2, True)]
    assert len(node.acks) == 1


async def test_at_most_once_nobody_is_durable() -> None:
    node = StubNode()
    async with stub_nodes(node) as nursery:
        await nursery.start(traffic_of(plan_of("at-most-once", FAR), node).subscribers["far"].run)
    assert node.targets == ["/v1/ws"]


async def test_a_reader_the_nodes_cannot_serve_ends_the_run_one_they_cannot_serve_now_does_not() -> None:
    node = StubNode(refusal=b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(NotOffered), unwrapped():
        async with stub_nodes(node) as nursery:
            await nursery.start(traffic_of(plan_of("at-least-once", FAR), node).subscribers["far"].run)
    away = StubNode("a-1", refusal=b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    home = StubNode("a-2")
    async with stub_nodes(away, home) as nursery:
        with trio.fail_after(5):
            await nursery.start(traffic_of(plan_of("at-least-once", FAR), away, home).subscribers["far"].run)


async def test_a_word_that_the_nodes_do_not_know_ends_the_run_too() -> None:
    node = StubNode(refusal=b'HTTP/1.1 400 Bad Request\r\nContent-Length: 20\r\n\r\n{"code":"MESH-E010"}')
    with pytest.raises(NotOffered, match="MESH-E010"), unwrapped():
        async with stub_nodes(node) as nursery:
            await nursery.start(traffic_of(plan_of("at-least-once", FAR), node).subscribers["far"].run)


async def test_what_is_missing_is_what_was_promised_and_not_read() -> None:
    node = StubNode()
    async with stub_nodes(node):
        traffic = traffic_of(plan_of("at-least-once", FAR), node)
        await publish(traffic)
        assert traffic.missing() == 6
        traffic.subscribers["far"].seen |= {f"a/a-1/1/{seq}" for seq in range(1, 6)}
        assert traffic.missing() == 1


def test_who_is_promised_what() -> None:
    passer_by = Reader(name="passer-by", region="a", streams=("plain",))
    workers = [Reader(name=f"w{n}", region="a", streams=("plain",), promised=True, group="g") for n in (1, 2)]
    plan = plan_of("at-least-once", FAR, passer_by, *workers)
    plain = frozenset({"plain"})
    assert promises(plan) == {("far",): plain, ("passer-by",): plain, ("w1", "w2"): plain}
    fault = TimedFault(kind="reset", at_s=1.0, lasts_s=1.0, target="a-1>a-2")  # type: ignore[arg-type]
    spoiled = msgspec.structs.replace(plan, faults=(fault,))
    assert promises(spoiled) == {("far",): plain, ("w1", "w2"): plain}
    fleeting = msgspec.structs.replace(plan_of("at-most-once", FAR, passer_by), faults=(fault,))
    assert promises(fleeting) == {}
