"""Every check of what is kept can fail: custody is broken on purpose in every node, and the property it breaks is named."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mesh.core.custody.arrival import Arrival
from mesh.core.custody.consumers import Consumers
from mesh.core.custody.departure import Departure
from mesh.core.custody.dispatch import Dispatch
from mesh.core.custody.keeping import Keeping
from mesh.core.custody.lane import Lane
from mesh.core.custody.order import Gate
from mesh.model.ids import NodeKey
from mesh.testing.crash_points import PLAYS, Death, Play, Stage, live
from mesh.testing.sim_store import SimStore

Patch = pytest.MonkeyPatch
A, B, C = NodeKey("a", "a-1"), NodeKey("b", "b-1"), NodeKey("c", "c-1")


def found(name: str, *deaths: Death) -> set[str]:
    return {violation.prop for violation in live(PLAYS[name], deaths).violations}


def test_p4_acknowledged_before_it_is_on_disk(monkeypatch: Patch) -> None:
    """Whoever says "taken" too early loses it in some crash."""

    def acknowledge(self: Arrival) -> None:
        for link, unsaid in self._unsaid.items():
            self._sessions[link].custody_taken(unsaid[-1][0], ())
        self._unsaid.clear()

    monkeypatch.setattr(Arrival, "acknowledge", acknowledge)
    away = Death(C, 1, down_s=5.0)
    moments = live(PLAYS["chain"], [away]).moments[B]
    deaths = [at for at, what in enumerate(moments, 1) if what == "before commit ends"]
    assert any("P4" in found("chain", away, Death(B, at, torn=0.0)) for at in deaths)


def test_p4_a_restart_that_takes_up_nothing(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Departure, "recover", lambda self, held: None)
    moments = live(PLAYS["chain"]).moments[A]
    deaths = [at for at, what in enumerate(moments, 1) if what in ("after commit", "after accepted")]
    assert any("P4" in found("chain", Death(A, at, told=False)) for at in deaths)


def test_p5_a_restart_that_does_not_say_that_it_repeats(monkeypatch: Patch) -> None:
    def recover(self: Consumers, lsn: int, header: Any, events: Any, parts: Any, now: float) -> None:
        recovered(self, lsn, header, events, parts, now)
        for backlog in self._dispatch.backlogs.values():
            for share in backlog._shares:
                share.repeats = False

    recovered = Consumers.recover
    monkeypatch.setattr(Consumers, "recover", recover)
    moments = live(PLAYS["two-regions"]).moments[B]
    deaths = [at for at, what in enumerate(moments, 1) if what == "after delivery"]
    assert any("P5" in found("two-regions", Death(B, at)) for at in deaths)


def test_p5_without_dedupe_between_two_next_hops(monkeypatch: Patch) -> None:
    def sent_again(self: Departure, share: Any, now: float, why: str, parts: Any) -> None:
        came_back(self, share, now, why, parts)
        held = self.held.get(share.lsn)
        if held is not None:
            held.sent = ()

    came_back = Departure._came_back
    monkeypatch.setattr(Departure, "_came_back", sent_again)
    monkeypatch.setattr(Keeping, "_fresh", lambda self, window, events: events)
    moments = live(PLAYS["chain"]).moments[B]
    deaths = [at for at, what in enumerate(moments, 1) if what == "before custody ack"]
    assert any("P5" in found("chain", Death(B, at, torn=1.0)) for at in deaths)


def test_p6_every_member_of_a_group_gets_it(monkeypatch: Patch) -> None:
    def send(self: Dispatch, window: Any, sids: Any, found: Any) -> None:
        sent(self, window, sids, found)
        if found.handed.backlog.group[0]:
            sent(self, window, sids, found)

    sent = Dispatch._send
    monkeypatch.setattr(Dispatch, "_send", send)
    monkeypatch.setattr(Dispatch, "done", lambda self, share, part, events: None)
    assert "P6" in found("groups")


def test_p8_a_lane_that_does_not_forget_what_ended(monkeypatch: Patch) -> None:
    def ended(self: Lane, size_bytes: int, events: int) -> None:
        self.under_way -= 1

    monkeypatch.setattr(Lane, "ended", ended)
    assert found("chain") == {"P8"}


def test_p8_parts_that_are_settled_twice(monkeypatch: Patch) -> None:
    def settle(self: SimStore, lsn: int, part: str) -> bool:
        settled(self, lsn, part)
        return settled(self, lsn, part)

    settled = SimStore.settle
    monkeypatch.setattr(SimStore, "settle", settle)
    assert found("chain") == {"P8"}


def test_p8_a_record_that_nobody_frees(monkeypatch: Patch) -> None:
    monkeypatch.setattr(SimStore, "settle", lambda self, lsn, part: False)
    assert "P8" in found("chain")


def test_p11_each_batch_sent_twice(monkeypatch: Patch) -> None:
    def entrust(
        self: Departure, held: Any, link: int, header: Any, body: bytes, parts: Any, now: float
    ) -> None:
        entrusted(self, held, link, header, body, parts, now)
        entrusted(self, held, link, header, body, parts, now)

    entrusted = Departure.entrust
    monkeypatch.setattr(Departure, "entrust", entrust)
    assert "P11" in found("chain")


def test_order_a_region_that_turns_a_batch_round(monkeypatch: Patch) -> None:
    def pair(on: Stage) -> None:
        on.nodes["b-1"].join("ledger", ("orders/#", ""))
        on.publish(0.0, "a-1", "orders/x", "orders/x")

    def shares(self: Arrival, header: Any, events: Any, now: float) -> Any:
        return shared(self, header, [*reversed(events)], now)

    shared = Arrival._shares
    monkeypatch.setattr(Arrival, "_shares", shares)
    life = live(Play("pair", (("a", "b"),), 1, pair))
    assert {violation.prop for violation in life.violations} == {"order"}


def test_ordered_without_the_gate(monkeypatch: Patch) -> None:
    """What a transit node holds for a node that died is overtaken by what goes the other way once it has died itself."""
    monkeypatch.setattr(Gate, "lacks", lambda self, id, said, window: False)
    dice = random.Random(5)
    deaths = [
        (
            Death(NodeKey("c", dice.choice(("c-1", "c-2"))), dice.randint(50, 250), torn=0.0, down_s=5.0),
            Death(B, dice.randint(80, 380), torn=1.0),
        )
        for _ in range(40)
    ]
    assert any("ordered" in found("ordered", *some) for some in deaths)
