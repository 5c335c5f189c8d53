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

import msgspec
from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.arrival import Arrival
from mesh.core.custody.consumers import Consumers
from mesh.core.custody.copies import Copies, CopyingStore
from mesh.core.custody.dead_letters import DEAD, DeadLetters
from mesh.core.custody.departure import Departure
from mesh.core.custody.intake import Intake, Ticket
from mesh.core.custody.keeping import Keeping
from mesh.core.custody.listeners import Listeners
from mesh.core.custody.log_shares import LOG, LogShares
from mesh.core.custody.pairs import Pairs
from mesh.core.custody.receipts import (
    RECEIPT,
    Awaited,
    Origin,
    Outgoing,
    Receipts,
    Told,
    decode_told,
    encode_told,
    ranges,
)
from mesh.core.custody.record import HELD_BACK, NODE, OUTWARD, REGION, Held, decode_head
from mesh.core.custody.seen import Seen
from mesh.core.custody.spools import Spools
from mesh.core.custody.store import Entry, JournalDamaged, Store, StoreRefusedError
from mesh.core.custody.stranded import Stranded
from mesh.core.forwarding import Forwarder
from mesh.core.groups import far_region, member_node
from mesh.core.hop import aged, mesh_id_of
from mesh.core.ingress import Published
from mesh.core.session import LinkSession
from mesh.model.dice import Dice
from mesh.model.event import Event, NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, NotDelivered, Refuse
from mesh.model.topic_rules import TopicRules
from mesh.wire.codec import decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

