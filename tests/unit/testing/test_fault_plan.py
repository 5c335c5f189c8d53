"""A plan is plain data: written and read again it is the same one, and one that cannot be carried out is refused."""

from __future__ import annotations

import msgspec
import pytest

from mesh.testing.fault_draw import Wish, draw
from mesh.testing.fault_plan import (
    MARGIN_S,
    SHAPES,
    FaultKind,
    FaultPlan,
    TimedFault,
    emptied,
    plan_json,
    problems,
    read_plan,
)


def plan_with(*faults: TimedFault, topology: str = "line", whole_regions: bool = False) -> FaultPlan:
    plan = draw(1, Wish(scenario="calm", topology=topology))
    return msgspec.structs.replace(plan, faults=faults, whole_regions=whole_regions)


def kill(node: str, at_s: float, lasts_s: float = 1.0) -> TimedFault:
    return TimedFault(kind=FaultKind.KILL, at_s=at_s, lasts_s=lasts_s, target=node)


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_survives_json(seed: int) -> None:
    plan = draw(seed, Wish())
    assert read_plan(plan_json(plan)) == plan


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        (kill("x-1", 1.0), "no such target 'x-1'"),
        (TimedFault(kind=FaultKind.CUT, at_s=1.0, lasts_s=1.0, target="a-1>c-1"), "a-1>c-1"),
        (TimedFault(kind=FaultKind.ISOLATE, at_s=1.0, lasts_s=1.0, target="a-1"), "a-1"),
        (TimedFault(kind=FaultKind.AWAY, at_s=1.0, lasts_s=1.0, target="nobody"), "nobody"),
    ],
)
def test_a_target_that_does_not_exist_is_refused(fault: TimedFault, wrong: str) -> None:
    assert wrong in next(problems(plan_with(fault)), "")
    with pytest.raises(ValueError, match=wrong):
        read_plan(plan_json(plan_with(fault)))


def test_a_line_is_named_from_either_end_and_peers_have_one() -> None:
    for target in ("a-1>b-2", "b-2>a-1", "b-1>b-2"):
        cut = TimedFault(kind=FaultKind.CUT, at_s=1.0, lasts_s=1.0, target=target)
        assert list(problems(plan_with(cut))) == []


def test_text_that_is_no_plan_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="unknown field `rat`"):
        read_plan(plan_json(plan_with()).replace('"rate"', '"rat"'))


def test_a_region_without_a_node_is_noticed_and_must_be_wanted() -> None:
    both = (kill("b-1", 2.0, 3.0), kill("b-2", 4.0))
    assert emptied(plan_with(*both)) == ["b"]
    assert "all nodes of region b" in next(problems(plan_with(*both)))
    assert list(problems(plan_with(*both, whole_regions=True))) == []


def test_a_node_that_has_just_been_started_is_not_counted_on() -> None:
    assert emptied(plan_with(kill("b-1", 2.0), kill("b-2", 3.0 + MARGIN_S - 0.1))) == ["b"]
    assert emptied(plan_with(kill("b-1", 2.0), kill("b-2", 3.0 + MARGIN_S))) == []
    assert emptied(plan_with(kill("a-1", 2.0), kill("b-2", 2.0))) == []


def test_shapes_are_what_they_are_called() -> None:
    assert SHAPES["line"].regions == {"a": ("a-1", "a-2"), "b": ("b-1", "b-2"), "c": ("c-1", "c-2")}
    assert not any("c" in a + b and "a" in a + b for a, b in SHAPES["line"].bridges), "no way around b"
    assert len(SHAPES["three"].pairs) == 3
    assert all(set(pair) <= set(shape.nodes) for shape in SHAPES.values() for pair in shape.pairs)
