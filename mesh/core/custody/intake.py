"""Events that clients publish at least once: numbered, matched once, and stored before anybody is told that they were accepted.

Decides which events of a call make one record, and whether a rule's spool has room. Never decides where a topic goes.
Invariant: a call that is refused is not numbered, not sent and not delivered. A disk that fails between a call and its flush leaves a
ticket that says so; what was stored by then goes on.
Source: design page "Routing", Forwarding (ingress matches once) and Delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count, repeat
from operator import itemgetter
from typing import NamedTuple, cast
from zlib import crc32

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.arrival import HEAD_BYTES
from mesh.core.custody.dead_letters import DeadLetters
from mesh.core.custody.keeping import Keeping
from mesh.core.custody.order import Chains
from mesh.core.custody.pieces import EVENT_BYTES, pieces, size_of
from mesh.core.custody.receipts import Awaited, Receipts
from mesh.core.custody.record import NODE, REGION
from mesh.core.custody.spools import Spools
from mesh.core.custody.store import Store, StoreRefusedError
from mesh.core.custody.stranded import Stranded
from mesh.core.groups import Assigned, assign
from mesh.core.ingress import Ingress, Published
from mesh.core.plan import FLOWS, Plan, PlanMemory, Planner
from mesh.model.event import Event, NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, Refuse
from mesh.model.topic_rules import DEFAULT, SpoolPolicy, TopicRule, TopicRules
from mesh.wire.codec import encode_body
from mesh.wire.frames import Flag, Leg

_new = tuple.__new__
_key = itemgetter(2)
"""An event's, also of one that is only its fields in order (`Intake._alike`)."""


class Ticket:
    """A call's place in the store. lsn: the record that must be synced before its events are accepted, 0: none; None until `flush`.
    refused: why the store would not have them after all."""

    __slots__ = ("lsn", "refused")

    def __init__(self) -> None:
        self.lsn: int | None = None
        self.refused: Refuse | None = None


class Way(NamedTuple):
    """What the events of one record have in common. parts: outward. here: somebody listens at this node. stranded: shares
    of groups without a member in reach, each kept for one that may come back."""

    parts: tuple[str, ...]
    here: bool
    assigned: tuple[Assigned, ...]
    stranded: tuple[Assigned, ...]
    ttl_ms: int
    flow: int
    rule: TopicRule
    flags: int


class Alike(NamedTuple):
    """The events of a call that all go one way. size: what their record may take in the store."""

    plan: Plan
    way: Way
    events: list[Event]
    size: int


