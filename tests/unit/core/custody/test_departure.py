"""What waits: why it does, and how a crowd of it ends."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from unit.core.custody.test_custody import LINE, build

from mesh.core.custody.dead_letters import FRESH
from mesh.core.custody.departure import EXPIRED_AT_ONCE
from mesh.model.event import NewEvent
from mesh.model.reasons import Close, Drop, Hold, Refuse
from mesh.testing.world import SimNode, World
from mesh.wire.frames import CustodyAck, Flag


@pytest.mark.parametrize("per_record", [1, 100])
def test_a_crowd_whose_time_is_over_ends_in_turns_and_each_of_it_is_told_or_counted(per_record: int) -> None:
    """Between two turns everything else of the node has its own: however many die together, it is not held up."""
    world, nodes = build(LINE[:1])
    nodes["b-1"].subscribe(1, 1, "orders/#")
    nodes["a-1"].subscribe(5, 1, "$mesh/dlq/#")
    world.run(2.0)
    nodes["b-1"].crash()
    world.run(10.0)
    machine, now = nodes["a-1"].machine, nodes["a-1"].now
    many = 3_000 if per_record == 1 else 20_000
    event = NewEvent("orders/x", "", 1_000, None, b'{"n":1}')
    for _ in range(many // per_record):
        machine.publish_kept([event] * per_record, now)
        machine.flush(now)
    now += 1.5
    told: list[bytes] = []
    turns = 0
    letters = machine.custody.letters
    while machine.custody.departure.held:
        born = letters.born
        assert machine.next_deadline() <= now, "what is left is due at once"
        machine.handle_deadline(now)
        assert 0 < letters.born - born <= EXPIRED_AT_ONCE + per_record
        turns += 1
        for deliveries in machine.take_deliveries().values():
            told += [one.data for delivery in deliveries for one in delivery.events]
    assert turns >= many // (EXPIRED_AT_ONCE + per_record)
    assert (letters.born, machine.counters.dead_letters) == (many, {Drop.EXPIRED: many})
    singles = sum(b'"mesh.deadletter"' in one for one in told)
    rest = [
        int(one.partition(b'"count":')[2].partition(b",")[0]) for one in told if b'"mesh.deadletters"' in one
    ]
    assert singles + sum(rest) == many
    assert singles <= turns * FRESH
    assert machine.counters.published == many, "news of dead letters is no client's event"


def test_a_lane_says_why_its_records_wait() -> None:
    world, nodes = build(LINE[:2])
    nodes["c-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    nodes["b-1"].store.fault = Refuse.NO_SPACE
    nodes["a-1"].publish_kept("orders/x")
    world.run(1.0)
    lane = nodes["a-1"].machine.custody.departure.lanes["r/c"]
    assert (list(lane.waiting), lane.held, lane.refusal) == ([1], Hold.RETRY, "no_space")
    nodes["b-1"].crash()
    assert world.run_until(lambda: lane.held is Hold.NO_ROUTE, 20.0) is not None
    assert list(lane.waiting) == [1]


def test_what_waits_without_a_deadline_of_its_own_dies_of_its_age() -> None:
    world, nodes = build(LINE[:1])
    nodes["b-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    nodes["b-1"].crash()
    world.run(10.0)
    nodes["a-1"].publish_kept("orders/x")
    held = nodes["a-1"].machine.custody.departure.held
    assert held[1].expires_at is not None
    machine = nodes["a-1"].machine
    machine.custody.handle_deadline(held[1].expires_at + 1.0)
    [letter] = machine.custody.letters.page(0, 10).letters
    assert letter.reason == "spool_age"
    assert letter.died_ms - letter.seen_ms == pytest.approx(
        machine.settings.limits.spool_age_s * 1e3 + 1e3, abs=2
    )


def cut_in_two() -> tuple[World, dict[str, SimNode], int, list[int]]:
    """a-1 owes two events to the regions b and c, and sent them in two batches, because b-1 takes one event at a time. Returns its link
    and the numbers of the batches."""
    world, nodes = build(LINE[:2])
    for name in ("b-1", "c-1"):
        nodes[name].subscribe(1, 1, "orders/#")
    world.run(2.0)
    machine, now = nodes["a-1"].machine, nodes["a-1"].now
    [link] = machine.links.bridges
    session = machine.sessions[link]
    assert session.peer is not None
    session.peer = replace(session.peer, credit_events=1)
    machine.publish_kept([NewEvent("orders/x", "", 0, None, b"x")] * 2, now)
    machine.flush(now)
    batches = []
    while (item := machine.pull(link, now)) is not None:
        assert (item.header.regions, item.header.count) == (("b", "c"), 1)
        batches.append(item.header.batch)
    assert len(batches) == 2
    return world, nodes, link, batches


def test_half_a_record_refused_for_one_region_settles_nothing_of_the_other_half() -> None:
    _, nodes, link, (first, second) = cut_in_two()
    machine, now = nodes["a-1"].machine, nodes["a-1"].now
    machine.receive(link, [CustodyAck(first, ((first, "starting", ("b",)),))], now)
    machine.link_lost(link, Close.LINK_LOST, "", now)
    [held] = machine.custody.departure.held.values()
    assert held.open == ("r/b", "r/c"), "nobody said that c's second event is stored"
    assert held.sent == ("r/b", "r/c"), "what is sent again may have come before"
    assert second == first + 1


def test_the_last_half_refused_for_one_region_settles_the_other_region() -> None:
    _, nodes, link, (first, second) = cut_in_two()
    machine, now = nodes["a-1"].machine, nodes["a-1"].now
    machine.receive(link, [CustodyAck(second, ((second, "starting", ("b",)),))], now)
    [held] = machine.custody.departure.held.values()
    assert (held.open, held.lsn) == (("r/b",), 1)
    assert first < second


def test_a_next_hop_that_says_nothing_is_given_up_and_what_it_had_says_that_it_may_repeat() -> None:
    world, nodes = build(LINE[:1])
    nodes["b-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    machine, now = nodes["a-1"].machine, nodes["a-1"].now
    [link] = machine.links.bridges
    machine.publish_kept([NewEvent("orders/x", "", 0, None, b"x")], now)
    machine.flush(now)
    first = machine.pull(link, now)
    assert first is not None
    assert first.header.flags == Flag.CUSTODY
    later = now + machine.settings.limits.custody_timeout_s
    machine.custody.handle_deadline(later - 0.01)
    assert machine.pull(link, later) is None
    machine.custody.handle_deadline(later)
    again = machine.pull(link, later)
    assert again is not None
    assert again.header.flags == Flag.CUSTODY | Flag.REDELIVERED
    machine.receive(link, [CustodyAck(first.header.batch, ())], later)
    assert 1 in machine.custody.departure.held, (
        "the first one was given up: what is said of it now means nothing"
    )
    machine.receive(link, [CustodyAck(again.header.batch, ())], later)
    assert machine.custody.departure.held == {}
