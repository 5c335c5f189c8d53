from __future__ import annotations

import pytest

from mesh.core.custody.spools import Spools
from mesh.model.topic_rules import SpoolPolicy, TopicRule


class Desk:
    """Records of SIZE bytes; what `end_record` ends is freed, as custody does."""

    SIZE = 100

    def __init__(self) -> None:
        self.ended: list[tuple[int, bool]] = []
        self.spools = Spools(self._end)

    def _end(self, lsn: int, as_dead_letter: bool, now: float) -> None:
        self.ended.append((lsn, as_dead_letter))
        self.spools.freed("orders/#", lsn, self.SIZE)

    def fill(self, rule: TopicRule, records: int) -> None:
        for lsn in range(1, records + 1):
            self.spools.add(rule, lsn, self.SIZE)


def rule(policy: SpoolPolicy, spool_bytes: int = 300) -> TopicRule:
    return TopicRule("orders/#", spool_bytes=spool_bytes, spool_policy=policy)


def test_a_rule_without_a_bound_always_has_room_and_an_unused_one_too() -> None:
    desk = Desk()
    endless = rule(SpoolPolicy.BLOCK, 0)
    desk.fill(endless, 50)
    assert desk.spools.make_room(endless, 1 << 30, 0.0)
    assert Desk().spools.make_room(rule(SpoolPolicy.BLOCK), 1 << 30, 0.0), "one record may always wait"


def test_block_says_no_and_ends_nothing() -> None:
    desk = Desk()
    blocking = rule(SpoolPolicy.BLOCK)
    desk.fill(blocking, 2)
    assert desk.spools.make_room(blocking, 100, 0.0)
    assert not desk.spools.make_room(blocking, 101, 0.0)
    assert desk.ended == []
    desk.spools.freed("orders/#", 1, 100)
    assert desk.spools.make_room(blocking, 101, 0.0)


@pytest.mark.parametrize(
    ("policy", "as_dead_letter"), [(SpoolPolicy.DROP_OLDEST, False), (SpoolPolicy.DEAD_LETTER, True)]
)
def test_the_oldest_go_until_there_is_room(policy: SpoolPolicy, as_dead_letter: bool) -> None:
    desk = Desk()
    lenient = rule(policy)
    desk.fill(lenient, 3)
    assert desk.spools.make_room(lenient, 150, 0.0)
    assert desk.ended == [(1, as_dead_letter), (2, as_dead_letter)]
    assert desk.spools.waiting() == {"orders/#": 100}


def test_a_call_larger_than_the_bound_empties_the_spool_and_is_taken() -> None:
    desk = Desk()
    lenient = rule(SpoolPolicy.DROP_OLDEST)
    desk.fill(lenient, 3)
    assert desk.spools.make_room(lenient, 10_000, 0.0)
    assert [lsn for lsn, _ in desk.ended] == [1, 2, 3]


def test_rules_are_counted_apart_and_what_is_freed_of_no_rule_is_nothing() -> None:
    desk = Desk()
    desk.spools.add(rule(SpoolPolicy.BLOCK), 1, 100)
    desk.spools.add(TopicRule("mail/#", spool_bytes=50), 2, 40)
    desk.spools.freed("", 1, 1_000)
    desk.spools.freed("unknown/#", 1, 1_000)
    assert desk.spools.waiting() == {"orders/#": 100, "mail/#": 40}
    desk.spools.freed("mail/#", 2, 1_000)
    assert desk.spools.waiting() == {"orders/#": 100}


@pytest.mark.parametrize("policy", list(SpoolPolicy))
def test_what_has_ended_is_not_remembered_and_not_ended_again(policy: SpoolPolicy) -> None:
    desk = Desk()
    for lsn in range(1, 1_001):
        desk.spools.add(rule(policy), lsn, desk.SIZE)
        desk.spools.freed("orders/#", lsn, desk.SIZE)
    desk.spools.add(rule(policy), 1_001, 300)
    assert desk.spools.make_room(rule(policy), 100, 0.0) is (policy is not SpoolPolicy.BLOCK)
    assert [lsn for lsn, _ in desk.ended] == ([] if policy is SpoolPolicy.BLOCK else [1_001])
