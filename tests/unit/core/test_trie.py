"""The trie of filters against a linear scan with the plain definitions of matching and covering."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.trie import FilterTrie, Node, TopicCache
from mesh.model.topic import canonical, covers, has_wildcard, matches

_words = ["a", "b", "", "$x"]
topics = st.lists(st.sampled_from(_words), min_size=1, max_size=4).map("/".join).filter(bool)
_heads = st.lists(st.sampled_from([*_words, "+"]), min_size=1, max_size=4)
filters = st.one_of(
    _heads.map("/".join), _heads.map(lambda levels: "/".join([*levels[:3], "#"])), st.just("#")
).filter(bool)


def trie_of(held: set[str], *, flat: bool) -> FilterTrie[str]:
    trie: FilterTrie[str] = FilterTrie(flat=flat)
    for filter in sorted(held):
        trie.put(filter, filter)
    return trie


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.sets(filters, max_size=25), st.lists(topics, max_size=10), st.booleans())
def test_a_match_finds_what_a_scan_finds_each_once(held: set[str], asked: list[str], flat: bool) -> None:
    trie = trie_of(held, flat=flat)
    assert len(trie) == len(held)
    assert sorted(trie.leaves()) == sorted(held)
    for topic in asked:
        assert sorted(trie.match(topic)) == sorted(filter for filter in held if matches(filter, topic))


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.sets(filters.map(canonical), max_size=25), st.lists(filters.map(canonical), max_size=10))
def test_covering_and_covered_filters_are_those_a_scan_finds(held: set[str], asked: list[str]) -> None:
    trie, flat = trie_of(held, flat=False), trie_of(held, flat=True)
    for filter in [*asked, *held]:
        wider = sorted(other for other in held if covers(other, filter))
        assert sorted(trie.covering(filter)) == wider
        assert sorted(flat.covering(filter)) == wider
        assert sorted(trie.covered_by(filter)) == sorted(other for other in held if covers(filter, other))


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.lists(st.tuples(filters, st.booleans()), max_size=30), st.booleans())
def test_any_order_of_puts_and_pops_leaves_what_a_dict_holds(
    steps: list[tuple[str, bool]], flat: bool
) -> None:
    trie: FilterTrie[int] = FilterTrie(flat=flat)
    model: dict[str, int] = {}
    for number, (filter, put) in enumerate(steps):
        if put:
            trie.put(filter, number)
            model[filter] = number
        else:
            assert trie.pop(filter) == model.pop(filter, None)
        assert trie.get(filter) == model.get(filter)
        assert len(trie) == len(model)
    assert {filter: trie.get(filter) for filter, _ in steps if trie.get(filter) is not None} == model
    for filter in model:
        trie.pop(filter)
    assert trie.top.width() == trie.dollar.width() == len(trie) == 0


def test_a_filter_without_wildcards_builds_no_path_in_a_flat_trie() -> None:
    trie: FilterTrie[int] = FilterTrie()
    trie.put("a/b/c", 1)
    assert trie.top.width() == 0
    assert trie.match("a/b/c") == [1]
    with pytest.raises(AssertionError, match="no paths"):
        list(trie.covered_by("a/#"))


def test_nodes_without_children_share_one_empty_dict_that_stays_empty() -> None:
    trie: FilterTrie[int] = FilterTrie(flat=False)
    trie.put("a/+", 1)
    trie.put("b", 2)
    fresh: Node[int] = Node()
    assert trie.top.below["b"].below is fresh.below
    trie.put("b/c", 3)
    assert not fresh.below
    assert dict(trie.top.below["b"].children()).keys() == {"c"}


def test_a_filter_that_was_never_checked_is_held_and_harms_nobody() -> None:
    for flat in (True, False):
        trie = trie_of({"", "a/#/b", "#/#", "a+", "a/b"}, flat=flat)
        assert trie.match("a/b") == ["a/b"]
        for filter in ("", "a/#/b", "#/#", "a+"):
            assert trie.pop(filter) == filter
        assert len(trie) == 1


def test_filters_made_to_branch_at_every_level_are_all_found() -> None:
    trie: FilterTrie[str] = FilterTrie()
    for number in range(2**8):
        levels = ["+" if number >> place & 1 else "a" for place in range(8)]
        trie.put("/".join(levels), "/".join(levels))
    assert len(trie.match("/".join("a" * 8))) == 2**8
    assert trie.match("/".join("b" * 8)) == ["/".join("+" * 8)]
    assert all(has_wildcard(filter) for filter in trie.match("a/a/a/a/a/a/a/b"))


def test_a_full_topic_cache_forgets_everything_and_refuses_what_never_fits() -> None:
    cache: TopicCache[str] = TopicCache(10)
    cache.keep("a", "x", 4)
    cache.keep("b", "y", 6)
    assert dict(cache) == {"a": "x", "b": "y"}
    cache.keep("c", "z", 1)
    cache.keep("d", "z", 9)
    assert dict(cache) == {"c": "z", "d": "z"}
    cache.keep("c", "heavy", 11)
    assert dict(cache) == {"d": "z"}
