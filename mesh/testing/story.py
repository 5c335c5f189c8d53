"""One world told to a person: its map, what went wrong in it and when, what was found.

Decides words and order only; the figures are those of `mesh.testing.trial`. Never runs anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from mesh.testing.faults import Trouble, target_of
from mesh.testing.trial import Outcome, Trial


def story(trial: Trial, outcome: Outcome) -> str:
    """Everything worth knowing about one run."""
    return "\n".join([*_map(trial), *_plan(trial), *_found(outcome)])


def replay_command(seed: int, size: str) -> str:
    """What to type to see a world again."""
    return f"scripts/sim --seed {seed} --size {size}"


def plan_text(plan: Sequence[Trouble]) -> str:
    """A plan as --plan reads it: JSON, one fault a line."""
    lines = ",\n ".join(json.dumps([str(t.fault), *t[1:]]) for t in plan)
    return f"[{lines}]"


def _map(trial: Trial) -> Iterator[str]:
    topology, world = trial.topology, trial.world
    nodes, bridges = len(topology.nodes), len(topology.bridges)
    yield (
        f"world {trial.outcome.seed} ({trial.size}): {topology.shape} of {len(topology.places)} regions,"
        f" {nodes} nodes, {bridges} bridges"
    )
    special = [*trial.specials]
    if special:
        yield f"  special: {', '.join(special)}"
    for region, (north, east) in topology.places.items():
        names = ", ".join(key.node for key in topology.of(region))
        yield f"  region {region} ({north:g} N {east:g} E): {names}"
    for bridge in topology.bridges:
        roles = "" if bridge.role_a == bridge.role_b == "transit" else f", {bridge.role_a} / {bridge.role_b}"
        latency_ms = 1e3 * world.latency_s(world.nodes[bridge.a], world.nodes[bridge.b])
        yield f"  bridge {bridge.a} -> {bridge.b} ({latency_ms:.1f} ms{roles})"


def _plan(trial: Trial) -> Iterator[str]:
    begun = trial.began_bad_times
    when = "never begun" if begun is None else f"from {begun:.3f} s"
    yield f"plan: {len(trial.plan)} faults ({when})"
    for trouble in trial.plan:
        at = trouble.at + (begun or 0.0)
        yield (
            f"  {at:8.3f} s  {trouble.fault:<12} {target_of(trouble, trial.topology)}"
            f" for {trouble.lasts:g} s, amount {trouble.amount:.2f}"
        )


def _found(outcome: Outcome) -> Iterator[str]:
    seen = outcome.seen
    yield (
        f"lived: {outcome.steps} steps, {outcome.events} events, {seen.copies} copies, {seen.deliveries} deliveries,"
        f" {seen.hops} hops at most"
    )
    settled = ", ".join(f"{took:.2f} s" for took in outcome.settle_s) or "never"
    yield f"  settled after {settled}; links back {outcome.return_s:.2f} s after healing, equal {outcome.converge_s:.2f} s later"
    yield (
        f"  at least once: {outcome.kept} events accepted, {outcome.kept_refused} calls refused, {outcome.kept_copies} batches"
        f" ({outcome.kept_repeats} of them again), {outcome.kept_deliveries} deliveries, {outcome.kept_reorders} out of order"
    )
    yield f"  promises not kept {outcome.lost}, drops counted {outcome.counted}: {_counts(outcome.drops)}"
    yield f"  transient loops {seen.loops}, longest {seen.loop_s:.3f} s; fingerprint {outcome.fingerprint}"
    yield f"violations: {len(outcome.violations)}"
    for violation in outcome.violations:
        yield f"  {violation}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none"
