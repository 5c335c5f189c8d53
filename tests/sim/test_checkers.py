"""Every property's check can fail: one machine is broken on purpose in every node of a world, and that property is named.

P4, P12 and what else concerns at-least-once delivery: `test_custody_checkers`. P7 waits for rules on topics: a link has none yet.
"""

from __future__ import annotations

from typing import Any

import pytest

import federation.core.source
from federation.core.advert import EXACT, Advertiser
from federation.core.explain import Explainer
from federation.core.reach import FILTER_KEY
from federation.core.summary import Summary
from mesh.core.counters import Counters
from mesh.core.dedupe import Seen, Window
from mesh.core.delivery import Deliverer
from mesh.core.forwarding import Forwarder
from mesh.core.handover import Handover
from mesh.core.interest import InterestIndex
from mesh.core.outbox import Outbox
from mesh.core.plan import PLANS, Part, PlanMemory, Planner
from mesh.model.event import Event
from mesh.model.reasons import Drop
from mesh.node.machine import NodeMachine
from mesh.testing.faults import Fault, Trouble
from mesh.testing.topology import Size
from mesh.testing.trial import Trial
from mesh.wire.frames import Leg

Patch = pytest.MonkeyPatch
REPEATED = [Trouble(Fault.REPEAT, 0.0, 20.0, 0, 1.0)]
BROKEN_LINES = [
    Trouble(fault, at, lasts, target, 0.3)
    for at, (fault, lasts, target) in enumerate(
        [
            (Fault.RESET, 1.0, 3),
            (Fault.ISOLATE, 4.0, 2),
            (Fault.CUT, 6.0, 1),
            (Fault.CRASH, 3.0, 5),
            (Fault.ISOLATE, 5.0, 0),
            (Fault.CUT, 6.0, 4),
            (Fault.CRASH, 3.0, 2),
        ]
    )
]


def test_p1_a_withdrawal_is_forgotten(monkeypatch: Patch) -> None:
    monkeypatch.setattr(InterestIndex, "remove", lambda self, filter, bit: None)
    assert "P1" in found(3)


def test_p2_without_the_feasibility_condition(monkeypatch: Patch) -> None:
    feasible = federation.core.source.feasible
    monkeypatch.setattr(federation.core.source, "feasible", lambda advert, kept: feasible(advert, None))
    assert "P2" in found(7, BROKEN_LINES)


def test_p3_batches_that_are_sent_back_where_they_were(monkeypatch: Patch) -> None:
    def anywhere(
        self: Planner, regions: Any, origin: str, flow: int, path: Any, avoid: Any = ()
    ) -> tuple[list[Part], list[str]]:
        bridges = sorted(self.links.bridges)
        if path and bridges:
            return [Part(bridges[0], Leg.BRIDGE, tuple(regions))], []
        return partition(self, regions, origin, flow, path, avoid)

    def without_asking(self: Forwarder, session: Any, header: Any, body: bytes, now: float) -> None:
        if header.leg is Leg.BRIDGE:
            self._enter(header, body, now)
        else:
            receive(self, session, header, body, now)

    partition, receive = Planner.partition, Forwarder.receive
    monkeypatch.setattr(Planner, "partition", anywhere)
    monkeypatch.setattr(Forwarder, "receive", without_asking)
    assert "P3" in found(6)


def test_p5_without_dedupe(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Window, "see", lambda self, seq: Seen.FRESH)
    monkeypatch.setattr(Window, "see_run", lambda self, first, last: True)
    assert found(3, REPEATED) == {"P5"}


def test_p5_each_event_handed_over_twice(monkeypatch: Patch) -> None:
    def twice(self: Handover, audience: Any, way: Any, events: list[Event]) -> None:
        for event in (*events, *events):
            self.add(audience, way, event)

    monkeypatch.setattr(Handover, "add_all", twice)
    assert "P5" in found(3)


def test_p6_a_queue_groups_share_is_lost(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Deliverer, "to_group", lambda *what: True)
    assert "P6" in found(3)


def test_p8_a_table_that_grows_past_its_bound(monkeypatch: Patch) -> None:
    def of(self: PlanMemory, topic: str) -> Any:
        if len(self._plans) <= PLANS:
            self._plans.update(dict.fromkeys((f"{topic}/{n}" for n in range(PLANS)), planned(self, topic)))
        return planned(self, topic)

    planned = PlanMemory.of
    monkeypatch.setattr(PlanMemory, "of", of)
    monkeypatch.setattr(PlanMemory, "forget", lambda self: None)
    monkeypatch.setattr(Outbox, "forget", lambda self: None)
    assert "P8" in found(3)


def test_p9_an_explanation_that_leaves_deliveries_out(monkeypatch: Patch) -> None:
    delivered = Explainer.delivered
    monkeypatch.setattr(
        Explainer, "delivered", lambda self, topic, copy: delivered(self, topic, copy)._replace(sessions=())
    )
    assert found(3) == {"P9"}


def test_p10_a_summary_that_lacks_a_filter(monkeypatch: Patch) -> None:
    def add(self: Summary, filter: str) -> None:
        if "+" not in filter:
            added(self, filter)

    added = Summary.add
    monkeypatch.setattr(Summary, "add", add)
    monkeypatch.setattr(Summary, "remove", lambda self, filter: None)
    assert found(3) >= {"P1", "P10"}


def test_p10_a_summary_that_is_wider_than_it_says(monkeypatch: Patch) -> None:
    def put(self: Advertiser, key: str, value: bytes, now: float) -> None:
        written(self, f"{FILTER_KEY}#" if key[0] == FILTER_KEY else key, EXACT, now)

    written = Advertiser._put
    monkeypatch.setattr(Advertiser, "_put", put)
    assert "P10" in found(3)


def test_p11_two_copies_on_a_link(monkeypatch: Patch) -> None:
    def twice(self: Forwarder, link: int, header: Any, body: bytes, now: float) -> None:
        offer(self, link, header, body, now)
        offer(self, link, header, body, now)

    offer = Forwarder._offer
    monkeypatch.setattr(Forwarder, "_offer", twice)
    assert "P11" in found(3)


def test_a_delivery_that_nobody_asked_for(monkeypatch: Patch) -> None:
    match = InterestIndex.match
    monkeypatch.setattr(InterestIndex, "match", lambda self, topic: match(self, "x"))
    assert found(3) & {"P1", "exact"}


def test_a_request_whose_reply_is_lost(monkeypatch: Patch) -> None:
    monkeypatch.setattr(NodeMachine, "reply", lambda *what: None)
    assert found(3) == {"request"}


def test_a_drop_that_is_not_counted(monkeypatch: Patch) -> None:
    def drop(self: Counters, reason: Drop, events: int) -> None:
        if reason not in (Drop.NO_ROUTE, Drop.LINK_DOWN_UNKNOWN):
            counted(self, reason, events)

    counted = Counters.drop
    monkeypatch.setattr(Counters, "drop", drop)
    assert "loss" in found(3, BROKEN_LINES)


def found(seed: int, plan: list[Trouble] | None = None) -> set[str]:
    """Properties that a small world names as violated."""
    return {violation.prop for violation in Trial(seed, Size.SMALL, plan=plan or []).run().violations}
