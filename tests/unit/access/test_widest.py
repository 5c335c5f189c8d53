from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.access.rights import widest
from mesh.model.topic import covers, matches

LEVELS = st.sampled_from(["a", "b", "", "$x"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=0, max_size=4))
    if draw(st.booleans()) or not levels:
        levels.append("#")
    return "/".join(levels) or "a"


@given(st.lists(filters(), max_size=6), TOPICS)
def test_the_widest_match_the_same_topics(each: list[str], topic: str) -> None:
    kept = widest(each)
    assert any(matches(one, topic) for one in kept) == any(matches(one, topic) for one in each)
    assert not any(a != b and covers(a, b) for a in kept for b in kept)
