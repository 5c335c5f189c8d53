"""Records on their way out: each part goes to its next hop, waits for one, and is sent again until somebody else has stored it.

Decides which next hop gets which parts of a record, when a record must wait, and when one is tried again. Never decides who wants
an event (`mesh.core.plan`), never decodes a body but to halve it for a peer with smaller limits, and never drops: a record ends when
all its parts were taken, or dead-lettered with a reason.
Invariant: each open part of a record is either in its lane's waiting queue or in exactly one share under way.
Source: design page "Routing", Forwarding (disjoint split by next hop) and Delivery (hop custody, heal order).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.at_boundary import AtBoundary, GiveUp
from mesh.core.custody.lane import Lane
from mesh.core.custody.record import NODE, REGION, Held, decode_head
from mesh.core.custody.store import JournalDamaged, Store
from mesh.core.entrusted import Consignment
from mesh.core.hop import leaving
from mesh.core.plan import Part, Planner
from mesh.core.session import LinkSession
from mesh.model.dice import Dice
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, Hold, Refuse
from mesh.wire.codec import BodyError, decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg, Refused

AVOID_S: Final = 5.0
"""For so long a next hop without room is passed over where there is another one."""
_OF_THE_HOP: Final = frozenset(
    {
        Refuse.FULL,
        Refuse.PENDING_FULL,
        Refuse.NO_SPACE,
        Refuse.READ_ONLY,
        Refuse.IO_ERROR,
        Refuse.NO_JOURNAL,
        Refuse.DRAINING,
        Refuse.TIMEOUT,
        Refuse.STALLED,
    }
)
"""Refusals that another next hop need not have."""
_MAYBE_PASSED: Final = frozenset({"", Refuse.TIMEOUT, Refuse.STALLED})
"""Why a batch came back that may have gone on all the same: "" is a link that ended."""

EXPIRED_AT_ONCE = 500
"""Events that are dead-lettered in one go when their time is over, about 20 ms; then everything else has its turn."""


class Departure:
    """Args:
        store: has the records. ready: links with something to pull. give_up: makes dead letters. freed: told the rule, number and
        size of a record that ended.
    Cost: about 15 us a record and next hop, O(regions); a record that waits costs about 300 bytes.
    """

    def __init__(
        self,
        region: str,
        *,
        store: Store,
        planner: Planner,
        sessions: dict[int, LinkSession],
        ready: Callable[[int], None],
        give_up: GiveUp,
        freed: Callable[[str, int, int], None],
        dice: Dice,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.region = region
        self.store = store
        self.held: dict[int, Held] = {}
        self.lanes: dict[str, Lane] = {}
        self._planner = planner
        self._sessions = sessions
        self._ready = ready
        self._give_up = give_up
        self._freed = freed
        self._dice = dice
        self._limits = limits
        self._counters = counters
        self._expiring: list[tuple[float, int]] = []
        self._tokens = limits.spool_bytes_per_s
        self._tokens_at = 0.0
        self._check_at: float | None = None
        self._changed = False
        self._boundary = AtBoundary(self, store, give_up)
        self._avoided: dict[int, float] = {}
        """Links whose other end has no room, and until when others are taken first."""

    def lane(self, part: str) -> Lane:
        """The lane of a destination, made when it is new."""
        lane = self.lanes.get(part)
        if lane is None:
            limits = self._limits
            lane = self.lanes[part] = Lane(part, limits.custody_window_bytes, limits.custody_window_events)
        return lane

    # -- taking over -------------------------------------------------------------------------------------------------

    def keep(self, held: Held, header: BatchHeader, body: bytes, now: float) -> None:
        """A record that the store has just taken: send what may leave, let the rest wait."""
        self.add(held)
        free = []
        for part in held.open:
            lane = self.lane(part)
            if lane.waiting or not lane.may_send(now):
                lane.waiting.append(held.lsn)
            else:
                free.append(part)
        if free:
            self._send(held, free, header, body, now)

    def recover(self, held: Held) -> None:
        """A record of an earlier process: in order, before anything is sent. Every part of it may have arrived."""
        held.sent = held.open
        self.add(held)
        for part in held.open:
            self.lane(part).waiting.append(held.lsn)

    # -- sending -----------------------------------------------------------------------------------------------------

    def _send(
        self,
        held: Held,
        parts: Sequence[str],
        header: BatchHeader,
        body: bytes,
        now: float,
        *,
        waited: bool = False,
    ) -> None:
        """Give parts to their next hops; those without one wait at the front of their lanes. waited: they have done so."""
        if held.expires_at is not None and header.remaining_ms:
            header = replace(header, remaining_ms=max(1, int((held.expires_at - now) * 1e3)))
        regions = [part[2:] for part in parts if part.startswith(REGION)]
        sent: list[str] = []
        if regions:
            ways, back, lost = self._ways(header, regions, now, waited=waited)
            for way in (*ways, *back):
                onwards = leaving(_turned(header) if way in back else header, way, self.region)
                if onwards is not None and header.leg is way.leg is Leg.TRANSIT:
                    onwards = replace(onwards, flags=onwards.flags | Flag.REDIRECTED)
                names = tuple(REGION + region for region in way.regions)
                if onwards is None:
                    for name in names:
                        self.end(held, name, Drop.HOP_LIMIT, now, (header, body))
                    continue
                passage = self._sessions[way.link].passage
                if passage is None or onwards.leg is not Leg.BRIDGE:
                    self.entrust(held, way.link, onwards, body, names, now)
                else:
                    self._boundary.outward(held, way.link, passage, (header, onwards), body, names, now)
                sent += names
            for region in lost:
                self._wait(held, REGION + region)
        for part in parts:
            if not part.startswith(NODE):
                continue
            link = self._planner.links.peers.get(part[2:])
            if link is None:
                self._wait(held, part)
                continue
            local = header
            if header.leg is not Leg.LOCAL or not header.groups:
                local = replace(header, leg=Leg.LOCAL, regions=(self.region,), groups=())
            self.entrust(held, link, local, body, (part,), now)
            sent.append(part)
        if sent:
            held.tries += 1

    def _ways(
        self, header: BatchHeader, regions: Sequence[str], now: float, *, waited: bool
    ) -> tuple[list[Part], list[Part], list[str]]:
        """(next hops, those that lead back through regions it came through, regions without any).

        What has waited may turn round, or be redirected once more: the ways it came for are gone, and it must block nobody behind it.
        Each turn takes a change of routes, and turns over bridges take hops.
        """
        planner = self._planner
        if self._avoided:
            self._avoided = {link: until for link, until in self._avoided.items() if until > now}
        avoid = self._avoided
        if header.leg is Leg.TRANSIT:
            redirect = waited or not header.flags & Flag.REDIRECTED
            own, sibling, lost = planner.own_partition(regions, header.path, redirect=redirect, avoid=avoid)
            back: list[Part] = []
            if waited and lost and header.path:
                back, _, lost = planner.own_partition(lost, (), redirect=False)
            return [*own, *sibling], back, lost
        origin = f"{header.region}/{header.node}"
        ways, lost = planner.partition(regions, origin, header.flow, header.path, avoid)
        back = []
        if waited and lost and header.path:
            back, lost = planner.partition(lost, origin, header.flow, (), avoid)
        return ways, back, lost

    def _wait(self, held: Held, part: str) -> None:
        lane = self.lane(part)
        lane.no_way()
        lane.back(held.lsn)

    def entrust(
        self, held: Held, link: int, header: BatchHeader, body: bytes, parts: tuple[str, ...], now: float
    ) -> None:
        for part in parts:
            self.lanes[part].left(held.size, held.count)
        flags = header.flags | Flag.CUSTODY
        if any(part in held.sent for part in parts):
            flags |= Flag.REDELIVERED
        share = Consignment(held.lsn, parts, held.size, held.count, link)
        self._arm(now + self._limits.custody_timeout_s)
        self._queue(self._sessions[link], replace(header, flags=flags), body, share, now)
        self._ready(link)

    def _queue(
        self, session: LinkSession, header: BatchHeader, body: bytes, share: Consignment, now: float
    ) -> None:
        """One batch, or halves of it where the peer takes less at once. What not even alone fits is a dead letter."""
        if session.fits(header.count, len(body)):
            session.custody.put(header, body, share, now)
            return
        try:
            events = decode_body(body, header.count)
        except BodyError:
            events = []
        if len(events) < 2:
            reason = Drop.TOO_LARGE if events else Drop.MALFORMED
            held = self.held.get(share.lsn)
            held_s = now - held.since if held is not None else 0.0
            self._give_up(header, body, ",".join(share.parts), reason, 1, held_s)
            self._piece_ended(share, None, now)
            return
        share.pieces += 1
        share.cut = True
        half = len(events) // 2
        for some in (events[:half], events[half:]):
            self._queue(session, replace(header, count=len(some)), encode_body(some), share, now)

    def add(self, held: Held) -> None:
        """A record that the store has just taken in place of part of another one."""
        self.held[held.lsn] = held
        if held.expires_at is not None:
            heappush(self._expiring, (held.expires_at, held.lsn))
            self._arm(held.expires_at)

    def no_room(self, held: Held, parts: Iterable[str], why: Refuse, now: float) -> None:
        """The store is full: parts of a record that cannot be told apart now wait, first of their lanes."""
        for part in parts:
            lane = self.lane(part)
            lane.refused(now, self._dice.random(), why)
            lane.back(held.lsn)
        self._changed = True

    # -- what came of it ---------------------------------------------------------------------------------------------

    def told(self, session: LinkSession, now: float) -> None:
        """The other end of a link said what it has stored and what it refused."""
        for share, refused in session.custody.take_told():
            self._piece_ended(share, refused, now)
        self.release(now)

    def _piece_ended(self, share: Consignment, refused: Refused | None, now: float) -> None:
        if share.ended:
            return
        by_region = all(part.startswith(REGION) for part in share.parts)  # nobody has rules inside a region
        if refused is not None and refused[1] == Refuse.POLICY_DENY and by_region:
            named = tuple(part for part in share.parts if not refused[2] or part[2:] in refused[2])
            self._told_apart(share, named, now)
            self._settle(share, tuple(part for part in share.parts if part not in named))
            return
        if refused is not None and not refused[2]:
            self._came_back(share, now, refused[1], share.parts)
            return
        if refused is not None:
            again = tuple(part for part in share.parts if part[2:] in refused[2])
            if again:
                if share.pieces > 1:
                    again = (
                        share.parts
                    )  # its other pieces are under way: nobody has said yet that it has all of it
                taken = tuple(part for part in share.parts if part not in again)
                self._came_back(share, now, refused[1], again)
                self._settle(share, taken)
                return
        share.pieces -= 1
        if share.pieces:
            return
        share.ended = True
        for part in share.parts:
            lane = self.lanes[part]
            lane.ended(share.size, share.count)
            lane.arrived()
        self._settle(share, share.parts)

    def _settle(self, share: Consignment, parts: Iterable[str]) -> None:
        held = self.held.get(share.lsn)
        for part in parts:
            self.store.settle(share.lsn, part)
            if held is not None:
                held.open = tuple(other for other in held.open if other != part)
        if held is not None and not held.open:
            self._forget(held)

    def _forget(self, held: Held) -> None:
        if self.held.pop(held.lsn, None) is not None:
            self._freed(held.rule, held.lsn, held.size)

    def _told_apart(self, share: Consignment, parts: tuple[str, ...], now: float) -> None:
        """The other end denies something in these parts of a share: see `AtBoundary.refused`."""
        share.ended = True
        held = self.held.get(share.lsn)
        for part in share.parts:
            self.lanes[part].ended(share.size, share.count)
        self._counters.refuse(Refuse.POLICY_DENY.value)
        if held is not None:
            self._boundary.refused(held, tuple(part for part in parts if part in held.open), now)
            self._changed = True

    def _came_back(self, share: Consignment, now: float, why: str, parts: Sequence[str]) -> None:
        """A share was not taken (why is a Refuse) or its link ended (why is ""): its parts wait again, first of their lanes."""
        share.ended = True
        held = self.held.get(share.lsn)
        for part in share.parts:
            self.lanes[part].ended(share.size, share.count)
        detour = why in _OF_THE_HOP and share.link not in self._avoided
        if detour:
            self._avoided[share.link] = now + AVOID_S
        for part in parts:
            lane = self.lanes[part]
            if detour and part.startswith(REGION):
                self._counters.refuse(
                    why
                )  # another next hop may have room: it is asked before there is a pause
            elif why:
                lane.refused(now, self._dice.random(), why)
                self._counters.refuse(why)
            if held is not None and part in held.open:
                lane.back(share.lsn)
                passed = share.at is not None and (share.cut or why in _MAYBE_PASSED)
                if passed and part not in held.sent:
                    held.sent = (*held.sent, part)
        self._changed = True

    def link_gone(self, session: LinkSession, now: float) -> None:
        """A link died and left the planner's tables: what it had not acknowledged goes another way, or waits."""
        self.told(session, now)
        for share in reversed(session.custody.take_all()):
            if not share.ended:
                self._came_back(share, now, "", share.parts)
        self.ways_changed(now)

    def passage_changed(self, session: LinkSession, now: float) -> None:
        """The rules of a link are others than before: what waits for it is read and judged again."""
        waiting = session.custody.waiting
        shares = {id(item.share): item.share for item in waiting if item.share is not None}
        waiting.clear()
        for share in reversed(shares.values()):
            if not share.ended:
                self._came_back(share, now, "", share.parts)
        self.release(now)

    def expired(self, share: Consignment, now: float) -> None:
        """A share's time ran out in the link's queue: its parts wait again, and are dead-lettered as their time is over."""
        if not share.ended:
            self._came_back(share, now, "", share.parts)
        self._end_expired(now)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def ways_changed(self, now: float) -> None:
        """Routes, links or members changed: whoever had no way looks again."""
        for lane in self.lanes.values():
            lane.has_way = True
        self.release(now)

    def release(self, now: float) -> None:
        """Send what waits and may leave, oldest first, all parts of a record that may leave together in one go.

        Bounds: `limits.spool_bytes_per_s`; the windows of the lanes; EXPIRED_AT_ONCE events whose time is over. Cost: O(lanes) and
        what is sent.
        """
        self._changed = False
        limits = self._limits
        rate = limits.spool_bytes_per_s
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        progress = True
        ended = 0
        while progress and ended < EXPIRED_AT_ONCE:
            progress = False
            for lane in list(self.lanes.values()):
                for _ in range(32):  # then the next lane has its turn
                    if not lane.waiting or not lane.may_send(now):
                        break
                    if self._tokens <= 0:
                        lane.held = Hold.RATE
                        break
                    ended += self._release_first(lane, now)
                    progress = True
        self._rearm(now)

    def _release_first(self, lane: Lane, now: float) -> int:
        """Returns how many events ended as dead letters instead."""
        lsn = lane.waiting[0]
        held = self.held.get(lsn)
        if held is None or lane.part not in held.open:
            lane.waiting.popleft()
            return 0
        if held.expires_at is not None and held.expires_at <= now:
            lane.waiting.popleft()
            self.end(held, lane.part, held.ends_as, now)
            return held.count
        parts = []
        for part in held.open:
            other = self.lanes[part]
            if other.waiting and other.waiting[0] == lsn and other.may_send(now):
                other.waiting.popleft()
                parts.append(part)
        read = self.read(held)
        if read is not None:
            self._tokens -= held.size
            self._send(held, parts, *read, now, waited=True)
        return 0

    def read(self, held: Held) -> tuple[BatchHeader, bytes] | None:
        """A record from the store; None when its disk lost it (counted; the record ends)."""
        try:
            head, body = self.store.read(held.lsn)
            return decode_head(head).header, body
        except (JournalDamaged, LookupError, ValueError):
            self._counters.drop(Drop.JOURNAL_DAMAGED, held.count * max(1, len(held.open)))
            for part in held.open:
                self.store.settle(held.lsn, part)
            held.open = ()
            self._forget(held)
            return None

    def end(
        self,
        held: Held,
        part: str,
        why: Drop,
        now: float,
        read: tuple[BatchHeader, bytes] | None = None,
    ) -> None:
        """A part of a record ends here, as a dead letter. It must be in no lane and in no share."""
        read = read or self.read(held)
        if read is None:
            return
        if why is Drop.EXPIRED and not read[0].remaining_ms:
            why = Drop.SPOOL_AGE  # it had no deadline of its own
        self._give_up(*read, part, why, held.tries, now - held.since)
        self.done(held, part)

    def done(self, held: Held, part: str) -> None:
        self.store.settle(held.lsn, part)
        held.open = tuple(other for other in held.open if other != part)
        if not held.open:
            self._forget(held)

    def end_record(self, lsn: int, why: Drop, now: float, *, dead_letter: bool) -> None:
        """What of a record waits ends here; what is under way is left to its next hop."""
        held = self.held.get(lsn)
        if held is None:
            return
        for part in held.open:
            lane = self.lanes[part]
            if lsn not in lane.waiting:
                continue
            lane.waiting.remove(lsn)
            if dead_letter:
                self.end(held, part, why, now)
            else:
                self._counters.drop(why, held.count)
                self.done(held, part)

    def take_back(
        self, lsn: int, part: str, then: Callable[[BatchHeader, bytes, float], bool], now: float
    ) -> None:
        """A record that waits for a destination may no longer be for it: `then` gets it, and says whether that part is done with."""
        held = self.held.get(lsn)
        lane = self.lanes[part]
        if held is None or lsn not in lane.waiting:
            return
        read = self.read(held)
        if read is not None and then(*read, now):
            lane.waiting.remove(lsn)
            self.done(held, part)

    def _end_expired(self, now: float) -> None:
        """Dead-letter what waits past its deadline, some of it at once. What is under way is judged when it comes back."""
        due: dict[str, set[int]] = {}
        records: list[Held] = []
        events = 0
        while self._expiring and self._expiring[0][0] <= now and events < EXPIRED_AT_ONCE:
            _, lsn = heappop(self._expiring)
            held = self.held.get(lsn)
            if held is None:
                continue
            records.append(held)
            events += held.count * len(held.open)
            for part in held.open:
                due.setdefault(part, set()).add(lsn)
        waited = {part: self.lanes[part].take_out(lsns) for part, lsns in due.items()}
        for held in records:
            for part in held.open:
                if held.lsn in waited[part]:
                    self.end(held, part, held.ends_as, now)
            if held.open and held.lsn in self.held:
                heappush(self._expiring, (now + 1.0, held.lsn))

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._check_at

    def _arm(self, at: float) -> None:
        if self._check_at is None or at < self._check_at:
            self._check_at = at

    def _rearm(self, now: float) -> None:
        due = [
            lane.retry_at
            for lane in self.lanes.values()
            if lane.waiting and lane.has_way and lane.retry_at > now
        ]
        if self._tokens <= 0 and any(lane.waiting for lane in self.lanes.values()):
            due.append(now + 0.01 - self._tokens / self._limits.spool_bytes_per_s)
        if self._expiring:
            due.append(self._expiring[0][0])
        for session in self._sessions.values():
            sent = session.custody.sent_first()
            if sent is not None:
                due.append(sent + self._limits.custody_timeout_s)
        self._check_at = min(due) if due else None

    def handle_deadline(self, now: float) -> None:
        """Try again what was refused, end what expired, and give up on next hops that do not answer."""
        for session in list(self._sessions.values()):
            for share in session.custody.take_late(self._limits.custody_timeout_s, now):
                if not share.ended:
                    self._came_back(share, now, Refuse.TIMEOUT, share.parts)
        self._end_expired(now)
        self.release(now)

    @property
    def waiting(self) -> dict[str, int]:
        """How many records wait, by destination."""
        return {part: len(lane.waiting) for part, lane in self.lanes.items() if lane.waiting}


def _turned(header: BatchHeader) -> BatchHeader:
    """Back where it came from: it begins a fresh path, and says that it may come again."""
    return replace(header, path=(), flags=header.flags | Flag.REDELIVERED)
