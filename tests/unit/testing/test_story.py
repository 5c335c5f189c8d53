"""The story of one world names what a person needs to understand it."""

from __future__ import annotations

from mesh.testing.faults import Fault, Trouble
from mesh.testing.monitor import Violation
from mesh.testing.story import plan_text, replay_command, story
from mesh.testing.topology import Size
from mesh.testing.trial import Trial


def test_a_story_has_the_map_the_plan_and_what_was_found() -> None:
    trial = Trial(5, plan=[Trouble(Fault.ISOLATE, 2.0, 3.0, 0, 0.5), Trouble(Fault.SLOW, 4.0, 1.0, 1, 0.9)])
    trial.outcome.violations = [Violation("P2", 12.5, "next hops lead back")]
    trial.began_bad_times = 10.0
    text = story(trial, trial.outcome)
    topology = trial.topology
    assert f"world 5 (small): {topology.shape} of {len(topology.places)} regions" in text
    assert "special: little credit, every frame encoded and decoded" in text
    assert all(f"region {region} (" in text for region in topology.places)
    assert all(f"bridge {bridge.a} -> {bridge.b} (" in text for bridge in topology.bridges)
    assert f"12.000 s  isolate      {next(iter(topology.places))} for 3 s" in text
    assert f"14.000 s  slow         {topology.nodes[1]} for 1 s" in text
    assert text.endswith("violations: 1\n  P2 at 12.500 s: next hops lead back")


def test_a_world_that_broke_before_its_bad_times_says_so() -> None:
    trial = Trial(1)
    assert "(never begun)" in story(trial, trial.outcome)


def test_commands_and_plans_can_be_typed() -> None:
    assert replay_command(3, Size.LARGE) == "scripts/sim --seed 3 --size large"
    assert plan_text([Trouble(Fault.CUT, 1.0, 2.0, 3, 0.5)]) == '[["cut", 1.0, 2.0, 3, 0.5]]'
