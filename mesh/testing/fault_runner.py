"""Many plans of faults on real nodes, one after the other: `scripts/faults`. Tells what they found, and how to repeat one.

Decides which seeds run, and what is kept of them. A plan is `fault_draw`'s or a file's, its run `fault_run`'s.
Invariant: a violation is printed with the command that repeats its plan, and makes the exit status 1.
Exit status: 0 nothing was violated; 1 something was; 2 the command line is wrong, or the nodes do not have what is asked for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from mesh.model.errors import MeshError
from mesh.testing.fault_check import check
from mesh.testing.fault_draw import SCENARIOS, Wish, draw
from mesh.testing.fault_history import History
from mesh.testing.fault_plan import SHAPES, FaultKind, FaultPlan, read_plan
from mesh.testing.fault_report import as_json, plans_table, replay_command, story, summary
from mesh.testing.fault_run import Figures, Run, run_plan
from mesh.testing.fault_traffic import NotOffered

USAGE: Final = 2


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    default = Wish()
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Run seeded plans of faults (kill -9, SIGSTOP, spoiled lines, full disks) on real nodes under load, and check"
        " every accepted event and every delivery.",
        epilog="Exit status: 0 nothing was violated, 1 something was, 2 the command line is wrong.",
        allow_abbrev=False,
    )
    parser.add_argument("--plans", type=int, default=1, metavar="N", help="how many plans (1)")
    parser.add_argument("--seed", type=int, default=1, metavar="SEED", help="of the first plan (1)")
    parser.add_argument(
        "--plan", type=Path, metavar="FILE", help="this plan (plan.json of a kept folder) instead"
    )
    parser.add_argument("--seconds", type=float, default=default.seconds, metavar="S", help="of load (30)")
    parser.add_argument(
        "--rate", type=float, default=default.rate, metavar="R", help="events/s in all (1000)"
    )
    parser.add_argument(
        "--topology", choices=tuple(SHAPES), default="", help="instead of what the seed chooses"
    )
    parser.add_argument(
        "--scenario", choices=SCENARIOS, default=default.scenario, help="what happens (storm)"
    )
    parser.add_argument(
        "--level", choices=("at-most-once", "at-least-once"), default=default.level, help="of the events"
    )
    parser.add_argument(
        "--kinds", default="", metavar="K,...", help=f"in a storm only these: {', '.join(FaultKind)}"
    )
    parser.add_argument(
        "--heal", type=float, default=default.heal_s, metavar="S", help="everything arrives within (30)"
    )
    parser.add_argument(
        "--whole-regions", action="store_true", help="all nodes of a region may be down at once"
    )
    parser.add_argument(
        "--without-faults", action="store_true", help="the same mesh and load with nothing going wrong"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep every plan's folder here, not only failed ones"
    )
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how to tell it (text)"
    )
    return parser


def _wish(told: argparse.Namespace, parser: argparse.ArgumentParser) -> Wish:
    if told.plans < 1 or told.seconds < 1 or told.rate <= 0:
        parser.error("--plans and --seconds are 1 or more, --rate is above 0")
    try:
        kinds = tuple(FaultKind(kind) for kind in told.kinds.split(",") if kind)
    except ValueError as error:
        parser.error(f"--kinds: {error}")
    return Wish(
        scenario=told.scenario,
        topology=told.topology,
        seconds=told.seconds,
        rate=told.rate,
        level=told.level,
        kinds=kinds,
        heal_s=told.heal,
        whole_regions=told.whole_regions,
        without_faults=told.without_faults,
    )


def _plans(told: argparse.Namespace, parser: argparse.ArgumentParser) -> Iterator[tuple[FaultPlan, str]]:
    """Each plan, and how to repeat it."""
    wish = _wish(told, parser)
    if told.plan is None:
        for seed in range(told.seed, told.seed + told.plans):
            yield draw(seed, wish), replay_command(seed, wish)
        return
    try:
        yield read_plan(told.plan.read_bytes()), f"scripts/faults --plan {told.plan}"
    except (OSError, ValueError) as error:
        parser.error(f"--plan {told.plan}: {error}")


def _carry_out(plan: FaultPlan, folder: Path) -> Run:
    """A mesh that does not start is a failed plan like any other. Raises: NotOffered; KeyboardInterrupt."""
    try:
        return run_plan(plan, folder, lambda text: _say(f"plan {plan.seed}: {text}"))
    except MeshError as error:
        if "MESH-C010" in str(error):
            raise NotOffered(str(error)) from None
        return Run(plan, check(History(plan, troubles=[str(error)])), Figures(), str(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status; argparse exits with 2 itself."""
    parser = _parser()
    told = parser.parse_args(arguments)
    base = told.keep or Path(tempfile.mkdtemp(prefix="hopmesh-faults-"))
    begun, runs, replays = time.monotonic(), list[Run](), list[str]()
    try:
        for plan, replay in _plans(told, parser):
            folder = base / f"plan-{plan.seed}"
            if folder.exists():
                parser.error(f"--keep {base}: {folder.name} is there already")
            run = _carry_out(plan, folder)
            if not run.failed and told.keep is None:
                shutil.rmtree(folder)
                run.folder = ""
            runs.append(run)
            replays.append(replay)
            for line in story(run, replay):
                _say(line)
    except NotOffered as error:
        print(f"the nodes do not have this: {error}", file=sys.stderr)
        return USAGE
    finally:
        if told.keep is None and not any(run.folder for run in runs):
            shutil.rmtree(base, ignore_errors=True)
    took_s = time.monotonic() - begun
    if told.output == "json":
        print(json.dumps(as_json(runs, replays, took_s)))
    else:
        print("\n".join([*plans_table(runs), *summary(runs)]))
        for run, replay in zip(runs, replays, strict=True):
            if run.failed:
                print(f"plan {run.plan.seed}: {replay}\n  kept in {run.folder}")
    return 1 if any(run.failed for run in runs) else 0


if __name__ == "__main__":
    # Said explicitly: the first process of a namespace, and one in the background, would not hear of them otherwise.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
