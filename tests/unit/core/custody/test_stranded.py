"""A group's share that waits for one place goes where a member is reached first, once."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from unit.core.custody.test_keeping import LOCAL, NOW, Desk, event

from mesh.core.custody.store import StoreRefusedError
from mesh.core.custody.stranded import Stranded
from mesh.model.event import Event
from mesh.model.reasons import Refuse
from mesh.wire.codec import decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

SHARE = replace(
    LOCAL,
    leg=Leg.BRIDGE,
    flags=LOCAL.flags | Flag.GROUP_ONLY,
    regions=("ap",),
    groups=(("g", "jobs/#", "ap"),),
    count=2,
)


class Place:
    """eu/n1 with a share that waits for region ap, which nobody leads to."""

    def __init__(self) -> None:
        self.desk = Desk()
        custody = self.desk.machine.custody
        self.departure = custody.departure
        self.here: list[tuple[BatchHeader, list[int]]] = []
        self.elsewhere: list[int] = []
        self.full = False
        self.stranded = Stranded(
            departure=self.departure,
            planner=self.desk.machine.planner,
            again=self._again,
            here=self._deliver,
            decoded=lambda header, body: decode_body(body, header.count),
        )
        self.events = [event(1, "jobs/a"), event(2, "jobs/b")]
        self.lsn = custody.keeping.keep(SHARE, encode_body(self.events), ("r/ap",), NOW)
        self.stranded.add(self.lsn, "r/ap", SHARE)
        self.departure.ways_changed(NOW)

    def _again(self, header: BatchHeader, one: Event, group: str, filter: str, now: float) -> int:
        if self.full:
            raise StoreRefusedError(Refuse.FULL)
        assert (group, filter) == ("g", "jobs/#")
        self.elsewhere.append(one.seq)
        return 1

    def _deliver(self, header: BatchHeader, events: list[Event], body: bytes, now: float) -> int:
        if self.full:
            raise StoreRefusedError(Refuse.FULL)
        self.here.append((header, [one.seq for one in events]))
        return 1

    def member_here(self) -> None:
        self.desk.machine.subscribe(1, 1, "jobs/#", "g", NOW)

    def member_far(self, monkeypatch: pytest.MonkeyPatch) -> None:
        planner = self.desk.machine.planner
        monkeypatch.setattr(planner, "far_members", lambda *_: {"us": 1})

    @property
    def kept(self) -> bool:
        return self.lsn in self.departure.held


def test_it_waits_while_no_member_is_in_reach() -> None:
    place = Place()
    assert not place.stranded.look(NOW)
    assert (place.here, place.elsewhere, place.kept, len(place.stranded)) == ([], [], True, 1)


def test_a_member_at_this_node_gets_it_as_a_share_of_its_own_region() -> None:
    place = Place()
    place.member_here()
    assert not place.stranded.look(NOW)
    [(header, seqs)] = place.here
    assert seqs == [1, 2]
    assert (header.leg, header.regions, header.groups) == (Leg.LOCAL, ("eu",), (("g", "jobs/#", "eu"),))
    assert not place.kept, "owed to one place at a time"
    place.stranded.look(NOW)
    assert len(place.stranded) == 0
    assert len(place.here) == 1


def test_a_member_elsewhere_gets_each_event_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    place.member_far(monkeypatch)
    place.stranded.look(NOW)
    assert (place.elsewhere, place.here, place.kept) == ([1, 2], [], False)


@pytest.mark.parametrize("where", ["here", "far"])
def test_a_store_that_refuses_leaves_it_for_the_next_look(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place()
    place.full = True
    if where == "here":
        place.member_here()
    else:
        place.member_far(monkeypatch)
    assert place.stranded.look(NOW), "look again soon"
    assert place.kept
    place.full = False
    assert not place.stranded.look(NOW)
    assert not place.kept
    assert [seqs for _, seqs in place.here] == ([[1, 2]] if where == "here" else [])
    assert place.elsewhere == ([] if where == "here" else [1, 2])


def test_what_has_a_way_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    place.member_far(monkeypatch)
    place.departure.lanes["r/ap"].has_way = True
    assert not place.stranded.look(NOW)
    assert (place.elsewhere, place.kept) == ([], True)


def test_only_a_share_of_one_group_alone_is_taken_up() -> None:
    place = Place()
    others: list[dict[str, Any]] = [
        {"flags": LOCAL.flags},
        {"groups": ()},
        {"groups": (("g", "jobs/#", "ap"), ("h", "jobs/#", "ap"))},
    ]
    for number, change in enumerate(others, place.lsn + 1):
        place.stranded.add(number, "r/ap", replace(SHARE, **change))
    assert len(place.stranded) == 1


def test_a_record_that_is_settled_is_forgotten() -> None:
    place = Place()
    place.departure.take_back(place.lsn, "r/ap", lambda header, body, now: True, NOW)
    assert not place.kept
    place.member_here()
    place.stranded.look(NOW)
    assert (len(place.stranded), place.here) == (0, [])
