"""What is owed over one link, and what an acknowledgement speaks of."""

from __future__ import annotations

import pytest
from unit.core.custody.memory_store import header

from mesh.core.entrusted import Consignment, Entrusted
from mesh.wire.frames import CustodyAck


def share(lsn: int) -> Consignment:
    return Consignment(lsn, ("r/us",), 10, 1, 1)


def sent(*at: float) -> tuple[Entrusted, list[Consignment]]:
    """Shares that left at these moments as batches 1, 2, ..."""
    entrusted, shares = Entrusted(), [share(lsn) for lsn in range(1, len(at) + 1)]
    for number, (one, moment) in enumerate(zip(shares, at, strict=True), 1):
        entrusted.sent(number, one, moment)
    return entrusted, shares


def test_an_acknowledgement_speaks_of_every_batch_up_to_its_number_and_says_of_each_whether_it_was_taken() -> (
    None
):
    entrusted, (first, second, third) = sent(1.0, 1.0, 1.0)
    no = (2, "full", ())
    entrusted.acknowledged(CustodyAck(2, (no, (9, "loop", ()))))
    assert entrusted.take_told() == [(first, None), (second, no)]
    assert entrusted.take_told() == []
    assert entrusted.owed() == [third]
    entrusted.acknowledged(CustodyAck(2, (no,)))
    assert entrusted.take_told() == [], "said twice is said once"


@pytest.mark.parametrize("at", [1.0, 0.1, 1 / 3])
def test_what_is_not_acknowledged_in_time_is_given_up_at_the_very_moment_that_was_told(at: float) -> None:
    entrusted, (first, _) = sent(at, at + 0.5)
    begun = entrusted.sent_first()
    assert begun == at
    assert list(entrusted.take_late(10.0, begun + 9.99)) == []
    assert list(entrusted.take_late(10.0, begun + 10.0)) == [first]
    assert entrusted.sent_first() == at + 0.5


def test_a_link_that_ends_owes_what_is_under_way_and_what_waits_but_nothing_given_up() -> None:
    entrusted, (first, second) = sent(1.0, 1.0)
    waiting = share(3)
    entrusted.put(header(), b"", waiting, 1.0)
    first.ended = True
    assert len(entrusted) == 3
    assert entrusted.take_all() == [second, waiting]
    assert (len(entrusted), entrusted.sent_first()) == (0, None)