DISK_FAILS: Final = frozenset({Refuse.NO_SPACE, Refuse.READ_ONLY, Refuse.IO_ERROR})
"""What keeps a store from writing even what it has taken."""
HEIR_S: Final = 5.0
"""After the time for a takeover whoever took over has said so within this."""
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
        now: float,
        *,
        dice: Dice,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.store = CopyingStore(store)
        self.copies = Copies(
            self.store,
            forwarder.node,
            forwarder.ingress.epoch,
            peers=forwarder.planner.links.peers,
            limits=limits,
            counters=counters,
        )
        store = self.store
        self.forwarder = forwarder
        self.rules = rules
        self.limits = limits
        self.counters = counters
        region, node = forwarder.region, forwarder.node
        planner, sessions = forwarder.planner, forwarder.sessions
        self.receipts = Receipts(forwarder.ingress.epoch)
        self.owed_receipts = Outgoing(f"{NODE}{region}/{node}")
        self._gone: dict[str, float] = {}
        """Members that went and are not back, and since when: what was under way to them comes back later than the news."""
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
        self.log = LogShares(store, unpack, self.settle, counters)
        self.keeping = Keeping(
            region,
            store=store,
            copies=self.copies,
            departure=self.departure,
            listeners=Listeners(
                self.consumers,
                forwarder.deliverer,
                forwarder.region_plans,
                self.reassign,
                self.log,
                counters,
            ),
            spools=self.spools,
            letters=self.letters,
            matched=forwarder.matched,
            plan_of=plan_of,
            receipts=self.owed_receipts,
            limits=limits,
            counters=counters,
        )
        self.seen = Seen(store, self.keeping.dedupe, limits, now)
        self.arrival = Arrival(
            region,
            node,
            store=store,
            keeping=self.keeping,
            letters=self.letters,
            planner=planner,
            matched=forwarder.matched,
            mail=self._mail,
            again=self.reassign,
            receipts=self.owed_receipts,
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
        self.pairs = Pairs(
            region,
            node,
            copies=self.copies,
            consumers=self.consumers,
            keeping=self.keeping,
            planner=planner,
            again=self.reassign,
            rules=rules,
            limits=limits,
            counters=counters,
            now=now,
        )
        self.arrival.copied = self._copied_here
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
            receipts=self.receipts,
            limits=limits,
            counters=counters,
        )

    # -- after a restart ---------------------------------------------------------------------------------------------

    def recover(self, wall_ms: int, now: float) -> int:
        """Take up what an earlier process left in the store. Returns how many records. Called once, before any link opens."""
        records = 0
        self.seen.restore(now)
        for entry in self.store.outstanding():
            records += 1
            dead = next((part for part in entry.parts if part.startswith(DEAD)), "")
            if dead:
                self.letters.recover(entry.lsn, dead, entry.head_bytes + entry.body_bytes)
                continue
            since = now - max(0, wall_ms - entry.stored_ms) / 1e3
            if self.pairs.mirror.recover(entry, since):
                continue
            self._recover(entry, wall_ms, now)
        self.keeping.release_ready(now)
        self.pairs.links_changed(now)
        return records

    def _recover(self, entry: Entry, wall_ms: int, now: float) -> None:
        lsn, stored_ms, size = entry.lsn, entry.stored_ms, entry.body_bytes
        try:
            packed, body = self.store.read(lsn)
            head = decode_head(packed)
            if head.epoch:
                since = now - max(0, wall_ms - stored_ms) / 1e3
                self.copies.recovered(lsn, entry.parts, head, size, since)
            here = [part for part in entry.parts if not part.startswith(OUTWARD)]
            if here:
                header = aged(head.header, wall_ms - stored_ms)
                events = decode_body(body, header.count)
                self.keeping.mark(header, events, now)
                if here[0].startswith(HELD_BACK):
                    since = now - max(0, wall_ms - stored_ms) / 1e3
                    self.keeping.take_up(
                        lsn, head.header, events[0], int(here[0][len(HELD_BACK) :]), since, now
                    )
                    return
                self.keeping.was_let_out(header, events)
                self.owed_receipts.node_has(header, ranges([event.seq for event in events]), lsn, here, ())
                self.consumers.recover(lsn, header, events, here, now)
                if LOG in here:
                    self._recover_log(lsn, header, events)
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
        ends_as = Drop.EXPIRED if head.deadline_ms or head.header.remaining_ms else Drop.SPOOL_AGE
        since = now - max(0, wall_ms - stored_ms) / 1e3
        held = Held(
            lsn, size, head.header.count, parts, now + left_ms / 1e3, head.rule, since=since, ends_as=ends_as
        )
        rule = self.rules.named(head.rule)
        if rule.spool_bytes:
            self.spools.add(rule, lsn, size)
        self.departure.recover(held)
        if len(parts) == 1:
            self.stranded.add(lsn, parts[0], head.header)

    def _recover_log(self, lsn: int, header: BatchHeader, events: Sequence[Event]) -> None:
        if self.rules.retained:
            self.log.recover(lsn, header, events)
        else:
            self.counters.drop(Drop.INTEREST_GONE, len(events))
            self.settle(lsn, LOG)  # no rule retains anything any more

    # -- in ----------------------------------------------------------------------------------------------------------

    def publish(
        self, events: Sequence[NewEvent], now: float, flags: int = 0
    ) -> tuple[Published, Ticket, Awaited | None]:
        """See `Intake.publish`."""
        return self.intake.publish(events, flags, now)

    def flush(self, now: float) -> None:
        """See `Intake.flush`."""
        self.intake.flush(now)
        self.acknowledge(now)

    def receive(self, session: LinkSession, header: BatchHeader, body: bytes, now: float) -> None:
        """See `Arrival.receive`."""
        self.arrival.receive(session, header, body, now)

    def store_moved(self, now: float) -> None:
        """The store committed, or cannot any more: tell those who wait for it."""
        if self.store.refusal(0) in DISK_FAILS:
            self.arrival.stalled()
        self.acknowledge(now)

    def acknowledge(self, now: float) -> None:
        """See `Arrival.acknowledge`; receipts go with it."""
        self.arrival.acknowledge()
        self.keeping.settle_let_out()
        if self.keeping.ordered:
            self.seen.note_ordered(self.keeping.ordered)
            self.keeping.ordered = {}
        self.pairs.acknowledge(now)
        if len(self.owed_receipts):
            for origin, told in self.owed_receipts.take(self.store.synced).items():
                self._send_receipts(origin, told, now)

    def _send_receipts(self, origin: Origin, told: list[Told], now: float) -> None:
        """Receipts travel back in custody, like any other event."""
        forwarder = self.forwarder
        ingress = forwarder.ingress
        if (origin.region, origin.node) == (forwarder.region, forwarder.node):
            self.receipts.take(origin.epoch, told)
            return
        event = Event(
            ingress.next_seq(), f"{RECEIPT}{origin.epoch}", "", 0, None, (), encode_told(tuple(told))
        )
        near = origin.region == forwarder.region
        header = replace(
            ingress.header(0, 0),
            leg=Leg.LOCAL if near else Leg.BRIDGE,
            flags=Flag.TO_NODE,
            regions=(origin.region,),
            count=1,
            to_node=origin.node,
        )
        part = NODE + origin.node if near else REGION + origin.region
        try:
            self.keeping.keep(header, encode_body([event]), (part,), now)
        except StoreRefusedError:
            self.owed_receipts.again(origin, told)

    def _mail(self, header: BatchHeader, events: Sequence[Event]) -> None:
        """What is addressed to this node in custody: receipts; anything else goes where other mail goes."""
        for event in events:
            if not event.topic.startswith(RECEIPT):
                self.forwarder.mail.append((header, event))
                continue
            try:
                self.receipts.take(int(event.topic[len(RECEIPT) :]), decode_told(event.data))
            except (msgspec.DecodeError, ValueError):
                self.counters.drop(Drop.MALFORMED, 1)

    def missing(self, call: Awaited) -> list[tuple[str, str, str]]:
        """Who has not said that it has a call's events: (region, reason, detail for a person)."""
        found = []
        fib = self.forwarder.planner.reachable()
        for who in call.acknowledgement().missing:
            region, _, node = who[2:].partition("/")
            if region != self.forwarder.region and region not in fib:
                lane = self.departure.lanes.get(REGION + region)
                spooled = len(lane.waiting) if lane is not None else 0
                found.append(
                    (
                        region,
                        NotDelivered.NO_ROUTE.value,
                        f"no route to it now; {spooled} records wait here for it",
                    )
                )
            elif node:
                found.append(
                    (
                        region,
                        NotDelivered.NOT_ACKNOWLEDGED.value,
                        f"not every subscriber of {node} has acknowledged",
                    )
                )
            else:
                found.append(
                    (region, NotDelivered.NOT_ACKNOWLEDGED.value, "it has not said that it has stored it")
                )
        return found

    def told(self, session: LinkSession, now: float) -> None:
        """The other end of a link acknowledged or refused batches."""
        self.departure.told(session, now)

    def link_gone(self, session: LinkSession, now: float) -> None:
        """A link ended and is out of the planner's tables."""
        self.arrival.link_gone(session.link)
        self.departure.link_gone(session, now)
        self._assign_again(now)

    def ways_changed(self, now: float) -> None:
        """Routes, links, members or interest changed. What is open was planned before: it is stored as it was planned."""
        self.intake.flush(now)
        self.departure.ways_changed(now)
        self._assign_again(now)

    def _assign_again(self, now: float) -> None:
        """Shares of groups that have to go elsewhere."""
        self._retry_at = None
        if self.stranded.look(now):
            self._retry_at = now + RETRY_S
        moved = self.pairs.succession.heir
        waiting = [part[2:] for part, lane in self.departure.lanes.items() if lane.waiting]
        for node in {*self._gone, *(node for node in waiting if moved(node) is not None)}:
            if self.is_live(node) and moved(node) is not None:
                self._also_elsewhere(node, now)
            elif self.is_live(node):
                self._gone.pop(node, None)
            else:
                self.member_gone(node, now)

    def member_gone(self, node: str, now: float) -> None:
        """A member is dead or has left: what waits for it goes to other members of its groups, or is over with its sessions."""
        self._gone.setdefault(node, now)
        lane = self.departure.lanes.get(NODE + node)
        if lane is None:
            return
        for lsn in list(lane.waiting):
            self.departure.take_back(lsn, NODE + node, partial(self._without_member, node, lsn), now)

    def _without_member(self, node: str, lsn: int, header: BatchHeader, body: bytes, now: float) -> bool:
        """A batch for a node that is gone. True: nobody there wants it any more, and what a group had to get is elsewhere."""
        events, _ = self.forwarder.decoded(header, body)
        planner = self.forwarder.planner
        if header.flags & Flag.COPIES:
            if self.pairs.succession.heir(node) is not None:
                return self._redirect(node, lsn, header, events, body, now)
            if now < self._gone[node] + self.limits.copies_takeover_s + HEIR_S:
                self._retry_at = now + RETRY_S
                return False  # somebody may be about to take its clients over
        bit = planner.destinations.find(NODE + node)
        if any(planner.interest.match(event.topic).mask & bit for event in events):
            return False  # interest that outlives its node: durable clients, who come back with it
        try:
            self._groups_elsewhere(header, events, now)
        except StoreRefusedError:
            self._retry_at = now + RETRY_S  # what is elsewhere already may come twice, and says so
            return False
        if not header.groups:
            self.counters.drop(Drop.MEMBER_GONE, len(events))
        return True

    def _groups_elsewhere(self, header: BatchHeader, events: Sequence[Event], now: float) -> None:
        """Members of groups elsewhere get what was for those at a node that is gone. Raises: StoreRefusedError."""
        if header.flags & Flag.MOVED:
            return  # its groups are none
        for event in events:
            for group, filter, _ in header.groups:
                self.reassign(header, event, group, filter, now)

    def _also_elsewhere(self, node: str, now: float) -> None:
        """A node is back, and its durable clients are at home elsewhere: what has waited for it goes there, too."""
        lane = self.departure.lanes.get(NODE + node)
        for lsn in () if lane is None else list(lane.waiting):
            held = self.departure.held.get(lsn)
            if held is not None and self.pairs.succession.is_due(node, held):
                self.departure.take_back(lsn, NODE + node, partial(self._sent_on, node, lsn), now)

    def _sent_on(self, node: str, lsn: int, header: BatchHeader, body: bytes, now: float) -> bool:
        if not header.flags & Flag.COPIES:
            return False
        return self._redirect(node, lsn, header, self.forwarder.decoded(header, body)[0], body, now)

    def _redirect(
        self, node: str, lsn: int, header: BatchHeader, events: list[Event], body: bytes, now: float
    ) -> bool:
        """What waits for clients whose home is gone goes to their new one. False: there is none, or the store is full."""
        succession = self.pairs.succession
        if succession.heir(node) is None:
            return False
        self._retry_at = now + RETRY_S  # more may come, until everybody has forgotten the node
        try:
            done = succession.redirect(node, header, events, body, self.departure.held[lsn], now)
            if done:
                self._groups_elsewhere(header, events, now)
        except StoreRefusedError:
            return False
        return done

    def _copied_here(self, header: BatchHeader, events: list[Event], body: bytes, now: float) -> int:
        """A LOCAL batch whose topic has copies = 2, or for clients that moved here."""
        succession = self.pairs.succession
        if header.flags & Flag.MOVED:
            return succession.deliver(header, events, body, now)
        lsn = succession.unwanted(header, events, now)
        return max(lsn, self.keeping.deliver(header, events, body, now))

    # -- groups again ------------------------------------------------------------------------------------------------

    def reassign(self, header: BatchHeader, event: Event, group: str, filter: str, now: float) -> int:
        """A group's event found no member where it was: somebody else gets it, or it is a dead letter. Returns the record that has it."""
        if header.hops_left > 1 and len(header.tried) < self.limits.tried_regions:
            found = self._elsewhere(header, event, group, filter)
            if found is not None:
                region, node = found
                near = region == self.forwarder.region
                again = replace(
                    header,
                    leg=Leg.LOCAL if near else Leg.BRIDGE,
                    flags=(header.flags | Flag.GROUP_ONLY | Flag.REDELIVERED) & ~Flag.REDIRECTED,
                    hops_left=header.hops_left - 1,
                    path=(),
                    count=1,
                    regions=(region,),
                    groups=((group, filter, region),),
                    tried=header.tried if near else (*header.tried, self.forwarder.region),
                )
                part = NODE + node if near else REGION + region
                lsn = self.keeping.keep(again, encode_body([event]), (part,), now)
                self.stranded.add(lsn, part, again)
                return lsn
        return self.letters.put(header, event, f"g/{group}/{filter}", Drop.NO_MEMBERS, len(header.tried) + 1)

    def _elsewhere(
        self, header: BatchHeader, event: Event, group: str, filter: str
    ) -> tuple[str, str] | None:
        """(region, node of the own one) that can take a group's event: near before far, and before those out of reach for whom it is
        kept, whose members outlive their absence where they are durable."""
        planner, region, node = self.forwarder.planner, self.forwarder.region, self.forwarder.node
        tried = (*header.tried, region)
        mesh_id = mesh_id_of(header, event)
        near = [] if region in header.tried else planner.near_members(group, filter, (node,))
        member = member_node(mesh_id, group, near)
        if member is not None:
            return region, member
        far = far_region(mesh_id, group, planner.far_members(group, filter, tried))
        if far is not None:
            return far, ""
        away = planner.member_out_of_reach(group, filter, tried, node)
        return None if away is None else (away.region, away.node)

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
        if len(self.owed_receipts):
            self.owed_receipts.settled(lsn, part)

    def dead_letter(
        self, lsn: int, header: BatchHeader, event: Event, reason: Drop, part: str, attempts: int, now: float
    ) -> None:
        """See `dispatch.Owner`: an event that a consumer did not take. Whoever waits for a receipt is not told that it was delivered."""
        self.owed_receipts.dead(lsn)
        self.letters.put(header, event, part, reason, attempts)

    # -- ends --------------------------------------------------------------------------------------------------------

    def _give_up(
        self, header: BatchHeader, body: bytes, part: str, why: Drop, tries: int, held_s: float
    ) -> None:
        self.letters.put_all(header, body, part, why, tries, held_s)

    def _end_record(self, lsn: int, as_dead_letter: bool, now: float) -> None:
        """A rule's spool is full: this record goes."""
        self.departure.end_record(lsn, Drop.SPOOL_FULL, now, dead_letter=as_dead_letter)

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        due = (
            self.departure.next_deadline(),
            self.seen.next_deadline(),
            self.keeping.gate.next_deadline(),
            self._retry_at,
        )
        return min((at for at in due if at is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        """Do what is due."""
        self.departure.handle_deadline(now)
        self.seen.note(now)
        self.keeping.release(now)
        if self._retry_at is not None and now >= self._retry_at:
            self._assign_again(now)


def unpack(head: bytes, body: bytes) -> tuple[BatchHeader, list[Event]]:
    """Header and events of a record. Raises: ValueError when they do not decode."""
    header = decode_head(head).header
    return header, decode_body(body, header.count)
