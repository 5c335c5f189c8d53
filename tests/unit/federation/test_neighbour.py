"""A bridge link's cost, the form of what comes over it, and when its digests are compared."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.federation.route_tester import gone, update

from federation.core.neighbour import Neighbour, RoundTrip, flaw, quantised, well_formed_like
from federation.core.policy.roles import Role
from federation.core.route_settings import RouteSettings
from mesh.model.limits import Limits
from mesh.wire.frames import INFINITY, Routes, RouteUpdate

SETTINGS = RouteSettings()


def neighbour(rtt_ms: float = 0.0, cost: int = 0, settings: RouteSettings = SETTINGS) -> Neighbour:
    return Neighbour(1, "m", "m1", Role.TRANSIT, cost, rtt_ms, settings, Limits(), 0.0)


@pytest.mark.parametrize(
    ("rtt_ms", "steps"), [(0, 0), (2.4, 0), (2.6, 5), (48, 50), (50, 50), (54, 55), (85, 89), (200, 209)]
)
def test_round_trips_come_in_steps_of_5_ms_and_above_50_of_a_tenth(rtt_ms: float, steps: int) -> None:
    assert quantised(rtt_ms, 5) == steps


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.floats(0, 60_000), st.floats(0, 60_000))
def test_a_longer_round_trip_never_has_a_smaller_step(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert quantised(low, 5) <= quantised(high, 5)
    assert abs(quantised(high, 5) - high) <= max(2.5, high * 0.051)


def test_the_cost_is_one_and_what_an_operator_set_and_the_round_trip() -> None:
    assert neighbour().cost == 1
    assert neighbour(rtt_ms=82, cost=20, settings=RouteSettings(admin_metric=3)).cost == 1 + 3 + 20 + 81


def test_a_jittering_round_trip_leaves_the_cost_alone() -> None:
    trip = RoundTrip(80, SETTINGS, 0.0)
    assert not any(trip.sample(80 + (-1) ** n * 15, 20.0 + n) for n in range(200))


def test_a_lasting_rise_is_announced_and_then_not_again_for_ten_seconds() -> None:
    trip = RoundTrip(20, SETTINGS, 0.0)
    changed = [n for n in range(60) if trip.sample(200, float(n))]
    assert changed[0] == 10
    assert all(later - earlier >= 10 for earlier, later in pairwise(changed))
    assert abs(trip.announced_ms - 200) <= 20


def test_a_link_that_was_not_measured_takes_its_first_sample_at_once() -> None:
    trip = RoundTrip(-1, SETTINGS, 0.0)
    assert trip.announced_ms == 0
    assert trip.sample(120, 0.1)
    assert trip.announced_ms == quantised(120, 5)
    assert not trip.sample(500, 0.2)


def test_absurd_samples_are_bounded() -> None:
    trip = RoundTrip(1e12, SETTINGS, 0.0)
    trip.sample(-5, 100.0)
    assert 0 <= trip.smoothed_ms <= 60_000


def test_a_well_formed_update_has_no_flaw() -> None:
    assert flaw(update("z", 1, 3, "m,z"), "m") == ""
    assert flaw(update("m", 1, 0, "m"), "m") == ""
    assert flaw(gone("z"), "m") == ""


@pytest.mark.parametrize(
    "bad",
    [
        update("z", -1, 3, "m,z"),
        update("z", 1 << 53, 3, "m,z"),
        update("z", 1, 3, "m,z", epoch=-1),
        update("z", 1, -3, "m,z"),
        update("z", 1, INFINITY + 1, "m,z"),
        update("z", 1, 3, "x,z"),
        update("z", 1, 3, "m,y"),
        update("z", 1, 3, "m,a,a,z"),
        RouteUpdate("z", "o", 1, 1, 3, ()),
        update("bad name", 1, 3, "m,bad name"),
        update("z", 1, 3, "m,z", bridge="../o"),
        update("z", 1, 3, "m,a b,z"),
    ],
)
def test_nonsense_has_a_flaw_that_says_what(bad: RouteUpdate) -> None:
    assert flaw(bad, "m")
    if bad.bridge == "o":
        assert not well_formed_like(update("z", 1, 3, "m,z"), bad)


def test_an_update_like_a_known_one_is_recognised() -> None:
    assert well_formed_like(update("z", 1, 3, "m,z"), update("z", 7, 30, "m,z"))
    assert not well_formed_like(update("z", 1, 3, "m,z"), gone("z"))


def test_a_digest_that_differs_is_followed_up_once_a_second() -> None:
    it = neighbour()
    assert not it.differs(0, 10.0)
    assert it.differs(1, 10.0)
    assert not it.differs(1, 10.5)
    assert it.differs(1, 11.1)


def test_digests_are_not_compared_while_surplus_was_refused() -> None:
    it = Neighbour(1, "m", "m1", Role.TRANSIT, 0, 0.0, SETTINGS, Limits(regions=1), 0.0)
    it.inbound.accept(Routes(1, False, (update("a", 1, 3, "m,a"), update("b", 1, 3, "m,b"))))
    assert not it.differs(1, 10.0)
