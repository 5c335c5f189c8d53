"""Events as they enter the mesh: numbered, matched once, and put into the batches of their next hops.

Decides who serves each queue group of an event and which batches it joins. Never decides where a topic goes
(`mesh.core.plan` does), and never looks at batches from links.
Invariant: the regions of an event's batches are disjoint; its seq is one more than that of the event before.
Source: design page "Routing", Forwarding (ingress matches once); "Wire and speed", rules 2 to 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, count, repeat
from operator import add, attrgetter
from typing import NamedTuple
from zlib import crc32

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.delivery import Deliverer
from mesh.core.groups import Assigned, assign
from mesh.core.handover import Way
from mesh.core.hop import leaving
from mesh.core.outbox import Outbox, Outgoing, Outs
from mesh.core.plan import FLOWS, Plan, PlanMemory, Planner
from mesh.model.event import Event, NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.codec import remaining_bucket
from mesh.wire.frames import BatchHeader, Leg

MANY = 8
"""Events handed in together from which looking at all of them at once pays."""

_plain = attrgetter("plain")
_new = tuple.__new__
"""Makes a NamedTuple without its Python-level constructor: a quarter of the cost of an event (measured)."""


class Published(NamedTuple):
    """What became of the events of one call at ingress. first_seq: the first one's seq, the others follow one by one.
    plans: what each followed. assigned: who serves the queue groups of an event, by its place in the call, where it has any."""

    first_seq: int
    plans: list[Plan]
    assigned: dict[int, tuple[Assigned, ...]]


class Ingress:
    """Args:
        origin: (region, node, epoch) of what is published here. planner, plans: where topics go. has_credit: whether a member
        of the region can be sent to now.
    Cost: 0.5 us an event of a batch of structured events, about 2 us one by one.
    """

    def __init__(
        self,
        origin: tuple[str, str, int],
        *,
        planner: Planner,
        plans: PlanMemory,
        outbox: Outbox,
        deliverer: Deliverer,
        has_credit: Callable[[str], bool],
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.region, self.node, self.epoch = origin
        self.seq = 0
        self._planner = planner
        self._plans = plans
        self._outbox = outbox
        self._deliverer = deliverer
        self._has_credit = has_credit
        self._limits = limits
        self._counters = counters
        self._way = Way(origin, (), False)
        self._origin_text = f"{self.region}/{self.node}"

    def next_seq(self) -> int:
        """A seq for an event that is sent to one node, outside `publish`."""
        self.seq += 1
        return self.seq

    def take_in(self, events: int) -> None:
        """Number events that are published another way than by `publish`."""
        self.seq += events
        self._counters.published += events

    def header(self, deadline_ms: int, flow: int) -> BatchHeader:
        """The header of a batch that begins its way here; where to, its maker fills in."""
        return BatchHeader(
            leg=Leg.LOCAL,
            flags=0,
            region=self.region,
            node=self.node,
            epoch=self.epoch,
            regions=(),
            flow=flow,
            hops_left=self._limits.hop_limit,
            remaining_ms=remaining_bucket(deadline_ms),
            path=(),
            batch=0,
            count=0,
        )

    def publish(self, events: Sequence[NewEvent], extra: tuple[str, ...] | None, now: float) -> Published:
        """Take events in: number, match and put each one into the batches of its next hops.

        Topics were checked by the caller. The batches leave with `flush`, or when they reach their target size.
        """
        first = self.seq + 1
        self.seq += len(events)
        self._counters.published += len(events)
        if len(events) >= MANY and extra is None:
            plans = self._publish_alike(events, first, now)
            if plans is not None:
                return Published(first, plans, {})
        published = Published(first, [], {})
        known = self._plans.known
        for seq, (topic, key, ttl_ms, attributes, data) in enumerate(events, first):
            event = _new(Event, (seq, topic, key, ttl_ms, extra, attributes, data))
            plan = known(topic) or self._plans.of(topic)
            published.plans.append(plan)
            self._outbox.join(self._outs(event, plan, published), event, now)
        return published

    def _publish_alike(self, events: Sequence[NewEvent], first: int, now: float) -> list[Plan] | None:
        """Events that need no more than to be put into the same batches, whatever their topics: column by column, a third of the
        cost of one by one. None: some do; nothing was done."""
        topics, keys, ttls_ms, attributes, datas = zip(*events, strict=True)
        if any(keys) or any(ttls_ms) or attributes.count(None) < len(events):
            return None
        plans = self._plans.known_all(topics) or self._plans.of_all(topics)
        ways = {plan.outs for plan in plans}
        if len(ways) != 1 or None in ways or not all(map(_plain, plans)):
            return None
        # Only encoded from here on, so that the fields in order do as well as an Event.
        rows = list(zip(count(first), topics, keys, ttls_ms, repeat(None), attributes, datas, strict=False))
        ends = list(accumulate(map(add, map(len, topics), map(len, datas))))
        self._outbox.join_many(ways.pop(), rows, ends, now)
        return plans * len(events) if len(plans) == 1 else list(map(self._plans.of, topics))

    def _outs(self, event: Event, plan: Plan, published: Published) -> Outs:
        """The batches an event joins. Its share of this node's sessions is delivered, and who goes without is counted."""
        key = event.key
        assigned: tuple[Assigned, ...] = ()
        if plan.groups:
            assigned = self._assign(event, plan.groups)
            published.assigned[event.seq - published.first_seq] = assigned
        if plan.local or assigned:
            self._deliver_at_ingress(event, plan, assigned)
        if plan.unreached:
            self._count_unreached(plan)
        if assigned or event.deadline_ms or (key and plan.split):
            flow = crc32(key.encode()) % FLOWS if key and plan.split else 0
            return self._outs_by_flow(plan, assigned, flow, remaining_bucket(event.deadline_ms))
        outs: Outs | None = plan.outs
        if outs is None:
            outs = plan.outs = self._make_outs(plan, (), 0, 0)
        return outs

    def _outs_by_flow(self, plan: Plan, assigned: tuple[Assigned, ...], flow: int, bucket: int) -> Outs:
        """The batches an event of this plan joins. Remembered per (flow, bucket, assignment) in the plan."""
        memory = (flow, bucket, tuple((a.group, a.filter, a.region, a.node) for a in assigned))
        outs = plan.parts.get(memory)
        if outs is None:
            if len(plan.parts) > 256:
                plan.parts.clear()
            outs = plan.parts[memory] = self._make_outs(plan, assigned, flow, bucket)
        return outs

    def _make_outs(self, plan: Plan, assigned: tuple[Assigned, ...], flow: int, bucket: int) -> Outs:
        base = self.header(bucket, flow)
        outs: list[Outgoing] = []
        near: dict[str, list[tuple[str, str, str]]] = {name: [] for name in plan.nodes}
        far: dict[str, list[tuple[str, str, str]]] = {name: [] for name in plan.regions}
        for group, filter, region, node in assigned:
            if region != self.region:
                far.setdefault(region, []).append((group, filter, region))
            elif node != self.node:
                near.setdefault(node, []).append((group, filter, region))
        for name, groups in near.items():
            link = self._planner.links.peers[name]
            outs.append(self._outbox.batch(link, replace(base, regions=(self.region,), groups=tuple(groups))))
        parts, lost = self._planner.partition(far, self._origin_text, flow, ())
        assert not lost, (
            "a plan names only regions with a usable next hop; a change of routes makes a new plan"
        )
        for part in parts:
            groups_of = tuple(group for region in part.regions for group in far[region])
            header = leaving(replace(base, groups=groups_of), part, self.region)
            if header is not None:
                outs.append(self._outbox.batch(part.link, header))
        return tuple(outs)

    def _assign(self, event: Event, groups: Iterable[tuple[str, str]]) -> tuple[Assigned, ...]:
        """Choose who serves each matching queue group; without a member the group's share is dropped and counted."""
        mesh_id = f"{self._origin_text}/{self.epoch}/{event.seq}"
        chosen: list[Assigned] = []
        planner = self._planner
        for group, filter in groups:
            near = {name: self._has_credit(name) for name in planner.near_members(group, filter)}
            found = assign(mesh_id, group, filter, self.region, near, planner.far_members(group, filter))
            if found is None:
                self._counters.drop(Drop.NO_MEMBERS, 1)
            else:
                chosen.append(found)
        return tuple(chosen)

    def _deliver_at_ingress(self, event: Event, plan: Plan, assigned: tuple[Assigned, ...]) -> None:
        if plan.local:
            self._deliverer.to_sessions(plan.local, self._way, event)
        for group, filter, region, node in assigned:
            if region == self.region and node == self.node:
                self._deliverer.to_group(group, filter, self._way, event)

    def _count_unreached(self, plan: Plan) -> None:
        """Whoever wants an event and has no way to it loses it here: counted like every other drop."""
        for unreached in plan.unreached:
            self._counters.drop(Drop.LINK_DOWN if unreached.node else Drop.NO_ROUTE, 1)
