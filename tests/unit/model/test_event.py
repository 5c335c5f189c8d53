from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.event import (
    EXTRA_CORRELATION,
    EXTRA_REPLY_TO,
    QUEUE_OVERHEAD_BYTES,
    Event,
    NewEvent,
    queue_bytes,
)

EVENT = st.builds(
    Event,
    st.integers(0, 9),
    st.text(max_size=9),
    st.just(""),
    st.just(0),
    st.none(),
    st.none()
    | st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3).map(lambda a: sum(a, ())),
    st.binary(max_size=30),
)


@given(st.lists(EVENT, max_size=6))
@settings(max_examples=100, derandomize=True)
def test_events_count_in_a_queue_for_what_each_of_them_carries(events: list[Event]) -> None:
    assert queue_bytes(events) == sum(queue_bytes([one]) for one in events)
    for one in events:
        carried = len(one.topic) + len(one.data) + sum(map(len, one.attributes or ()))
        assert queue_bytes([one]) == QUEUE_OVERHEAD_BYTES + carried


def test_an_empty_event_costs_something() -> None:
    """Or a queue bounded in bytes would hold them without end."""
    assert queue_bytes([Event(1, "", "", 0, None, None, b"")]) > 0
    assert queue_bytes(iter(())) == 0


def test_the_fields_of_an_event_are_in_the_order_of_the_wire() -> None:
    assert Event._fields == ("seq", "topic", "key", "deadline_ms", "extra", "attributes", "data")
    shared = [name for name in NewEvent._fields if name in Event._fields]
    assert shared == [name for name in Event._fields if name in shared], "and a new event's in the same"


def test_the_two_extra_fields_are_told_apart() -> None:
    extra = ("eu/n/1", "c")
    assert (extra[EXTRA_REPLY_TO], extra[EXTRA_CORRELATION]) == ("eu/n/1", "c")
