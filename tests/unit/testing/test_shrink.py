"""A plan is made as small as what it breaks allows."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.testing.faults import Fault, Trouble
from mesh.testing.shrink import shrink


def plan_of(count: int) -> list[Trouble]:
    return [Trouble(Fault.CUT, float(n), 1.0, n, 0.5) for n in range(count)]


def test_two_faults_that_fail_only_together_are_left() -> None:
    asked = []

    def fails(plan: Sequence[Trouble]) -> bool:
        asked.append(len(plan))
        return {3, 17} <= {trouble.target for trouble in plan}

    assert [trouble.target for trouble in shrink(plan_of(20), fails)] == [3, 17]
    assert len(asked) < 80


def test_one_fault_to_blame_is_found_in_few_tries() -> None:
    asked = []

    def fails(plan: Sequence[Trouble]) -> bool:
        asked.append(len(plan))
        return any(trouble.target == 11 for trouble in plan)

    assert [trouble.target for trouble in shrink(plan_of(32), fails)] == [11]
    assert len(asked) < 20


def test_what_fails_without_any_fault_needs_none() -> None:
    assert shrink(plan_of(5), lambda plan: True) == []


def test_all_faults_stay_when_all_are_needed() -> None:
    assert shrink(plan_of(6), lambda plan: len(plan) == 6) == plan_of(6)


def test_tries_are_bounded_and_what_is_returned_fails() -> None:
    asked = []

    def fails(plan: Sequence[Trouble]) -> bool:
        asked.append(plan)
        return sum(trouble.target % 2 for trouble in plan) >= 20

    smallest = shrink(plan_of(64), fails, tries=10)
    assert len(asked) <= 10
    assert fails(smallest)
    assert shrink(plan_of(4), fails, tries=0) == plan_of(4)
