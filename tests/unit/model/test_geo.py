from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.geo import DETOUR, EARTH_RADIUS_KM, FIBRE_KM_PER_MS, distance_km, one_way_ms

PLACE = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
HALF_WAY_ROUND = math.pi * EARTH_RADIUS_KM

FRANKFURT = (50.11, 8.68)
NEW_YORK = (40.71, -74.01)
SYDNEY = (-33.87, 151.21)


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        ((0.0, 0.0), (0.0, 90.0), HALF_WAY_ROUND / 2),
        ((90.0, 0.0), (-90.0, 0.0), HALF_WAY_ROUND),
        ((0.0, 0.0), (0.0, 180.0), HALF_WAY_ROUND),
        ((45.0, 30.0), (-45.0, -150.0), HALF_WAY_ROUND),
        ((0.0, 179.5), (0.0, -179.5), HALF_WAY_ROUND / 180),
        ((90.0, 17.0), (90.0, -120.0), 0.0),
        ((60.0, 10.0), (61.0, 10.0), HALF_WAY_ROUND / 180),
    ],
)
def test_great_circles_that_can_be_worked_out_by_hand(
    a: tuple[float, float], b: tuple[float, float], km: float
) -> None:
    assert distance_km(a, b) == pytest.approx(km, abs=1e-3)


@pytest.mark.parametrize(("a", "b", "km"), [(FRANKFURT, NEW_YORK, 6_200), (FRANKFURT, SYDNEY, 16_480)])
def test_cities_are_as_far_apart_as_an_atlas_says(
    a: tuple[float, float], b: tuple[float, float], km: float
) -> None:
    assert distance_km(a, b) == pytest.approx(km, rel=0.01)


@given(PLACE, PLACE, PLACE)
@settings(max_examples=200, derandomize=True)
def test_distances_are_distances(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]
) -> None:
    assert distance_km(a, a) == 0.0
    assert distance_km(a, b) == pytest.approx(distance_km(b, a), abs=1e-6)
    assert 0.0 <= distance_km(a, b) <= HALF_WAY_ROUND + 1e-6
    assert distance_km(a, c) <= distance_km(a, b) + distance_km(b, c) + 1e-3


@given(PLACE, PLACE)
@settings(max_examples=100, derandomize=True)
def test_a_way_takes_at_least_a_tenth_of_a_millisecond_and_no_less_than_light_in_fibre(
    a: tuple[float, float], b: tuple[float, float]
) -> None:
    assert one_way_ms(a, b) >= max(0.1, distance_km(a, b) / FIBRE_KM_PER_MS)
    assert one_way_ms(a, b) <= 0.1 + HALF_WAY_ROUND * DETOUR / FIBRE_KM_PER_MS


def test_an_ocean_costs_what_its_cables_do() -> None:
    """Frankfurt and New York see round trips of some 80 to 95 ms."""
    assert 80 < 2 * one_way_ms(FRANKFURT, NEW_YORK) < 100
    assert one_way_ms(FRANKFURT, FRANKFURT) == 0.1
