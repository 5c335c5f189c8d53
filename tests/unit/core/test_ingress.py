"""Events as they enter: numbered, matched once, put into the batches of their next hops; the same one by one or together."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.core.bridged_worlds import build, members
from unit.core.planner_bench import Bench, Line, Way

from mesh.core.counters import Counters
from mesh.core.delivery import Deliverer
from mesh.core.ingress import MANY, Ingress
from mesh.core.outbox import Outbox
from mesh.core.plan import PlanMemory
from mesh.model.event import Event, NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.codec import decode_body, remaining_bucket
from mesh.wire.frames import BatchHeader, Leg


class Intake:
    """The ingress of node r0/me: sessions 4 and 5, the member n2, regions us and ap, and what wants nothing it can get.

    TOPICS tells what each topic leads to. Everything that leaves is in `offered`.
    """

    def __init__(self, **limits: Any) -> None:
        self.bench = bench = Bench({"us": Line((Way(link=7),)), "ap": Line((Way(link=7), Way(link=8)))})
        bench.links.peers |= {"n2": 1}
        bench.links.bridges |= {7: "us", 8: "ap"}
        for name, filter in (
            ("r/us", "us/#"),
            ("r/us", "both/+"),
            ("r/ap", "both/+"),
            ("r/ap", "ap"),
            ("n/n2", "near"),
            ("n/n2", "both/x"),
            ("n/n3", "down"),
            ("r/zz", "lost"),
        ):
            bench.want(name, filter)
        bench.subscriptions.subscribe(4, 1, "here/#", "")
        bench.subscriptions.subscribe(5, 1, "here/x", "")
        bench.subscriptions.subscribe(4, 2, "us/mine", "")
        bench.interest.set_group("g", "jobs", bench.destinations.bit("r/us"), 2)
        bench.interest.set_group("g", "jobs", bench.destinations.bit("n/n2"), 1)
        bench.interest.set_group("g", "away", bench.destinations.bit("r/ap"), 1)
        bench.interest.set_group("g", "empty", bench.destinations.bit("r/zz"), 1)
        self.offered: list[tuple[int, BatchHeader, list[Event]]] = []
        self.counters = Counters()
        self.congested: set[str] = set()
        bounds = Limits(**limits)
        self.plans = PlanMemory(bench.planner.plan)
        self.outbox = Outbox(bounds, self.offer)
        self.deliverer = Deliverer(
            "r0",
            "me",
            plans=PlanMemory(bench.planner.region_plan),
            subscriptions=bench.subscriptions,
            unserved=None,  # type: ignore[arg-type]
            limits=bounds,
            counters=self.counters,
        )
        self.ingress = Ingress(
            ("r0", "me", 3),
            planner=bench.planner,
            plans=self.plans,
            outbox=self.outbox,
            deliverer=self.deliverer,
            has_credit=lambda name: name not in self.congested,
            limits=bounds,
            counters=self.counters,
        )

    def offer(self, link: int, header: BatchHeader, body: bytes, now: float) -> None:
        self.offered.append((link, header, decode_body(body, header.count)))

    def seen(self) -> dict[str, object]:
        """Everything that may be seen of it from outside."""
        self.outbox.flush(0.0)
        return {
            "batches": self.offered,
            "counters": asdict(self.counters),
            "sessions": self.deliverer.handover.take(),
            "seq": self.ingress.seq,
        }


TOPICS = (
    *("us/1", "us/2", "us/mine", "both/1", "both/x", "ap", "near", "down", "lost"),
    *("here/1", "here/x", "jobs", "away", "empty", "none", "none/too"),
)

PLAIN = st.builds(
    NewEvent, st.sampled_from(["us/1", "us/2"]), st.just(""), st.just(0), st.none(), st.binary(max_size=90)
)
"""What is looked at all at once where many come together."""
ANY = st.builds(
    NewEvent,
    st.sampled_from(TOPICS),
    st.sampled_from(["", "", "k", "l"]),
    st.sampled_from([0, 0, 90, 5_000]),
    st.sampled_from([None, None, (), ("id", "1", "source", "/")]),
    st.binary(max_size=90),
)
ALIKE = st.sampled_from(TOPICS).flatmap(
    lambda topic: st.lists(st.binary(max_size=90), min_size=1, max_size=25).map(
        lambda datas: [NewEvent(topic, "", 0, None, data) for data in datas]
    )
)
CALL = st.one_of(
    st.lists(PLAIN, min_size=1, max_size=25),
    st.lists(ANY, min_size=1, max_size=25),
    ALIKE,
    st.tuples(st.lists(PLAIN, min_size=6, max_size=20), st.lists(ANY, min_size=1, max_size=2)).map(
        lambda both: [*both[0], *both[1]]
    ),
)


@given(
    st.lists(st.tuples(CALL, st.booleans()), min_size=1, max_size=6), st.integers(60, 900), st.integers(1, 30)
)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_many_at_once_are_batched_told_and_counted_exactly_as_one_by_one(
    calls: list[tuple[list[NewEvent], bool]], target: int, most: int
) -> None:
    found = []
    for many in (1, 1 << 30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mesh.core.ingress.MANY", many)
            intake = Intake(batch_target_bytes=target, batch_events=most)
            told = []
            for events, flush in calls:
                published = intake.ingress.publish(events, None, 0.0)
                plans = [(p.local, p.nodes, p.regions, p.groups, p.unreached) for p in published.plans]
                told.append((published.first_seq, plans, published.assigned))
                if flush:
                    intake.outbox.flush(0.0)
            found.append((told, intake.seen()))
    assert found[0] == found[1]


def test_many_plain_events_for_the_same_places_do_take_the_way_of_many() -> None:
    """Or the test above would compare one by one with one by one."""
    intake = Intake()
    events = [NewEvent(f"us/{n % 2}", "", 0, None, b"x") for n in range(MANY)]
    assert intake.ingress._publish_alike(events, 1, 0.0) is None, "no plan has its batches yet"
    intake.ingress.publish(events, None, 0.0)
    assert intake.ingress._publish_alike(events, 9, 0.0) is not None
    for odd in (
        NewEvent("us/1", "k", 0, None, b""),
        NewEvent("us/1", "", 5, None, b""),
        NewEvent("us/1", "", 0, (), b""),
        NewEvent("us/mine", "", 0, None, b""),
        NewEvent("near", "", 0, None, b""),
        NewEvent("jobs", "", 0, None, b""),
        NewEvent("lost", "", 0, None, b""),
    ):
        intake.ingress.publish([odd], None, 0.0)
        assert intake.ingress._publish_alike([*events, odd], 20, 0.0) is None, odd


@given(st.lists(st.one_of(st.integers(1, 30), st.none()), min_size=1, max_size=8))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_a_seq_is_one_more_than_the_one_before_whoever_takes_it(calls: list[int | None]) -> None:
    """None: an event for one node, outside `publish`."""
    intake, expected = Intake(), 0
    for count in calls:
        if count is None:
            assert intake.ingress.next_seq() == expected + 1
            expected += 1
        else:
            events = [NewEvent("both/x", "", 0, None, b"")] * count
            assert intake.ingress.publish(events, None, 0.0).first_seq == expected + 1
            expected += count
    intake.outbox.flush(0.0)
    for link in (1, 7, 8):
        seqs = [e.seq for at, _, events in intake.offered if at == link for e in events]
        assert seqs == sorted(set(seqs))


@given(st.lists(ANY, min_size=1, max_size=20))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_the_regions_of_an_events_batches_are_disjoint_and_none_is_left_out(events: list[NewEvent]) -> None:
    intake = Intake()
    published = intake.ingress.publish(events, None, 0.0)
    intake.outbox.flush(0.0)
    for at, plan in enumerate(published.plans):
        seq = published.first_seq + at
        sent = [header for _, header, batch in intake.offered if seq in [e.seq for e in batch]]
        far = [region for header in sent if header.leg is not Leg.LOCAL for region in header.regions]
        assigned = {a.region for a in published.assigned.get(at, ()) if a.region != "r0"}
        assert sorted(far) == sorted({*plan.regions, *assigned})
        near = [header for header in sent if header.leg is Leg.LOCAL]
        assert all(header.regions == ("r0",) for header in near)
        members = {a.node for a in published.assigned.get(at, ()) if a.region == "r0"} - {"me"}
        assert len(near) == len({*plan.nodes, *members})


def test_the_first_header_of_a_way_grants_the_whole_hop_limit_less_the_link_it_leaves_on() -> None:
    intake = Intake(hop_limit=5)
    intake.ingress.publish([NewEvent("both/x", "", 90, None, b"")], None, 0.0)
    intake.outbox.flush(0.0)
    for _, header, _ in intake.offered:
        assert (header.region, header.node, header.epoch, header.batch) == ("r0", "me", 3, 0)
        assert header.remaining_ms == remaining_bucket(90) == 128
        between = header.leg is Leg.BRIDGE
        assert (header.hops_left, header.path) == ((4, ("r0",)) if between else (5, ()))
    assert {header.leg for _, header, _ in intake.offered} == {Leg.LOCAL, Leg.BRIDGE}


def test_who_wants_an_event_and_has_no_way_to_it_is_counted_by_what_is_missing() -> None:
    intake = Intake()
    intake.ingress.publish(
        [NewEvent("down", "", 0, None, b""), NewEvent("lost", "", 0, None, b"")], None, 0.0
    )
    assert intake.counters.drops == {Drop.LINK_DOWN: 1, Drop.NO_ROUTE: 1}
    assert intake.counters.published == 2


def test_a_member_without_credit_is_passed_over_for_another_region_and_taken_when_there_is_none() -> None:
    intake = Intake()

    def served() -> list[tuple[str, str]]:
        assigned = intake.ingress.publish([NewEvent("jobs", "", 0, None, b"")], None, 0.0).assigned
        return [(one.region, one.node) for one in assigned[0]]

    assert served() == [("r0", "n2")]
    intake.congested.add("n2")
    assert served() == [("us", "")]
    del intake.bench.fib["us"]
    assert served() == [("r0", "n2")]


def test_a_group_whose_members_nobody_reaches_is_counted_once_and_nothing_is_sent() -> None:
    intake = Intake()
    published = intake.ingress.publish([NewEvent("empty", "", 0, None, b"")], None, 0.0)
    assert published.assigned == {0: ()}
    assert intake.seen()["batches"] == []
    assert intake.counters.drops == {Drop.NO_MEMBERS: 1}


def test_a_member_of_a_group_on_this_very_node_gets_its_event_here() -> None:
    intake = Intake()
    bench = intake.bench
    bench.subscriptions.subscribe(5, 9, "jobs", "g")
    bench.interest.set_group("g", "jobs", bench.destinations.bit("n/me"), 1)
    intake.congested.add("n2")
    published = intake.ingress.publish([NewEvent("jobs", "", 0, None, b"")], None, 0.0)
    assert [(one.region, one.node) for one in published.assigned[0]] == [("r0", "me")]
    seen = intake.seen()
    assert seen["batches"] == []
    assert {session: [d.sids for d in got] for session, got in seen["sessions"].items()} == {5: [(9,)]}  # type: ignore[attr-defined]


# -- in a world ------------------------------------------------------------------------------------------------------


def test_events_of_one_key_stay_in_order_although_their_topics_go_to_different_regions() -> None:
    world, nodes = build([("a", "b"), ("b", "c")])
    nodes["b-1"].subscribe(1, 1, "#")
    nodes["c-1"].subscribe(1, 1, "wide/#")
    world.run(1.0)
    events = [NewEvent(("wide/x", "narrow/x")[n % 2], "k", 0, (), b"%d" % n) for n in range(20)]
    nodes["a-1"].machine.publish(events, world.now)
    nodes["a-1"].machine.flush(world.now)
    nodes["a-1"].after()
    world.run(1.0)
    at_b = [int(one.event.data) for one in world.delivered if one.node.node == "b-1"]
    assert at_b == list(range(20))


def test_without_a_way_publishing_reports_the_region_as_unreached_and_keeps_its_interest() -> None:
    world, nodes = build([("a", "b")])
    nodes["b-1"].subscribe(1, 1, "t")
    world.run(1.0)
    nodes["b-1"].crash()
    world.run(6.0)
    [plan] = nodes["a-1"].machine.publish([NewEvent("t", "", 0, (), b"")], world.now).plans
    assert [(u.region, u.reason.value) for u in plan.unreached] == [("b", "no_route")]
    assert "b" in nodes["a-1"].machine.control.reach.kept
    assert nodes["a-1"].machine.counters.drops[Drop.NO_ROUTE] == 1


def test_each_event_of_a_group_goes_to_exactly_one_member_and_local_members_come_first() -> None:
    world, nodes = build([("a", "b"), ("b", "c")], per_region=2)
    members(world, nodes, "a-1", "a-2", "b-1", "c-2")
    ids = [nodes["a-2"].publish(f"jobs/{n}")[0] for n in range(40)]
    world.run(1.0)
    assert Counter(one.mesh_id for one in world.delivered) == Counter(ids)
    assert {one.node.node for one in world.delivered} == {"a-1", "a-2"}


def test_the_nearest_region_takes_over_when_the_local_members_stop() -> None:
    world, nodes = build([("a", "b"), ("b", "c")])
    members(world, nodes, "a-1", "b-1", "c-1")
    nodes["a-1"].unsubscribe(1, 1)
    ids = [nodes["a-1"].publish(f"jobs/{n}")[0] for n in range(10)]
    world.run(1.0)
    assert Counter(one.mesh_id for one in world.delivered) == Counter(ids)
    assert {one.node.node for one in world.delivered} == {"b-1"}
