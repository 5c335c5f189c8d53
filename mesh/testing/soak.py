"""Many seeded worlds, one after the other: `scripts/sim`. Tells what they found, and how to see one again.

Decides which seeds run, on how many processes, and what a run's figures come to. The worlds are `mesh.testing.trial`'s.
Invariant: a failure is printed with the command that replays it, and makes the exit status 1.
Exit status: 0 nothing was violated; 1 something was; 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from mesh.testing.crash_points import PLAYS, Death, every_death, lives, pairs
from mesh.testing.faults import Fault, Trouble
from mesh.testing.shrink import shrink
from mesh.testing.story import plan_text, replay_command, story
from mesh.testing.topology import Size
from mesh.testing.trial import Outcome, Trial

CHECKED: Final = (
    "P1",
    "P2",
    "P3",
    "P4",
    "P5",
    "P6",
    "P8",
    "P9",
    "P10",
    "P11",
    "P12",
    "order",
    "ordered",
    "exact",
    "request",
    "loss",
    "raised",
)
"""What a world is held against: the design's properties, the oracle's receivers, the counters, and that nothing raises."""
LINE_S: Final = 30.0
"""Between two lines of progress where there is no terminal to rewrite one on."""
USAGE: Final = 2


def live(seed: int, size: Size, plan: Sequence[Trouble] | None = None) -> tuple[Trial, Outcome]:
    """One world to its end. What it raises (a broken invariant of a machine) is a violation like any other."""
    trial = Trial(seed, size, plan=plan)
    try:
        return trial, trial.run()
    except Exception:
        last = traceback.format_exc().strip().splitlines()
        trial.monitor.note("raised", " | ".join(line.strip() for line in last[-5:]))
        trial.outcome.violations = trial.monitor.violations
        return trial, trial.outcome


def _lived(seed: int, size: Size) -> Outcome:
    return live(seed, size)[1]


def worlds(seeds: Sequence[int], size: Size, jobs: int) -> Iterator[Outcome]:
    """The outcomes of many seeds, as they come. jobs: processes; 1 runs them here. Cost: seconds each."""
    if jobs == 1:
        yield from (_lived(seed, size) for seed in seeds)
        return
    todo = iter(seeds)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        # A few at a time, so that Ctrl-C has little to wait for.
        under_way: set[Future[Outcome]] = {
            pool.submit(_lived, seed, size) for _, seed in zip(range(2 * jobs), todo, strict=False)
        }
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            under_way |= {
                pool.submit(_lived, seed, size) for _, seed in zip(range(len(done)), todo, strict=False)
            }
            for future in done:
                yield future.result()


@dataclass(slots=True)
class Tally:
    """What many worlds come to. violated: property -> worlds. slowest: (seconds, seed). largest: what -> (size, bound)
    where it came nearest to its bound. failures: the outcomes with violations."""

    worlds: int = 0
    nodes: int = 0
    steps: int = 0
    events: int = 0
    explained: int = 0
    copies: int = 0
    deliveries: int = 0
    kept: int = 0
    kept_refused: int = 0
    kept_deliveries: int = 0
    kept_copies: int = 0
    kept_repeats: int = 0
    kept_reorders: int = 0
    lost: int = 0
    counted: int = 0
    loops: int = 0
    loop_s: float = 0.0
    hops: int = 0
    slowest_settle: tuple[float, int] = (0.0, 0)
    slowest_return: tuple[float, int] = (0.0, 0)
    slowest_converge: tuple[float, int] = (0.0, 0)
    violated: Counter[str] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    largest: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one more world. Order does not matter but for equal extremes."""
        seen = outcome.seen
        self.worlds += 1
        self.nodes += outcome.nodes
        self.steps += outcome.steps
        self.events += outcome.events
        self.explained += outcome.explained
        self.copies += seen.copies
        self.deliveries += seen.deliveries
        self.kept += outcome.kept
        self.kept_refused += outcome.kept_refused
        self.kept_deliveries += outcome.kept_deliveries
        self.kept_copies += outcome.kept_copies
        self.kept_repeats += outcome.kept_repeats
        self.kept_reorders += outcome.kept_reorders
        self.lost += outcome.lost
        self.counted += outcome.counted
        self.loops += seen.loops
        self.loop_s = max(self.loop_s, seen.loop_s)
        self.hops = max(self.hops, seen.hops)
        settle = max(outcome.settle_s, default=0.0)
        self.slowest_settle = max(self.slowest_settle, (settle, outcome.seed))
        self.slowest_return = max(self.slowest_return, (outcome.return_s, outcome.seed))
        self.slowest_converge = max(self.slowest_converge, (outcome.converge_s, outcome.seed))
        self.drops.update(outcome.drops)
        for what, (size, bound) in seen.largest.items():
            most, its_bound = self.largest.get(what, (0, 1))
            if size * its_bound > most * bound:
                self.largest[what] = (size, bound)
        if outcome.failed:
            self.violated.update({violation.prop for violation in outcome.violations})
            self.failures.append(outcome)

    def as_json(self, size: Size, took_s: float) -> dict[str, Any]:
        """The tally for programs."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        told["violated"] = {prop: self.violated[prop] for prop in CHECKED}
        told["failures"] = [
            {**msgspec.to_builtins(one), "replay": replay_command(one.seed, one.size)}
            for one in sorted(self.failures, key=lambda one: one.seed)
        ]
        return {"size": size.value, "took_s": round(took_s, 1), **told}

    def summary(self, size: Size, took_s: float) -> str:
        """The tally for people."""
        wide = max(map(len, self.largest), default=0)
        return "\n".join(
            [
                f"{self.worlds} {size} worlds with {self.nodes} nodes in {took_s:.0f} s: {self.steps} steps,"
                f" {self.events} events ({self.explained} explained beforehand), {self.copies} copies, {self.deliveries} deliveries, {self.hops} hops at most",
                "found: " + ", ".join(f"{prop} {self.violated[prop]}" for prop in CHECKED),
                f"at least once: {self.kept} events accepted, {self.kept_refused} calls refused, {self.kept_copies} batches"
                f" ({self.kept_repeats} of them again), {self.kept_deliveries} deliveries, {self.kept_reorders} out of order",
                f"lost {self.lost} of what was promised in bad times, counted {self.counted}: "
                + (", ".join(f"{why} {n}" for why, n in sorted(self.drops.items())) or "none"),
                f"slowest: settled {_slow(self.slowest_settle)}; links back {_slow(self.slowest_return)};"
                f" tables equal {_slow(self.slowest_converge)} after the links",
                f"transient loops across the sources of a region: {self.loops}, longest {self.loop_s:.3f} s",
                "nearest to their bounds:",
                *(
                    f"  {what:<{wide}}  {size_now} of {bound}"
                    for what, (size_now, bound) in sorted(self.largest.items())
                ),
                f"failed worlds: {len(self.failures)}"
                + ("" if not self.failures else f" ({' '.join(str(s) for s in self._seeds())})"),
            ]
        )

    def _seeds(self) -> list[int]:
        return sorted(one.seed for one in self.failures)


def _slow(worst: tuple[float, int]) -> str:
    return f"{worst[0]:.2f} s (seed {worst[1]})"


def _soak(seeds: Sequence[int], size: Size, jobs: int, as_json: bool) -> int:
    tally = Tally()
    begun = told = time.monotonic()
    terminal = sys.stderr.isatty()
    for outcome in worlds(seeds, size, jobs):
        tally.add(outcome)
        now = time.monotonic()
        if outcome.failed:
            if terminal:
                print("\r\x1b[K", end="", file=sys.stderr)
            print(f"seed {outcome.seed}: {outcome.violations[0]}", file=sys.stderr)
            print(f"  {replay_command(outcome.seed, size)}", file=sys.stderr, flush=True)
        if terminal or now - told >= LINE_S:
            told = now
            line = f"{tally.worlds}/{len(seeds)} worlds, {len(tally.failures)} failed, {now - begun:.0f} s"
            print(
                f"\r\x1b[K{line}" if terminal else line,
                end="" if terminal else "\n",
                file=sys.stderr,
                flush=True,
            )
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr)
    took_s = time.monotonic() - begun
    print(json.dumps(tally.as_json(size, took_s)) if as_json else tally.summary(size, took_s))
    return 1 if tally.failures else 0


def _crash_points(name: str, pairs_of: int, seed: int, as_json: bool) -> int:
    """Each play with a death at each moment, or with pairs of deaths."""
    status = 0
    for play in PLAYS.values() if name == "all" else (PLAYS[name],):
        if pairs_of:
            deaths: list[tuple[Death, ...]] = [*pairs(play, random.Random(seed), pairs_of, seed)]
        else:
            deaths = [(death,) for death in every_death(play, seed)]
        found, told = lives(play, deaths, seed)
        status |= bool(told)
        if as_json:
            print(json.dumps({"play": play.name, "lives": len(deaths), "violated": found, "told": told}))
        else:
            broken = (
                ", ".join(f"{prop} {count}" for prop, count in sorted(found.items())) or "nothing violated"
            )
            print("\n  ".join([f"{play.name}: {len(deaths)} lives, {broken}", *told]), flush=True)
    return status


def _replay(seed: int, size: Size, plan: Sequence[Trouble] | None, as_json: bool) -> int:
    trial, outcome = live(seed, size, plan)
    print(msgspec.json.encode(outcome).decode() if as_json else story(trial, outcome))
    return 1 if outcome.failed else 0


def _shrink(seed: int, size: Size, plan: Sequence[Trouble] | None, as_json: bool) -> int:
    trial, outcome = live(seed, size, plan)
    if not outcome.failed:
        print(f"seed {seed}: nothing is violated, there is nothing to shrink", file=sys.stderr)
        return 0
    prop = outcome.violations[0].prop

    def fails(smaller: Sequence[Trouble]) -> bool:
        found = live(seed, size, smaller)[1].violations
        print(f"  {len(smaller)} faults: {'still' if found else 'no longer'}", file=sys.stderr, flush=True)
        return any(violation.prop == prop for violation in found)

    smallest = shrink(trial.plan, fails)
    trial, outcome = live(seed, size, smallest)
    if as_json:
        print(json.dumps({"plan": json.loads(plan_text(smallest)), "outcome": msgspec.to_builtins(outcome)}))
    else:
        print(story(trial, outcome))
        print(f"smallest plan ({len(smallest)} of {len(Trial.plan_of(seed, size))} faults), for --plan FILE:")
        print(plan_text(smallest))
    return 1


def read_plan(text: str) -> list[Trouble]:
    """A plan as `plan_text` writes it. Raises ValueError saying what is wrong."""
    try:
        rows = msgspec.json.decode(text, type=list[tuple[Fault, float, float, int, float]])
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    return [Trouble(*row) for row in rows]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/sim",
        description="Live seeded worlds of the mesh in virtual time and check every property of the design.",
        epilog="Exit status: 0 nothing was violated, 1 something was, 2 the command line is wrong.",
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seeds", type=int, metavar="N", help="live N worlds")
    which.add_argument(
        "--crash-points",
        choices=("all", *PLAYS),
        metavar="PLAY",
        help=f"live a small world again for each moment at which a process may die: {', '.join(PLAYS)} or all",
    )
    which.add_argument("--seed", type=int, metavar="SEED", help="live one again and tell its whole story")
    parser.add_argument(
        "--size", type=Size, choices=list(Size), default=Size.SMALL, help="3-6, 8-14 or 30-100 regions"
    )
    parser.add_argument(
        "--from", type=int, default=1, metavar="SEED", dest="first", help="the first of the seeds (1)"
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=0,
        metavar="N",
        help="with --crash-points: N lives with two deaths each, drawn",
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="processes (2)")
    parser.add_argument(
        "--plan", type=Path, metavar="FILE", help="with --seed: these faults instead of the seed's"
    )
    parser.add_argument(
        "--shrink", action="store_true", help="with --seed: leave out every fault that is not needed"
    )
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how to tell it (text)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status; argparse exits with 2 itself."""
    parser = _parser()
    told = parser.parse_args(arguments)
    as_json = told.output == "json"
    if told.jobs < 1 or (told.seeds is not None and told.seeds < 1):
        parser.error("--seeds and --jobs are 1 or more")
    if told.crash_points is not None:
        return _crash_points(told.crash_points, told.pairs, told.first, as_json)
    if told.seed is None:
        if told.plan is not None or told.shrink:
            parser.error("--plan and --shrink go with --seed")
        return _soak(range(told.first, told.first + told.seeds), told.size, told.jobs, as_json)
    plan: list[Trouble] | None = None
    if told.plan is not None:
        try:
            plan = read_plan(told.plan.read_text())
        except (OSError, ValueError) as error:
            parser.error(f"--plan {told.plan}: {error}")
    if told.shrink:
        return _shrink(told.seed, told.size, plan, as_json)
    return _replay(told.seed, told.size, plan, as_json)


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
