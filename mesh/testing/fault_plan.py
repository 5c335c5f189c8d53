"""A plan of the fault runner: a mesh of real nodes, what flows through it, and what goes wrong with it and when. Plain data.

Decides what a plan may say, and how it is written as JSON and read again. Draws nothing (`fault_draw`) and runs nothing.
Invariant: a plan without `whole_regions` never has every node of a region down at one moment, so that there is always somebody
to publish to and to read from.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, Literal

import msgspec

MARGIN_S: Final = 3.0
"""A node counts as down for so long after it was started again: it has to start, and to be found."""


class FaultKind(StrEnum):
    """What can go wrong. Target of a fault in parentheses."""

    KILL = "kill"
    """(node) kill -9; it is started again on the same data folder after `lasts_s`."""
    PAUSE = "pause"
    """(node) SIGSTOP, and SIGCONT after `lasts_s`."""
    DISK_FULL = "disk_full"
    """(node) its data folder takes no byte more."""
    CUT = "cut"
    """(A>B) the connections of a pair of nodes are reset, and none can be made."""
    RESET = "reset"
    """(A>B) the connections of a pair are reset; new ones pass."""
    STALL = "stall"
    """(A>B) nothing passes between a pair, in either direction, and nobody is told."""
    ONE_WAY = "one_way"
    """(A>B) nothing passes from A to B."""
    HALF_CLOSE = "half_close"
    """(A>B) what A says ends with a FIN; B can still be heard by A."""
    NARROW = "narrow"
    """(A>B) little bandwidth, both ways: `amount` bytes/s."""
    DELAY = "delay"
    """(A>B) everything takes `amount` seconds longer, each way."""
    ISOLATE = "isolate"
    """(region) all its bridges are cut."""
    AWAY = "away"
    """(reader) it crashes before it acknowledges what it has read, and comes back after `lasts_s`."""


NODE_FAULTS: Final = frozenset({FaultKind.KILL, FaultKind.PAUSE, FaultKind.DISK_FULL})
LINE_FAULTS: Final = frozenset(
    {
        FaultKind.CUT,
        FaultKind.RESET,
        FaultKind.STALL,
        FaultKind.ONE_WAY,
        FaultKind.HALF_CLOSE,
        FaultKind.NARROW,
        FaultKind.DELAY,
    }
)
Level = Literal["at-most-once", "at-least-once"]
Acks = Literal["upto", "each"]


class Shape(msgspec.Struct, frozen=True):
    """A topology. nodes: name -> region, in the order of starting. bridges: (who dials, whom)."""

    nodes: dict[str, str]
    bridges: tuple[tuple[str, str], ...]

    @property
    def regions(self) -> dict[str, tuple[str, ...]]:
        """Region -> its nodes."""
        found: dict[str, tuple[str, ...]] = {}
        for node, region in self.nodes.items():
            found[region] = (*found.get(region, ()), node)
        return found

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every two nodes with a link: bridges, and peers of a region."""
        peers = [
            (a, b)
            for members in self.regions.values()
            for at, a in enumerate(members)
            for b in members[at + 1 :]
        ]
        return (*self.bridges, *peers)


def _shape(regions: str, size: int, *bridges: str) -> Shape:
    nodes = {f"{region}-{number}": region for region in regions for number in range(1, size + 1)}
    dials = [bridge.split(">") for bridge in bridges]
    return Shape(nodes, tuple((a, b) for a, b in dials))


SHAPES: Final = {
    # Both nodes of the middle region bridge to both sides; one outer node knows both of them, the other one of them.
    "line": _shape("bac", 2, "a-1>b-1", "a-1>b-2", "a-2>b-1", "c-1>b-1", "c-1>b-2", "c-2>b-2"),
    "ring": _shape("abc", 2, "a-1>b-1", "a-2>b-2", "b-1>c-1", "b-2>c-2", "c-1>a-1", "c-2>a-2"),
    "three": _shape("a", 3),
    "pair": _shape("ab", 1, "b-1>a-1"),
}


class Stream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of load, on topics `faults/NAME/...`. regions: where it is published, in turn. rate: events/s of all its
    publishers, each with a connection and keys of its own, sending `batch` events at once. ordered: as its [[topic]] says."""

    name: str
    level: Level
    regions: tuple[str, ...]
    rate: float
    ordered: bool = False
    publishers: int = 4
    batch: int = 10
    keys: int = 64
    topics: int = 8
    payload_bytes: int = 128

    @property
    def filter(self) -> str:
        """What matches all of it."""
        return f"faults/{self.name}/#"


class Reader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A subscriber. promised: faults or not, it (of a group, any member) must see every accepted at-least-once event. durable: a
    durable client of its name. group: a member of that queue group. acks: one for each event, or one for everything that came at
    once; only where the plan is at-least-once."""

    name: str
    region: str
    streams: tuple[str, ...]
    promised: bool = False
    durable: bool = False
    group: str = ""
    acks: Acks = "upto"


class TimedFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault. at_s: after the load began. lasts_s: until it is undone. target and amount: as its kind says."""

    kind: FaultKind
    at_s: float
    lasts_s: float
    target: str
    amount: float = 0.0


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about one run.

    seconds: of load. heal_s: how long after the last fault everything must have been delivered. late_s: an event that took
    longer counts as late. rss_mb: more memory of one node is a violation. whole_regions: all nodes of a region may be down at
    once. disk_mb: size of the data folder of nodes whose disk fills up.
    """

    seed: int
    scenario: str
    topology: str
    seconds: float
    streams: tuple[Stream, ...]
    readers: tuple[Reader, ...]
    faults: tuple[TimedFault, ...] = ()
    heal_s: float = 30.0
    late_s: float = 5.0
    rss_mb: float = 200.0
    disk_mb: int = 64
    whole_regions: bool = False

    @property
    def shape(self) -> Shape:
        """Its topology."""
        return SHAPES[self.topology]

    @property
    def acknowledged(self) -> bool:
        """Whether anything in it is at-least-once: readers are durable and acknowledge only then."""
        return any(stream.level == "at-least-once" for stream in self.streams)

    @property
    def rate(self) -> float:
        """Events/s of all streams."""
        return sum(stream.rate for stream in self.streams)


def plan_json(plan: FaultPlan) -> str:
    """A plan as `read_plan` reads it."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1).decode()


def read_plan(text: str | bytes) -> FaultPlan:
    """Raises: ValueError saying what is wrong."""
    try:
        plan = msgspec.json.decode(text, type=FaultPlan)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    wrong = next(problems(plan), None)
    if wrong is not None:
        raise ValueError(wrong)
    return plan


def problems(plan: FaultPlan) -> Iterator[str]:
    """What a plan says that cannot be done."""
    if plan.topology not in SHAPES:
        yield f"no topology {plan.topology!r}: use {', '.join(SHAPES)}"
        return
    shape = plan.shape
    streams = {stream.name for stream in plan.streams}
    for stream in plan.streams:
        if not stream.regions or not set(stream.regions) <= set(shape.regions):
            yield f"stream {stream.name}: no such regions {stream.regions}"
        if min(stream.publishers, stream.batch, stream.topics) < 1 or stream.keys < stream.publishers:
            yield f"stream {stream.name}: too few publishers, events in a batch, topics, or keys"
    for reader in plan.readers:
        if reader.region not in shape.regions or not set(reader.streams) <= streams:
            yield f"reader {reader.name}: no such region or stream"
    for fault in plan.faults:
        if not _target_exists(fault, plan):
            yield f"{fault.kind}: no such target {fault.target!r}"
    if not plan.whole_regions:
        for region in emptied(plan):
            yield f"all nodes of region {region} are down at one moment, and whole_regions is not set"


def _target_exists(fault: TimedFault, plan: FaultPlan) -> bool:
    shape = plan.shape
    if fault.kind in NODE_FAULTS:
        return fault.target in shape.nodes
    if fault.kind in LINE_FAULTS:
        a, _, b = fault.target.partition(">")
        return (a, b) in shape.pairs or (b, a) in shape.pairs
    if fault.kind is FaultKind.ISOLATE:
        return fault.target in shape.regions
    return fault.target in {reader.name for reader in plan.readers}


def emptied(plan: FaultPlan) -> list[str]:
    """Regions of which no node is up at some moment. Cost: O(faults squared)."""
    down: dict[str, list[tuple[float, float]]] = {}
    for fault in plan.faults:
        if fault.kind in (FaultKind.KILL, FaultKind.PAUSE):
            down.setdefault(fault.target, []).append((fault.at_s, fault.at_s + fault.lasts_s + MARGIN_S))
    found = []
    for region, members in plan.shape.regions.items():
        moments = [begin for member in members for begin, _ in down.get(member, ())]
        if any(
            all(any(begin <= at < end for begin, end in down.get(member, ())) for member in members)
            for at in moments
        ):
            found.append(region)
    return found
