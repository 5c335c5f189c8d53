"""Calls are cut where a record has what it may have, and nowhere else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.custody.pieces import pieces, size_of
from mesh.model.event import Event
from mesh.wire.codec import encode_body


def event(seq: int, size_bytes: int) -> Event:
    return Event(seq, "a/b", "key", 0, None, ("id", "1"), b"x" * size_bytes)


@given(st.lists(st.integers(0, 3_000), max_size=40), st.integers(1, 10), st.integers(1, 4_000))
def test_pieces_are_the_events_in_order_and_as_large_as_the_bounds_allow(
    sizes: list[int], most_events: int, most_bytes: int
) -> None:
    events = [event(seq, size) for seq, size in enumerate(sizes, 1)]
    found = list(pieces(events, most_events, most_bytes))
    assert [one for piece in found for one in piece] == events
    for piece, following in zip(found, [*found[1:], []], strict=False):
        assert len(piece) <= most_events
        size = sum(map(size_of, piece))
        assert size <= most_bytes or len(piece) == 1
        if following:
            assert len(piece) == most_events or size + size_of(following[0]) > most_bytes


def test_what_an_event_is_taken_for_is_no_less_than_its_body() -> None:
    for attributes in (None, (), ("id", "1", "source", "/a/long/source")):
        for topic in ("t", "a/long/topic/of/many/levels"):
            one = Event(1 << 40, topic, "k" * 40, 1 << 30, None, attributes, b"x" * 500)
            assert len(encode_body([one])) <= size_of(one)
