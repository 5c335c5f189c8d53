"""Delivering at the node whose sessions want it: each event once, in time, in order, one member of each group."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from unit.core.bridged_worlds import build
from unit.core.planner_bench import Bench

from mesh.core.counters import Counters
from mesh.core.delivery import Deliverer
from mesh.core.plan import PlanMemory
from mesh.model.event import Delivery, Event
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic import matches
from mesh.wire.codec import remaining_bucket
from mesh.wire.frames import BatchHeader, Flag, Leg

HEADER = BatchHeader(Leg.LOCAL, 0, "us", "u1", 7, ("r0",), 0, 9, 0, ("us",), 1, 1)


def event(seq: int, topic: str = "a/b", deadline_ms: int = 0) -> Event:
    return Event(seq, topic, "", deadline_ms, None, (), b"%d" % seq)


class Desk:
    """A deliverer of node r0/me and what it told its forwarder: who was not there. `took` empties it."""

    def __init__(self, **limits: Any) -> None:
        self.bench = Bench()
        self.counters = Counters()
        self.nobody: list[int] = []
        self.reassigned: list[tuple[int, str, str, str]] = []
        self.plans = PlanMemory(self.bench.planner.region_plan)
        self.deliverer = Deliverer(
            "r0",
            "me",
            plans=self.plans,
            subscriptions=self.bench.subscriptions,
            unserved=self,
            limits=Limits(**limits),
            counters=self.counters,
        )

    def nobody_at_node(self, header: BatchHeader, event: Event) -> None:
        self.nobody.append(event.seq)

    def reassign(
        self, header: BatchHeader, event: Event, group: str, filter: str, tried: str, now: float
    ) -> None:
        self.reassigned.append((event.seq, group, filter, tried))

    def deliver(self, events: list[Event], **changes: Any) -> None:
        plans = [self.plans.of(topic) for topic in dict.fromkeys(e.topic for e in events)]
        header = replace(HEADER, count=len(events), **changes)
        self.deliverer.deliver(header, events, plans, 0.0)

    def took(self) -> dict[int, list[Delivery]]:
        return self.deliverer.handover.take()

    def seqs(self) -> dict[int, list[int]]:
        """What each session got, in order."""
        return {s: [e.seq for d in got for e in d.events] for s, got in self.took().items()}


FILTERS = {(1, 1): "a/#", (2, 1): "a/b", (2, 2): "+/b", (3, 1): "#"}
BATCH = st.dictionaries(
    st.integers(0, 40), st.sampled_from(["a/b", "a/c", "x/b", "y"]), min_size=1, max_size=12
).map(lambda batch: sorted(batch.items()))
"""(seq, topic) of the events of a batch: an ingress numbers them in order."""


@given(st.lists(st.tuples(BATCH, st.booleans()), min_size=1, max_size=8), st.booleans())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_every_session_gets_each_event_once_in_the_order_it_came_and_the_rest_is_counted(
    batches: list[tuple[list[tuple[int, str]], bool]], everything: bool
) -> None:
    """Held against a set of seqs and a linear scan of filters. Batches overlap, repeat and come in any order; some are runs."""
    desk = Desk()
    wanted = {key: filter for key, filter in FILTERS.items() if everything or key != (3, 1)}
    for (session, sid), filter in wanted.items():
        desk.bench.subscriptions.subscribe(session, sid, filter, "")
    seen: set[int] = set()
    expected: dict[int, list[int]] = defaultdict(list)
    duplicates, nobody = 0, []
    for batch, run in batches:
        first = batch[0][0]
        events = [event(first + n if run else seq, topic) for n, (seq, topic) in enumerate(batch)]
        for one in events:
            if one.seq in seen:
                duplicates += 1
                continue
            seen.add(one.seq)
            sessions = {session for (session, _), filter in wanted.items() if matches(filter, one.topic)}
            for session in sessions:
                expected[session].append(one.seq)
            if not sessions:
                nobody.append(one.seq)
        desk.deliver(events)
    assert desk.seqs() == expected
    assert desk.nobody == nobody
    assert desk.counters.drops.get(Drop.DUPLICATE, 0) == duplicates
    assert desk.counters.delivered == sum(map(len, expected.values()))


def test_a_delivery_says_where_its_events_come_from_and_whether_they_may_repeat() -> None:
    desk = Desk()
    desk.bench.subscriptions.subscribe(4, 2, "a/#", "")
    desk.bench.subscriptions.subscribe(4, 7, "+/b", "")
    desk.deliver([event(1)])
    desk.deliver([event(2)], flags=int(Flag.REDELIVERED))
    first, second = desk.took()[4]
    assert (first.sids, first.origin, first.path) == ((2, 7), ("us", "u1", 7), ("us",))
    assert (first.redelivered, second.redelivered) == (False, True)


def test_another_process_and_another_node_of_the_same_name_have_seqs_of_their_own() -> None:
    desk = Desk()
    desk.bench.subscriptions.subscribe(1, 1, "#", "")
    for changes in ({}, {"epoch": 8}, {"node": "u2"}, {"region": "ap"}):
        desk.deliver([event(1)], **changes)
    assert desk.seqs() == {1: [1, 1, 1, 1]}
    assert desk.counters.drops == {}


def test_what_is_older_than_the_window_is_no_delivery_and_has_a_reason_of_its_own() -> None:
    desk = Desk(dedupe_window=64)
    desk.bench.subscriptions.subscribe(1, 1, "#", "")
    desk.deliver([event(100)])
    desk.deliver([event(36)])
    desk.deliver([event(37)])
    assert desk.seqs() == {1: [100, 37]}
    assert desk.counters.drops == {Drop.DEDUPE_WINDOW_PASSED: 1}


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=10), st.integers(0, 5_000))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_an_event_is_delivered_while_its_exact_deadline_has_not_passed(
    deadlines: list[int], passed_ms: int
) -> None:
    """Events of one bucket share a batch; what its header lost on the way is the time that passed."""
    for bucket in {remaining_bucket(ms) for ms in deadlines}:
        batch = [ms for ms in deadlines if remaining_bucket(ms) == bucket]
        if bucket and bucket <= passed_ms:
            continue  # the whole batch was given up on the way
        desk = Desk()
        desk.bench.subscriptions.subscribe(1, 1, "#", "")
        events = [event(seq, deadline_ms=ms) for seq, ms in enumerate(batch)]
        desk.deliver(events, remaining_ms=bucket - passed_ms if bucket else 0)
        in_time = [seq for seq, ms in enumerate(batch) if not ms or ms > passed_ms]
        assert desk.seqs().get(1, []) == in_time
        assert desk.counters.drops.get(Drop.EXPIRED, 0) == len(batch) - len(in_time)


# -- groups ----------------------------------------------------------------------------------------------------------

JOBS = (("g", "a/#", "r0"),)


def test_members_on_this_node_take_turns_and_plain_subscribers_get_everything() -> None:
    desk = Desk()
    desk.bench.subscriptions.subscribe(1, 1, "a/#", "g")
    desk.bench.subscriptions.subscribe(2, 1, "a/#", "g")
    desk.bench.subscriptions.subscribe(3, 1, "a/b", "")
    desk.deliver([event(seq) for seq in range(6)], groups=JOBS)
    got = desk.seqs()
    assert got[3] == [*range(6)]
    assert sorted(got[1] + got[2]) == [*range(6)]
    assert len(got[1]) == len(got[2]) == 3
    assert desk.reassigned == []


def test_a_group_that_was_not_assigned_here_gets_nothing() -> None:
    desk = Desk()
    desk.bench.subscriptions.subscribe(1, 1, "a/#", "g")
    desk.deliver([event(1)])
    assert desk.seqs() == {}
    assert desk.nobody == [1]


def test_each_event_of_a_group_without_a_member_here_is_handed_back_with_where_it_was_tried() -> None:
    desk = Desk()
    desk.bench.subscriptions.subscribe(3, 1, "#", "")
    desk.deliver([event(1), event(2)], groups=JOBS)
    assert desk.seqs() == {3: [1, 2]}
    assert desk.reassigned == [(1, "g", "a/#", "r0/me"), (2, "g", "a/#", "r0/me")]
    assert desk.nobody == []


def test_a_group_that_is_assigned_again_serves_its_members_alone_and_is_no_duplicate() -> None:
    desk = Desk()
    desk.bench.subscriptions.subscribe(1, 1, "a/#", "g")
    desk.bench.subscriptions.subscribe(3, 1, "#", "")
    desk.deliver([event(1)])
    for _ in range(2):
        desk.deliver([event(1)], flags=int(Flag.GROUP_ONLY), groups=JOBS)
    assert desk.seqs() == {1: [1], 3: [1]}
    assert desk.counters.drops == {Drop.DUPLICATE: 1}, "the same assignment a second time"


def test_an_expired_event_is_nobodys_of_a_group_either() -> None:
    desk = Desk()
    desk.bench.subscriptions.subscribe(1, 1, "a/#", "g")
    desk.deliver([event(1, deadline_ms=100), event(2, deadline_ms=120)], groups=JOBS, remaining_ms=18)
    assert desk.seqs() == {1: [2]}
    assert desk.counters.drops == {Drop.EXPIRED: 1}
    assert desk.reassigned == []


# -- in a world ------------------------------------------------------------------------------------------------------


def test_a_duplicate_of_a_batch_is_not_delivered_twice() -> None:
    world, nodes = build([("a", "b")])
    nodes["b-1"].subscribe(1, 1, "t")
    world.run(1.0)
    carried: list[tuple[BatchHeader, bytes]] = []
    world.on_batch.append(lambda a, b, header, body: carried.append((header, body)))
    nodes["a-1"].publish("t", "t")
    world.run(1.0)
    [(header, body)] = carried
    machine = nodes["b-1"].machine
    [session] = machine.sessions.values()
    machine.forwarder.receive(session, header, body, world.now)
    assert machine.take_deliveries() == {}
    assert machine.counters.drops == {Drop.DUPLICATE: 2}
