"""Long deltas under way: which frame continues which chain, and when a chain is given up."""

from __future__ import annotations

from mesh.core.deltas import weigh
from mesh.core.staging import CHAIN_AGE_S, CHAINS, Staging
from mesh.model.ids import Version
from mesh.model.reasons import TableReason
from mesh.wire.frames import Delta, Scope

BOUND = 1_000


def frame(since: int, upto: int, owner: str = "a", epoch: int = 1, size: int = 0) -> Delta:
    return Delta(Scope.REGION, owner, epoch, since, upto, 0, (("k", upto, bytes(size)),))


def test_a_frame_continues_the_chain_that_ends_where_it_begins() -> None:
    staging = Staging(BOUND)
    assert staging.begin(frame(0, 5), 0.0) is None
    chain = staging.continued_by(frame(5, 9))
    assert chain is not None
    assert staging.extend(chain, frame(5, 9), 0.0) is None
    assert staging.continued_by(frame(9, 10)) is chain
    assert staging.continued_by(frame(5, 10)) is None
    assert staging.continued_by(frame(9, 10, epoch=2)) is None
    assert staging.continued_by(frame(9, 10, owner="b")) is None
    assert staging.under_way("a", 1)
    assert not staging.under_way("a", 2)


def test_the_first_frame_once_more_is_known() -> None:
    staging = Staging(BOUND)
    staging.begin(frame(0, 5), 0.0)
    assert staging.begin(frame(0, 5), 0.0) is TableReason.KNOWN
    assert staging.begin(frame(3, 5), 0.0) is None


def test_bytes_are_bounded_and_counted_down_to_nothing() -> None:
    staging = Staging(BOUND)
    assert staging.begin(frame(0, 1, size=BOUND), 0.0) is TableReason.STAGED_BYTES
    staging.begin(frame(0, 5, size=400), 0.0)
    assert staging.size == weigh(frame(0, 5, size=400))
    chain = staging.continued_by(frame(5, 9))
    assert chain is not None
    assert staging.extend(chain, frame(5, 9, size=600), 0.0) is TableReason.STAGED_BYTES
    assert staging.size == 0
    assert not staging.under_way("a", 1)


def test_the_chain_that_waited_longest_makes_room() -> None:
    staging = Staging(BOUND)
    for number in range(CHAINS + 1):
        staging.begin(frame(0, 5 + number), float(number))
    assert staging.continued_by(frame(5, 20)) is None
    assert staging.continued_by(frame(6, 20)) is not None


def test_chains_that_the_table_passed_are_of_no_use() -> None:
    staging = Staging(BOUND)
    staging.begin(frame(0, 5), 0.0)
    staging.begin(frame(0, 9), 0.0)
    staging.passed("a", Version(1, 5))
    assert staging.continued_by(frame(5, 20)) is None
    assert staging.continued_by(frame(9, 20)) is not None
    staging.passed("a", Version(2, 0))
    assert staging.size == 0
    staging.passed("nobody", None)


def test_a_chain_that_stands_still_is_dropped() -> None:
    staging = Staging(BOUND)
    staging.begin(frame(0, 5), 0.0)
    staging.begin(frame(0, 5, owner="b"), 10.0)
    staging.expire(CHAIN_AGE_S)
    assert not staging.under_way("a", 1)
    assert staging.under_way("b", 1)
