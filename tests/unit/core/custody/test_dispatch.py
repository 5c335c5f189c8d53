"""From queues to receivers: who is asked when there is room, and what is looked at when."""

from __future__ import annotations

from unit.core.custody.journal_twin import Desk, events

from mesh.core.custody.backlog import NEVER
from mesh.core.custody.window import AckTerms


def test_a_receiver_that_frees_one_place_is_not_served_one_by_one() -> None:
    desk = Desk()
    number = desk.connect("shop", terms=AckTerms(False, 30.0, 5, 80))
    desk.batch(events(1, 200))
    assert len(desk.seqs(number)) == 80
    for seq in range(1, 10):
        desk.ack(number, seq)
    assert desk.take() == {}, "an eighth of the window is not free yet"
    desk.ack(number, 10)
    assert desk.seqs(number) == list(range(81, 91))


def test_nothing_is_looked_at_while_nothing_can_happen() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.close(number)
    desk.batch(events(1, 3))
    quiet = desk.consumers.next_deadline()
    assert quiet == 600.0, "only the note of how long it has been away"
    desk.connect("shop")
    desk.write(number, 1.0)
    assert desk.consumers.next_deadline() == 31.0
    desk.ack(number, 3, up_to=True)
    desk.consumers.handle_deadline(31.0)
    assert desk.take() == {}
    assert desk.consumers._dispatch.next_deadline() == NEVER


def test_a_large_group_is_handed_back_in_pieces() -> None:
    desk = Desk()
    desk.subscribe(3, 1, "a/b", "g")
    for first in range(1, 2_501, 100):
        desk.batch(events(first, first + 99), groups=[("g", "a/b")])
    desk.take()
    desk.close(3)
    assert len({seq for _, seqs, *_ in desk.handed_back for seq in seqs}) < 2_500
    while desk.consumers.next_deadline() <= 1.0:
        desk.consumers.handle_deadline(1.0)
    assert {seq for _, seqs, *_ in desk.handed_back for seq in seqs} == set(range(1, 2_501))
    assert desk.twin.records == {}
