"""Draws plans for the fault runner from seeds: a mesh, a load and its readers, and the faults of a scenario.

| scenario | what happens                                                                                          |
|----------|-------------------------------------------------------------------------------------------------------|
| `calm`   | nothing                                                                                               |
| `storm`  | kill -9 or SIGSTOP of a node every 3 s, a line spoiled every 3 s, now and then a full disk, a region cut off, a reader away |
| `outage` | the last region is cut off for most of the time, while other traffic goes on                          |
| `disk`   | the disk of a node in the middle is full for a third of the time                                      |
| `away`   | a durable reader is away for half of the time, another crashes again and again, group members are killed |

Decides nothing about consequences. Invariant: the same arguments are the same plan, everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mesh.testing.fault_plan import (
    LINE_FAULTS,
    MARGIN_S,
    SHAPES,
    FaultKind,
    FaultPlan,
    Level,
    Reader,
    Shape,
    Stream,
    TimedFault,
    emptied,
)

SCENARIOS: Final = ("calm", "storm", "outage", "disk", "away")
NODE_EVERY_S: Final = 3.0
LINE_EVERY_S: Final = 3.0
QUIET_BEGIN_S: Final = 1.0
TRIES: Final = 20
"""A fault that would empty a region, or has no time left, is drawn again so often, and then left out."""
_LINE_KINDS: Final = sorted(LINE_FAULTS)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. topology: "" lets the seed choose. kinds: no other faults, empty is all. without_faults: the same
    mesh and load, and nothing goes wrong: what to compare with."""

    scenario: str = "storm"
    topology: str = ""
    seconds: float = 30.0
    rate: float = 1_000.0
    level: Level = "at-least-once"
    kinds: tuple[FaultKind, ...] = ()
    heal_s: float = 30.0
    whole_regions: bool = False
    without_faults: bool = False


def draw(seed: int, wish: Wish) -> FaultPlan:
    """The plan of a seed. Cost: milliseconds. Raises: ValueError for a scenario or topology that does not exist."""
    if wish.scenario not in SCENARIOS:
        raise ValueError(f"no scenario {wish.scenario!r}: use {', '.join(SCENARIOS)}")
    if wish.topology and wish.topology not in SHAPES:
        raise ValueError(f"no topology {wish.topology!r}: use {', '.join(SHAPES)}")
    dice = random.Random(f"hopmesh faults {wish.scenario} {seed}")
    drawn = dice.choice(("line", "line", "ring", "three"))
    if wish.scenario in ("outage", "disk", "away"):
        drawn = "line"
    topology = wish.topology or drawn
    shape = SHAPES[topology]
    plan = FaultPlan(
        seed=seed,
        scenario=wish.scenario,
        topology=topology,
        seconds=wish.seconds,
        streams=_streams(wish, shape),
        readers=_readers(wish, shape),
        heal_s=wish.heal_s,
        whole_regions=wish.whole_regions,
    )
    faults = [] if wish.without_faults else list(_SCENES[wish.scenario](dice, plan, wish))
    return _with(plan, sorted(faults, key=lambda fault: (fault.at_s, fault.kind, fault.target)))


def _with(plan: FaultPlan, faults: Sequence[TimedFault]) -> FaultPlan:
    known = {name: getattr(plan, name) for name in plan.__struct_fields__}
    return FaultPlan(**{**known, "faults": tuple(faults)})


# -- load ------------------------------------------------------------------------------------------------------------


