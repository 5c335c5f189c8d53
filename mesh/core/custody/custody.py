"""At-least-once delivery at one node, whole: what comes in, what is kept, what leaves, and what ends as a dead letter.

Decides only who hears of what. Each decision is in its own module: `intake` (published here), `arrival` (from links), `keeping`
(into the store, once), `departure` (out again), `spools` (bounds by rule), `dead_letters`.
Invariant: for every event that was accepted here, each of its destinations has it, or is owed it by this node or a later one, or a
dead letter says why not.
Source: design page "Routing", Delivery; decision 0016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.arrival import Arrival
from mesh.core.custody.consumers import Consumers
from mesh.core.custody.dead_letters import DEAD, DeadLetters
from mesh.core.custody.departure import Departure
from mesh.core.custody.intake import Intake
from mesh.core.custody.keeping import Keeping
from mesh.core.custody.listeners import Listeners
from mesh.core.custody.record import NODE, OUTWARD, REGION, Held, decode_head
from mesh.core.custody.spools import Spools
from mesh.core.custody.store import Entry, JournalDamaged, Store, StoreRefusedError
from mesh.core.custody.stranded import Stranded
from mesh.core.forwarding import Forwarder
from mesh.core.groups import far_region, member_node
from mesh.core.hop import mesh_id_of
from mesh.core.ingress import Published
from mesh.core.session import LinkSession
from mesh.model.dice import Dice
from mesh.model.event import Event, NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic_rules import TopicRules
from mesh.wire.codec import decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

RETRY_S: Final = 1.0
"""Shares of groups that the store would not take for another place are tried again after so long."""


class Custody:
    """Args: store: the journal. forwarder: the data plane whose plans, sessions and deliverer custody shares.

    To be called: `receive` for batches with the flag CUSTODY, `told` after a CustodyAck, `synced` after every commit of the store, `acknowledge` after
    every burst, `link_gone`, `ways_changed`, `handle_deadline`.
    """

    def __init__(
        self,
        store: Store,
        forwarder: Forwarder,
        rules: TopicRules,
        *,
        dice: Dice,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.store = store
        self.forwarder = forwarder
        self.rules = rules
        self.limits = limits
        self.counters = counters
        region, node = forwarder.region, forwarder.node
        planner, sessions = forwarder.planner, forwarder.sessions
        self._gone: set[str] = set()
        """Members that went and are not back: what was under way to them comes back later than the news."""
        self.is_live: Callable[[str], bool] = lambda node: False
        """Whether a member is back."""
        self._retry_at: float | None = None
        self.letters = DeadLetters(store, limits, counters)
        self.spools = Spools(self._end_record)
        self.departure = Departure(
            region,
            store=store,
            planner=planner,
            sessions=sessions,
            ready=lambda link: forwarder.ready.add(link),
            give_up=self._give_up,
            freed=self.spools.freed,
            dice=dice,
            limits=limits,
            counters=counters,
        )
        plan_of = forwarder.region_plans.of
        self.consumers = Consumers(
            store,
            unpack,
            self,
            subscriptions=planner.subscriptions,
            limits=limits,
            counters=counters,
        )
        self.keeping = Keeping(
            store=store,
            departure=self.departure,
            listeners=Listeners(
                self.consumers, forwarder.deliverer, forwarder.region_plans, self.reassign, counters
            ),
            letters=self.letters,
            matched=forwarder.matched,
            plan_of=plan_of,
            limits=limits,
            counters=counters,
        )
        self.arrival = Arrival(
            region,
            node,
            store=store,
            keeping=self.keeping,
            letters=self.letters,
            planner=planner,
            matched=forwarder.matched,
            mail=lambda header, events: forwarder.mail.extend((header, event) for event in events),
            again=self.reassign,
            sessions=sessions,
            limits=limits,
            counters=counters,
        )
        self.stranded = Stranded(
            departure=self.departure,
            planner=planner,
            again=self.reassign,
            here=lambda header, events, body, now: self.keeping.deliver(
                header, events, body, now, fresh=True
            ),
            decoded=lambda header, body: forwarder.decoded(header, body)[0],
        )
        self.intake = Intake(
            forwarder.ingress,
            stranded=self.stranded,
            store=store,
            keeping=self.keeping,
            spools=self.spools,
            letters=self.letters,
            planner=planner,
            plans=forwarder.plans,
            rules=rules,
            has_credit=forwarder.has_credit,
            counters=counters,
        )

    # -- after a restart ---------------------------------------------------------------------------------------------

    def recover(self, wall_ms: int, now: float) -> int:
        """Take up what an earlier process left in the store. Returns how many records. Called once, before any link opens."""
        records = 0
        for entry in self.store.outstanding():
            records += 1
            dead = next((part for part in entry.parts if part.startswith(DEAD)), "")
            if dead:
                self.letters.recover(entry.lsn, dead, entry.head_bytes + entry.body_bytes)
                continue
            self._recover(entry, wall_ms, now)
        return records

    def _recover(self, entry: Entry, wall_ms: int, now: float) -> None:
        lsn, stored_ms, size = entry.lsn, entry.stored_ms, entry.body_bytes
        try:
            packed, body = self.store.read(lsn)
            head = decode_head(packed)
            here = [part for part in entry.parts if not part.startswith(OUTWARD)]
            if here:
                header = _aged(head.header, wall_ms - stored_ms)
                self.consumers.recover(lsn, header, decode_body(body, header.count), here, now)
        except (JournalDamaged, LookupError, ValueError):
            self.counters.drop(Drop.JOURNAL_DAMAGED, len(entry.parts))
            for part in entry.parts:
                self.store.settle(lsn, part)
            return
        parts = tuple(part for part in entry.parts if part.startswith(OUTWARD))
        if not parts:
            return
        left_ms = head.deadline_ms or head.header.remaining_ms or self.limits.spool_age_s * 1e3
        left_ms -= max(0, wall_ms - stored_ms)  # a clock that went back gives nothing away
        held = Held(lsn, size, head.header.count, parts, now + left_ms / 1e3, head.rule)
        rule = self.rules.named(head.rule)
        if rule.spool_bytes:
            self.spools.add(rule, lsn, size)
        self.departure.recover(held)
        if len(parts) == 1:
            self.stranded.add(lsn, parts[0], head.header)

    # -- in ----------------------------------------------------------------------------------------------------------

    def publish(self, events: Sequence[NewEvent], now: float, flags: int = 0) -> tuple[Published, int]:
        """See `Intake.publish`."""
        return self.intake.publish(events, flags, now)

    def receive(self, session: LinkSession, header: BatchHeader, body: bytes, now: float) -> None:
        """See `Arrival.receive`."""
        self.arrival.receive(session, header, body, now)

    def acknowledge(self) -> None:
        """See `Arrival.acknowledge`."""
        self.arrival.acknowledge()

    def told(self, session: LinkSession, now: float) -> None:
        """The other end of a link acknowledged or refused batches."""
        self.departure.told(session, now)

    def link_gone(self, session: LinkSession, now: float) -> None:
        """A link ended and is out of the planner's tables."""
        self.arrival.link_gone(session.link)
        self.departure.link_gone(session, now)
        self._assign_again(now)

    def ways_changed(self, now: float) -> None:
        """Routes, links, members or interest changed."""
        self.departure.ways_changed(now)
        self._assign_again(now)

    def _assign_again(self, now: float) -> None:
        """Shares of groups that have to go elsewhere."""
        self._retry_at = None
        if self.stranded.look(now):
            self._retry_at = now + RETRY_S
        for node in list(self._gone):
            if self.is_live(node):
                self._gone.discard(node)
            else:
                self.member_gone(node, now)

    def member_gone(self, node: str, now: float) -> None:
        """A member is dead or has left: what waits for it goes to other members of its groups, or is over with its sessions."""
        self._gone.add(node)
        lane = self.departure.lanes.get(NODE + node)
        if lane is None:
            return
        for lsn in list(lane.waiting):
            self.departure.take_back(lsn, NODE + node, partial(self._without_member, node), now)

    def _without_member(self, node: str, header: BatchHeader, body: bytes, now: float) -> bool:
        """A batch for a node that is gone. True: nobody there wants it any more, and what a group had to get is elsewhere."""
        events, _ = self.forwarder.decoded(header, body)
        planner = self.forwarder.planner
        bit = planner.destinations.find(NODE + node)
        if any(planner.interest.match(event.topic).mask & bit for event in events):
            return False  # interest that outlives its node: durable clients, who come back with it
        try:
            for event in events:
                for group, filter, _ in header.groups:
                    self.reassign(header, event, group, filter, now)
        except StoreRefusedError:
            self._retry_at = now + RETRY_S  # what is elsewhere already may come twice, and says so
            return False
        if not header.groups:
            self.counters.drop(Drop.MEMBER_GONE, len(events))
        return True

    # -- groups again ------------------------------------------------------------------------------------------------

    def reassign(self, header: BatchHeader, event: Event, group: str, filter: str, now: float) -> int:
        """A group's event found no member where it was: another node of the region, else another region, else a dead letter. Returns
        the record that has it."""
        forwarder, planner = self.forwarder, self.forwarder.planner
        region, node = forwarder.region, forwarder.node
        tried = (*header.tried, region)
        mesh_id = mesh_id_of(header, event)
        again = replace(
            header,
            flags=(header.flags | Flag.GROUP_ONLY | Flag.REDELIVERED) & ~Flag.REDIRECTED,
            hops_left=header.hops_left - 1,
            path=(),
            count=1,
        )
        body = encode_body([event])
        if again.hops_left > 0 and len(tried) <= self.limits.tried_regions:
            near = [] if region in header.tried else planner.near_members(group, filter, (node,))
            member = member_node(mesh_id, group, near)
            if member is not None:
                local = replace(again, leg=Leg.LOCAL, regions=(region,), groups=((group, filter, region),))
                return self.keeping.keep(local, body, (NODE + member,), now)
            far = far_region(mesh_id, group, planner.far_members(group, filter, tried))
            if far is not None:
                away = replace(
                    again, leg=Leg.BRIDGE, regions=(far,), groups=((group, filter, far),), tried=tried
                )
                return self.keeping.keep(away, body, (REGION + far,), now)
        return self.letters.put(header, event, f"g/{group}/{filter}", Drop.NO_MEMBERS, len(tried))

    def hand_back(
        self, lsn: int, header: BatchHeader, events: Sequence[Event], group: str, filter: str, now: float
    ) -> bool:
        """See `dispatch.Owner`: events of a group without a member here. False: there is none elsewhere, either."""
        planner, region, node = self.forwarder.planner, self.forwarder.region, self.forwarder.node
        near = planner.near_members(group, filter, (node,))
        if not near and not planner.far_members(group, filter, (*header.tried, region)):
            return False
        try:
            for event in events:
                self.reassign(header, event, group, filter, now)
        except StoreRefusedError:
            return False
        return True

    def settle(self, lsn: int, part: str) -> None:
        """See `dispatch.Owner`: a consumer has had all its events of a record."""
        self.store.settle(lsn, part)

    def dead_letter(
        self, header: BatchHeader, event: Event, reason: Drop, part: str, attempts: int, now: float
    ) -> None:
        """See `dispatch.Owner`: an event that a consumer did not take."""
        self.letters.put(header, event, part, reason, attempts)

    # -- ends --------------------------------------------------------------------------------------------------------

    def _give_up(
        self, header: BatchHeader, body: bytes, part: str, why: Drop, tries: int, now: float
    ) -> None:
        self.letters.put_all(header, body, part, why, tries)

    def _end_record(self, lsn: int, as_dead_letter: bool, now: float) -> None:
        """A rule's spool is full: this record goes."""
        self.departure.end_record(lsn, Drop.SPOOL_FULL, now, dead_letter=as_dead_letter)

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        at = self.departure.next_deadline()
        return at if self._retry_at is None else min(at or self._retry_at, self._retry_at)

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        self.departure.handle_deadline(now)
        if self._retry_at is not None and now >= self._retry_at:
            self._assign_again(now)


def unpack(head: bytes, body: bytes) -> tuple[BatchHeader, list[Event]]:
    """Header and events of a record. Raises: ValueError when they do not decode."""
    header = decode_head(head).header
    return header, decode_body(body, header.count)


def _aged(header: BatchHeader, held_ms: int) -> BatchHeader:
    """A header with the time it was held taken off; a clock that went back gives nothing away."""
    if not header.remaining_ms:
        return header
    return replace(header, remaining_ms=max(1, header.remaining_ms - max(0, held_ms)))
