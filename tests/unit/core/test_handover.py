"""Events handed to sessions: in order, shared where sessions get the same, in runs of bounded length."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.handover import RUN_EVENTS, Handover, Way
from mesh.model.event import Event, queue_bytes

WAY = Way(("eu", "eu-1", 7), ("us",), False)
BOTH = ((1, (5,)), (2, (6, 7)))
ONE = ((1, (5,)),)


def event(seq: int) -> Event:
    return Event(seq, "t", "", 0, None, None, b"x" * seq)


def test_sessions_with_the_same_audience_share_the_events_and_keep_their_own_sids() -> None:
    handover = Handover()
    for seq in range(3):
        handover.add(BOTH, WAY, event(seq))
    taken = handover.take()
    (first,), (second,) = taken[1], taken[2]
    assert first.events is second.events
    assert [e.seq for e in first.events] == [0, 1, 2]
    assert (first.sids, second.sids) == ((5,), (6, 7))
    assert (first.origin, first.path, first.redelivered) == tuple(WAY)
    assert first.size_bytes == queue_bytes([event(0), event(1), event(2)])
    assert handover.take() == {}


def test_another_way_begins_another_delivery_and_a_run_is_bounded() -> None:
    handover = Handover()
    handover.add(ONE, WAY, event(1))
    handover.add(ONE, WAY._replace(redelivered=True), event(2))
    for seq in range(RUN_EVENTS + 1):
        handover.add(ONE, WAY, event(seq))
    assert [len(one.events) for one in handover.take()[1]] == [1, 1, RUN_EVENTS, 1]


def test_what_came_at_once_is_not_added_to() -> None:
    handover = Handover()
    together = [event(1), event(2)]
    handover.add_all(ONE, WAY, together)
    handover.add(ONE, WAY, event(3))
    assert [[e.seq for e in one.events] for one in handover.take()[1]] == [[1, 2], [3]]
    assert len(together) == 2


AUDIENCES = st.dictionaries(st.integers(1, 4), st.just((1,)), min_size=1).map(
    lambda d: tuple(sorted(d.items()))
)


@given(st.lists(st.tuples(AUDIENCES, st.booleans(), st.integers(1, 3)), max_size=40))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_every_session_gets_exactly_its_events_in_order(
    steps: list[tuple[tuple[tuple[int, tuple[int]]], bool, int]],
) -> None:
    handover, expected, seq = Handover(), dict[int, list[int]](), 0
    for audience, one_by_one, count in steps:
        events = [event(seq + at) for at in range(count)]
        for session, _ in audience:
            expected.setdefault(session, []).extend(range(seq, seq + count))
        seq += count
        if one_by_one:
            for each in events:
                handover.add(audience, WAY, each)
        else:
            handover.add_all(audience, WAY, events)
    got = {
        session: [e.seq for delivery in deliveries for e in delivery.events]
        for session, deliveries in handover.take().items()
    }
    assert got == expected
