"""What goes from the queues of consumers to their receivers, and how each event ends.

Decides which receiver gets an event and when, and who is told when one cannot be delivered. Never decides who is a consumer.
Invariants: every event of a share ends acknowledged, dead-lettered, handed back or counted as dropped, exactly once; the part is
settled with the last of them. At most `window` events are out at a receiver.
Source: design page "Routing", Delivery and Forwarding (queue groups).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final, Protocol

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.backlog import NEVER, Backlog, Handed, Next, Share, Taken, stamp
from mesh.core.custody.handing import Handing
from mesh.core.custody.records import Opened, Records, Unreadable
from mesh.core.custody.window import AckTerms, Window
from mesh.core.handover import Way
from mesh.core.subscriptions import SubscriptionIndex
from mesh.model.event import Event, queue_bytes
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.frames import BatchHeader, Flag

GROUP_RETRY_S: Final = 5.0
"""A group nobody else takes is offered again after so long."""
AT_ONCE: Final = 1_000
"""Events that are handed back in one go; the rest follows in the next."""
FIRST_BACK_OFF_S: Final = 0.1
_SIDS: Final = 4_096


class Owner(Protocol):
    """What custody does for consumers."""

    def settle(self, lsn: int, part: str) -> None:
        """Nothing of the record is owed to the part any more."""

    def dead_letter(
        self, lsn: int, header: BatchHeader, event: Event, reason: Drop, part: str, attempts: int, now: float
    ) -> None:
        """The event of this record could not be delivered to the part."""

    def hand_back(
        self, lsn: int, header: BatchHeader, events: Sequence[Event], group: str, filter: str, now: float
    ) -> bool:
        """No member of the group is connected here. True: custody owns these events again; False: nobody else takes them."""


class Dispatch:
    """Args: records: where bodies are read. owner: custody. subscriptions: of this node's sessions, durable ones included.
    Cost: 2 us an event handed on; O(1) an event that waits.
    """

    def __init__(
        self,
        records: Records,
        owner: Owner,
        *,
        subscriptions: SubscriptionIndex,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.records = records
        self.backlogs: dict[str, Backlog] = {}
        self.groups: dict[tuple[str, str], Backlog] = {}
        """Those of `backlogs` that are queue groups'."""
        self.windows: dict[int, Window] = {}
        self.own: dict[int, Backlog] = {}
        """Those of one session."""
        self.handing = Handing()
        self._owner = owner
        self._subscriptions = subscriptions
        self._limits = limits
        self._counters = counters
        self._wakes: list[tuple[float, int, Backlog | Window]] = []
        self._wake_number = 0
        self._sids: dict[tuple[int, str], tuple[int, ...]] = {}
        self._sids_generation = -1
        self._way = Way(("", "", 0), (), False)
        self._way_of: BatchHeader | None = None

    # -- into the queues -----------------------------------------------------------------------------------------

    def backlog(self, part: str, session: int, group: tuple[str, str] = ("", "")) -> Backlog:
        """The queue of a part, made when it is new. session 0: a group's."""
        backlog = self.backlogs.get(part)
        if backlog is None:
            pending = 2 * self._limits.max_unacked
            backlog = self.backlogs[part] = Backlog(part, session, self.records, pending, group)
            if session:
                self.own[session] = backlog
            else:
                self.groups[group] = backlog
        return backlog

    def queue(
        self,
        backlog: Backlog,
        lsn: int,
        header: BatchHeader,
        events: Sequence[Event],
        indexes: Sequence[int],
        now: float,
        *,
        repeats: bool,
    ) -> None:
        """Events of a record for one consumer: queued, and handed on as far as there is room."""
        every = len(indexes) == len(events)
        mine = events if every else [events[index] for index in indexes]
        stamped_at, expires_at = stamp(header, mine, now)
        size = queue_bytes(mine)
        places: Sequence[int] = range(len(events)) if every else tuple(indexes)
        backlog.add(Share(lsn, places, stamped_at, expires_at, size, now, len(places), repeats))
        self._keep_bounds(backlog, now)
        self.pump(backlog, now)

    def _keep_bounds(self, backlog: Backlog, now: float) -> None:
        limits = self._limits
        while backlog.events > limits.durable_events or backlog.bytes > limits.durable_bytes:
            taken = backlog.oldest(max(1, backlog.events - limits.durable_events))
            if taken is None:
                return
            self._bury(backlog, taken, Drop.DURABLE_FULL, now)

    # -- ends of an event ----------------------------------------------------------------------------------------

    def done(self, share: Share, part: str, events: int) -> None:
        """So many events of a share need nothing more."""
        share.left -= events
        assert share.left >= 0, "every event of a share ends once"
        if not share.left:
            self._owner.settle(share.lsn, part)

    def _bury(self, backlog: Backlog, taken: Taken, reason: Drop, now: float) -> None:
        """Events that will not be delivered: dead letters, or counted where nobody can read them."""
        if taken.opened is None:
            self._counters.drop(Drop.JOURNAL_DAMAGED, len(taken.indexes))
        else:
            header, events = taken.opened
            for index in taken.indexes:
                event, lsn = events[index], taken.share.lsn
                self._owner.dead_letter(lsn, header, event, reason, backlog.part, taken.attempts, now)
        self.done(taken.share, backlog.part, len(taken.indexes))

    def bury_one(self, handed: Handed, reason: Drop, now: float) -> None:
        opened = self._opened(handed.share.lsn)
        taken = Taken(handed.share, (handed.index,), opened, handed.deliveries)
        self._bury(handed.backlog, taken, reason, now)

    def drop_all(self, backlog: Backlog, reason: Drop) -> None:
        """What waits for a consumer that is no more is counted; what is out is not touched."""
        for share, count in backlog.clear():
            self._counters.drop(reason, count)
            self.done(share, backlog.part, count)

    # -- handing on ----------------------------------------------------------------------------------------------

    def pump(self, backlog: Backlog, now: float) -> None:
        """Hand on what may go now, and remember when to look again."""
        if backlog.session:
            self._pump_session(backlog, now)
        else:
            self._pump_group(backlog, now)
        self.wake(backlog, min(backlog.next_deadline(now), backlog.hand_back_at))

    def _pump_session(self, backlog: Backlog, now: float) -> None:
        window = self.window(backlog.session)
        if window is None:
            return  # a durable client that is away
        session = backlog.session
        while window.room > 0:
            found = self._next(backlog, now)
            if found is None:
                return
            sids = self.sids_of(session, found.event.topic)
            if sids:
                self._send(window, sids, found)
            else:
                self._counters.drop(Drop.INTEREST_GONE, 1)
                self.done(found.handed.share, backlog.part, 1)
        window.hungry = True

    def _pump_group(self, backlog: Backlog, now: float) -> None:
        while backlog.ready(now):
            member, connected = self._member(backlog)
            if not connected:
                if not backlog.hand_back_at < NEVER or backlog.hand_back_at <= now:
                    backlog.hand_back_at = self._hand_back(backlog, now)
                return
            backlog.hand_back_at = NEVER
            if member is None:
                return
            window, sid = member
            found = self._next(backlog, now)
            if found is None:
                return
            self._send(window, (sid,), found)
        if not len(backlog):
            backlog.hand_back_at = NEVER

    def _member(self, backlog: Backlog) -> tuple[tuple[Window, int] | None, bool]:
        """The connected member of a group whose turn it is and who has room, and whether any is connected."""
        connected = False
        subscriptions = self._subscriptions
        for _ in range(subscriptions.member_count(*backlog.group)):
            found = subscriptions.next_in_group(*backlog.group)
            assert found is not None, "a group with a count has members"
            window = self.window(found[0])
            if window is None:
                continue
            connected = True
            if window.room > 0:
                return (window, found[1]), True
            window.hungry = True
        return None, connected

    def _next(self, backlog: Backlog, now: float) -> Next | None:
        """The next event that is worth sending; what is past its deadline or unreadable is buried on the way."""
        while True:
            try:
                found = backlog.take(now)
            except Unreadable:
                self._bury(backlog, backlog.lose_damaged(), Drop.JOURNAL_DAMAGED, now)
                continue
            if found is None or found.handed.expires_at > now:
                return found
            self.bury_one(found.handed, Drop.EXPIRED, now)

    def _send(self, window: Window, sids: tuple[int, ...], found: Next) -> None:
        handed, header, event = found
        handed.deliveries += 1
        repeats = handed.deliveries > 1 or bool(header.flags & Flag.REDELIVERED)
        if header is not self._way_of or repeats is not self._way.redelivered:
            self._way_of = header
            self._way = Way((header.region, header.node, header.epoch), header.path, repeats)
        window.add(handed)
        self.handing.add(window.session, sids, self._way, handed.deliveries, event)
        self._counters.delivered += 1

    def sids_of(self, session: int, topic: str) -> tuple[int, ...]:
        """The session's sids that match a topic; remembered while no subscription changes."""
        known = self._sids
        if self._sids_generation != self._subscriptions.generation or len(known) > _SIDS:
            known.clear()
            self._sids_generation = self._subscriptions.generation
        found = known.get((session, topic))
        if found is None:
            entries = self._subscriptions.match(topic)
            found = next((sids for number, sids in entries if number == session), ())
            known[session, topic] = found
        return found

    def window(self, session: int) -> Window | None:
        """The window of a connected session; a plain one gets its own when it is first needed. None: a durable client that is away."""
        window = self.windows.get(session)
        if window is None and session > 0:
            limits = self._limits
            terms = AckTerms(True, limits.ack_timeout_s, limits.max_deliveries, limits.max_unacked)
            window = self.windows[session] = Window(session, terms)
        return window

    def _hand_back(self, backlog: Backlog, now: float) -> float:
        """No member of the group is connected here: offer its events to custody, up to AT_ONCE in one go.

        Returns: when to go on; NEVER when nothing is left.
        """
        offered = 0
        while offered < AT_ONCE:
            handed = backlog.come_back_oldest()
            if handed is not None:
                taken: Taken | None = Taken(handed.share, (handed.index,), self._opened(handed.share.lsn))
            else:
                taken = backlog.oldest(AT_ONCE)
            if taken is None:
                return NEVER
            offered += len(taken.indexes)
            if taken.opened is None:
                self._bury(backlog, taken, Drop.JOURNAL_DAMAGED, now)
                continue
            header, events = taken.opened
            if taken.share.repeats or (handed is not None and handed.deliveries):
                header = replace(header, flags=header.flags | Flag.REDELIVERED)
            given = [events[index] for index in taken.indexes]
            if self._owner.hand_back(taken.share.lsn, header, given, *backlog.group, now):
                self.done(taken.share, backlog.part, len(given))
                continue
            if handed is not None:
                backlog.come_back(handed, handed.due_at)
            else:
                backlog.put_back(taken)
            return now + GROUP_RETRY_S
        return now

    def give_away(self, part: str, give: Callable[[BatchHeader, Sequence[Event]], None], now: float) -> bool:
        """Give what waits for a consumer to somebody else, up to AT_ONCE events. True: there is more. Raises: what `give` raises."""
        backlog = self.backlogs.get(part)
        given = 0
        while backlog is not None and given < AT_ONCE:
            handed = backlog.come_back_oldest()
            if handed is not None:
                taken: Taken | None = Taken(handed.share, (handed.index,), self._opened(handed.share.lsn))
            else:
                taken = backlog.oldest(AT_ONCE)
            if taken is None:
                return False
            given += len(taken.indexes)
            if taken.opened is None:
                self._bury(backlog, taken, Drop.JOURNAL_DAMAGED, now)
                continue
            header, events = taken.opened
            try:
                give(header, [events[index] for index in taken.indexes])
            except BaseException:
                if handed is not None:
                    backlog.come_back(handed, handed.due_at)
                else:
                    backlog.put_back(taken)
                raise
            self.done(taken.share, part, len(taken.indexes))
        return backlog is not None

    def _opened(self, lsn: int) -> Opened | None:
        try:
            return self.records.open(lsn)
        except Unreadable:
            return None

    # -- back from receivers -------------------------------------------------------------------------------------

    def again(
        self, handed: Handed, terms: AckTerms, now: float, *, at_once: bool, strike: bool = True
    ) -> None:
        """An event that was out goes again, at once or after its back-off; after too many strikes it is a dead letter.

        strike: whether the receiver is to blame. The caller pumps the queue.
        """
        if strike:
            handed.strikes += 1
        if handed.strikes >= terms.max_deliveries:
            self.bury_one(handed, Drop.MAX_DELIVERIES, now)
            return
        wait_s = 0.0 if at_once else min(FIRST_BACK_OFF_S * 2 ** (handed.strikes - 1), terms.ack_timeout_s)
        handed.backlog.come_back(handed, now + wait_s)

    def room_made(self, window: Window, now: float) -> None:
        """Something of a window was acknowledged or came back: whoever waits for room looks again."""
        if not window.hungry or window.room < window.terms.window // 8:
            return
        window.hungry = False
        for backlog in self.queues_of(window.session):
            self.pump(backlog, now)

    def queues_of(self, session: int) -> list[Backlog]:
        """The queues a session is sent from: its own, and those of its groups that hold something. Cost: O(its groups), where any group
        holds something."""
        own = self.own.get(session)
        found = [] if own is None or not len(own) else [own]
        if self.groups:
            for held in set(self._subscriptions.of_session(session).values()):
                if not isinstance(held, str) and (backlog := self.groups.get(held)) and len(backlog):
                    found.append(backlog)
        return found

    def forget(self, backlog: Backlog) -> None:
        """A consumer is no more; its queue is empty."""
        self.backlogs.pop(backlog.part, None)
        if backlog.session:
            self.own.pop(backlog.session, None)
        else:
            self.groups.pop(backlog.group, None)
        backlog.wake_at = NEVER

    # -- time ----------------------------------------------------------------------------------------------------

    def wake(self, who: Backlog | Window, at: float) -> None:
        """Look at a queue or window at this time, or before."""
        if at < who.wake_at:
            who.wake_at = at
            self._wake_number += 1
            heappush(self._wakes, (at, self._wake_number, who))

    def next_deadline(self) -> float:
        """When `due` has something to say. Cost: constant."""
        while self._wakes and self._wakes[0][0] != self._wakes[0][2].wake_at:
            heappop(self._wakes)
        return self._wakes[0][0] if self._wakes else NEVER

    def due(self, now: float) -> list[Backlog | Window]:
        """Whom to look at now, each once."""
        found: list[Backlog | Window] = []
        while self.next_deadline() <= now:
            _, _, who = heappop(self._wakes)
            who.wake_at = NEVER
            found.append(who)
        return found

    def look(self, backlog: Backlog, now: float) -> None:
        """A queue's deadline came: what expired is buried, what is due goes again."""
        for taken in backlog.expired(now):
            if taken.indexes:
                self._bury(backlog, taken, Drop.EXPIRED, now)
        self.pump(backlog, now)
