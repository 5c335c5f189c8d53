"""The command line of `scripts/sim`, what it adds up and what it prints of a failure. Whole worlds: tests/sim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesh.testing import soak
from mesh.testing.faults import Fault, Trouble
from mesh.testing.monitor import Sightings, Violation
from mesh.testing.story import plan_text
from mesh.testing.topology import Shape, Size
from mesh.testing.trial import Outcome, Trial

PLAN = [Trouble(Fault.CUT, 1.5, 2.0, 3, 0.25), Trouble(Fault.CRASH, 4.0, 1.0, 7, 1.0)]


def outcome(seed: int, *violations: Violation, **what: Any) -> Outcome:
    return Outcome(seed, Size.SMALL, Shape.RING, nodes=5, regions=3, violations=list(violations), **what)


def test_a_tally_adds_up_and_keeps_the_extremes() -> None:
    tally = soak.Tally()
    near = Sightings(
        loops=2, loop_s=0.5, hops=3, copies=7, deliveries=9, largest={"plans": (3, 10), "dedupe": (1, 2)}
    )
    far = Sightings(loops=1, loop_s=0.1, hops=4, copies=1, deliveries=1, largest={"plans": (90, 1_000)})
    tally.add(
        outcome(1, steps=10, events=4, seen=near, settle_s=[1.0, 7.0], converge_s=7.0, drops={"no_route": 2})
    )
    tally.add(
        outcome(
            2, Violation("P2", 1.0, "x"), Violation("P2", 2.0, "y"), Violation("loss", 2.0, "z"), seen=far
        )
    )
    assert (tally.worlds, tally.nodes, tally.steps, tally.events) == (2, 10, 10, 4)
    assert (tally.copies, tally.deliveries, tally.loops, tally.loop_s, tally.hops) == (8, 10, 3, 0.5, 4)
    assert tally.slowest_settle == tally.slowest_converge == (7.0, 1)
    assert tally.largest == {"plans": (3, 10), "dedupe": (1, 2)}, (
        "3 of 10 is nearer to its bound than 90 of 1000"
    )
    assert tally.violated == {"P2": 1, "loss": 1}, "worlds are counted, not violations"
    assert [one.seed for one in tally.failures] == [2]
    told = tally.as_json(Size.SMALL, 1.25)
    assert told["violated"]["P5"] == 0
    assert told["failures"][0]["replay"] == "scripts/sim --seed 2 --size small"
    assert json.loads(json.dumps(told))["largest"]["plans"] == [3, 10]


def test_the_summary_names_every_property_and_every_failed_seed() -> None:
    tally = soak.Tally()
    tally.add(outcome(77, Violation("P11", 1.0, "x")))
    text = tally.summary(Size.SMALL, 3.0)
    assert all(f"{prop} " in text for prop in soak.CHECKED)
    assert "P11 1" in text
    assert "failed worlds: 1 (77)" in text


def test_a_failure_is_printed_with_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lived(seed: int, size: Size) -> Outcome:
        return outcome(seed, *([Violation("P5", 12.0, "twice")] if seed == 5 else []))

    monkeypatch.setattr(soak, "_lived", lived)
    assert soak.main(["--seeds", "3", "--from", "4", "--jobs", "1", "--size", "medium"]) == 1
    told = capsys.readouterr()
    assert "seed 5: P5 at 12.000 s: twice\n  scripts/sim --seed 5 --size medium" in told.err
    assert told.out.startswith("3 medium worlds")
    assert soak.main(["--seeds", "1", "--jobs", "1", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["worlds"] == 1


def test_what_a_world_raises_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Trial) -> Outcome:
        raise AssertionError("a machine's invariant")

    monkeypatch.setattr(Trial, "run", run)
    _, found = soak.live(1, Size.SMALL)
    assert [violation.prop for violation in found.violations] == ["raised"]
    assert "a machine's invariant" in found.violations[0].detail


def test_shrinking_prints_the_smallest_plan_with_the_same_violation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(self: Trial) -> Outcome:
        if any(trouble.fault is Fault.CRASH for trouble in self.plan):
            self.outcome.violations = [Violation("P1", 9.0, "not settled")]
        elif self.plan:
            self.outcome.violations = [Violation("P8", 9.0, "another one")]
        return self.outcome

    monkeypatch.setattr(Trial, "run", run)
    (tmp_path / "plan").write_text(plan_text(PLAN))
    assert soak.main(["--seed", "1", "--plan", str(tmp_path / "plan"), "--shrink", "-o", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["plan"] == [["crash", 4.0, 1.0, 7, 1.0]]
    assert told["outcome"]["violations"][0][0] == "P1"
    (tmp_path / "none").write_text("[]")
    assert soak.main(["--seed", "1", "--plan", str(tmp_path / "none"), "--shrink"]) == 0


def test_a_plan_is_read_as_it_is_written() -> None:
    assert soak.read_plan(plan_text(PLAN)) == PLAN
    assert soak.read_plan(plan_text([])) == []
    with pytest.raises(ValueError, match="rain"):
        soak.read_plan('[["rain", 1, 1, 1, 1]]')


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--seeds", "0"],
        ["--seeds", "1", "--seed", "1"],
        ["--seeds", "1", "--jobs", "0"],
        ["--seeds", "1", "--shrink"],
        ["--seed", "1", "--size", "huge"],
        ["--seed", "1", "--plan", "/nowhere/plan"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        soak.main(arguments)
    assert ended.value.code == soak.USAGE
    assert "scripts/sim" in capsys.readouterr().err