def _streams(wish: Wish, shape: Shape) -> tuple[Stream, ...]:
    """Most events by the level asked for, a fifth of them ordered; in an outage other traffic beside them."""
    regions = tuple(sorted(shape.regions))
    ends = (regions[0], regions[-1]) if len(regions) > 1 else regions
    if wish.scenario == "outage":
        return (
            Stream(name="plain", level=wish.level, regions=ends[:1], rate=wish.rate),
            Stream(name="live", level="at-most-once", regions=ends[:1], rate=100.0, publishers=2, batch=1),
        )
    if wish.level == "at-most-once":  # only at-least-once can be ordered
        return (Stream(name="plain", level=wish.level, regions=ends, rate=wish.rate),)
    return (
        Stream(name="plain", level=wish.level, regions=ends, rate=wish.rate * 0.8),
        Stream(
            name="ordered",
            level=wish.level,
            regions=ends[:1],
            rate=wish.rate * 0.2,
            ordered=True,
            publishers=2,
        ),
    )


def _readers(wish: Wish, shape: Shape) -> tuple[Reader, ...]:
    """A durable reader at each end, one that is not durable in the middle, and a group over the last two regions."""
    regions = sorted(shape.regions)
    near, middle, far = regions[0], regions[len(regions) // 2], regions[-1]
    kept = wish.level == "at-least-once"
    if wish.scenario == "outage":
        return (
            Reader(name="far", region=far, streams=("plain",), promised=True, durable=kept),
            Reader(name="near", region=middle, streams=("plain",)),
            Reader(name="live", region=middle, streams=("live",)),
        )
    streams = ("plain", "ordered") if kept else ("plain",)
    # Where members do not all go at once, the group is promised everything without being durable.
    durable = kept and wish.scenario != "away"
    workers = (
        Reader(
            name=f"worker-{number}",
            region=region,
            streams=("plain",),
            promised=True,
            durable=durable,
            group="workers",
        )
        for number, region in enumerate((middle, far), 1)
    )
    return (
        Reader(name="far", region=far, streams=streams, promised=True, durable=kept),
        Reader(name="near", region=near, streams=streams, promised=True, durable=kept, acks="each"),
        Reader(name="passer-by", region=middle, streams=("plain",)),
        *workers,
    )


# -- scenarios -------------------------------------------------------------------------------------------------------


def _calm(dice: random.Random, plan: FaultPlan, wish: Wish) -> Iterator[TimedFault]:
    return iter(())


def _storm(dice: random.Random, plan: FaultPlan, wish: Wish) -> Iterator[TimedFault]:
    found: list[TimedFault] = []

    def add(kinds: Sequence[FaultKind], at_s: float) -> None:
        allowed = [kind for kind in kinds if not wish.kinds or kind in wish.kinds]
        for _ in range(TRIES if allowed else 0):
            fault = _one(dice, dice.choice(allowed), at_s, plan)
            if _fits(fault, found, plan):
                found.append(fault)
                return

    kill, pause = FaultKind.KILL, FaultKind.PAUSE
    for at_s in _moments(dice, NODE_EVERY_S, plan.seconds):
        add((kill, kill, kill, pause), at_s)
    for at_s in _moments(dice, LINE_EVERY_S, plan.seconds):
        add(_LINE_KINDS, at_s)
    for kind, chance in ((FaultKind.DISK_FULL, 0.4), (FaultKind.ISOLATE, 0.4), (FaultKind.AWAY, 0.8)):
        if dice.random() < chance:
            add((kind,), dice.uniform(QUIET_BEGIN_S, plan.seconds * 0.7))
    yield from found


def _outage(dice: random.Random, plan: FaultPlan, wish: Wish) -> Iterator[TimedFault]:
    begin_s = min(10.0, plan.seconds / 6)
    region = max(plan.shape.regions)
    lasts_s = plan.seconds - 2 * begin_s
    yield TimedFault(kind=FaultKind.ISOLATE, at_s=begin_s, lasts_s=lasts_s, target=region)


def _disk(dice: random.Random, plan: FaultPlan, wish: Wish) -> Iterator[TimedFault]:
    regions = sorted(plan.shape.regions)
    nodes = plan.shape.regions[regions[len(regions) // 2]]
    third_s = plan.seconds / 3
    yield TimedFault(kind=FaultKind.DISK_FULL, at_s=third_s, lasts_s=third_s, target=dice.choice(nodes))


def _away(dice: random.Random, plan: FaultPlan, wish: Wish) -> Iterator[TimedFault]:
    quarter_s = plan.seconds / 4
    far, near, *others = [reader.name for reader in plan.readers]
    yield TimedFault(kind=FaultKind.AWAY, at_s=quarter_s, lasts_s=2 * quarter_s, target=far)
    for number in range(1, int(plan.seconds * 0.9 / 2.0)):
        yield TimedFault(kind=FaultKind.AWAY, at_s=number * 2.0, lasts_s=0.2, target=near)
    workers = [name for name in others if name.startswith("worker")]
    for number in range(1, int(plan.seconds * 0.8 / 3.0)):  # never both
        lasts_s = round(dice.uniform(0.5, 1.5), 3)
        yield TimedFault(
            kind=FaultKind.AWAY, at_s=number * 3.0, lasts_s=lasts_s, target=workers[number % len(workers)]
        )


_SCENES: Final = {"calm": _calm, "storm": _storm, "outage": _outage, "disk": _disk, "away": _away}


def _moments(dice: random.Random, every_s: float, seconds: float) -> Iterator[float]:
    at_s = QUIET_BEGIN_S + dice.uniform(0.0, every_s)
    while at_s < seconds:
        yield at_s
        at_s += every_s * dice.uniform(0.5, 1.5)


def _one(dice: random.Random, kind: FaultKind, at_s: float, plan: FaultPlan) -> TimedFault:
    """One fault of a kind, with a target and a length that make sense for it."""
    shape = plan.shape
    shortest_s, longest_s, amount = 0.2, 4.0, 0.0
    match kind:
        case FaultKind.KILL | FaultKind.PAUSE:
            target, longest_s = dice.choice(sorted(shape.nodes)), 3.0
        case FaultKind.DISK_FULL:
            target, shortest_s, longest_s = dice.choice(sorted(shape.nodes)), 2.0, 6.0
        case FaultKind.ISOLATE:
            target, shortest_s, longest_s = dice.choice(sorted(shape.regions)), 1.0, 8.0
        case FaultKind.AWAY:
            readers = [reader.name for reader in plan.readers if reader.promised]
            target, longest_s = dice.choice(readers or [plan.readers[0].name]), 8.0
        case _:
            a, b = dice.choice(shape.pairs)
            target = f"{a}>{b}" if dice.random() < 0.5 else f"{b}>{a}"
            if kind is FaultKind.NARROW:
                amount = float(round(20e3 * 10 ** dice.uniform(0.0, 1.5)))
            elif kind is FaultKind.DELAY:
                amount = round(dice.uniform(0.02, 0.4), 3)
    lasts_s = dice.uniform(shortest_s, longest_s)
    return TimedFault(kind=kind, at_s=round(at_s, 3), lasts_s=round(lasts_s, 3), target=target, amount=amount)


def _fits(fault: TimedFault, others: Sequence[TimedFault], plan: FaultPlan) -> bool:
    """Whether there is time for it, it makes sense in this mesh, and it goes together with the others."""
    if fault.at_s + fault.lasts_s > plan.seconds:
        return False
    if fault.kind is FaultKind.ISOLATE and len(plan.shape.regions) < 2:
        return False
    node_faults = (FaultKind.KILL, FaultKind.PAUSE, FaultKind.DISK_FULL)
    if fault.kind in node_faults:
        # A node is struck by one thing at a time: one that is paused cannot be seen to restart, and none starts on a full disk.
        for other in others:
            same = other.kind in node_faults and other.target == fault.target
            if same and not (
                other.at_s + other.lasts_s + MARGIN_S < fault.at_s
                or fault.at_s + fault.lasts_s + MARGIN_S < other.at_s
            ):
                return False
    return plan.whole_regions or not emptied(_with(plan, (*others, fault)))
