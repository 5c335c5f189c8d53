from __future__ import annotations

from collections.abc import Sequence

from mesh.access.principal import Kind, Principal
from mesh.access.rights import Rights
from mesh.access.rule_file import Right, read_rules
from mesh.access.screen import PIECE, Screen
from mesh.core.handover import delivery
from mesh.model.event import Delivery, Event
from mesh.model.reasons import Close

ORIGIN = ("a", "a-1", 1)


def event(topic: str, seq: int = 1) -> Event:
    return Event(seq, topic, "", 0, None, None, b"{}")


class Taken:
    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.hidden: list[tuple[Right, tuple[str, ...]]] = []

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.deliveries += deliveries

    def close(self, reason: Close, detail: str) -> None: ...

    async def room(self) -> None: ...

    def withheld(self, right: Right, delivery: Delivery, events: Sequence[Event]) -> None:
        self.hidden.append((right, tuple(one.topic for one in events)))


def screen(text: str, groups: set[int] | None = None) -> tuple[Screen, Taken]:
    taken = Taken()
    rights = Rights(read_rules(text, "x"), Principal("ann", Kind.TOKEN))
    return Screen(taken, rights, groups or set(), taken), taken


def test_what_may_be_seen_is_passed_on_as_it_is() -> None:
    gate, taken = screen("allow * subscribe a/#\n")
    whole = delivery([event("a/1", 1), event("a/2", 2)], (1,), ORIGIN, ())
    gate.deliver([whole])
    gate.deliver([whole])
    assert all(one is whole for one in taken.deliveries)  # the same object: its rendering is shared
    assert not taken.hidden


def test_what_may_not_be_seen_is_taken_out_in_order() -> None:
    gate, taken = screen("deny * * a/secret\nallow * subscribe a/#\n")
    events = [event("a/1", 1), event("a/secret", 2), event("a/2", 3), event("b", 4)]
    gate.deliver([delivery(events, (1,), ORIGIN, ()), delivery([event("b")], (1,), ORIGIN, ())])
    (kept,) = taken.deliveries
    assert [one.topic for one in kept.events] == ["a/1", "a/2"]
    assert kept.size_bytes == delivery([event("a/1", 1), event("a/2", 3)], (1,), ORIGIN, ()).size_bytes
    assert taken.hidden == [(Right.SUBSCRIBE, ("a/secret", "b")), (Right.SUBSCRIBE, ("b",))]


def test_groups_are_judged_by_their_own_right() -> None:
    gate, taken = screen("allow * group a\n", {7})
    gate.deliver([delivery([event("a")], (7,), ORIGIN, ()), delivery([event("a")], (8,), ORIGIN, ())])
    assert [one.sids for one in taken.deliveries] == [(7,)]


def test_the_pieces_of_a_subscription_are_one_to_its_client() -> None:
    gate, taken = screen("allow * * #\n")
    gate.cut = True
    gate.deliver([delivery([event("a")], (1, 3 + PIECE, 3 + 2 * PIECE), ORIGIN, ())])
    assert taken.deliveries[0].sids == (1, 3)


def test_what_a_replay_says_passes() -> None:
    gate, taken = screen("")
    gate.deliver([Delivery((), (1,), ("", "", 0), (), False, 0)])
    assert len(taken.deliveries) == 1
