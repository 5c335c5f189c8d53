"""Watches a world at every step and notes what must never happen, whatever goes wrong around it.

Decides for each step whether a safety property was broken: P2 (no next-hop cycle for a source), P3 (hops), P5 (at most
one delivery), P8 (bounded tables and queues), P11 (one copy per link and leg). Never changes the world.
Invariant: a violation is noted once, at the step in which it arose.
Cost: O(changed lines of FIBs) a step; P8 is sampled.
Source: design page "Routing", Properties every simulation checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from federation.core.selection import FibEntry, NextHop
from mesh.core.holdings import OWNERS
from mesh.core.plan import PLANS
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.testing.world import MeshId, SimNode, World
from mesh.wire.codec import decode_body
from mesh.wire.frames import BatchHeader, Flag, Leg, Scope

SAMPLE_S = 1.0
"""How often sizes are looked at."""
KEPT = 50
"""Violations kept: the first ones tell."""

SourceKey: TypeAlias = tuple[str, str, int]
"""A route's source: (region, origin bridge, epoch)."""


class Violation(NamedTuple):
    """A property that did not hold: which, when, and what was seen."""

    prop: str
    at: float
    detail: str

    def __str__(self) -> str:
        return f"{self.prop} at {self.at:.3f} s: {self.detail}"


@dataclass(slots=True)
class Sightings:
    """Figures of a run. loops: transient cycles across sources of one region; loop_s: the longest. hops: longest path.
    largest: what a peer can make grow -> (size, bound) where it came nearest to its bound."""

    loops: int = 0
    loop_s: float = 0.0
    hops: int = 0
    copies: int = 0
    deliveries: int = 0
    largest: dict[str, tuple[int, int]] = field(default_factory=dict)


