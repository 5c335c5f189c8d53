"""Where an event of a topic goes from here: the one place that turns a match into sessions, nodes and next hops.

Decides, for a topic, the local sessions, the other nodes of the region and the other regions with their next hops, and for
whatever gets nothing the reason. Publishing, an entry bridge and explain all ask this page; nobody works it out again.
Never encodes, queues or counts.
Invariant: the regions of a plan's legs are disjoint, and each region that matched is in exactly one leg or in `unreached`.
Source: design page "Routing", Forwarding; RFC 8279 (BIER) for the split of a destination set by next hop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast
from zlib import crc32

from mesh.core.groups import Assigned, Far
from mesh.core.interest import Destinations, InterestIndex
from mesh.core.subscriptions import SubscriptionIndex
from mesh.model.reasons import NotDelivered
from mesh.wire.frames import Leg

FLOWS = 8
"""Flows that equal-cost routes spread over (wire.md, rule 2)."""


class Hop(Protocol):
    """A next hop: a bridge link of this node (`link`), or a sibling bridge of the region (`node`)."""

    @property
    def link(self) -> int | None: ...

    @property
    def node(self) -> str | None: ...


class Entry(Protocol):
    """A region's line in the FIB. `hops`: equal-cost next hops; `alternates`: loop-free others, best first."""

    @property
    def hops(self) -> Sequence[Hop]: ...

    @property
    def alternates(self) -> Sequence[Hop]: ...

    @property
    def metric(self) -> int: ...


class Unreached(NamedTuple):
    """A region or node that wants the topic and does not get it."""

    region: str
    node: str
    reason: NotDelivered
    detail: str


class Part(NamedTuple):
    """One next hop's share of a destination set: `link` carries `regions` as `leg`."""

    link: int
    leg: Leg
    regions: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Plan:
    """The destinations of one topic as seen from this node. Topics that lead to the same places share one (`PlanMemory`).

    local: (session, sids) of this node. nodes: other nodes of the region with plain interest and a link.
    regions: other regions with plain interest and a next hop. groups: (group, filter) that match.
    split: some region has equal-cost next hops, so that the flow matters. targets: nodes of the region that get a copy, the own
    one included. outs, parts: room in which the forwarder remembers the batches of this plan, without and by flow,
    deadline and group assignment. told: room for what publishers are told of it. kept: room for where it is kept at least once. plain: an event without key and deadline
    just joins `outs`.
    """

    local: tuple[tuple[int, tuple[int, ...]], ...]
    nodes: tuple[str, ...]
    regions: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    unreached: tuple[Unreached, ...]
    split: bool
    targets: tuple[str, ...] = ()
    outs: Any = None
    parts: dict[tuple[object, ...], Any] = field(default_factory=dict)
    told: Any = None
    kept: Any = None
    plain: bool = field(init=False)
    keepers: tuple[str, ...] = field(init=False)
    """Nodes of the region that get it at least once: `targets`, and those without a link now, for whom it is kept."""

    def __post_init__(self) -> None:
        self.plain = not (self.local or self.groups or self.unreached)
        self.keepers = (*self.targets, *(away.node for away in self.unreached if away.node))

    @property
    def places(self) -> tuple[object, ...]:
        """Everything that a plan says of where events go."""
        return self.local, self.nodes, self.regions, self.groups, self.unreached, self.split, self.targets


PLANS = 16_384
"""Topics whose plan is remembered; past it the memory is cleared."""


class PlanMemory:
    """The plans of topics in use, one object for all topics that lead to the same places: whoever looks at many events at once
    looks at few plans. `known` is the look-up alone, for loops over events.

    Keeps: at most PLANS plans. Cost: one look-up; a new topic costs what `make` costs.
    """

    __slots__ = ("_make", "_plans", "_shared", "known")

    def __init__(self, make: Callable[[str], Plan]) -> None:
        self._make = make
        self._plans: dict[str, Plan] = {}
        self._shared: dict[tuple[object, ...], Plan] = {}
        self.known = self._plans.get

    def of(self, topic: str) -> Plan:
        """The plan of a topic, from memory or made now."""
        plan = self._plans.get(topic)
        if plan is None:
            if len(self._plans) >= PLANS:
                self.forget()
            made = self._make(topic)
            plan = self._plans[topic] = self._shared.setdefault(made.places, made)
        return plan

    def known_all(self, topics: Iterable[str]) -> list[Plan] | None:
        """The plans of topics, each plan once; None where one is not known yet. Cost: 0.03 us a topic."""
        plans = set(map(self.known, topics))
        return None if None in plans else list(cast("set[Plan]", plans))

    def of_all(self, topics: Iterable[str]) -> list[Plan]:
        """The plans of topics, each plan once."""
        return list(set(map(self.of, topics)))

    def forget(self) -> None:
        """Interest, routes, sessions or links changed."""
        self._plans.clear()
        self._shared.clear()

    def __len__(self) -> int:
        return len(self._plans)


