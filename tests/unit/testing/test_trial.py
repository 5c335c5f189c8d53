"""A trial draws everything from its seed, each part by itself, and sums up what its world did."""

from __future__ import annotations

import pytest

from mesh.testing import trial as trials
from mesh.testing.faults import Fault, Trouble
from mesh.testing.monitor import Violation
from mesh.testing.topology import Shape, Size
from mesh.testing.trial import CLOCK_DRIFT, WALL_SKEW_S, Trial


def test_topology_plan_and_clocks_follow_the_seed_and_a_given_plan_changes_nothing_else() -> None:
    one, same, bare = Trial(5), Trial(5), Trial(5, plan=[])
    assert one.topology == same.topology == bare.topology
    assert one.plan == same.plan == Trial.plan_of(5, Size.SMALL)
    assert bare.plan == []
    clocks = [[(n.clock_begun_s, n.clock_rate, n.skew_s) for n in trial.nodes] for trial in (one, same, bare)]
    assert clocks[0] == clocks[1] == clocks[2]
    assert len(set(clocks[0])) == len(one.nodes)
    assert all(abs(rate - 1.0) <= CLOCK_DRIFT and abs(skew) <= WALL_SKEW_S for _, rate, skew in clocks[0])


def test_some_seeds_are_special_and_say_so() -> None:
    assert Trial(5).specials == ["little credit", "every frame encoded and decoded"]
    assert Trial(3).specials == ["summaries merge"]
    assert Trial(1).specials == []
    assert Trial(5).world.limits.credit_events == 30
    assert Trial(3).world.merge_budget == 6


def test_control_frames_are_garbled_in_every_fourth_seed_at_most() -> None:
    garbled = {
        seed for seed in range(1, 60) if any(t.fault is Fault.GARBLE for t in Trial.plan_of(seed, Size.LARGE))
    }
    assert garbled
    assert all(seed % 4 == 0 for seed in garbled)


def test_a_trial_lives_and_counts() -> None:
    trial = Trial(8, plan=[Trouble(Fault.CUT, 1.0, 5.0, 0, 0.1)])
    outcome = trial.run()
    assert not outcome.failed
    assert outcome.events == len(trial.world.taken) > 24
    assert outcome.seen.deliveries == len(trial.world.delivered) > 0
    assert outcome.steps == trial.world.steps
    assert outcome.lost <= outcome.counted
    assert (len(outcome.settle_s), outcome.converge_s) == (2, outcome.settle_s[1])
    assert trial.began_bad_times is not None
    assert len(outcome.fingerprint) == 16
    assert isinstance(outcome.shape, Shape)


def test_a_world_that_never_settles_says_what_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SETTLE_S", 5.0)
    trial = Trial(8)
    world = trial.world
    a, b = next((bridge.a, bridge.b) for bridge in trial.topology.bridges)
    world.cut(a, b)
    outcome = trial.run()
    assert outcome.failed
    assert outcome.settle_s == []
    [first, *_] = outcome.violations
    assert isinstance(first, Violation)
    assert first.prop == "P1"
    assert f"start: not settled after 5 s: {a} has no bridge to {b}" in first.detail