class Monitor:
    """Attach one to a world before its nodes start. `violations` and `seen` are its results."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[Violation] = []
        self.seen = Sightings()
        self.strict_copies = False
        """Whether P11 is checked: only while no batch is repeated on purpose."""
        self._copied: set[tuple[MeshId, NodeKey, NodeKey, Leg, int, str]] = set()
        self._got: set[tuple[NodeKey, int, int, int, MeshId]] = set()
        self._checked = 0
        self._fib_seen: dict[NodeKey, tuple[int, int, dict[str, FibEntry]]] = {}
        self._looping: dict[str, float] = {}
        self._sample_at = 0.0
        world.on_settled.append(self._settled)
        world.on_batch.append(self._carried)

    def note(self, prop: str, detail: str) -> None:
        """Remember a violation."""
        if len(self.violations) < KEPT:
            self.violations.append(Violation(prop, self.world.now, detail))

    def _settled(self, node: SimNode) -> None:
        self._check_deliveries()
        self._check_routes(node)
        if self.world.now >= self._sample_at:
            self._sample_at = self.world.now + SAMPLE_S
            for each in self.world.live_nodes():
                self._check_sizes(each)

    # -- P5: at most one ------------------------------------------------------------------------------------------

    def _check_deliveries(self) -> None:
        delivered = self.world.delivered
        while self._checked < len(delivered):
            one = delivered[self._checked]
            self._checked += 1
            self.seen.deliveries += 1
            if len(one.delivery.path) > self.world.limits.hop_limit:
                self.note("P3", f"{one.mesh_id} crossed {len(one.delivery.path)} regions")
            if one.delivery.redelivered:
                continue
            for sid in one.delivery.sids:
                # A session ends with its process.
                process = self.world.nodes[one.node].generation
                key = (one.node, process, one.session, sid, one.mesh_id)
                if key in self._got:
                    self.note("P5", f"{one.mesh_id} twice to subscription {sid} of {one.node}#{one.session}")
                self._got.add(key)

    # -- P3 and P11: copies ---------------------------------------------------------------------------------------

    def _carried(self, sender: SimNode, receiver: SimNode, header: BatchHeader, body: bytes) -> None:
        self.seen.copies += 1
        self.seen.hops = max(self.seen.hops, len(header.path))
        if len(header.path) > self.world.limits.hop_limit:
            self.note("P3", f"a batch of {header.region}/{header.node} crossed {header.path}")
        if len(set(header.path)) < len(header.path):
            self.note("P3", f"a batch of {header.region}/{header.node} was in a region twice: {header.path}")
        # What is in custody may leave for one region later than for another: `promises` looks at it, region by region.
        if not self.strict_copies or header.flags & (Flag.GROUP_ONLY | Flag.TO_NODE | Flag.CUSTODY):
            return
        # Parts of a destination set that took different next hops may meet again on a later link: each region is there once. A TRANSIT
        # may pass a link once more after a redirect; LOCAL copies that differ in their groups are one event for the node.
        redirected = int(bool(header.flags & Flag.REDIRECTED))
        for event in decode_body(body, header.count):
            mesh_id = (header.region, header.node, header.epoch, event.seq)
            for region in header.regions:
                key = (mesh_id, sender.key, receiver.key, header.leg, redirected, region)
                if key in self._copied:
                    what = f"{mesh_id} ({event.topic}) for {region}"
                    self.note("P11", f"{what} twice as {header.leg.name} {sender.key}->{receiver.key}")
                self._copied.add(key)

    # -- P2: cycles -----------------------------------------------------------------------------------------------

    def _check_routes(self, node: SimNode) -> None:
        routes = node.machine.control.routes
        generation, process, lines = self._fib_seen.get(node.key, (-1, -1, {}))
        if process == node.generation and generation == routes.fib_generation:
            return
        if process != node.generation:
            lines = {}
        changed = [region for region, entry in routes.fib.items() if lines.get(region) is not entry]
        removed = [region for region in lines if region not in routes.fib]
        self._fib_seen[node.key] = (routes.fib_generation, node.generation, dict(routes.fib))
        for region in changed:
            entry = routes.fib[region]
            for source in {(region, hop.bridge, hop.epoch): None for hop in _hops(entry)}:
                if self._returns(node, source):
                    self.note("P2", f"next hops of source {source} lead from {node.key} back to it")
        for region in (*changed, *removed):
            self._check_across(region, node)

    def _returns(self, start: SimNode, source: SourceKey) -> bool:
        """Whether following next hops of one source from a node leads back to it."""
        queue = [start]
        seen: set[NodeKey] = set()
        while queue:
            for after in self._after(queue.pop(), source):
                if after is start:
                    return True
                if after.key not in seen:
                    seen.add(after.key)
                    queue.append(after)
        return False

    def _after(self, node: SimNode, source: SourceKey) -> Iterator[SimNode]:
        entry = node.machine.control.routes.fib.get(source[0]) if node.up else None
        if entry is None:
            return
        for hop in _hops(entry):
            if (hop.bridge, hop.epoch) == source[1:]:
                other = self._at_other_end(node, hop)
                if other is not None:
                    yield other

    def _at_other_end(self, node: SimNode, hop: NextHop) -> SimNode | None:
        """The running node that a hop leads to, if the link still does."""
        link = node.machine.links.peers.get(hop.node) if hop.link is None else hop.link
        connection = node.connections.get(link) if link is not None else None
        if connection is None or connection.dead:
            return None
        _, other, back, _ = connection.end(node)
        return other if other.up and other.connections.get(back) is connection else None

    def _check_across(self, region: str, changed: SimNode) -> None:
        """Across the sources of a region: does some node's first choice lead back to it? Counted, and for how long.

        A circle that was not there before leads through the node that changed, so only its own way is followed then.
        """
        looping = self.across(region, None if region in self._looping else changed)
        if looping and region not in self._looping:
            self._looping[region] = self.world.now
            self.seen.loops += 1
        elif not looping and region in self._looping:
            self.seen.loop_s = max(self.seen.loop_s, self.world.now - self._looping.pop(region))

    def across(self, region: str, only: SimNode | None = None) -> bool:
        """Whether first choices towards a region run in a circle now, whatever their sources. only: from one node."""
        done: set[NodeKey] = set()
        for begin in self.world.live_nodes() if only is None else (only,):
            trail: set[NodeKey] = set()
            node: SimNode | None = begin
            while node is not None and node.up and node.key not in done and node.key.region != region:
                if node.key in trail:
                    return True
                trail.add(node.key)
                entry = node.machine.control.routes.fib.get(region)
                node = None if entry is None else self._at_other_end(node, entry.hops[0])
            done |= trail
        return False

    def still_looping(self) -> list[str]:
        """Regions towards which first choices run in a circle at this moment."""
        return [region for region in self._looping if self.across(region)]

    # -- P8: sizes ------------------------------------------------------------------------------------------------

    def _check_sizes(self, node: SimNode) -> None:
        for what, (size, bound) in sizes(node, self.world.limits).items():
            most, its_bound = self.seen.largest.get(what, (0, 1))
            if size * its_bound > most * bound:
                self.seen.largest[what] = (size, bound)
            if size > bound:
                self.note("P8", f"{what} of {node.key} is {size}, bound {bound}")


def _hops(entry: FibEntry) -> tuple[NextHop, ...]:
    return (*entry.hops, *entry.alternates)


def sizes(node: SimNode, limits: Limits) -> dict[str, tuple[int, int]]:
    """Everything on a node that a peer can make grow: what -> (size now, bound)."""
    machine = node.machine
    control, forwarder = machine.control, machine.forwarder
    sessions = machine.sessions.values()
    routes = control.routes.statistics()
    members = control.membership.statistics()
    region, world = control.tables.statistics(), control.world.statistics()
    settings = machine.settings
    frame = limits.frame_bytes
    return {
        "link.queue_bytes": (
            max((s.queued_bytes for s in sessions), default=0),
            limits.data_queue_bytes + frame,
        ),
        "link.unacked": (max((len(s.unacked) for s in sessions), default=0), limits.credit_events),
        "sessions": (len(machine.sessions), limits.peer_links + limits.half_open_links),
        "plans": (len(forwarder.plans), PLANS),
        "region_plans": (len(forwarder.region_plans), PLANS),
        "dedupe": (len(forwarder.deliverer.dedupe), limits.dedupe_origins),
        "requests": (len(machine.inboxes), limits.pending_requests),
        "region.owners": (region.owners, OWNERS[Scope.REGION] + 1),
        "world.owners": (world.owners, OWNERS[Scope.WORLD] + 1),
        "world.entries": (world.entries, 2 * limits.remote_filters),
        "region.entries": (region.entries, 2 * limits.remote_filters),
        "route.sources": (routes.sources, settings.routes.sources),
        "members": (members.live + members.gone, settings.membership.max_members + 1),
        "destinations": (len(machine.destinations), OWNERS[Scope.REGION] + OWNERS[Scope.WORLD] + 2),
        "control.asked": (control.exchange.links_remembered, len(machine.sessions)),
        "control.epochs": (len(control._epochs), settings.membership.max_members + OWNERS[Scope.REGION] + 1),
        "receipts.held": (
            sum(map(len, control.receipts._held.values())),
            max(1, world.owners) * (len(control.live_members()) + 1),
        ),
        "receipts.asking": (len(control.receipts._asking), max(1, world.owners)),
    }
