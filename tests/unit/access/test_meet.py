from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.access.meet import meet, widest
from mesh.model.topic import covers, matches

LEVELS = st.sampled_from(["a", "b", "", "$x"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=0, max_size=4))
    if draw(st.booleans()) or not levels:
        levels.append("#")
    return "/".join(levels) or "a"


@given(filters(), filters(), TOPICS)
def test_the_meet_matches_what_both_match_and_nothing_else(a: str, b: str, topic: str) -> None:
    common = meet(a, b)
    both = matches(a, topic) and matches(b, topic)
    assert both == (common is not None and matches(common, topic))


@given(filters(), filters())
def test_it_is_the_same_whoever_comes_first(a: str, b: str) -> None:
    assert meet(a, b) == meet(b, a)


def test_examples() -> None:
    assert meet("#", "orders/#") == "orders/#"
    assert meet("+/b/#", "a/#") == "a/b/#"
    assert meet("a/#", "+") == "a"
    assert meet("a/+", "b/+") is None
    assert meet("#", "$mesh/audit") is None


@given(st.lists(filters(), max_size=6), TOPICS)
def test_the_widest_match_the_same_topics(each: list[str], topic: str) -> None:
    kept = widest(each)
    assert any(matches(one, topic) for one in kept) == any(matches(one, topic) for one in each)
    assert not any(a != b and covers(a, b) for a in kept for b in kept)
