"""What is printed names what was broken, and the command that repeats it."""

from __future__ import annotations

import json
import shlex

from unit.testing.test_fault_check import lose, repeat, sound

from mesh.testing.fault_check import check
from mesh.testing.fault_draw import Wish, draw
from mesh.testing.fault_history import History
from mesh.testing.fault_plan import FaultKind
from mesh.testing.fault_report import as_json, plans_table, replay_command, story, summary
from mesh.testing.fault_run import Figures, Run
from mesh.testing.fault_runner import _parser, _wish


def run_of(history: History) -> Run:
    figures = Figures(cpu_s={"a-1": 1.0, "b-1": 3.0}, peak_rss_mb={"a-1": 50.5}, drops={"no_route": 3})
    return Run(history.plan, check(history), figures, "/somewhere/plan-1")


def test_the_command_repeats_the_plan() -> None:
    for wish in (
        Wish(),
        Wish(scenario="outage", topology="line", seconds=12.5, rate=300.0, level="at-most-once", heal_s=5.0),
        Wish(kinds=(FaultKind.KILL, FaultKind.ONE_WAY), whole_regions=True, without_faults=True),
    ):
        words = shlex.split(replay_command(7, wish))
        assert words[0] == "scripts/faults"
        parser = _parser()
        told = parser.parse_args(words[1:])
        assert (told.plans, told.seed, _wish(told, parser)) == (1, 7, wish)
        assert draw(told.seed, _wish(told, parser)) == draw(7, wish)


def test_a_broken_promise_is_in_the_line_the_story_and_the_summary() -> None:
    history = sound()
    lose(history)
    repeat(history)
    runs = [run_of(sound()), run_of(history)]
    good, bad = plans_table(runs)[1:]
    assert good.endswith("ok")
    assert bad.endswith("duplicated:1,lost:1")
    told = "\n".join(story(runs[1], "scripts/faults --seed 1"))
    assert "lost (far): a/a-1/5/8" in told
    assert "duplicated (far): a/a-1/5/4" in told
    assert "/somewhere/plan-1" in told
    assert "no_route 3" in told
    assert summary(runs)[-2:] == ["violations: duplicated 1, lost 1", "failed plans: 1 (1)"]


def test_json_has_everything() -> None:
    told = json.loads(json.dumps(as_json([run_of(sound())], ["again"], 1.23)))
    assert told["failed"] == 0
    [plan] = told["plans"]
    assert plan["replay"] == "again"
    assert plan["row"]["cpu"] == 1e5  # 4 s for 40 events
    assert plan["verdict"]["accepted"] == 40


def test_nothing_at_all_is_said_so() -> None:
    assert summary([]) == ["no plan was carried out"]
