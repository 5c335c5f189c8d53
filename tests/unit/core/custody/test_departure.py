"""What waits: why it does, and how a crowd of it ends."""

from __future__ import annotations

import pytest
from unit.core.custody.test_custody import LINE, build

from mesh.core.custody.dead_letters import FRESH
from mesh.core.custody.departure import EXPIRED_AT_ONCE
from mesh.model.event import NewEvent
from mesh.model.reasons import Drop, Hold, Refuse


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
