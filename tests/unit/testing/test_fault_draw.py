"""The same seed is the same plan, every plan can be carried out, and over many seeds every kind of fault is drawn."""

from __future__ import annotations

import itertools
import subprocess
import sys

import msgspec
import pytest

from mesh.testing.fault_draw import SCENARIOS, Wish, draw
from mesh.testing.fault_plan import FaultKind, emptied, plan_json, problems


def test_the_same_seed_is_the_same_plan_in_another_process_under_another_hash_seed() -> None:
    code = (
        "from mesh.testing.fault_draw import *; from mesh.testing.fault_plan import *; "
        "print(plan_json(draw(7, Wish())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == plan_json(draw(7, Wish())).strip()
    assert draw(7, Wish()) != draw(8, Wish())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_plan_can_be_carried_out(scenario: str) -> None:
    for seed in range(60):
        for level in ("at-least-once", "at-most-once"):
            plan = draw(seed, Wish(scenario=scenario, level=level))  # type: ignore[arg-type]
            assert list(problems(plan)) == []
            assert all(fault.at_s + fault.lasts_s <= plan.seconds for fault in plan.faults)
            assert sum(s.rate for s in plan.streams if s.name != "live") == pytest.approx(1_000.0)


def test_a_storm_has_every_kind_of_fault_and_kills_often() -> None:
    plans = [draw(seed, Wish()) for seed in range(60)]
    kinds = [fault.kind for plan in plans for fault in plan.faults]
    assert set(kinds) == set(FaultKind)
    struck = sum(kind in (FaultKind.KILL, FaultKind.PAUSE) for kind in kinds) / len(plans)
    assert struck > 5.0, "about every 3 s of 30, less what would empty a region"
    assert {plan.topology for plan in plans} == {"line", "ring", "three"}


def test_only_the_kinds_asked_for() -> None:
    wish = Wish(kinds=(FaultKind.STALL, FaultKind.KILL), topology="line")
    kinds = {fault.kind for seed in range(10) for fault in draw(seed, wish).faults}
    assert kinds == {FaultKind.STALL, FaultKind.KILL}


def test_whole_regions_go_down_only_where_that_is_wanted() -> None:
    assert not any(emptied(draw(seed, Wish(topology="pair"))) for seed in range(30))
    wanted = [draw(seed, Wish(topology="pair", whole_regions=True)) for seed in range(30)]
    assert any(emptied(plan) for plan in wanted)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="no scenario 'sunshine'"):
        draw(1, Wish(scenario="sunshine"))
    with pytest.raises(ValueError, match="no topology 'star'"):
        draw(1, Wish(topology="star"))


def test_a_plan_without_its_faults_is_otherwise_the_same() -> None:
    spoiled, calm = (draw(5, Wish(scenario="outage", without_faults=calm)) for calm in (False, True))
    assert calm.faults == ()
    assert spoiled == msgspec.structs.replace(calm, faults=spoiled.faults)


def test_while_readers_are_away_a_group_is_never_empty() -> None:
    for seed in range(20):
        plan = draw(seed, Wish(scenario="away"))
        workers = [fault for fault in plan.faults if fault.target.startswith("worker")]
        assert len(workers) > 5
        for one, next_one in itertools.pairwise(workers):
            assert one.at_s + one.lasts_s < next_one.at_s