PART_REGIONS = 200
"""Regions in one batch: with MOST_GROUPS of them the header stays under its 64 KiB."""
MOST_GROUPS = 60
"""Queue groups one event may be assigned to on one next hop; more are dropped as too_large."""


def _parts(link: int, leg: Leg, regions: list[str]) -> list[Part]:
    """One part, or several where there are more regions than one header holds."""
    return [
        Part(link, leg, tuple(regions[at : at + PART_REGIONS])) for at in range(0, len(regions), PART_REGIONS)
    ]


NODE = "n/"
REGION = "r/"


@dataclass(slots=True)
class Links:
    """Which links are open: by member name inside the region, by link number to other regions (-> that region)."""

    peers: dict[str, int] = field(default_factory=dict)
    bridges: dict[int, str] = field(default_factory=dict)


class Planner:
    """Plans for topics and destination sets, over tables that the composed machine keeps up to date.

    Args:
        region, node: whose planner this is.
        fib: the route table in use, looked up at every call.
        exits: siblings with a way of their own to a region that has no line in the FIB. Right after a bridge lost its
            own way, its sibling's route of equal metric is not feasible here until a newer seqno arrives (one round
            trip); the sibling sends it out all the same, and what came back would be dropped as a loop.
    """

    def __init__(
        self,
        region: str,
        node: str,
        *,
        destinations: Destinations,
        interest: InterestIndex,
        subscriptions: SubscriptionIndex,
        links: Links,
        fib: Callable[[], Mapping[str, Entry]],
        exits: Callable[[str], Sequence[str]],
    ) -> None:
        self.region = region
        self.node = node
        self.destinations = destinations
        self.interest = interest
        self.subscriptions = subscriptions
        self.links = links
        self._fib = fib
        self._exits = exits

    def region_plan(self, topic: str) -> Plan:
        """Who in this region gets `topic`: what an entry bridge does, and the local half of publishing."""
        local = tuple(self.subscriptions.match(topic))
        match = self.interest.match(topic)
        nodes, _, unreached = self._split(match.mask)
        targets = (*nodes, self.node) if local else nodes
        return Plan(local, nodes, (), match.groups, tuple(u for u in unreached if u.node), False, targets)

    def plan(self, topic: str) -> Plan:
        """Who anywhere gets `topic`, published at this node."""
        local = tuple(self.subscriptions.match(topic))
        match = self.interest.match(topic)
        nodes, regions, unreached = self._split(match.mask)
        fib = self._fib()
        split = any(len(fib[region].hops) > 1 for region in regions if region in fib)
        return Plan(local, nodes, regions, match.groups, unreached, split)

    def _split(self, mask: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Unreached, ...]]:
        """Names of a mask as (linked nodes, regions with a route, the others with their reason)."""
        nodes: list[str] = []
        regions: list[str] = []
        unreached: list[Unreached] = []
        fib = self._fib()
        for name in self.destinations.names(mask):
            kind, bare = name[:2], name[2:]
            if kind == NODE:
                if bare == self.node:
                    continue
                if bare in self.links.peers:
                    nodes.append(bare)
                else:
                    unreached.append(
                        Unreached(self.region, bare, NotDelivered.LINK_DOWN, "no link to this node")
                    )
            elif bare in fib or self._exit(bare) is not None:
                regions.append(bare)
            else:
                unreached.append(Unreached(bare, "", NotDelivered.NO_ROUTE, "unreachable, interest kept"))
        return tuple(sorted(nodes)), tuple(sorted(regions)), tuple(unreached)

    def reachable(self) -> Collection[str]:
        """Other regions with a route now."""
        return self._fib().keys()

    # -- next hops -----------------------------------------------------------------------------------------------

    def partition(
        self,
        regions: Iterable[str],
        origin: str,
        flow: int,
        path: Collection[str],
        avoid: Collection[int] = (),
    ) -> tuple[list[Part], list[str]]:
        """Group a destination set by next hop. Returns the parts and the regions without a next hop.

        avoid: links that are taken only where there is no other. A hop whose region is already in `path` is passed over for the next candidate: the batch would be dropped there
        as a loop. Cost: O(regions).
        """
        fib = self._fib()
        by_hop: dict[tuple[int, Leg], list[str]] = {}
        lost: list[str] = []
        spread = crc32(origin.encode()) + flow
        for region in regions:
            entry = fib.get(region)
            hop = self._exit(region) if entry is None else self._pick(entry, spread, path, avoid)
            if hop is None:
                lost.append(region)
            else:
                by_hop.setdefault(hop, []).append(region)
        return [part for (link, leg), regions in by_hop.items() for part in _parts(link, leg, regions)], lost

    def _pick(
        self, entry: Entry, spread: int, path: Collection[str], avoid: Collection[int]
    ) -> tuple[int, Leg] | None:
        hops = entry.hops
        first = spread % len(hops) if len(hops) > 1 else 0
        second: tuple[int, Leg] | None = None
        for hop in (*hops[first:], *hops[:first], *entry.alternates):
            found = self._usable(hop, path)
            if found is not None:
                if found[0] not in avoid:
                    return found
                second = second or found
        return second

    def _exit(self, region: str) -> tuple[int, Leg] | None:
        """The link to a sibling with a way of its own, for a region without a line in the FIB."""
        for node in self._exits(region):
            link = self.links.peers.get(node)
            if link is not None:
                return link, Leg.TRANSIT
        return None

    def _usable(self, hop: Hop, path: Collection[str]) -> tuple[int, Leg] | None:
        if hop.link is not None:
            next_region = self.links.bridges.get(hop.link)
            return None if next_region is None or next_region in path else (hop.link, Leg.BRIDGE)
        assert hop.node is not None
        link = self.links.peers.get(hop.node)
        return None if link is None else (link, Leg.TRANSIT)

    def own_partition(
        self, regions: Iterable[str], path: Collection[str], *, redirect: bool, avoid: Collection[int] = ()
    ) -> tuple[list[Part], list[Part], list[str]]:
        """Split a TRANSIT set: over own bridge links, redirected once to a sibling, and without a way. avoid: see `partition`."""
        fib = self._fib()
        own: dict[int, list[str]] = {}
        sibling: dict[int, list[str]] = {}
        lost: list[str] = []
        for region in regions:
            entry = fib.get(region)
            found = (
                [] if entry is None else [self._usable(hop, path) for hop in (*entry.hops, *entry.alternates)]
            )
            usable = sorted((hop for hop in found if hop is not None), key=lambda hop: hop[0] in avoid)
            bridge = next((link for link, leg in usable if leg is Leg.BRIDGE), None)
            peer = next((link for link, leg in usable if leg is Leg.TRANSIT), None) if redirect else None
            if bridge is None and peer is None and redirect:
                way = self._exit(region)
                peer = None if way is None else way[0]
            if bridge is not None:
                own.setdefault(bridge, []).append(region)
            elif peer is not None:
                sibling.setdefault(peer, []).append(region)
            else:
                lost.append(region)
        return (
            [part for link, regions in own.items() for part in _parts(link, Leg.BRIDGE, regions)],
            [part for link, regions in sibling.items() for part in _parts(link, Leg.TRANSIT, regions)],
            lost,
        )

    # -- queue groups --------------------------------------------------------------------------------------------

    def near_members(self, group: str, filter: str, exclude: Collection[str] = ()) -> list[str]:
        """Nodes of this region with live members of a group, linked or the own one, without `exclude`."""
        found = []
        for bit in self.interest.group_members(group, filter):
            for name in self.destinations.names(bit):
                bare = name[2:]
                if name[:2] != NODE or bare in exclude:
                    continue
                if bare == self.node or bare in self.links.peers:
                    found.append(bare)
        return found

    def member_out_of_reach(
        self, group: str, filter: str, tried: Collection[str] = (), node: str = ""
    ) -> Assigned | None:
        """A node or region with members of a group that cannot be reached now: at least once, it is kept for them. Own region first.

        tried: regions that are none; node: of the own region, one that is none.
        """
        found: list[str] = []
        for bit in self.interest.group_members(group, filter):
            found += self.destinations.names(bit)
        found = [
            name for name in found if name[2:] != node and not (name[:2] == REGION and name[2:] in tried)
        ]
        if not found:
            return None
        name = min(found)
        if name[:2] == NODE:
            return Assigned(group, filter, self.region, name[2:])
        return Assigned(group, filter, name[2:], "")

    def far_members(self, group: str, filter: str, exclude: Collection[str] = ()) -> list[Far]:
        """Other regions with members of a group and a route, without `exclude`."""
        fib = self._fib()
        found = []
        for bit, members in self.interest.group_members(group, filter).items():
            for name in self.destinations.names(bit):
                bare = name[2:]
                if name[:2] == REGION and bare not in exclude and bare in fib:
                    found.append(Far(bare, fib[bare].metric, members))
        return found
