from __future__ import annotations

import contextlib
import random

import pytest

from mesh.core.counters import Counters
from mesh.core.custody.order import HOLD_S, Before, Chains, Gate, before
from mesh.core.custody.store import StoreRefusedError
from mesh.core.dedupe import Window
from mesh.model.event import Event
from mesh.model.topic_rules import Level, TopicRule, TopicRules
from mesh.testing.world import SimNode, World
from mesh.wire.frames import BatchHeader, Leg

HEADER = BatchHeader(Leg.LOCAL, 0, "a", "a-1", 7, ("b",), 0, 4, 0, ("a",), 1, 1)


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


def test_an_event_waits_for_the_one_before_it_and_leaves_in_order() -> None:
    gate: Gate[int] = Gate("b", Counters())
    window = Window(1_024, 0.0)
    for seq in (9, 7):
        window.see(seq)
    assert gate.must_wait(HEADER, event(9, "b=7@1"), window) is False
    window = Window(1_024, 0.0)
    for seq, said in ((9, "b=7@1"), (7, "b=5@1")):
        window.see(seq)
        assert gate.must_wait(HEADER, event(seq, said), window)
        gate.hold(HEADER, event(seq, said), window, seq, 0.0)
    assert gate.release(1.0) == []
    window.see(5)
    assert gate.release(1.0) == [7, 9]
    assert len(gate) == 0


def test_an_event_waits_no_longer_than_that_and_is_counted() -> None:
    counters = Counters()
    gate: Gate[int] = Gate("b", counters)
    window = Window(1_024, 0.0)
    window.see(9)
    gate.hold(HEADER, event(9, "b=7@1"), window, 9, 3.0)
    assert gate.next_deadline() == 3.0 + HOLD_S
    assert gate.release(2.9 + HOLD_S) == []
    assert gate.release(3.0 + HOLD_S) == [9]
    assert counters.order_gaps == 1


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
