from __future__ import annotations

import contextlib
import random
from math import inf

import pytest

from mesh.core.custody.order import HELD, Before, Chains, Gate, Waiting, before
from mesh.core.custody.records import EventId
from mesh.core.custody.store import StoreRefusedError
from mesh.core.dedupe import Window
from mesh.model.event import Event
from mesh.model.topic_rules import Level, TopicRule, TopicRules
from mesh.testing.world import SimNode, World


def event(seq: int, said: str | None = None, key: str = "k") -> Event:
    return Event(seq, "t", key, 0, None if said is None else ("", "", said), (), b"")


def test_an_event_says_for_each_region_which_one_went_there_before_and_how_long_ago() -> None:
    chains = Chains()
    assert chains.before("t", "k", ["b"], 1, 10.0) == ""
    assert chains.before("t", "k", ["b", "c"], 4, 10.5) == "b=1@500"
    assert chains.before("t", "other", ["b"], 5, 10.5) == ""
    assert chains.before("t", "k", ["b", "c"], 9, 12.0) == "b=4@1500 c=4@1500"
    assert before(event(9, "b=4@1500 c=4@1500"), "c") == Before(4, 1500)


@pytest.mark.parametrize("said", [None, "", "b", "b=", "b=x@1", "b=1", "b=1@-3", "c=1@2", f"b={10**30}@1"])
def test_what_cannot_be_read_says_nothing(said: str | None) -> None:
    assert before(event(2, said), "b") is None


OLD = -inf


def id_of(seq: int) -> EventId:
    return "a", "a-1", 7, seq


def gate(hold_s: float = 60.0) -> Gate:
    return Gate(hold_s)


def test_an_event_waits_for_the_one_before_it_and_chains_leave_in_order() -> None:
    door = gate()
    window = Window(1_024, 0.0)
    for seq, said in ((9, 7), (7, 5)):
        window.see(seq)
        assert door.lacks(id_of(seq), Before(said, 1), window)
        door.hold(Waiting(seq, id_of(seq), said, 60.0, 0.0, 1))
    assert door.next_after(id_of(4)) is None
    first = door.next_after(id_of(5))
    assert first is not None
    assert first.id == id_of(7)
    second = door.next_after(first.id)
    assert second is not None
    assert second.id == id_of(9)
    assert len(door) == 0


def test_what_was_seen_and_is_not_held_back_itself_is_not_lacking() -> None:
    door = gate()
    window = Window(1_024, 0.0)
    for seq in (5, 7):
        window.see(seq)
    assert not door.lacks(id_of(7), Before(5, 1), window)
    door.hold(Waiting(1, id_of(5), 3, 60.0, 0.0, 1))
    assert door.lacks(id_of(7), Before(5, 1), window), "it was seen, but waits itself"


def test_two_events_that_name_the_same_one_before_them_do_not_push_each_other_out() -> None:
    door = gate()
    window = Window(1_024, 0.0)
    door.hold(Waiting(1, id_of(7), 5, 60.0, 0.0, 1))
    assert not door.lacks(id_of(8), Before(5, 1), window)


@pytest.mark.parametrize(
    ("age_ms", "wanted_since", "until"),
    [
        (500, OLD, 160.0),
        (500, 100.0 - 0.4, 0.0),  # published before anybody here wanted it
        (500, 100.0 - 0.9, 102.0),  # published just after: it may not have been sent here
        (500, 100.0 - 1.6, 160.0),
        (61_000, OLD, 0.0),  # nobody can say of it any more
        (500, inf, 0.0),  # only a group wants it: it may have gone to another member
    ],
)
def test_it_waits_only_for_what_was_wanted_here(age_ms: int, wanted_since: float, until: float) -> None:
    assert gate().until(Before(5, age_ms), wanted_since, 100.0) == until


def test_a_gate_that_is_full_lets_events_pass() -> None:
    door = gate()
    for seq in range(HELD):
        door.hold(Waiting(seq, id_of(2 * seq + 1), 2 * seq, 60.0, 0.0, 1))
    assert door.until(Before(5, 1), OLD, 0.0) == 0.0


def test_what_is_overdue_leaves_but_not_before_the_one_it_waits_for() -> None:
    door = gate()
    door.hold(Waiting(1, id_of(9), 7, 13.0, 3.0, 1))
    door.hold(Waiting(2, id_of(7), 5, 14.0, 4.0, 1))
    assert door.next_deadline() == 13.0
    assert list(door.overdue(13.5)) == []
    assert [one.id for one in door.overdue(14.0)] == [id_of(7)]
    follower = door.next_after(id_of(7))
    assert follower is not None
    assert follower.id == id_of(9)


def test_what_left_in_time_is_not_overdue_later() -> None:
    door = gate()
    door.hold(Waiting(1, id_of(9), 7, 13.0, 3.0, 1))
    assert door.take(id_of(9)) is not None
    assert list(door.overdue(20.0)) == []
    assert door.next_deadline() is None


@pytest.mark.parametrize("seed", range(8))
def test_ordered_topics_keep_their_order_through_crashes_of_the_transit_region(seed: int) -> None:
    rules = TopicRules([TopicRule("orders/#", Level.AT_LEAST_ONCE, ordered=True)])
    world = World(seed, rules=rules)
    nodes: dict[str, SimNode] = {}
    for at, region in enumerate("abc"):
        for number in (1, 2):
            name = f"{region}-{number}"
            listed = ["b"] if region == "a" else ["c"] if region == "b" else []
            nodes[name] = world.node(region, name, (0.0, 3.0 * at), listed)
        world.seed_link(nodes[f"{region}-2"], nodes[f"{region}-1"])
    for one, other in (("a-1", "b-1"), ("a-2", "b-2"), ("b-1", "c-1"), ("b-2", "c-2")):
        world.seed_link(nodes[one], nodes[other])
    for node in nodes.values():
        node.start()
    world.run(4.0)
    dice = random.Random(seed)
    nodes["c-1"].subscribe(1, 1, "orders/#")
    world.run(3.0)
    for round in range(60):
        with contextlib.suppress(StoreRefusedError):
            nodes["a-1"].publish_kept("orders/x", key=f"k{round % 3}")
        world.run(dice.uniform(0.0, 0.03))
        victim = nodes[dice.choice(["b-1", "b-2"])]
        if round % 7 == 0 and victim.up:
            victim.crash(told=dice.random() < 0.5)
            world.at(world.now + dice.uniform(0.05, 2.0), victim.start)
    world.run(40.0)
    got: dict[str, list[int]] = {}
    for one in world.delivered:
        got.setdefault(one.event.key, []).append(one.event.seq)
    assert sum(map(len, got.values())) == len(nodes["a-1"].accepted)
    assert all(seqs == sorted(seqs) for seqs in got.values()), got
    assert nodes["c-1"].machine.counters.order_gaps == 0
