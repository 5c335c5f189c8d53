"""Whole meshes in virtual time: break first, then heal. Every property of the design's page "Routing" that the simulator
knows is checked in every world; `scripts/sim` lives many more of them.

A failure prints the command that replays it. Seeds in FOUND once failed; what failed is told beside them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from mesh.testing.faults import Fault, Trouble
from mesh.testing.soak import live, main
from mesh.testing.story import plan_text, replay_command
from mesh.testing.topology import Size
from mesh.testing.trial import Outcome, Trial

ROOT = Path(__file__).parents[2]
LARGE = 2
"""Its seed: a hub with 32 regions round it, 33 faults. Others take half a minute and more."""
FOUND: dict[int, tuple[str, list[Trouble] | None]] = {
    32: (
        "A member's new process was taken for its earlier one: routes in a circle inside a region.",
        [
            Trouble(Fault.POWER_LOSS, 8.077, 14.441, 574, 0.34),
            Trouble(Fault.CRASH, 16.772, 16.936, 332, 0.86),
        ],
    ),
    75: ("Dead letters of what had expired on the way could not be read.", None),
    183: (
        "A queue group's share waited for a region that link roles keep away, beside members in reach.",
        None,
    ),
    437: (
        "What waited in custody could not turn round, and blocked its lane for all that came after it.",
        None,
    ),
    459: (
        "A node that started after a power loss took events for its region before a member found it again.",
        None,
    ),
}


def unharmed(outcome: Outcome, plan: list[Trouble] | None = None) -> None:
    """Nothing was violated, and something happened."""
    told = "\n".join(map(str, outcome.violations))
    more = "" if plan is None else f" --plan FILE, FILE with\n{plan_text(plan)}"
    assert not outcome.failed, f"{told}\n{replay_command(outcome.seed, outcome.size)}{more}"
    assert outcome.events > 2 * 12
    assert outcome.seen.deliveries > 0
    assert len(outcome.settle_s) == 2
    assert outcome.explained >= 12
    assert outcome.kept >= 12


@pytest.mark.parametrize("seed", range(1, 9))
def test_small_worlds(seed: int) -> None:
    unharmed(live(seed, Size.SMALL)[1])


@pytest.mark.parametrize("seed", [1, 2])
def test_medium_worlds(seed: int) -> None:
    unharmed(live(seed, Size.MEDIUM)[1])


@pytest.mark.timeout(300)  # about ten seconds where nothing else runs
def test_a_large_world() -> None:
    outcome = live(LARGE, Size.LARGE)[1]
    unharmed(outcome)
    assert outcome.regions >= 30


@pytest.mark.parametrize("seed", FOUND)
def test_what_once_failed(seed: int) -> None:
    plan = FOUND[seed][1]
    unharmed(live(seed, Size.SMALL, plan)[1], plan)


troubles = st.builds(
    Trouble,
    fault=st.sampled_from(Fault),
    at=st.integers(0, 200).map(lambda tenths: tenths / 10),
    lasts=st.integers(1, 150).map(lambda tenths: tenths / 10),
    target=st.integers(0, 30),
    amount=st.integers(0, 10).map(lambda tenths: tenths / 10),
)


@settings(
    derandomize=True, max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
@given(seed=st.integers(1, 10_000), plan=st.lists(troubles, max_size=8))
def test_any_plan_of_faults(seed: int, plan: list[Trouble]) -> None:
    """Hypothesis makes a plan that breaks something smaller, by leaving faults out and by making them milder."""
    note(f"{replay_command(seed, Size.SMALL)} --plan FILE, FILE with\n{plan_text(plan)}")
    unharmed(live(seed, Size.SMALL, plan)[1], plan)


def test_a_seed_gives_the_same_world_under_any_hash_seed() -> None:
    """Sets and dicts of strings have other orders there; nothing of a run may depend on them."""
    first, second = (lived_elsewhere(4, hash_seed) for hash_seed in ("1", "4242"))
    assert first == second
    assert first["fingerprint"]
    assert first["seen"]["deliveries"] > 0


def lived_elsewhere(seed: int, hash_seed: str) -> dict[str, Any]:
    """The outcome of a seed in a process of its own."""
    command = [sys.executable, "-m", "mesh.testing.soak", "--seed", str(seed), "-o", "json"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def test_other_seeds_give_other_worlds() -> None:
    assert Trial(1).topology != Trial(2).topology
    assert Trial(1).plan != Trial(2).plan


def test_a_soak_over_processes_counts_what_its_worlds_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--from", "21", "--jobs", "2", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    alone = [live(seed, Size.SMALL)[1] for seed in (21, 22)]
    assert told["worlds"] == 2
    assert told["failures"] == []
    assert told["events"] == sum(one.events for one in alone)
    assert told["steps"] == sum(one.steps for one in alone)
    assert told["deliveries"] == sum(one.seen.deliveries for one in alone)
