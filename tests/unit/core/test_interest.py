"""The destination index against a linear scan, and the bits of destinations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.interest import Destinations, InterestIndex, Match
from mesh.model.topic import matches

_words = ["a", "b", "$x"]
topics = st.lists(st.sampled_from(_words), min_size=1, max_size=3).map("/".join)
_heads = st.lists(st.sampled_from([*_words, "+"]), min_size=1, max_size=3)
filters = st.one_of(
    _heads.map("/".join), _heads.map(lambda levels: "/".join([*levels[:2], "#"])), st.just("#")
)

_bits = st.sampled_from([1 << n for n in (0, 1, 2, 70)])
_steps = st.one_of(
    st.tuples(st.sampled_from(["add", "add", "remove"]), filters, _bits),
    st.tuples(st.just("group"), st.tuples(st.sampled_from(["g", "h"]), filters), _bits, st.integers(0, 2)),
    st.tuples(st.just("drop"), _bits),
    st.tuples(st.just("match"), topics),
)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.lists(_steps, max_size=30), st.integers(1, 8))
def test_every_match_equals_a_scan_whatever_happened_before(steps: list[tuple], cache_weight: int) -> None:
    index = InterestIndex(cache_weight=cache_weight)
    plain: set[tuple[str, int]] = set()
    groups: dict[tuple[str, str], dict[int, int]] = {}
    for kind, *rest in steps:
        if kind == "add":
            plain.add((rest[0], rest[1]))
            index.add(*rest)
        elif kind == "remove":
            plain.discard((rest[0], rest[1]))
            index.remove(*rest)
        elif kind == "group":
            (group, filter), bit, members = rest
            groups.setdefault((group, filter), {})[bit] = members
            index.set_group(group, filter, bit, members)
        elif kind == "drop":
            plain = {(filter, bit) for filter, bit in plain if bit != rest[0]}
            for counts in groups.values():
                counts.pop(rest[0], None)
            index.drop_bit(rest[0])
        groups = {key: {bit: n for bit, n in counts.items() if n} for key, counts in groups.items()}
        groups = {key: counts for key, counts in groups.items() if counts}
        topic = rest[0] if kind == "match" else "a/b"
        found = index.match(topic)
        mask = sum({bit for filter, bit in plain if matches(filter, topic)})
        assert found == (
            index.generation,
            mask,
            tuple(sorted(key for key in groups if matches(key[1], topic))),
        )
        assert index.match(topic) == found
    for key, counts in groups.items():
        assert index.group_members(*key) == counts
    statistics = index.statistics()
    assert (statistics.entries, statistics.groups) == (len(plain), len(groups))
    assert statistics.filters == len({filter for filter, _ in plain})
    assert statistics.cached <= cache_weight
    for bit in (1 << n for n in (0, 1, 2, 70)):
        assert index.filters_of(bit) == {filter for filter, holder in plain if holder == bit}


def test_a_match_is_answered_from_memory_until_something_changes() -> None:
    index = InterestIndex()
    index.add("a/+", 1)
    first = index.match("a/b")
    assert first == Match(index.generation, 1, ())
    assert index.match("a/b") is first
    index.add("a/+", 1)
    index.remove("z", 1)
    index.remove("a/+", 2)
    index.drop_bit(4)
    index.set_group("g", "a/b", 1, 0)
    index.set_group("g", "a/b", 1, -3)
    assert index.match("a/b") is first
    index.add("a/b", 2)
    assert index.match("a/b").mask == 3
    assert index.statistics().searches == 2


def test_groups_that_match_come_sorted_with_the_members_of_each_destination() -> None:
    index = InterestIndex()
    index.set_group("mail", "a/#", 1, 2)
    index.set_group("mail", "a/#", 4, 1)
    index.set_group("audit", "a/#", 1, 1)
    index.set_group("audit", "+/b", 2, 1)
    index.set_group("mail", "c", 1, 1)
    assert index.match("a/b") == (index.generation, 0, (("audit", "+/b"), ("audit", "a/#"), ("mail", "a/#")))
    assert index.group_members("mail", "a/#") == {1: 2, 4: 1}
    index.drop_bit(1)
    assert index.match("a/b").groups == (("audit", "+/b"), ("mail", "a/#"))
    assert index.group_members("mail", "a/#") == {4: 1}
    assert index.group_members("nobody", "a/#") == {}


def test_a_changed_member_count_is_a_new_generation_and_the_same_count_is_not() -> None:
    index = InterestIndex()
    index.set_group("g", "a", 1, 2)
    before = index.generation
    index.set_group("g", "a", 1, 2)
    assert index.generation == before
    index.set_group("g", "a", 1, 4)
    assert index.generation > before


def test_dropping_a_destination_leaves_the_filters_of_the_others() -> None:
    index = InterestIndex()
    for bit in (1, 2):
        index.add("a", bit)
        index.add("b/+", bit)
    index.drop_bit(1)
    assert index.holders("a") == index.holders("b/+") == 2
    assert index.holders("c") == 0
    index.drop_bit(2)
    assert index.statistics().filters == index.statistics().entries == 0


def test_topics_remembered_are_bounded_by_number_and_groups() -> None:
    index = InterestIndex(cache_weight=10)
    for n in range(4):
        index.set_group(f"g{n}", "#", 1, 1)
    for n in range(100):
        assert len(index.match(f"t/{n}").groups) == 4
        assert index.statistics().cached <= 2


def test_bits_are_the_lowest_free_ones_and_are_used_again_after_release() -> None:
    destinations = Destinations()
    assert [destinations.bit(name) for name in "abc"] == [1, 2, 4]
    assert destinations.bit("b") == 2
    destinations.release("a")
    destinations.release("b")
    destinations.release("nobody")
    assert (len(destinations), list(destinations), "a" in destinations) == (1, ["c"], False)
    assert destinations.find("a") == 0
    assert [destinations.bit(name) for name in "def"] == [1, 2, 8]


def test_names_of_a_mask_are_sorted_and_follow_a_reuse_of_bits() -> None:
    destinations = Destinations()
    for name in ("us", "eu", "ap"):
        destinations.bit(name)
    assert destinations.names(7) == ("ap", "eu", "us")
    assert destinations.names(7) is destinations.names(7)
    assert destinations.names(0) == ()
    destinations.release("eu")
    with pytest.raises(KeyError):
        destinations.names(7)
    destinations.bit("za")
    assert destinations.names(7) == ("ap", "us", "za")


def test_remembered_name_sets_are_bounded() -> None:
    destinations = Destinations()
    for n in range(13):
        destinations.bit(f"n{n:02}")
    for mask in range(4_100):
        destinations.names(mask)
    assert len(destinations._sets) <= 4_096