class Intake:
    """Args: ingress: gives numbers and headers. plans: of topics published here. room: what rules allow.
    Cost: 0.5 us an event of a batch that goes one way, 2 us one by one, and about 20 us a record."""

    def __init__(
        self,
        ingress: Ingress,
        *,
        store: Store,
        keeping: Keeping,
        stranded: Stranded,
        spools: Spools,
        letters: DeadLetters,
        planner: Planner,
        plans: PlanMemory,
        rules: TopicRules,
        has_credit: Callable[[str], bool],
        receipts: Receipts,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self._receipts = receipts
        self._ingress = ingress
        self._store = store
        self._keeping = keeping
        self._stranded = stranded
        self._spools = spools
        self._letters = letters
        self._planner = planner
        self._plans = plans
        self._rules = rules
        self._has_credit = has_credit
        self._counters = counters
        self._chains = Chains()
        self._target_bytes = limits.batch_target_bytes
        self._most_events = limits.batch_events
        self._open: dict[Way, list[Event]] = {}
        self._open_bytes = 0
        self._ways_of_keys: dict[str, Way] = {}
        self._tickets: list[Ticket] = []
        self._unserved: list[tuple[Event, str]] = []
        self.answered = False
        """Calls have their answer without a commit of the store: it refused them, or nothing of them had to be stored. Taken back by
        whoever tells them."""
        self.informed: Callable[[float], bool] = lambda now: True
        """Whether this node knows who wants what: before that it accepts nothing."""

    def publish(
        self, events: Sequence[NewEvent], flags: int, now: float
    ) -> tuple[Published, Ticket, Awaited | None]:
        """Take events in. Returns what became of them, their ticket, and the call that waits for receipts.

        They are stored and sent with `flush`: calls that come together share records. Args: flags: of the batches beside CUSTODY:
        receipts wanted. Raises: StoreRefusedError, nothing happened.
        """
        why = self._store.refusal(0) if self.informed(now) else Refuse.STARTING
        if why is not None:
            raise StoreRefusedError(why)
        first = self._ingress.seq + 1
        unserved: list[tuple[Event, str]] = []
        alike = self._alike(events, first, flags)
        if alike is not None:
            published = Published(first, [alike.plan] * len(events), {})
            ways = {alike.way: alike.events}
            size = self._records(alike.way) * alike.size
        else:
            plan_of = self._plans.of
            published = Published(first, [plan_of(event.topic) for event in events], {})
            ways = self._sorted(events, published, flags, unserved)
            size = sum([self._records(way) * _size(some) for way, some in ways.items()])
        why = self._store.refusal(size + self._open_bytes)
        if why is Refuse.TOO_LARGE:  # for one record: it becomes several
            largest = max(size_of(event) for some in ways.values() for event in some)
            why = self._store.refusal(HEAD_BYTES + max(largest, self._target_bytes))
        if why is not None:
            raise StoreRefusedError(why)
        self._make_room(ways, now)
        self._put_in_order(ways, published, now)
        self._ingress.take_in(len(events))
        call = None
        if flags & (Flag.RECEIPT | Flag.RECEIPT_DELIVERED):
            delivered = bool(flags & Flag.RECEIPT_DELIVERED)
            call = self._receipts.open(first, len(events), delivered=delivered)
            for way, some in ways.items():
                self._expect(call, way, [event.seq for event in some])
        for way, some in ways.items():
            self._join(way, some, now)
        self._unserved += unserved
        self._open_bytes += size
        ticket = Ticket()
        self._tickets.append(ticket)
        if self._open_bytes >= self._target_bytes:
            self.flush(now)
        return published, ticket, call

    def _join(self, way: Way, events: list[Event], now: float) -> None:
        """Put events into the open record of their way. What they may not overtake (the same key, another way) is stored first."""
        keys = set(map(_key, events))
        keys.discard("")
        if keys and any(self._ways_of_keys.get(key, way) != way for key in keys):
            self.flush(now)
        if keys:
            self._ways_of_keys.update(dict.fromkeys(keys, way))
        some = self._open.get(way)
        if some is None:
            self._open[way] = events
        else:
            some += events

    def flush(self, now: float) -> None:
        """Store and send what calls left open, and tell their tickets. Called when what was waiting to be read has been read."""
        if not self._tickets and not self._open:
            return
        ways, self._open = self._open, {}
        tickets, self._tickets = self._tickets, []
        unserved, self._unserved = self._unserved, []
        self._ways_of_keys.clear()
        # No frame of a link holds a call of megabytes. Most calls are far from that, and need no look at each event.
        large, self._open_bytes = self._open_bytes > self._target_bytes, 0
        lsn, refused = 0, None
        for way, events in ways.items():
            try:
                if large:
                    for piece in pieces(events, self._most_events, self._target_bytes):
                        lsn = max(lsn, self._keep(way, piece, now))
                    continue
                for at in range(0, len(events), self._most_events):
                    lsn = max(lsn, self._keep(way, events[at : at + self._most_events], now))
            except StoreRefusedError as error:
                refused = error.reason
        for event, group in unserved:
            header = replace(self._ingress.header(event.deadline_ms, 0), count=1)
            lsn = max(lsn, self._letters.put(header, event, group, Drop.NO_MEMBERS, 0, 0.0))
        for ticket in tickets:
            ticket.lsn, ticket.refused = lsn, refused
        if refused is not None or lsn <= self._store.synced:
            self.answered = True

    def _records(self, way: Way) -> int:
        """How many records the events of a way may need: one for all elsewhere, one for each near member of a group, one for whoever
        listens here."""
        if not way.assigned:
            return bool(way.parts) + way.here + len(way.stranded)
        region, node = self._ingress.region, self._ingress.node
        near = {a.node for a in way.assigned if a.region == region}
        elsewhere = bool(way.parts) or any(a.region != region for a in way.assigned)
        return elsewhere + len(near - {node}) + (way.here or node in near) + len(way.stranded)

    def _make_room(self, ways: dict[Way, list[Event]], now: float) -> None:
        """Room under each rule for what of this call has to wait. Raises: StoreRefusedError, before anything else had to go."""
        wanted: dict[TopicRule, int] = {}
        for way, some in ways.items():
            if way.rule.spool_bytes and (way.parts or way.assigned or way.stranded):
                size = sum(len(event.data) for event in some)
                wanted[way.rule] = wanted.get(way.rule, 0) + size
        for rule in sorted(wanted, key=lambda rule: rule.spool_policy is not SpoolPolicy.BLOCK):
            if not self._spools.make_room(rule, wanted[rule], now):
                raise StoreRefusedError(Refuse.SPOOL_FULL)

    def _expect(self, call: Awaited, way: Way, seqs: list[int]) -> None:
        """Who has to say that it has these events."""
        own, node = self._ingress.region, self._ingress.node
        for part in way.parts:
            if part.startswith(REGION):
                call.expect(part, seqs)
            elif call.delivered:
                call.expect(f"{NODE}{own}/{part[2:]}", seqs)
        for _, _, region, name in (*way.assigned, *way.stranded):
            if region != own:
                call.expect(REGION + region, seqs)
            elif call.delivered:
                call.expect(f"{NODE}{own}/{name}", seqs)
        if way.here and call.delivered:
            call.expect(f"{NODE}{own}/{node}", seqs)

    def _alike(self, events: Sequence[NewEvent], first: int, flags: int) -> Alike | None:
        """Events that all go one way, as most of a call do: column by column, a third of the cost of one by one. None: they do not."""
        topics, keys, ttls_ms, attributes, datas = zip(*events, strict=True)
        plans = self._plans.known_all(topics) or self._plans.of_all(topics)
        if len(plans) != 1 or len(set(ttls_ms)) != 1 or plans[0].groups:
            return None
        plan, ttl_ms, rule = plans[0], ttls_ms[0], DEFAULT
        if self._rules:
            rules = {self._rules.of(topic) for topic in set(topics)}
            rule = rules.pop()
            if rules or rule.deadline_s:
                return None
        if (plan.split or rule.ordered) and any(keys):
            return None
        size = HEAD_BYTES + EVENT_BYTES * len(events)
        size += sum(map(len, datas)) + sum(map(len, topics)) + sum(map(len, keys))
        if attributes.count(None) < len(events):
            size += sum([sum(map(len, some)) for some in attributes if some])
        rows = zip(count(first), topics, keys, ttls_ms, repeat(None), attributes, datas, strict=False)
        if plan.local or flags or rule is not DEFAULT:
            numbered = list(map(_new, repeat(Event), rows))
        else:
            # Only encoded from here on, so that the fields in order do as well as an Event.
            numbered = cast("list[Event]", list(rows))
        return Alike(plan, _way(plan, (), (), ttl_ms, 0, rule, flags), numbered, size)

    def _sorted(
        self,
        events: Sequence[NewEvent],
        published: Published,
        flags: int,
        unserved: list[tuple[Event, str]],
    ) -> dict[Way, list[Event]]:
        """Events by the way they go, numbered."""
        first, plans = published.first_seq, published.plans
        ways: dict[Way, list[Event]] = {}
        base: dict[tuple[int, int, int], Way] = {}
        for at, (topic, key, ttl_ms, attributes, data) in enumerate(events):
            plan = plans[at]
            rule = self._rules.of(topic)
            if not ttl_ms and rule.deadline_s:
                ttl_ms = max(1, round(rule.deadline_s * 1e3))
            event = _new(Event, (first + at, topic, key, ttl_ms, None, attributes, data))
            if plan.groups or (key and (plan.split or rule.ordered)):
                assigned, stranded = self._assign(event, plan, unserved) if plan.groups else ((), ())
                published.assigned[at] = (*assigned, *stranded)
                flow = crc32(key.encode()) % FLOWS if key and plan.split else 0
                way = _way(plan, assigned, stranded, ttl_ms, flow, rule, flags)
            else:
                alike = id(plan), ttl_ms, id(rule)
                known = base.get(alike)
                if known is None:
                    known = base[alike] = _way(plan, (), (), ttl_ms, 0, rule, flags)
                way = known
            some = ways.get(way)
            if some is None:
                ways[way] = [event]
            else:
                some.append(event)
        return ways

    def _put_in_order(self, ways: dict[Way, list[Event]], published: Published, now: float) -> None:
        """Let events of ordered topics say what came before them. Only now: a call that is refused is nobody's predecessor."""
        ordered = [
            (event.seq, some, place)
            for way, some in ways.items()
            if way.rule.ordered
            for place, event in enumerate(some)
            if event.key
        ]
        for seq, some, place in sorted(ordered, key=itemgetter(0)):
            at = seq - published.first_seq
            said = self._before(some[place], published.plans[at], published.assigned.get(at, ()), now)
            some[place] = some[place]._replace(extra=("", "", said))

    def _before(self, event: Event, plan: Plan, assigned: Sequence[Assigned], now: float) -> str:
        """What an event of an ordered topic says of the one before it."""
        regions = {self._ingress.region, *plan.regions, *(away.region for away in plan.unreached)}
        regions.update(a.region for a in assigned)
        return self._chains.before(event.topic, event.key, sorted(regions), event.seq, now)

    def _keep(self, way: Way, events: list[Event], now: float) -> int:
        base = replace(
            self._ingress.header(way.ttl_ms, way.flow), leg=Leg.BRIDGE, flags=way.flags, count=len(events)
        )
        body = encode_body(events)
        lsn = 0
        region, node = self._ingress.region, self._ingress.node
        far = [a for a in way.assigned if a.region != region]
        near: dict[str, list[tuple[str, str, str]]] = {}
        for a in way.assigned:
            if a.region == region:
                near.setdefault(a.node, []).append((a.group, a.filter, a.region))
        regions = dict.fromkeys(part[2:] for part in way.parts if part.startswith(REGION))
        regions |= dict.fromkeys(a.region for a in far)
        nodes = tuple(part for part in way.parts if part.startswith(NODE) and part[2:] not in near)
        parts = (*(REGION + name for name in regions), *nodes)
        if parts:
            groups = tuple((a.group, a.filter, a.region) for a in far)
            header = replace(base, regions=tuple(regions), groups=groups)
            lsn = self._keeping.keep(header, body, parts, now, deadline_ms=way.ttl_ms, rule=way.rule)
        local = replace(base, leg=Leg.LOCAL, regions=(region,))
        for a in way.stranded:
            group_only = replace(
                local if a.node else base,
                flags=way.flags | Flag.GROUP_ONLY,
                regions=(a.region,),
                groups=((a.group, a.filter, a.region),),
            )
            part = NODE + a.node if a.node else REGION + a.region
            kept = self._keeping.keep(group_only, body, (part,), now, deadline_ms=way.ttl_ms)
            self._stranded.add(kept, part, group_only)
            lsn = max(lsn, kept)
        for name, groups_of in near.items():
            if name == node:
                continue
            # One batch brings a node its share of the group and what its own subscriptions match.
            header = replace(local, groups=tuple(groups_of))
            lsn = max(lsn, self._keeping.keep(header, body, (NODE + name,), now, deadline_ms=way.ttl_ms))
        if way.here or node in near:
            header = replace(local, groups=tuple(near.get(node, ())))
            lsn = max(lsn, self._keeping.deliver(header, events, body, now, fresh=True))
        return lsn

    def _assign(
        self, event: Event, plan: Plan, unserved: list[tuple[Event, str]]
    ) -> tuple[tuple[Assigned, ...], tuple[Assigned, ...]]:
        """Choose who serves each group that matches: (in reach, out of reach). A group without any member has a dead letter."""
        planner, ingress = self._planner, self._ingress
        mesh_id = f"{ingress.region}/{ingress.node}/{ingress.epoch}/{event.seq}"
        chosen: list[Assigned] = []
        stranded: list[Assigned] = []
        for group, filter in plan.groups:
            near = {name: self._has_credit(name) for name in planner.near_members(group, filter)}
            found = assign(mesh_id, group, filter, ingress.region, near, planner.far_members(group, filter))
            away = planner.member_out_of_reach(group, filter) if found is None else None
            if found is not None:
                chosen.append(found)
            elif away is not None:
                stranded.append(away)
            else:
                unserved.append((event, f"g/{group}/{filter}"))
        return tuple(chosen), tuple(stranded)


def _size(events: Sequence[Event]) -> int:
    """What one record of these may take in the store. Cost: 0.1 us an event, more for one with attributes beside its data."""
    size = (
        HEAD_BYTES
        + EVENT_BYTES * len(events)
        + sum([len(one.data) + len(one.topic) + len(one.key) for one in events])
    )
    return size + sum([sum(map(len, one.attributes)) for one in events if one.attributes])


def _way(
    plan: Plan,
    assigned: tuple[Assigned, ...],
    stranded: tuple[Assigned, ...],
    ttl_ms: int,
    flow: int,
    rule: TopicRule,
    flags: int,
) -> Way:
    parts = plan.kept
    if parts is None:
        names = [*(REGION + name for name in plan.regions), *(NODE + name for name in plan.nodes)]
        names += [NODE + away.node if away.node else REGION + away.region for away in plan.unreached]
        parts = plan.kept = tuple(names)
    if rule.copies > 1:
        flags |= Flag.COPIES
    return Way(parts, bool(plan.local), assigned, stranded, ttl_ms, flow, rule, flags)
