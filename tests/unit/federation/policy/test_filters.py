"""Intersections of filters, against the plain definition over every small topic."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from federation.core.policy.filters import below, intersection, moved
from mesh.model.topic import matches

LEVELS = ("a", "b", "$x", "")
TOPICS = ["/".join(levels) for depth in (1, 2, 3, 4) for levels in product(LEVELS, repeat=depth)]
level = st.sampled_from(("a", "b", "+", "$x", ""))
filters = st.builds(
    lambda levels, tail: "/".join((*levels, *tail)),
    st.lists(level, min_size=1, max_size=3),
    st.sampled_from([(), ("#",)]),
) | st.just("#")


@given(filters, filters)
def test_the_intersection_matches_exactly_what_both_match(one: str, other: str) -> None:
    common = intersection(one, other)
    for topic in TOPICS:
        both = matches(one, topic) and matches(other, topic)
        assert both == (common is not None and matches(common, topic)), (one, other, common, topic)


@given(filters, filters)
def test_it_is_symmetrical_as_far_as_topics_go(one: str, other: str) -> None:
    assert (intersection(one, other) is None) == (intersection(other, one) is None)


def test_examples() -> None:
    assert intersection("#", "orders/#") == "orders/#"
    assert intersection("+/created", "orders/#") == "orders/created"
    assert intersection("orders/#", "orders") == "orders"
    assert intersection("+", "a/#") == "a"
    assert intersection("#", "$SYS/x") is None
    assert intersection("hr/#", "orders/#") is None


def test_moving() -> None:
    assert below("a/b", "a")
    assert below("a", "a")
    assert not below("ab", "a")
    assert moved("a/b/#", "a", "x/y") == "x/y/b/#"
    assert moved("a", "a", "x") == "x"
