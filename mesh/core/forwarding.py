"""The data plane of one node: what comes in (`ingress`), what passes, and what stays (`delivery`).

Decides what becomes of a batch that a link brought: it checks the hop (loop, hop limit, remaining time), sends each part on to its
next hop, and counts whatever goes no further under its reason. Where a topic goes, `mesh.core.plan` says.
Never decodes a body at a hop that only passes it on; never waits; never touches a socket.
Invariants: a batch leaves with disjoint region sets per next hop; a LOCAL batch is never forwarded; a TRANSIT batch is
never delivered and is redirected at most once.
Source: design pages "Routing" (Forwarding) and "Wire and speed" (rules 1 to 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import TypeAlias

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.delivery import Deliverer
from mesh.core.groups import far_region, member_node
from mesh.core.hop import arrived, leaving, mesh_id_of
from mesh.core.ingress import Ingress, Published
from mesh.core.outbox import Outbox
from mesh.core.passage import Passage
from mesh.core.plan import MOST_GROUPS, Part, Plan, PlanMemory, Planner
from mesh.core.session import LinkSession
from mesh.model.event import EXTRA_REPLY_TO, Event, NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic import TopicError, check_topic
from mesh.wire.codec import BodyError, decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

_topic = itemgetter(1)

Groups: TypeAlias = tuple[tuple[str, str, str], ...]
Shares: TypeAlias = dict[tuple[tuple[str, ...], Groups], list[Event]]
"""(nodes that get a share, groups assigned to them) -> its events."""


class Forwarder:
    """Args:
        planner: where things go. sessions: open links by number, shared with the composed machine.
    Results for the composed machine to take: `deliverer.handover` (to sessions), `ready` (links with batches to pull), `mail`
    (events for this node itself), `unserved` (requests and group events that found nobody, whose origin is to be told).
    Cost: transit O(regions) a batch, body untouched.
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
        self.planner = planner
        self.sessions = sessions
        self.limits = limits
        self.counters = counters
        self.ready: set[int] = set()
        self.mail: list[tuple[BatchHeader, Event]] = []
        self.unserved: list[tuple[BatchHeader, Event, Drop, str]] = []
        self.plans = PlanMemory(planner.plan)
        """For publishing here."""
        self.region_plans = PlanMemory(planner.region_plan)
        """For what entered this region here."""
        self.deliverer = Deliverer(
            region,
            node,
            plans=self.region_plans,
            subscriptions=planner.subscriptions,
            unserved=self,
            limits=limits,
            counters=counters,
        )
        self._outbox = Outbox(limits, self._offer)
        self.ingress = Ingress(
            (region, node, epoch),
            planner=planner,
            plans=self.plans,
            outbox=self._outbox,
            deliverer=self.deliverer,
            has_credit=self.has_credit,
            limits=limits,
            counters=counters,
        )

    def publish(self, events: Sequence[NewEvent], extra: tuple[str, ...] | None, now: float) -> Published:
        """See `Ingress.publish`."""
        return self.ingress.publish(events, extra, now)

    def invalidate(self, now: float) -> None:
        """Interest, routes, sessions or links changed: forget every plan. Open batches are flushed as they were planned."""
        self.flush(now)
        self.plans.forget()
        self.region_plans.forget()
        self._outbox.forget()

    def has_credit(self, node: str) -> bool:
        """Whether a member of the region can be sent to now."""
        return node == self.node or not self.sessions[self.planner.links.peers[node]].congested

    # -- batches from links --------------------------------------------------------------------------------------

    def receive(self, session: LinkSession, header: BatchHeader, body: bytes, now: float) -> None:
        """A batch arrived and was counted by its session. Checks the hop and does what the leg says."""
        header = arrived(header, session.rtt_ms or 0.0, self.limits.hop_limit)
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
            onwards = leaving(header, part, self.region)
            if onwards is None:
                self.counters.drop(Drop.HOP_LIMIT, header.count * len(part.regions))
            else:
                self._offer(part.link, onwards, body, now)

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
        events, plans = self.matched(events)
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
                    self.deliverer.deliver(local, share, plans, now)
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
        for event in events:
            plan = self.region_plans.of(event.topic)
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
            plan = self.region_plans.of(event.topic)
            nodes: dict[str, list[tuple[str, str, str]]] = {}
            if not only_group:
                nodes = {name: [] for name in plan.targets}
                if plan.unreached:
                    self.counters.drop(Drop.LINK_DOWN, len(plan.unreached))
            for group in mine:
                near = self.planner.near_members(group[0], group[1])
                name = member_node(mesh_id_of(header, event), group[0], near)
                if name is None:
                    self.reassign(header, event, group[0], group[1], self.region, now)
                else:
                    nodes.setdefault(name, []).append(group)
            for name, groups in nodes.items():
                shares.setdefault(((name,), tuple(groups)), []).append(event)
        return shares

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
            self.deliverer.deliver(header, *self.matched(events), now)

    def decoded(self, header: BatchHeader, body: bytes) -> tuple[list[Event], list[Plan]]:
        """The events of a batch with the plans of their topics; a body that does not decode is counted."""
        try:
            return self.matched(decode_body(body, header.count))
        except BodyError:
            self.counters.drop(Drop.MALFORMED, header.count)
            return [], []

    def matched(self, events: list[Event]) -> tuple[list[Event], list[Plan]]:
        """Match each topic of a batch once: (events, plans of their topics). Events whose topic the grammar forbids are counted
        and left out. A topic is looked at once while it is in use, and nothing is remembered of a bad one, so that what is
        remembered is bounded by the longest topic allowed."""
        topics = set(map(_topic, events))
        plans = self.region_plans.known_all(topics)
        if plans is not None:
            return events, plans
        bad: set[str] = set()
        for topic in topics:
            try:
                check_topic(topic, self.limits)
            except TopicError:
                bad.add(topic)
        plans = self.region_plans.of_all(topics - bad)
        if not bad:
            return events, plans
        kept = [event for event in events if event.topic not in bad]
        self.counters.drop(Drop.MALFORMED, len(events) - len(kept))
        return kept, plans

    def nobody_at_node(self, header: BatchHeader, event: Event) -> None:
        """See `delivery.Unserved`: a node got an event that nobody here wants any more; the origin hears of it only inside its own region, where
        it counts on this very node."""
        self.counters.drop(Drop.INTEREST_GONE, 1)
        if header.region == self.region and event.extra is not None and event.extra[EXTRA_REPLY_TO]:
            self.unserved.append((header, event, Drop.INTEREST_GONE, ""))

    # -- queue groups again --------------------------------------------------------------------------------------

    def reassign(
        self, header: BatchHeader, event: Event, group: str, filter: str, tried: str, now: float
    ) -> None:
        """See `delivery.Unserved`: nobody of the group is left here: another node of the region, else another region, else no_members."""
        so_far = (*header.tried, tried)
        planner = self.planner
        mesh_id = mesh_id_of(header, event)
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
        event = event._replace(seq=self.ingress.next_seq())
        header = replace(
            self.ingress.header(event.deadline_ms, 0),
            flags=Flag.TO_NODE,
            regions=(region,),
            count=1,
            to_node=node,
        )
        if region == self.region:
            return self._send_to_member(header, event, now)
        parts, lost = self.planner.partition((region,), f"{self.region}/{self.node}", 0, ())
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
        if session.passage is not None and header.leg is Leg.BRIDGE:
            self._offer_outward(session, session.passage, header, body, now)
            return
        if not session.fits(header.count, len(body)):
            self._offer_halves(link, header, body, now)
            return
        self._queue(session, header, body, now)

    def _queue(
        self,
        session: LinkSession,
        header: BatchHeader,
        body: bytes,
        now: float,
        plain: tuple[BatchHeader, bytes] | None = None,
    ) -> None:
        dropped = session.offer(header, body, now, plain)
        if dropped:
            self.counters.drop(Drop.NO_CREDIT, dropped)
        self.ready.add(session.link)

    def _offer_outward(
        self, session: LinkSession, passage: Passage, header: BatchHeader, body: bytes, now: float
    ) -> None:
        """A link with rules: what may cross is queued as it crosses, beside what it was; the rest is counted."""
        judged = passage.outward(header, body, now)
        if judged.malformed:
            self.counters.drop(Drop.MALFORMED, header.count * max(1, len(header.regions)))
        if judged.denied:
            self.counters.drop(Drop.POLICY_DENY, judged.denied_weight)
        for piece in judged.pieces:
            if session.fits(piece.header.count, len(piece.body)):
                plain = (piece.plain_header, piece.plain_body)
                self._queue(session, piece.header, piece.body, now, plain)
            else:
                self._offer_halves(session.link, piece.plain_header, piece.plain_body, now)

    def passage_changed(self, session: LinkSession, now: float) -> None:
        """The rules of a link are others than before: what waits for it is judged again, as it was before the old ones."""
        for header, body in self._taken_back(session, now):
            self._offer(session.link, header, body, now)

    def _taken_back(self, session: LinkSession, now: float) -> list[tuple[BatchHeader, bytes]]:
        """What a link queued, with the time it waited taken off, as it was before the link's rules changed it."""
        queue = list(session.queue)
        session.queue.clear()
        session.queued_bytes = 0
        found: list[tuple[BatchHeader, bytes]] = []
        for item in queue:
            header, body = item.plain or (item.header, item.body)
            if header.remaining_ms:
                left_ms = max(1, header.remaining_ms - int((now - item.since) * 1e3))
                header = replace(header, remaining_ms=left_ms)
            found.append((header, body))
        return found

    def _offer_halves(self, link: int, header: BatchHeader, body: bytes, now: float) -> None:
        """A batch too large for what the peer takes at once, because its limits are smaller: in halves, down to one event, and that
        one is dropped."""
        weight = header.count * max(1, len(header.regions))
        if header.count == 1:
            self.counters.drop(Drop.TOO_LARGE, weight)
            return
        try:
            events = decode_body(body, header.count)
        except BodyError:
            self.counters.drop(Drop.MALFORMED, weight)
            return
        half = header.count // 2
        for part in (events[:half], events[half:]):
            self._offer(link, replace(header, count=len(part)), encode_body(part), now)

    def flush(self, now: float) -> None:
        """Hand every open batch to its link. Called when what was waiting has been read (wire.md, rule 4)."""
        self._outbox.flush(now)

    def link_gone(self, session: LinkSession, now: float) -> None:
        """A link died and left the planner's tables: what it still queued takes another way or is counted."""
        if session.unacked_weight:
            self.counters.drop(Drop.LINK_DOWN_UNKNOWN, session.unacked_weight)
            session.unacked.clear()
            session.unacked_weight = 0
        for header, body in self._taken_back(session, now):
            if header.leg is Leg.LOCAL:
                self.counters.drop(Drop.LINK_DOWN, header.count)
                continue
            if header.leg is Leg.BRIDGE:
                header = replace(header, hops_left=header.hops_left + 1, path=header.path[:-1])
            parts, lost = self.planner.partition(
                header.regions, f"{header.region}/{header.node}", header.flow, header.path
            )
            self._send_parts(header, parts, body, now)
            if lost:
                self.counters.drop(Drop.LINK_DOWN, header.count * len(lost))
