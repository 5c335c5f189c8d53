"""The sliding window that makes a delivery happen once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.dedupe import Dedupe, Origin, Seen, Window
from mesh.model.limits import Limits

SIZE = 64


@settings(derandomize=True, max_examples=150)
@given(st.lists(st.integers(0, 400), max_size=120))
def test_a_window_says_fresh_exactly_once_for_each_seq_that_is_not_below_it(seqs: list[int]) -> None:
    window, seen, highest = Window(SIZE, 0.0), set(), -1
    for seq in seqs:
        expected = (
            Seen.BELOW_WINDOW
            if highest >= 0 and seq <= highest - SIZE
            else Seen.DUPLICATE
            if seq in seen
            else Seen.FRESH
        )
        assert window.see(seq) is expected
        highest = max(highest, seq)
        seen.add(seq)


@settings(derandomize=True, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 90)), max_size=25), st.lists(st.integers(0, 400))
)
def test_marking_a_run_is_the_same_as_marking_each_of_it(
    runs: list[tuple[int, int]], probes: list[int]
) -> None:
    at_once, one_by_one = Window(SIZE, 0.0), Window(SIZE, 0.0)
    for first, length in runs:
        last = first + length
        if at_once.see_run(first, last):
            assert [one_by_one.see(seq) for seq in range(first, last + 1)] == [Seen.FRESH] * (length + 1)
    for seq in probes:
        assert at_once.see(seq) is one_by_one.see(seq)


def test_a_group_assigned_again_has_a_window_of_its_own() -> None:
    dedupe = Dedupe(Limits())
    plain, group = Origin("eu", "eu-1", 1), Origin("eu", "eu-1", 1, "mail/orders/#")
    assert dedupe.window(plain, 0.0).see(7) is Seen.FRESH
    assert dedupe.window(group, 0.0).see(7) is Seen.FRESH
    assert dedupe.window(plain, 0.0).see(7) is Seen.DUPLICATE


def test_a_new_epoch_of_an_origin_is_a_new_origin() -> None:
    dedupe = Dedupe(Limits())
    assert dedupe.window(Origin("eu", "eu-1", 1), 0.0).see(1) is Seen.FRESH
    assert dedupe.window(Origin("eu", "eu-1", 2), 0.0).see(1) is Seen.FRESH


def test_origins_are_bounded_and_the_one_idle_longest_goes_first() -> None:
    dedupe = Dedupe(Limits(dedupe_origins=2))
    first, second, third = (Origin("eu", f"eu-{n}", 1) for n in range(3))
    dedupe.window(first, 0.0).see(1)
    dedupe.window(second, 1.0).see(1)
    dedupe.window(first, 2.0)
    dedupe.window(third, 3.0)
    assert len(dedupe) == 2
    assert dedupe.window(first, 4.0).see(1) is Seen.DUPLICATE


def test_idle_origins_are_forgotten_after_the_dedupe_age() -> None:
    dedupe = Dedupe(Limits())
    dedupe.window(Origin("eu", "eu-1", 1), 0.0)
    dedupe.expire(600.0)
    assert len(dedupe) == 1
    dedupe.expire(600.1)
    assert len(dedupe) == 0
