from __future__ import annotations

from unit.core.custody.journal_twin import event

from mesh.core.custody.handing import Handing
from mesh.core.handover import RUN_EVENTS, Way

WAY = Way(("us", "u1", 7), ("us",), False)


def test_events_of_one_way_share_a_delivery_and_others_do_not() -> None:
    handing = Handing()
    handing.add(-1, (1,), WAY, 1, event(1))
    handing.add(-1, (1,), Way(*WAY), 1, event(2))
    handing.add(-1, (1,), WAY._replace(redelivered=True), 2, event(3))
    handing.add(-1, (1,), WAY._replace(redelivered=True), 3, event(4))
    handing.add(-1, (2,), WAY, 1, event(5))
    handing.add(4, (1,), WAY, 1, event(1))
    taken = handing.take()
    assert [[one.seq for one in each.events] for each in taken[-1]] == [[1, 2], [3], [4], [5]]
    first = taken[-1][0]
    assert (first.sids, first.origin, first.path, first.deliveries) == ((1,), ("us", "u1", 7), ("us",), 1)
    assert first.size_bytes == 2 * 204
    assert len(taken[4]) == 1
    assert handing.take() == {}


def test_a_delivery_grows_to_what_a_writer_takes_at_once() -> None:
    handing = Handing()
    for seq in range(RUN_EVENTS + 1):
        handing.add(-1, (1,), WAY, 1, event(seq))
    assert [len(one.events) for one in handing.take()[-1]] == [RUN_EVENTS, 1]


def test_what_nobody_took_is_named_when_its_session_goes() -> None:
    handing = Handing()
    handing.add(-1, (1,), WAY, 1, event(3))
    assert handing.forget(-1) == {("us", "u1", 7, 3)}
    assert handing.forget(-1) == set()
    assert handing.take() == {}
