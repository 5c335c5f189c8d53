"""How fault runs are told: one line a plan, the story of one that failed, a summary; and the command that repeats it.

Decides words and order only; the figures are those of `fault_check` and `fault_run`. Never runs or judges anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mesh.cli.render import Column, field, table
from mesh.testing.fault_check import ReaderFigures, shown
from mesh.testing.fault_draw import Wish
from mesh.testing.fault_run import Run

_PLANS: Final = (
    Column("SEED", field("seed")),
    Column("MESH", field("mesh")),
    Column("FAULTS", field("faults")),
    Column("ACCEPTED", field("accepted")),
    Column("DOUBT", field("doubtful")),
    Column("LOST", field("lost")),
    Column("DUP", field("duplicated")),
    Column("FLAGGED", field("redelivered")),
    Column("REORD", field("reordered")),
    Column("DEAD", field("dead")),
    Column("P50 MS", field("p50")),
    Column("P99 MS", field("p99")),
    Column("MAX S", field("max")),
    Column("SETTLED S", field("settled")),
    Column("START S", field("start")),
    Column("CPU US/EVENT", field("cpu")),
    Column("MAX MB", field("rss")),
    Column("RESULT", field("result")),
)
_READERS: Final = tuple(
    Column(title, field(name))
    for title, name in (
        ("READER", "reader"),
        ("PROMISED", "promised"),
        ("DELIVERED", "delivered"),
        ("LOST", "lost"),
        ("MISSED", "missed"),
        ("DUP", "duplicated"),
        ("FLAGGED", "redelivered"),
        ("REORD", "reordered"),
        ("COPIES", "copies"),
        ("DEAD", "dead"),
        ("LATE", "late"),
        ("P50 MS", "p50_ms"),
        ("P99 MS", "p99_ms"),
        ("MAX MS", "max_ms"),
    )
)


def replay_command(seed: int, wish: Wish) -> str:
    """What to type to carry a plan out again."""
    default = Wish()
    words = ["scripts/faults", "--plans 1", f"--seed {seed}"]
    for name in ("scenario", "topology", "seconds", "rate", "level", "heal_s"):
        value = getattr(wish, name)
        if value != getattr(default, name):
            option = name.removesuffix("_s")
            words.append(f"--{option} {value:g}" if isinstance(value, float) else f"--{option} {value}")
    if wish.kinds:
        words.append(f"--kinds {','.join(wish.kinds)}")
    for option in ("whole_regions", "without_faults"):
        if getattr(wish, option):
            words.append(f"--{option.replace('_', '-')}")
    return " ".join(words)


def row(run: Run) -> dict[str, Any]:
    """A plan's line, for the table and for JSON. Quantiles are the worst of those readers that were promised something."""
    verdict, figures = run.verdict, run.figures
    readers = [one for one in verdict.readers if one.promised] or verdict.readers
    return {
        "seed": run.plan.seed,
        "mesh": f"{run.plan.topology}/{run.plan.scenario}",
        "faults": len(run.plan.faults),
        "accepted": verdict.accepted,
        "doubtful": verdict.doubtful,
        **{name: verdict.total(name) for name in ("lost", "duplicated", "redelivered", "reordered", "dead")},
        "p50": _worst(readers, "p50_ms"),
        "p99": _worst(readers, "p99_ms"),
        "max": round(_worst(readers, "max_ms") / 1e3, 2),
        "settled": verdict.settled_s,
        "start": figures.start_s,
        "cpu": round(1e6 * sum(figures.cpu_s.values()) / max(1, verdict.accepted), 1),
        "rss": max(figures.peak_rss_mb.values(), default=0.0),
        "result": ",".join(f"{kind}:{count}" for kind, count in verdict.kinds.items()) or "ok",
    }


def _worst(readers: Sequence[ReaderFigures], what: str) -> float:
    return float(max((getattr(reader, what) for reader in readers), default=0.0))


def plans_table(runs: Sequence[Run]) -> list[str]:
    """All plans, a line each."""
    return table([row(run) for run in runs], _PLANS, wide=False, color=False)


def story(run: Run, replay: str) -> list[str]:
    """One plan: its readers, what was broken, where everything is kept."""
    verdict, figures = run.verdict, run.figures
    cpu = ", ".join(f"{node} {used:g}" for node, used in figures.cpu_s.items())
    lines = [
        f"plan {run.plan.seed} ({run.plan.topology}/{run.plan.scenario}): {verdict.events} events, {verdict.accepted} accepted,"
        f" {verdict.refused} refused, {verdict.unknown} unknown, {figures.left_out} left out, {figures.later} batches put off",
        *(f"  {line}" for line in table(_cells(run), _READERS, wide=False, color=False)),
        f"  CPU seconds: {cpu}; runner {figures.load_cpu_s:g}; {figures.restarts} restarts, the slowest {figures.start_s:g} s",
        "  drops: " + (", ".join(f"{why} {n}" for why, n in sorted(figures.drops.items())) or "none"),
    ]
    if figures.disks:
        lines.append("  disks: " + ", ".join(f"{node} {kind}" for node, kind in figures.disks.items()))
    lines += [f"  {line}" for line in shown(verdict.violations)]
    if run.folder:
        lines.append(f"  kept in {run.folder}")
    return [*lines, f"  {replay}"]


def _cells(run: Run) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(reader) for reader in run.verdict.readers]


def summary(runs: Sequence[Run]) -> list[str]:
    """What all plans come to."""
    if not runs:
        return ["no plan was carried out"]
    verdicts = [run.verdict for run in runs]
    kinds: dict[str, int] = {}
    for verdict in verdicts:
        for kind, count in verdict.kinds.items():
            kinds[kind] = kinds.get(kind, 0) + count
    totals = ", ".join(
        f"{sum(verdict.total(name) for verdict in verdicts)} {name}"
        for name in ("delivered", "lost", "duplicated", "redelivered", "reordered", "dead", "copies")
    )
    failed = [run for run in runs if run.failed]
    return [
        f"{len(runs)} plans: {sum(v.accepted for v in verdicts)} events accepted; {totals}",
        f"most memory of a node {max(row(run)['rss'] for run in runs):g} MB; longest to settle"
        f" {max(v.settled_s for v in verdicts):g} s; slowest start {max(run.figures.start_s for run in runs):g} s",
        "violations: " + (", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "none"),
        f"failed plans: {len(failed)}"
        + (f" ({' '.join(str(run.plan.seed) for run in failed)})" if failed else ""),
    ]


def as_json(runs: Sequence[Run], replays: Sequence[str], took_s: float) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "apiVersion": "mesh/v1",
        "kind": "faults",
        "took_s": round(took_s, 1),
        "failed": sum(run.failed for run in runs),
        "plans": [
            {
                "replay": replay,
                "row": row(run),
                "verdict": msgspec.to_builtins(run.verdict),
                "figures": msgspec.to_builtins(run.figures),
                "folder": run.folder,
            }
            for run, replay in zip(runs, replays, strict=True)
        ],
    }
