"""Words that wait to be told on."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.rumors import Rumors
from mesh.wire.frames import Member, MemberState


def word(node: str, incarnation: int = 0) -> Member:
    return Member(node, 1, incarnation, MemberState.ALIVE)


def names(words: tuple[Member, ...]) -> list[str]:
    return [word.node for word in words]


def test_nothing_to_tell_gives_nothing() -> None:
    assert Rumors().take(10, 4) == ()
    assert not Rumors()


def test_a_word_is_taken_exactly_limit_times() -> None:
    rumors = Rumors()
    rumors.put(word("a"))
    assert [len(rumors.take(5, 4)) for _ in range(6)] == [1, 1, 1, 1, 0, 0]
    assert len(rumors) == 0


def test_those_told_least_go_first_and_among_them_the_newest() -> None:
    rumors = Rumors()
    for name in "abc":
        rumors.put(word(name))
    assert names(rumors.take(1, 9)) == ["c"]
    rumors.put(word("d"))
    assert names(rumors.take(2, 9)) == ["d", "b"]
    assert names(rumors.take(1, 9)) == ["a"]
    assert set(names(rumors.take(2, 9))) < {"b", "c", "d", "a"}


def test_a_newer_word_about_a_member_takes_the_place_of_the_older_one_and_starts_over() -> None:
    rumors = Rumors()
    rumors.put(word("a", 1))
    rumors.take(1, 3)
    rumors.take(1, 3)
    rumors.put(word("a", 2))
    assert len(rumors) == 1
    assert [w.incarnation for _ in range(4) for w in rumors.take(3, 3)] == [2, 2, 2]


def test_a_dropped_word_is_not_told() -> None:
    rumors = Rumors()
    rumors.put(word("a"))
    rumors.drop("a")
    rumors.drop("nobody")
    assert rumors.take(1, 3) == ()


def test_a_smaller_limit_drops_what_was_told_so_often_already() -> None:
    rumors = Rumors()
    rumors.put(word("old"))
    for _ in range(8):
        rumors.take(1, 16)
    rumors.put(word("new"))
    assert set(names(rumors.take(2, 4))) == {"old", "new"}
    assert names(rumors.take(2, 4)) == ["new"]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=40), st.integers(1, 6), st.integers(1, 8))
def test_every_word_is_told_limit_times_whatever_the_frames_hold(
    sizes: list[int], limit: int, members: int
) -> None:
    rumors = Rumors()
    for i in range(members):
        rumors.put(word(f"n{i}"))
    told: Counter[str] = Counter()
    for size in sizes:
        words = rumors.take(size, limit)
        assert (
            len(words)
            == len({w.node for w in words})
            == min(size, members - sum(n == limit for n in told.values()))
        )
        told.update(names(words))
    assert all(n <= limit for n in told.values())
    counts = [told[f"n{i}"] for i in range(members)]
    assert max(counts) - min(counts) <= 1, "nobody is told about more often than once before all others"
