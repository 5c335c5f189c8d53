"""The data plane of one node: events into batches, batches from links to sessions and to next hops.

Decides nothing about topics itself: `mesh.core.plan` says where, this page builds the batches, checks each hop (loop, hop
limit, remaining time), delivers to local sessions once each, and counts whatever goes no further under its reason.
Never decodes a body at a hop that only passes it on; never waits; never touches a socket.
Invariants: a batch leaves with disjoint region sets per next hop; a LOCAL batch is never forwarded; a TRANSIT batch is
never delivered and is redirected at most once.
Source: design pages "Routing" (Forwarding) and "Wire and speed" (rules 1 to 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, count, repeat
from operator import add, attrgetter
from typing import NamedTuple, TypeAlias
from zlib import crc32

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.dedupe import Dedupe, Origin, Seen, Window
from mesh.core.groups import Assigned, assign, far_region, member_node
from mesh.core.handover import Handover, Way
from mesh.core.outbox import Outbox, Outgoing, Outs
from mesh.core.plan import FLOWS, MOST_GROUPS, Part, Plan, Planner
from mesh.core.session import LinkSession
from mesh.model.event import EXTRA_REPLY_TO, Event, NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic import TopicError, check_topic
from mesh.wire.codec import BodyError, decode_body, encode_body, remaining_bucket
from mesh.wire.frames import BatchHeader, Flag, Leg

PLANS = 16_384
"""Topics whose plan is remembered; past it the memory is cleared."""
MANY = 8
"""Events handed in together from which looking at all of them at once pays."""

Groups: TypeAlias = tuple[tuple[str, str, str], ...]
Shares: TypeAlias = dict[tuple[tuple[str, ...], Groups], list[Event]]
"""(nodes that get a share, groups assigned to them) -> its events."""

_plain = attrgetter("plain")
_new = tuple.__new__
"""Makes a NamedTuple without its Python-level constructor: a quarter of the cost of an event (measured)."""


class Published(NamedTuple):
    """What became of the events of one call at ingress. first_seq: the first one's seq, the others follow one by one.
    plans: what each followed. assigned: who serves the queue groups of an event, by its place in the call, where it has any."""

    first_seq: int
    plans: list[Plan]
    assigned: dict[int, tuple[Assigned, ...]]


class Forwarder:
    """Args:
        planner: where things go. sessions: open links by number, shared with the composed machine.
    Results for the composed machine to take: `handover` (to sessions), `ready` (links with batches to pull), `mail`
    (events for this node itself), `unserved` (requests and group events that found nobody, whose origin is to be told).
    Cost: publishing about 2 us an event and one list append per next hop; transit O(regions) a batch, body untouched.
    """

    def __init__(
        self,
        region: str,
        node: str,
        epoch: int,
        *,
        planner: Planner,
        sessions: dict[int, LinkSession],
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.region = region
        self.node = node
        self.epoch = epoch
        self.planner = planner
        self.sessions = sessions
        self.limits = limits
        self.counters = counters
        self.seq = 0
        self.dedupe = Dedupe(limits)
        self.handover = Handover()
        self.ready: set[int] = set()
        self.mail: list[tuple[BatchHeader, Event]] = []
        self.unserved: list[tuple[BatchHeader, Event, Drop, str]] = []
        self._way = Way((region, node, epoch), (), False)
        self._origin_text = f"{region}/{node}"
        self._plans: dict[str, Plan] = {}
        self._region_plans: dict[str, Plan] = {}
        self._outbox = Outbox(limits, self._offer)

    # -- plans ---------------------------------------------------------------------------------------------------

    def invalidate(self, now: float) -> None:
        """Interest, routes, sessions or links changed: forget every plan. Open batches are flushed as they were planned."""
        self.flush(now)
        self._plans.clear()
        self._region_plans.clear()
        self._outbox.forget()

    def plan(self, topic: str) -> Plan:
        """The plan for publishing `topic` here, from memory or made now."""
        plan = self._plans.get(topic)
        if plan is None:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            plan = self._plans[topic] = self.planner.plan(topic)
        return plan

    def region_plan(self, topic: str) -> Plan:
        """The plan for an event of `topic` that entered this region here."""
        plan = self._region_plans.get(topic)
        if plan is None:
            if len(self._region_plans) >= PLANS:
                self._region_plans.clear()
            plan = self._region_plans[topic] = self.planner.region_plan(topic)
        return plan

    # -- ingress -------------------------------------------------------------------------------------------------

    def publish(self, events: Sequence[NewEvent], extra: tuple[str, ...] | None, now: float) -> Published:
        """Take events in: number, match and put each one into the batches of its next hops.

        Topics were checked by the caller. The batches leave with `flush`, or when they reach their target size.
        """
        first = self.seq + 1
        self.seq += len(events)
        self.counters.published += len(events)
        if len(events) >= MANY and extra is None:
            plans = self._publish_alike(events, first, now)
            if plans is not None:
                return Published(first, plans, {})
        published = Published(first, [], {})
        known = self._plans.get
        for seq, (topic, key, ttl_ms, attributes, data) in enumerate(events, first):
            event = _new(Event, (seq, topic, key, ttl_ms, extra, attributes, data))
            plan = known(topic) or self.plan(topic)
            published.plans.append(plan)
            self._outbox.join(self._outs(event, plan, published), event, now)
        return published

    def _publish_alike(self, events: Sequence[NewEvent], first: int, now: float) -> list[Plan] | None:
        """Events that need no more than to be put into the same batches, whatever their topics: column by column, a third of the
        cost of one by one. None: some do; nothing was done."""
        topics, keys, ttls_ms, attributes, datas = zip(*events, strict=True)
        if any(keys) or any(ttls_ms) or attributes.count(None) < len(events):
            return None
        known = self._plans.get
        plans = [known(topic) or self.plan(topic) for topic in topics]
        ways = {plan.outs for plan in plans}
        if len(ways) != 1 or None in ways or not all(map(_plain, plans)):
            return None
        # Only encoded from here on, so that the fields in order do as well as an Event.
        rows = list(zip(count(first), topics, keys, ttls_ms, repeat(None), attributes, datas, strict=False))
        ends = list(accumulate(map(add, map(len, topics), map(len, datas))))
        self._outbox.join_many(ways.pop(), rows, ends, now)
        return plans

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
        base = BatchHeader(
            Leg.LOCAL,
            0,
            self.region,
            self.node,
            self.epoch,
            (),
            flow,
            self.limits.hop_limit,
            bucket,
            (),
            0,
            0,
        )
        outs: list[Outgoing] = []
        near: dict[str, list[tuple[str, str, str]]] = {name: [] for name in plan.nodes}
        far: dict[str, list[tuple[str, str, str]]] = {name: [] for name in plan.regions}
        for group, filter, region, node in assigned:
            if region != self.region:
                far.setdefault(region, []).append((group, filter, region))
            elif node != self.node:
                near.setdefault(node, []).append((group, filter, region))
        for name, groups in near.items():
            link = self.planner.links.peers[name]
            outs.append(self._outbox.batch(link, replace(base, regions=(self.region,), groups=tuple(groups))))
        parts, lost = self.planner.partition(far, self._origin_text, flow, ())
        assert not lost, (
            "a plan names only regions with a usable next hop; a change of routes makes a new plan"
        )
        for part in parts:
            groups_of = tuple(group for region in part.regions for group in far[region])
            header = self._leaving(replace(base, groups=groups_of), part)
            if header is not None:
                outs.append(self._outbox.batch(part.link, header))
        return tuple(outs)

    def _leaving(self, header: BatchHeader, part: Part) -> BatchHeader | None:
        """The header for one part as it leaves; None when its hops are used up (the caller counts the drop)."""
        groups = tuple(group for group in header.groups if group[2] in part.regions)
        if part.leg is not Leg.BRIDGE:
            return replace(header, leg=part.leg, regions=part.regions, groups=groups)
        if header.hops_left <= 0:
            return None
        return replace(
            header,
            leg=Leg.BRIDGE,
            regions=part.regions,
            groups=groups,
            hops_left=header.hops_left - 1,
            path=(*header.path, self.region),
            flags=header.flags & ~Flag.REDIRECTED,
        )

    def _assign(self, event: Event, groups: Iterable[tuple[str, str]]) -> tuple[Assigned, ...]:
        """Choose who serves each matching queue group; without a member the group's share is dropped and counted."""
        mesh_id = f"{self._origin_text}/{self.epoch}/{event.seq}"
        chosen: list[Assigned] = []
        planner = self.planner
        for group, filter in groups:
            near = {name: self._has_credit(name) for name in planner.near_members(group, filter)}
            found = assign(mesh_id, group, filter, self.region, near, planner.far_members(group, filter))
            if found is None:
                self.counters.drop(Drop.NO_MEMBERS, 1)
            else:
                chosen.append(found)
        return tuple(chosen)

    def _has_credit(self, node: str) -> bool:
        return node == self.node or not self.sessions[self.planner.links.peers[node]].congested

    def _deliver_at_ingress(self, event: Event, plan: Plan, assigned: tuple[Assigned, ...]) -> None:
        if plan.local:
            self.handover.add(plan.local, self._way, event)
            self.counters.delivered += len(plan.local)
        for group, filter, region, node in assigned:
            if region == self.region and node == self.node:
                self._deliver_to_group(event, group, filter, self._way)

    def _count_unreached(self, plan: Plan) -> None:
        """Whoever wants an event and has no way to it loses it here: counted like every other drop."""
        for unreached in plan.unreached:
            self.counters.drop(Drop.LINK_DOWN if unreached.node else Drop.NO_ROUTE, 1)

    # -- delivery ------------------------------------------------------------------------------------------------

    def _deliver_to_group(self, event: Event, group: str, filter: str, way: Way) -> bool:
        """Give the event to the next member on this node. False when there is none."""
        member = self.planner.subscriptions.next_in_group(group, filter)
        if member is None:
            return False
        session, sid = member
        self.handover.add(((session, (sid,)),), way, event)
        self.counters.delivered += 1
        return True

    # -- batches from links --------------------------------------------------------------------------------------

    def receive(self, session: LinkSession, header: BatchHeader, body: bytes, now: float) -> None:
        """A batch arrived and was counted by its session. Checks the hop and does what the leg says."""
        header = self._arrived(session, header)
        weight = header.count * max(1, len(header.regions))
        if header.remaining_ms < 0:
            self.counters.drop(Drop.EXPIRED, weight)
        elif header.leg is Leg.LOCAL:
            self._deliver(header, body, now)
        elif header.leg is Leg.TRANSIT:
            self._transit(header, body, now)
        elif self.region in header.path:
            self.counters.drop(Drop.LOOP, weight)
        else:
            self._enter(header, body, now)

    def _arrived(self, session: LinkSession, header: BatchHeader) -> BatchHeader:
        """Take half the round trip off the remaining time (-1 when none is left), and bound the hops a peer grants."""
        if header.remaining_ms:
            left = header.remaining_ms - int((session.rtt_ms or 0.0) / 2)
            header = replace(header, remaining_ms=left if left > 0 else -1)
        if header.hops_left > self.limits.hop_limit:
            header = replace(header, hops_left=self.limits.hop_limit)
        return header

    def _enter(self, header: BatchHeader, body: bytes, now: float) -> None:
        """A BRIDGE batch: deliver the own region's part, pass the rest on."""
        if self.region not in header.regions:
            self._pass_on(header, header.regions, body, now)
            return
        rest = tuple(region for region in header.regions if region != self.region)
        if rest:
            self._pass_on(header, rest, body, now)
        if header.flags & Flag.TO_NODE:
            self._to_node(header, body, now)
        else:
            self._spread(header, body, now)

    def _pass_on(self, header: BatchHeader, regions: tuple[str, ...], body: bytes, now: float) -> None:
        """Send the regions on by next hop, body unchanged."""
        parts, lost = self.planner.partition(
            regions, f"{header.region}/{header.node}", header.flow, header.path
        )
        self._send_parts(header, parts, body, now)
        if lost:
            self.counters.drop(Drop.NO_ROUTE, header.count * len(lost))

    def _send_parts(self, header: BatchHeader, parts: Iterable[Part], body: bytes, now: float) -> None:
        for part in parts:
            leaving = self._leaving(header, part)
            if leaving is None:
                self.counters.drop(Drop.HOP_LIMIT, header.count * len(part.regions))
            else:
                self._offer(part.link, leaving, body, now)

    def _transit(self, header: BatchHeader, body: bytes, now: float) -> None:
        """A sibling chose this node as the exit: own bridge links first, one redirect, else no_route."""
        redirect = not header.flags & Flag.REDIRECTED
        own, sibling, lost = self.planner.own_partition(header.regions, header.path, redirect=redirect)
        self._send_parts(header, own, body, now)
        if sibling:
            self._send_parts(replace(header, flags=header.flags | Flag.REDIRECTED), sibling, body, now)
        if lost:
            self.counters.drop(Drop.NO_ROUTE, header.count * len(lost))

    def _spread(self, header: BatchHeader, body: bytes, now: float) -> None:
        """The entry bridge: match each event once and send LOCAL to each interested node; deliver the own share."""
        try:
            events = decode_body(body, header.count)
        except BodyError:
            self.counters.drop(Drop.MALFORMED, header.count)
            return
        events, plans = self._matched(events)
        mine = [group for group in header.groups if group[2] == self.region]
        if mine:
            shares = self._shares_with_groups(header, events, mine, now)
        else:
            shares = self._shares(header, events, plans)
        for (targets, assigned), share in shares.items():
            local = replace(header, leg=Leg.LOCAL, regions=(self.region,), groups=assigned, count=len(share))
            encoded = body if len(share) == header.count else None
            for name in targets:
                if name == self.node:
                    self._deliver_events(local, share, plans, now)
                else:
                    if encoded is None:
                        encoded = encode_body(share)
                    self._offer(self.planner.links.peers[name], local, encoded, now)

    def _shares(self, header: BatchHeader, events: list[Event], plans: Sequence[Plan]) -> Shares:
        """Events by the nodes that get them. The common case: one share with all of them, body reused.

        plans: those of the events' topics, each once.
        """
        if plans:
            targets = plans[0].targets
            if targets and all(plan.targets == targets and not plan.unreached for plan in plans):
                return {(targets, ()): events}
        shares: Shares = {}
        known = self._region_plans
        for event in events:
            plan = known.get(event.topic) or self.region_plan(event.topic)
            if plan.unreached:
                self.counters.drop(Drop.LINK_DOWN, len(plan.unreached))
            key = (plan.targets, ())
            if key in shares:
                shares[key].append(event)
            elif plan.targets:
                shares[key] = [event]
            else:
                self._nobody(header, event)
        return shares

    def _shares_with_groups(
        self, header: BatchHeader, events: Sequence[Event], mine: Sequence[tuple[str, str, str]], now: float
    ) -> Shares:
        """As `_shares`, with one member node for each assigned group of each event."""
        only_group = bool(header.flags & Flag.GROUP_ONLY)
        shares: Shares = {}
        for event in events:
            plan = self.region_plan(event.topic)
            nodes: dict[str, list[tuple[str, str, str]]] = {}
            if not only_group:
                nodes = {name: [] for name in plan.targets}
                if plan.unreached:
                    self.counters.drop(Drop.LINK_DOWN, len(plan.unreached))
            for group in mine:
                near = self.planner.near_members(group[0], group[1])
                name = member_node(self._mesh_id(header, event), group[0], near)
                if name is None:
                    self._reassign(header, event, group[0], group[1], self.region, now)
                else:
                    nodes.setdefault(name, []).append(group)
            for name, groups in nodes.items():
                shares.setdefault(((name,), tuple(groups)), []).append(event)
        return shares

    def _mesh_id(self, header: BatchHeader, event: Event) -> str:
        return f"{header.region}/{header.node}/{header.epoch}/{event.seq}"

    def _nobody(self, header: BatchHeader, event: Event) -> None:
        """An event reached a place where nobody wants it any more."""
        self.counters.drop(Drop.INTEREST_GONE, 1)
        if event.extra is not None and event.extra[EXTRA_REPLY_TO]:
            self.unserved.append((header, event, Drop.INTEREST_GONE, ""))

    def _deliver(self, header: BatchHeader, body: bytes, now: float) -> None:
        """A LOCAL batch: for sessions of this node, or mail for this node itself."""
        try:
            events = decode_body(body, header.count)
        except BodyError:
            self.counters.drop(Drop.MALFORMED, header.count)
            return
        if header.flags & Flag.TO_NODE:
            if header.to_node == self.node:
                self.mail.extend((header, event) for event in events)
            else:
                self.counters.drop(Drop.NOT_FOR_US, header.count)
        else:
            self._deliver_events(header, *self._matched(events), now)

    def _matched(self, events: list[Event]) -> tuple[list[Event], list[Plan]]:
        """Match each topic of a batch once: (events, plans of their topics). Events whose topic the grammar forbids are counted
        and left out. A topic is looked at once while it is in use, and nothing is remembered of a bad one, so that what is
        remembered is bounded by the longest topic allowed."""
        known = self._region_plans
        plans: list[Plan] = []
        bad: set[str] = set()
        for topic in {event.topic for event in events}:
            plan = known.get(topic)
            if plan is None:
                try:
                    check_topic(topic, self.limits)
                except TopicError:
                    bad.add(topic)
                    continue
                plan = self.region_plan(topic)
            plans.append(plan)
        if not bad:
            return events, plans
        kept = [event for event in events if event.topic not in bad]
        self.counters.drop(Drop.MALFORMED, len(events) - len(kept))
        return kept, plans

    def _deliver_events(
        self, header: BatchHeader, events: list[Event], plans: Sequence[Plan], now: float
    ) -> None:
        """Deliver to matching sessions of this node, each event once, and to one member of each assigned group.

        plans: those of the events' topics, each once; there may be more.
        """
        origin = (header.region, header.node, header.epoch)
        redelivered = bool(header.flags & Flag.REDELIVERED)
        only_group = bool(header.flags & Flag.GROUP_ONLY)
        variant = "/".join(f"{group}/{filter}" for group, filter, _ in header.groups) if only_group else ""
        if not events:
            return
        window = self.dedupe.window(Origin(*origin, variant), now)
        first, last = events[0].seq, events[-1].seq
        run = last - first == len(events) - 1 and window.see_run(first, last)
        if not run:
            events = self._fresh(window, events)
        if header.remaining_ms:
            events = self._in_time(header, events)
        if header.groups or only_group:
            self._deliver_with_groups(header, events, only_group, now)
            return
        if not events:
            return
        way = Way(origin, header.path, redelivered)
        local = plans[0].local
        if local and all(plan.local == local for plan in plans):
            self.handover.add_all(local, way, events)
            self.counters.delivered += len(local) * len(events)
            return
        known = self._region_plans
        for event in events:
            local = (known.get(event.topic) or self.region_plan(event.topic)).local
            if local:
                self.handover.add(local, way, event)
                self.counters.delivered += len(local)
            else:
                self._nobody_at_node(header, event)

    def _fresh(self, window: Window, events: Sequence[Event]) -> list[Event]:
        """The events not seen before; the others are counted."""
        fresh: list[Event] = []
        for event in events:
            seen = window.see(event.seq)
            if seen is Seen.FRESH:
                fresh.append(event)
            else:
                self.counters.drop(Drop.DUPLICATE if seen is Seen.DUPLICATE else Drop.DEDUPE_WINDOW_PASSED, 1)
        return fresh

    def _in_time(self, header: BatchHeader, events: list[Event]) -> list[Event]:
        """The events whose exact deadline has not passed; the others are counted."""
        kept = [event for event in events if not (event.deadline_ms and self._expired(header, event))]
        if len(kept) < len(events):
            self.counters.drop(Drop.EXPIRED, len(events) - len(kept))
        return kept

    def _deliver_with_groups(
        self, header: BatchHeader, events: Sequence[Event], only_group: bool, now: float
    ) -> None:
        redelivered = bool(header.flags & Flag.REDELIVERED)
        way = Way((header.region, header.node, header.epoch), header.path, redelivered)
        for event in events:
            local = () if only_group else self.region_plan(event.topic).local
            if local:
                self.handover.add(local, way, event)
                self.counters.delivered += len(local)
            for group, filter, _ in header.groups:
                if not self._deliver_to_group(event, group, filter, way):
                    self._reassign(header, event, group, filter, f"{self.region}/{self.node}", now)

    def _nobody_at_node(self, header: BatchHeader, event: Event) -> None:
        """A node got an event that nobody here wants any more; the origin hears of it only inside its own region, where
        it counts on this very node."""
        self.counters.drop(Drop.INTEREST_GONE, 1)
        if header.region == self.region and event.extra is not None and event.extra[EXTRA_REPLY_TO]:
            self.unserved.append((header, event, Drop.INTEREST_GONE, ""))

    def _expired(self, header: BatchHeader, event: Event) -> bool:
        """The exact deadline: what the header lost of its bucket on the way is the time that passed."""
        return event.deadline_ms - (remaining_bucket(event.deadline_ms) - header.remaining_ms) <= 0

    # -- queue groups again --------------------------------------------------------------------------------------

    def _reassign(
        self, header: BatchHeader, event: Event, group: str, filter: str, tried: str, now: float
    ) -> None:
        """Nobody of the group is left here: another node of the region, else another region, else no_members."""
        so_far = (*header.tried, tried)
        planner = self.planner
        mesh_id = self._mesh_id(header, event)
        again = replace(
            header,
            flags=(header.flags | Flag.GROUP_ONLY) & ~Flag.REDIRECTED,
            tried=so_far,
            hops_left=header.hops_left - 1,
            path=(),
            count=1,
        )
        if again.hops_left > 0 and len(so_far) <= self.limits.tried_regions:
            skip = {
                self.node,
                *(name.partition("/")[2] for name in so_far if name.startswith(f"{self.region}/")),
            }
            near = [] if self.region in so_far else planner.near_members(group, filter, skip)
            node = member_node(mesh_id, group, near)
            if node is not None:
                local = replace(
                    again, leg=Leg.LOCAL, regions=(self.region,), groups=((group, filter, self.region),)
                )
                self._offer(planner.links.peers[node], local, encode_body([event]), now)
                return
            far = far_region(mesh_id, group, planner.far_members(group, filter, so_far))
            if far is not None:
                away = replace(
                    again, regions=(far,), groups=((group, filter, far),), tried=(*so_far, self.region)
                )
                self._pass_on(away, (far,), encode_body([event]), now)
                return
        self.counters.drop(Drop.NO_MEMBERS, 1)
        self.unserved.append((header, event, Drop.NO_MEMBERS, f"{group}/{filter}"))

    # -- to one node ---------------------------------------------------------------------------------------------

    def send_to(self, region: str, node: str, event: Event, now: float) -> Drop | None:
        """Send one event to one node anywhere (a reply, a notice, a question). Returns why not, or None.

        `event.seq` 0 is replaced by the next own seq.
        """
        self.seq += 1
        event = event._replace(seq=self.seq)
        header = BatchHeader(
            leg=Leg.LOCAL,
            flags=Flag.TO_NODE,
            region=self.region,
            node=self.node,
            epoch=self.epoch,
            regions=(region,),
            flow=0,
            hops_left=self.limits.hop_limit,
            remaining_ms=remaining_bucket(event.deadline_ms),
            path=(),
            batch=0,
            count=1,
            to_node=node,
        )
        if region == self.region:
            return self._send_to_member(header, event, now)
        parts, lost = self.planner.partition((region,), self._origin_text, 0, ())
        if lost:
            self.counters.drop(Drop.NO_ROUTE, 1)
            return Drop.NO_ROUTE
        self._send_parts(header, parts, encode_body([event]), now)
        return None

    def _send_to_member(self, header: BatchHeader, event: Event, now: float) -> Drop | None:
        if header.to_node == self.node:
            self.mail.append((header, event))
            return None
        link = self.planner.links.peers.get(header.to_node)
        if link is None:
            self.counters.drop(Drop.LINK_DOWN, 1)
            return Drop.LINK_DOWN
        self._offer(link, header, encode_body([event]), now)
        return None

    def _to_node(self, header: BatchHeader, body: bytes, now: float) -> None:
        """A TO_NODE batch entered its region here."""
        local = replace(header, leg=Leg.LOCAL, regions=(self.region,))
        if header.to_node == self.node:
            self._deliver(local, body, now)
            return
        link = self.planner.links.peers.get(header.to_node)
        if link is None:
            self.counters.drop(Drop.LINK_DOWN, header.count)
        else:
            self._offer(link, local, body, now)

    # -- queues --------------------------------------------------------------------------------------------------

    def _offer(self, link: int, header: BatchHeader, body: bytes, now: float) -> None:
        session = self.sessions.get(link)
        if session is None or not session.is_open:
            self.counters.drop(Drop.LINK_DOWN, header.count * max(1, len(header.regions)))
            return
        if len(header.groups) > MOST_GROUPS:
            self.counters.drop(Drop.TOO_LARGE, header.count * (len(header.groups) - MOST_GROUPS))
            header = replace(header, groups=header.groups[:MOST_GROUPS])
        dropped = session.offer(header, body, now)
        if dropped:
            self.counters.drop(Drop.NO_CREDIT, dropped)
        self.ready.add(link)

    def flush(self, now: float) -> None:
        """Hand every open batch to its link. Called when what was waiting has been read (wire.md, rule 4)."""
        self._outbox.flush(now)

    def link_gone(self, session: LinkSession, now: float) -> None:
        """A link died and left the planner's tables: what it still queued takes another way or is counted."""
        if session.unacked_weight:
            self.counters.drop(Drop.LINK_DOWN_UNKNOWN, session.unacked_weight)
            session.unacked.clear()
            session.unacked_weight = 0
        queue = list(session.queue)
        session.queue.clear()
        session.queued_bytes = 0
        for header, body, since in queue:
            if header.leg is Leg.LOCAL:
                self.counters.drop(Drop.LINK_DOWN, header.count)
                continue
            if header.remaining_ms:
                header = replace(header, remaining_ms=max(1, header.remaining_ms - int((now - since) * 1e3)))
            if header.leg is Leg.BRIDGE:
                header = replace(header, hops_left=header.hops_left + 1, path=header.path[:-1])
            parts, lost = self.planner.partition(
                header.regions, f"{header.region}/{header.node}", header.flow, header.path
            )
            self._send_parts(header, parts, body, now)
            if lost:
                self.counters.drop(Drop.LINK_DOWN, header.count * len(lost))
