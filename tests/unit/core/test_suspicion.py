"""The suspicion timer and the local health."""

from __future__ import annotations

import pytest

from mesh.core.suspicion import LocalHealth, Suspicion, remaining_s, suspicion_timeout_s


@pytest.mark.parametrize(
    ("confirmations", "elapsed_s", "left_s"),
    [(0, 0.0, 30.0), (1, 2.0, 14.0), (2, 3.0, 4.81), (3, 4.0, -2.0), (4, 5.0, -3.0), (5, 10.0, -8.0)],
)
def test_the_vectors_of_memberlist_hold(confirmations: int, elapsed_s: float, left_s: float) -> None:
    assert remaining_s(confirmations, 3, elapsed_s, 2.0, 30.0) == pytest.approx(left_s, abs=0.001)


def test_without_possible_confirmations_the_suspicion_is_the_shortest() -> None:
    assert suspicion_timeout_s(0, 0, 2.0, 30.0) == 2.0


def test_each_new_accuser_shortens_it_up_to_k_beyond_the_first() -> None:
    suspicion = Suspicion("me", 3, 2.0, 30.0, 100.0)
    assert suspicion.ends == 130.0
    assert not suspicion.confirm("me"), "the first accuser confirms nothing"
    ends = []
    for by in ("foo", "bar", "baz"):
        assert suspicion.open
        assert suspicion.confirm(by)
        assert not suspicion.confirm(by)
        ends.append(suspicion.ends)
    assert ends == pytest.approx([116.0, 107.81, 102.0], abs=0.001)
    assert not suspicion.open
    assert not suspicion.confirm("zoo")


def test_a_longest_time_below_the_shortest_is_the_shortest() -> None:
    assert Suspicion("me", 3, 40.0, 30.0, 0.0).ends == 40.0


def test_health_stays_between_nought_and_its_maximum_and_scales_time() -> None:
    health = LocalHealth(8)
    health.note(-3)
    assert health.scale(0.5) == 0.5
    health.note(3)
    assert health.scale(0.5) == 2.0
    health.note(100)
    assert health.score == 8


def test_a_maximum_of_nought_turns_the_multiplier_off() -> None:
    health = LocalHealth(0)
    health.note(5)
    assert health.scale(1.0) == 1.0
