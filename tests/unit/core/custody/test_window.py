from __future__ import annotations

from unit.core.custody.journal_twin import Twin, unpack

from mesh.core.custody.backlog import NEVER, Backlog, Handed, Share
from mesh.core.custody.records import EventId, Records
from mesh.core.custody.window import AckTerms, Window

BACKLOG = Backlog("c/a", -1, Records(Twin(), unpack), 8)
TERMS = AckTerms(False, 30.0, 5, 4)


def id_of(seq: int) -> EventId:
    return ("us", "u1", 7, seq)


def handed(seq: int) -> Handed:
    return Handed(BACKLOG, Share(1, (0,), 0.0, NEVER, 0, float(seq), 1), 0, id_of(seq), (seq,), NEVER)


def window(*seqs: int, terms: AckTerms = TERMS) -> Window:
    found = Window(-1, terms)
    for seq in seqs:
        found.add(handed(seq))
    return found


def test_room_is_what_is_not_out() -> None:
    found = window(1, 2, 3)
    assert (found.count, found.room) == (3, 1)
    assert [one.id for one in found.pop(id_of(2))] == [id_of(2)]
    assert found.pop(id_of(2)) == []
    assert (found.count, found.room) == (2, 2)


def test_what_is_not_written_yet_has_a_bound_of_its_own() -> None:
    found = window(1, 2, terms=AckTerms(False, 30.0, 5, 100, standing=True, unwritten=2))
    assert found.room == 0
    assert found.written(id_of(1), 5.0)
    assert (found.room, found.next_deadline()) == (1, 35.0)
    found.pop(id_of(2))
    assert found.room == 2
    assert not found.written(id_of(9), 5.0)


def test_a_cumulative_acknowledgement_covers_what_was_sent_before() -> None:
    found = window(5, 1, 3)
    assert found.up_to(id_of(1)) == [id_of(5), id_of(1)]
    assert found.up_to(id_of(9)) == []


def test_late_is_who_was_written_and_not_acknowledged_in_time() -> None:
    found = window(1, 2, 3)
    found.written(id_of(1), 0.0)
    found.written(id_of(2), 10.0)
    assert list(found.late(29.0)) == []
    assert [one.id for one in found.late(30.0)] == [id_of(1)]
    assert found.next_deadline() == 40.0
    assert [one.id for one in found.late(99.0)] == [id_of(2)]
    assert (found.next_deadline(), found.count, found.oldest_at(-1)) == (NEVER, 1, 3.0)


def test_an_event_may_be_out_twice_and_is_acknowledged_once() -> None:
    found = window(1, 1)
    assert found.count == 2
    assert len(found.pop(id_of(1))) == 2
    assert (found.count, found.unwritten) == (0, 0)


def test_everything_can_be_taken_back_in_order() -> None:
    found = window(2, 1)
    assert [one.id for one in found.take_all()] == [id_of(2), id_of(1)]
    assert (found.count, found.unwritten, found.room) == (0, 0, 4)
