"""What a bridge publishes in its region: only its own routes, coalesced, and nothing that harms the selected route."""

from __future__ import annotations

import pytest

from federation.core.feasible import Distance
from federation.core.policy.roles import Role
from federation.core.publication import Publication, published_value
from federation.core.route_settings import RouteSettings
from federation.core.source import Source

SETTINGS = RouteSettings()


class Case:
    """One source and its publication."""

    def __init__(self) -> None:
        self.source = Source(("z", "o"))
        self.publication = Publication(SETTINGS)

    def learn(self, hop: int | str, seqno: int, metric: int, now: float, role: Role = Role.TRANSIT) -> None:
        self.source.learn(hop, "x", Distance(1, seqno, metric), ("m", "z"), role, 1, None, now)
        self.look(now)

    def forget(self, hop: int | str, now: float) -> None:
        self.source.forget(hop)
        self.look(now)

    def look(self, now: float) -> None:
        self.source.evaluate()
        self.publication.consider(self.source, now)

    def advertise(self, metric: int, seqno: int, now: float) -> None:
        self.source.advertised(Distance(1, seqno, metric))
        self.look(now)

    def taken(self, now: float) -> list:
        self.publication.publish(now)
        return self.publication.take()


def test_the_best_own_route_is_published_after_the_others_had_their_moment() -> None:
    case = Case()
    case.learn(1, 5, 10, 0.0, Role.STUB)
    assert case.publication.next_deadline() == SETTINGS.coalesce_s
    assert case.taken(0.04) == []
    assert case.taken(0.05) == [("z", "o", (1, 5, 11, ("m", "z"), "stub"))]
    assert case.taken(9.0) == []


def test_a_siblings_route_is_never_published_even_when_it_is_the_selected_one() -> None:
    case = Case()
    case.learn("n2", 5, 3, 0.0)
    assert case.taken(1.0) == []
    case.learn(1, 5, 10, 1.0)
    assert case.taken(2.0) == [("z", "o", (1, 5, 11, ("m", "z"), "transit"))]


def test_a_lost_route_is_withdrawn_at_once() -> None:
    case = Case()
    case.learn(1, 5, 10, 0.0)
    case.taken(0.05)
    case.forget(1, 1.0)
    assert case.publication.take() == [("z", "o", None)]


def test_what_was_never_published_is_not_withdrawn() -> None:
    case = Case()
    case.learn(1, 5, 10, 0.0)
    case.forget(1, 0.01)
    assert case.taken(1.0) == []
    assert case.publication.next_deadline() is None


def test_a_new_seqno_is_published_as_soon_as_anything_else() -> None:
    case = Case()
    case.learn(1, 5, 10, 0.0)
    case.taken(0.05)
    case.learn(1, 6, 10, 1.0)
    assert case.taken(1.0 + SETTINGS.coalesce_s) == [("z", "o", (1, 6, 11, ("m", "z"), "transit"))]


def test_an_own_route_of_a_newer_seqno_waits_for_the_selected_sibling() -> None:
    case = Case()
    case.learn("n2", 5, 3, 0.0)
    case.learn(1, 5, 10, 0.0)
    assert len(case.taken(1.0)) == 1
    case.learn(1, 6, 10, 2.0)
    assert case.taken(9.0) == []
    case.learn("n2", 6, 3, 10.0)
    assert case.taken(11.0) == [("z", "o", (1, 6, 11, ("m", "z"), "transit"))]


def test_an_own_route_that_only_lags_behind_a_seqno_stays_published_for_a_moment() -> None:
    case = Case()
    case.learn("n2", 5, 3, 0.0)
    case.learn(1, 5, 10, 0.0)
    case.taken(1.0)
    case.learn("n2", 6, 3, 2.0)
    case.advertise(4, 6, 2.0)
    assert case.source.external is None
    assert case.taken(3.0) == []
    assert case.publication.next_deadline() == 2.0 + SETTINGS.withdraw_grace_s
    assert case.publication.outdated(3.9) == []
    assert case.publication.outdated(4.0) == [("z", "o")]
    case.look(4.0)
    assert case.taken(4.0) == [("z", "o", None)]


def test_closing_withdraws_everything_for_good() -> None:
    case = Case()
    case.learn(1, 5, 10, 0.0)
    case.taken(0.05)
    case.publication.close()
    assert case.publication.take() == [("z", "o", None)]
    case.learn(1, 5, 8, 1.0)
    assert case.taken(9.0) == []


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((1, 5, 11, ("m", "z"), "stub"), (1, 5, 11, ("m", "z"), "stub")),
        ([1, 5, 11, ["m", "z"]], (1, 5, 11, ("m", "z"), "transit")),
        ([1, 5, 11, []], None),
        ([1, 5, 0, ["z"]], None),
        ([1, 5, 11, ["z", 4]], None),
        ([1, 5, 11, ["z"], "emperor"], None),
        ([1, 5, 11, ["z"], ["list"]], None),
        (["1", 5, 11, ["z"]], None),
        ([], None),
    ],
)
def test_a_table_value_is_read_as_it_was_written_or_not_at_all(value: list, read: tuple | None) -> None:
    assert published_value(value) == read
