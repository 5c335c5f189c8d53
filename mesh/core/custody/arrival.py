"""Batches in custody as they come in: what this node takes over, what it refuses, and when it says so.

Decides the parts of the record that a batch becomes here: other regions, nodes of the own region, whoever listens at this node.
Never decides a next hop (`departure` does) and never says "taken" before the store has it on disk.
Invariant: batches of a link are acknowledged in the order in which they came, each when its last record is synced.
Source: design page "Routing", Forwarding (legs, entry bridge) and Delivery (hop custody, dedupe).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.dead_letters import DeadLetters
from mesh.core.custody.keeping import Keeping
from mesh.core.custody.receipts import Outgoing, ranges, wanted
from mesh.core.custody.record import NODE, REGION
from mesh.core.custody.store import Store, StoreRefusedError
from mesh.core.groups import member_node
from mesh.core.hop import arrived, mesh_id_of
from mesh.core.passage import Passage
from mesh.core.plan import Plan, Planner
from mesh.core.session import LinkSession
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, Refuse
from mesh.wire.codec import BodyError, decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg, Refused

Group: TypeAlias = tuple[str, str, str]
Matched: TypeAlias = Callable[[list[Event]], tuple[list[Event], list[Plan]]]
_COPIED = Flag.COPIES | Flag.MOVED
HEAD_BYTES = 1_024
"""What is asked of the store beside a body: a head is smaller."""


class Arrival:
    """Args: matched: events whose topic the grammar allows, with the plans of their topics. mail: takes events for this node itself.
    again: finds another place for a group's event. Cost: about 20 us a batch that passes, 0.3 us an event where it is matched."""

    def __init__(
        self,
        region: str,
        node: str,
        *,
        store: Store,
        keeping: Keeping,
        letters: DeadLetters,
        planner: Planner,
        matched: Matched,
        mail: Callable[[BatchHeader, Sequence[Event]], None],
        again: Callable[[BatchHeader, Event, str, str, float], int],
        receipts: Outgoing,
        sessions: dict[int, LinkSession],
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.region = region
        self.node = node
        self._store = store
        self._keeping = keeping
        self._letters = letters
        self._planner = planner
        self._matched = matched
        self._mail = mail
        self._again = again
        self._receipts = receipts
        self._sessions = sessions
        self._limits = limits
        self._counters = counters
        self._unsaid: dict[int, deque[tuple[int, int, Refused | None]]] = {}
        """By link: (batch, the record that must be synced first, what is refused of it)."""
        self.draining = False
        self.informed: Callable[[float], bool] = lambda now: True
        """Whether this node knows what its region wants: before that it takes nothing for it."""
        self.copied: Callable[[BatchHeader, list[Event], bytes, float], int] = lambda *_: 0
        """Takes LOCAL batches of topics with copies = 2, and those for clients that moved here."""

    # -- acknowledging -----------------------------------------------------------------------------------------------

    def receive(self, session: LinkSession, header: BatchHeader, body: bytes, now: float) -> None:
        """A batch in custody from an open link; `acknowledge` says what became of it."""
        number = header.batch
        header = arrived(header, session.rtt_ms or 0.0, self._limits.hop_limit)
        try:
            if session.passage is not None:
                lsn, why, regions = self._take_inward(session.passage, header, body, now)
            else:
                lsn, why, regions = self._take(header, body, now)
        except StoreRefusedError as error:
            lsn, why, regions = 0, error.reason, ()
        refused = None if why is None else (number, why.value, regions)
        if why is not None:
            self._counters.refuse("said_" + why.value)
        self._unsaid.setdefault(session.link, deque()).append((number, lsn, refused))

    def acknowledge(self) -> None:
        """Tell every link what is on disk by now. Called after a burst of batches, and after every sync. Cost: O(links)."""
        synced = self._store.synced
        for link, unsaid in list(self._unsaid.items()):
            last = 0
            refused: list[Refused] = []
            while unsaid and unsaid[0][1] <= synced:
                last, _, no = unsaid.popleft()
                if no is not None:
                    refused.append(no)
            if not unsaid:
                del self._unsaid[link]
            if last:
                self._sessions[link].custody_taken(last, tuple(refused))

    def stalled(self) -> None:
        """The disk fails: what waits to be written is kept here all the same, and the links are told not to wait for it."""
        synced = self._store.synced
        for unsaid in self._unsaid.values():
            for at, (number, lsn, refused) in enumerate(unsaid):
                if lsn > synced and refused is None:
                    self._counters.refuse("said_" + Refuse.STALLED.value)
                    unsaid[at] = (number, 0, (number, Refuse.STALLED.value, ()))
                elif lsn > synced:
                    unsaid[at] = (number, 0, (number, Refuse.STALLED.value, ()))

    def link_gone(self, link: int) -> None:
        """Nobody is there to be told."""
        self._unsaid.pop(link, None)

    # -- taking over -------------------------------------------------------------------------------------------------

    def _take_inward(
        self, passage: Passage, header: BatchHeader, body: bytes, now: float
    ) -> tuple[int, Refuse | None, tuple[str, ...]]:
        """At a boundary with rules: a region is taken for whole or refused, so that whoever sent the batch tells its events apart, and
        nothing that may not come in is kept here."""
        judged = passage.inward(header, body, now)
        if judged.malformed:
            return 0, Refuse.POLICY_DENY, ()
        denied = judged.denied_regions()
        if not denied and len(judged.pieces) == 1:
            [piece] = judged.pieces
            return self._take(piece.header, piece.body, now)
        lsn = 0
        why, regions = Refuse.POLICY_DENY, list(denied)
        for piece in judged.pieces:
            if denied.isdisjoint(piece.header.regions):
                record, refused, some = self._take(piece.header, piece.body, now)
                lsn = max(lsn, record)
                if refused is not None:
                    why = refused
                    regions += some or piece.header.regions
        return lsn, why if regions else None, tuple(regions)

    def _take(
        self, header: BatchHeader, body: bytes, now: float
    ) -> tuple[int, Refuse | None, tuple[str, ...]]:
        """Returns (record to wait for, why not, the regions not taken; none named: all)."""
        if header.leg is Leg.BRIDGE and self.region in header.path:
            return 0, Refuse.LOOP, ()
        if self.draining and header.leg is not Leg.LOCAL:
            return 0, Refuse.DRAINING, ()
        why = self._store.refusal(len(body) + HEAD_BYTES)
        if why is not None:
            return 0, why, ()
        if header.remaining_ms < 0:
            parts = ",".join(REGION + region for region in header.regions)
            return self._letters.put_all(header, body, parts, Drop.EXPIRED, 0, 0.0), None, ()
        if header.leg is Leg.LOCAL:
            return self._here(header, body, now), None, ()
        if header.leg is Leg.TRANSIT:
            outward = tuple(REGION + region for region in header.regions)
            return self._keeping.keep(header, body, outward, now), None, ()
        return self._enter(header, body, now)

    def _enter(
        self, header: BatchHeader, body: bytes, now: float
    ) -> tuple[int, Refuse | None, tuple[str, ...]]:
        """A BRIDGE batch: the own region's part goes to its nodes, the rest on."""
        rest = tuple(region for region in header.regions if region != self.region)
        why: Refuse | None = None
        refused: tuple[str, ...] = ()
        own = self.region in header.regions
        if rest and header.hops_left <= 0:
            why, refused, rest = Refuse.HOP_LIMIT, rest, ()
        if own and not self.informed(now):
            why, refused, own = Refuse.STARTING, (*refused, self.region), False
        outward = tuple(REGION + region for region in rest)
        lsn = 0
        if not own:
            if outward:
                lsn = self._keeping.keep(header, body, outward, now)
        elif header.flags & Flag.TO_NODE:
            if outward:
                lsn = self._keeping.keep(header, body, outward, now)
            local = replace(header, leg=Leg.LOCAL, regions=(self.region,))
            if header.to_node == self.node:
                self._here(local, body, now)
            else:
                lsn = self._keeping.keep(local, body, (NODE + header.to_node,), now)
        else:
            lsn = self._spread(header, body, outward, now)
        return lsn, why, refused

    def _spread(self, header: BatchHeader, body: bytes, outward: tuple[str, ...], now: float) -> int:
        """The entry bridge: match each event once; one record for everybody who gets all events and no group, others apart."""
        try:
            events = decode_body(body, header.count)
        except BodyError:
            self._counters.drop(Drop.MALFORMED, header.count)
            return self._keeping.keep(header, body, outward, now) if outward else 0
        lsn = 0
        nodes: dict[str, list[int]] = {}
        tells = wanted(header)
        for names, share in self._shares(header, events, now).items():
            if tells:
                for name, _ in names:
                    nodes.setdefault(name, []).extend([event.seq for event in share])
            plain = tuple(name for name, groups in names if not groups and name != self.node)
            parts = tuple(NODE + name for name in plain)
            local = replace(header, leg=Leg.LOCAL, regions=(self.region,), groups=(), count=len(share))
            mine = [groups for name, groups in names if name == self.node]
            whole = len(share) == header.count
            encoded = body if whole else encode_body(share)
            if whole and outward:
                lsn = max(lsn, self._keeping.keep(header, body, (*outward, *parts), now))
                outward = ()
            elif parts:
                lsn = max(lsn, self._keeping.keep(local, encoded, parts, now))
            if mine:
                lsn = max(
                    lsn,
                    self._keeping.deliver(
                        replace(local, groups=mine[0]) if mine[0] else local,
                        share,
                        encoded,
                        now,
                        matched=True,
                    ),
                )
            for name, groups in names:
                if groups and name != self.node:
                    record = self._keeping.keep(replace(local, groups=groups), encoded, (NODE + name,), now)
                    lsn = max(lsn, record)
        if outward:
            lsn = max(lsn, self._keeping.keep(header, body, outward, now))
        if tells:
            self._tell_region(header, events, nodes, lsn)
        return lsn

    def _tell_region(
        self, header: BatchHeader, events: list[Event], nodes: dict[str, list[int]], lsn: int
    ) -> None:
        """One receipt for all events; where nodes get different ones, one for each set of nodes."""
        of_seq: dict[int, list[str]] = {event.seq: [] for event in events}
        for name, seqs in nodes.items():
            for seq in seqs:
                of_seq[seq].append(name)
        by_nodes: dict[tuple[str, ...], list[int]] = {}
        for seq, names in of_seq.items():
            by_nodes.setdefault(tuple(names), []).append(seq)
        for some, seqs in by_nodes.items():
            self._receipts.region_has(header, ranges(seqs), lsn, self.region, some)

    def _shares(
        self, header: BatchHeader, events: list[Event], now: float
    ) -> dict[tuple[tuple[str, tuple[Group, ...]], ...], list[Event]]:
        """Events by who of the region gets them: (node, groups assigned to it), the own node included."""
        events, plans = self._matched(events)
        groups = [group for group in header.groups if group[2] == self.region]
        only_group = bool(header.flags & Flag.GROUP_ONLY)
        if plans and not groups and not only_group:
            first = plans[0].keepers
            if first and all(plan.keepers == first for plan in plans):
                return {tuple((name, ()) for name in first): events}
        shares: dict[tuple[tuple[str, tuple[Group, ...]], ...], list[Event]] = {}
        for event in events:
            plan = self._keeping.plan_of(event.topic)
            nodes: dict[str, tuple[Group, ...]] = {} if only_group else dict.fromkeys(plan.keepers, ())
            for group in groups:
                near = self._planner.near_members(group[0], group[1])
                name = member_node(mesh_id_of(header, event), group[0], near)
                if name is None:
                    self._again(header, event, group[0], group[1], now)
                else:
                    nodes[name] = (*nodes.get(name, ()), group)
            if nodes:
                shares.setdefault(tuple(nodes.items()), []).append(event)
            elif not groups:
                self._counters.drop(Drop.INTEREST_GONE, 1)
        return shares

    def _here(self, header: BatchHeader, body: bytes, now: float) -> int:
        """A LOCAL batch for this node."""
        try:
            events = decode_body(body, header.count)
        except BodyError:
            self._counters.drop(Drop.MALFORMED, header.count)
            return 0
        if header.flags & Flag.TO_NODE:
            if header.to_node == self.node:
                self._mail(header, events)
            else:
                self._counters.drop(Drop.NOT_FOR_US, header.count)
            return 0
        if header.flags & _COPIED:
            return self.copied(header, events, body, now)
        return self._keeping.deliver(header, events, body, now)
