"""Whoever takes events of this node under acknowledgement: durable clients, live sessions that ask for it, queue groups.

Decides who of a batch is a consumer, what each is sent and when again, and when nothing is owed to it any more. Never stores a
batch and never sends bytes; `take_deliveries` is what goes to the writers.
Invariants: every event of a part ends acknowledged, dead-lettered, handed back or counted as dropped, exactly once; the part is
settled with the last of them. At most `window` events are out at a receiver.
Source: design page "Routing", Delivery and Forwarding (queue groups).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.core.counters import Counters
from mesh.core.custody.backlog import NEVER, Backlog, Handed
from mesh.core.custody.dispatch import GROUP_RETRY_S, Dispatch, Owner
from mesh.core.custody.durable import DurableClients, Settings
from mesh.core.custody.log_shares import LOG
from mesh.core.custody.records import EventId, Records, Unpack
from mesh.core.custody.store import Store
from mesh.core.custody.wanted import Wanted, sort, split_group_part
from mesh.core.custody.window import AckTerms, Window
from mesh.core.custody.young import YoungSubscriptions
from mesh.core.plan import PlanMemory
from mesh.core.subscriptions import SubscriptionIndex, Transition, bucket
from mesh.model.event import Delivery, Event
from mesh.model.ids import MeshId
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic import matches
from mesh.wire.frames import BatchHeader

AWAY_NOTE_S: Final = 600.0
"""How often the time a client has been away is written down."""


class News(NamedTuple):
    """What the region has to know of durable clients, beside the interest itself.

    kept: (group, filter, members) of interest that outlives this process: 0: no longer. clients: name -> whether this node keeps it.
    """

    kept: list[Transition]
    clients: dict[str, bool]


class Connected(NamedTuple):
    """A durable client that connected. number: its session number. waiting: events kept for it."""

    number: int
    created: bool
    waiting: int


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """consumers: with a queue. clients: durable ones. out: sent and not acknowledged. waiting, waiting_bytes: in queues.
    acked, refused, late: acknowledgements, nacks, time-outs. unknown_acks: for what was not out."""

    consumers: int
    clients: int
    out: int
    waiting: int
    waiting_bytes: int
    acked: int
    refused: int
    late: int
    unknown_acks: int


class ClientView(NamedTuple):
    """A durable client as views show it. oldest_s: how long its oldest event has waited."""

    name: str
    connected: bool
    waiting: int
    waiting_bytes: int
    unacked: int
    oldest_s: float | None
    away_s: float | None


class Consumers:
    """Args:
        store, unpack: where bodies are read again. owner: custody. subscriptions: of this node's sessions, durable ones included.
    Cost: 2 us an event handed on; O(1) an event that waits.
    """

    def __init__(
        self,
        store: Store,
        unpack: Unpack,
        owner: Owner,
        *,
        subscriptions: SubscriptionIndex,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.durable = DurableClients(store)
        self._dispatch = Dispatch(
            Records(store, unpack), owner, subscriptions=subscriptions, limits=limits, counters=counters
        )
        self._owner = owner
        self._subscriptions = subscriptions
        self._limits = limits
        self._counters = counters
        self._young = YoungSubscriptions(limits.order_hold_s)
        self.log_session = 0
        """The session of the node's event log, whose interest outlives this process as a durable client's does; 0: there is none."""
        self._kept: dict[tuple[str, str], int] = {}
        """(group, filter) -> durable subscriptions to it."""
        self._news = News([], {})
        self._note_away_at = NEVER
        self._acked = self._refused = self._late = self._unknown_acks = 0

    # -- batches -------------------------------------------------------------------------------------------------

    def sort(
        self, header: BatchHeader, events: Sequence[Event], plans: PlanMemory, *, receipt: bool = False
    ) -> Wanted:
        """See `wanted.sort`: who of this node gets the events of a batch."""
        return sort(
            header,
            events,
            plans,
            part_of=self.part_of,
            member_count=self._subscriptions.member_count,
            receipt=receipt,
        )

    def is_consumer(self, session: int) -> bool:
        """Whether at-least-once events for this session wait for its acknowledgement: durable, or explicit acks asked for."""
        window = self._dispatch.windows.get(session)
        return session < 0 or (window is not None and not window.terms.auto)

    def is_connected(self, name: str) -> bool:
        """Whether a durable client is there now."""
        client = self.durable.of_name(name)
        return client is not None and client.number in self._dispatch.windows

    def wanted_since(self, topic: str, now: float) -> float:
        """When the oldest plain subscription to a topic was made here: -inf for longer than `order_hold_s`, inf without one."""
        return self._young.oldest(self._subscriptions.match(topic), now)

    def part_of(self, session: int, *, receipt: bool = False) -> str:
        """The part of a session, "" for one that is served directly. receipt: whatever it is, its acknowledgement is waited for."""
        if session == self.log_session:
            return LOG
        if not receipt and not self.is_consumer(session):
            return ""
        client = self.durable.of_number(session)
        return f"s/{session}" if client is None else f"c/{client.name}"

    def add(self, lsn: int, header: BatchHeader, events: Sequence[Event], wanted: Wanted, now: float) -> None:
        """The batch is record `lsn`, owed to `wanted.parts` among others: hand it on as far as there is room."""
        self._dispatch.records.keep(lsn, header, events)
        for part, indexes in wanted.parts.items():
            if part == LOG:
                continue
            self._dispatch.queue(self._backlog(part), lsn, header, events, indexes, now, repeats=False)

    def recover(
        self, lsn: int, header: BatchHeader, events: Sequence[Event], open_parts: Iterable[str], now: float
    ) -> None:
        """As `add`, for what an earlier process still owed. Records come in order of their lsn, after `restore`. Parts that
        are not of consumers are left alone. header: with the time it was held taken off."""
        for part in open_parts:
            indexes: Sequence[int] = ()
            if part[:2] == "c/":
                client = self.durable.of_name(part[2:])
                if client is not None:
                    indexes = [
                        at
                        for at, one in enumerate(events)
                        if self._dispatch.sids_of(client.number, one.topic)
                    ]
            elif part[:2] == "g/":
                _, filter = split_group_part(part)
                indexes = [at for at, one in enumerate(events) if matches(filter, one.topic)]
            elif part[:2] != "s/":
                continue
            if indexes:
                backlog = self._backlog(part)
                if part[:2] == "g/" and backlog.hand_back_at == NEVER:
                    backlog.hand_back_at = now + GROUP_RETRY_S  # its members are about to come back
                self._dispatch.queue(backlog, lsn, header, events, indexes, now, repeats=True)
            else:
                self._owner.settle(lsn, part)

    def _backlog(self, part: str) -> Backlog:
        if part[0] == "g":
            return self._dispatch.backlog(part, 0, split_group_part(part))
        if part[0] == "s":
            return self._dispatch.backlog(part, int(part[2:]))
        client = self.durable.of_name(part[2:])
        assert client is not None, "a client's part is made from the client"
        return self._dispatch.backlog(part, client.number)

    # -- durable clients -----------------------------------------------------------------------------------------

    def restore(self, now: float) -> list[Transition]:
        """Bring durable clients back from the notes, each away. Before `recover`, and before the first link. Returns what the
        region must be told."""
        told: list[Transition] = []
        for client, sid, filter, group in self.durable.load(now):
            told += self._subscriptions.subscribe(client.number, sid, filter, group)
            self._keep(group, filter, 1)
        self._news.clients.update((client.name, True) for client in self.durable)
        self._note_away_at = now + AWAY_NOTE_S
        return told

    def _keep(self, group: str, filter: str, change: int) -> None:
        """One more or one less durable subscription."""
        before = self._kept.get((group, filter), 0)
        after = before + change
        if after:
            self._kept[group, filter] = after
        else:
            del self._kept[group, filter]
        told = bucket(after) if group else min(after, 1)
        if told != (bucket(before) if group else min(before, 1)):
            self._news.kept.append(Transition(group, filter, told))

    def take_news(self) -> News:
        """What changed since the last call, in order."""
        news, self._news = self._news, News([], {})
        return news

    def admit(self, name: str, terms: AckTerms) -> None:
        """Note a durable client that is about to connect, before anything else changes.

        Raises: ValueError when there are too many clients; StoreRefusedError, no room for its note. State unaffected."""
        if self.durable.of_name(name) is None and len(self.durable) >= self._limits.durable_clients:
            raise ValueError(f"{self._limits.durable_clients} durable clients are known")
        self.durable.admit(name, _settings(terms))

    def connect(
        self, name: str, terms: AckTerms, now: float, resume_after: EventId | None = None
    ) -> Connected:
        """A durable client connected; new ones are made. Whoever was connected under the name before gets nothing more (the
        caller closes that connection). Raises: as `admit`.

        resume_after: the last event it says it has: what was sent until then counts as acknowledged.
        """
        self.admit(name, terms)
        known = self.durable.of_name(name)
        if known is not None:
            self.disconnect(known.number, now)
        client = self.durable.connect(name, _settings(terms))
        if known is None:
            self._news.clients[name] = True
        if resume_after is not None:
            self._resume_after(client.number, resume_after)
        self._dispatch.windows[client.number] = Window(client.number, terms)
        backlog = self._dispatch.own.get(client.number)
        waiting = 0 if backlog is None else len(backlog)
        self._serve(client.number, now)
        return Connected(client.number, known is None, waiting)

    def adopt(
        self, name: str, settings: Settings, held: Iterable[tuple[int, str, str]], now: float
    ) -> list[Transition]:
        """A durable client whose home is gone is at home here from now on, away until it connects. held: (sid, filter, group).
        Returns what the region must be told."""
        client = self.durable.connect(name, settings)
        client.away_since = now
        self._news.clients[name] = True
        told: list[Transition] = []
        for sid, filter, group in held:
            told += self._subscriptions.subscribe(client.number, sid, filter, group)
            self.subscribed(client.number, sid, filter, group, now)
        return told

    def held_by(self, number: int) -> list[tuple[int, str, str]]:
        """(sid, filter, group) of a session's subscriptions."""
        held = sorted(self._subscriptions.of_session(number).items())
        return [(sid, one, "") if isinstance(one, str) else (sid, one[1], one[0]) for sid, one in held]

    def wants(self, name: str, topic: str) -> bool:
        """Whether a durable client of this node gets events of a topic by a subscription of its own, no group's."""
        client = self.durable.of_name(name)
        return client is not None and bool(self._dispatch.sids_of(client.number, topic))

    def give_up(self, name: str, give: Callable[[BatchHeader, Sequence[Event]], None], now: float) -> bool:
        """A durable client is at home elsewhere: `give` what waits for it, some at once. True: there is more. Its connection
        is over. Raises: what `give` raises; the rest still waits."""
        client = self.durable.of_name(name)
        if client is None:
            return False
        self.disconnect(client.number, now)
        return self._dispatch.give_away(f"c/{name}", give, now)

    def remove(self, name: str, now: float) -> list[Transition]:
        """A durable client is no more: what waits for it is counted as client_removed, its part of a group's work goes to other
        members. Returns what the region must be told. Raises: KeyError when there is none; state unaffected."""
        client = self.durable.of_name(name)
        if client is None:
            raise KeyError(name)
        held = dict(self._subscriptions.of_session(client.number))
        told = list(self._subscriptions.drop_session(client.number))
        self._end(client.number, Drop.CLIENT_REMOVED, now)
        self._backlog_gone(f"c/{name}", Drop.CLIENT_REMOVED)
        self.durable.remove(client, iter(held))
        self._news.clients[name] = False
        for one in held.values():
            self._keep(*(("", one) if isinstance(one, str) else one), -1)
        self._left_groups(held.values(), now)
        return told

    def subscribing(self, session: int, sid: int, filter: str, group: str) -> None:
        """A session is about to subscribe: a durable client's is noted first. Raises: StoreRefusedError: no room; state unaffected."""
        client = self.durable.of_number(session)
        if client is not None:
            self.durable.subscribing(client, sid, filter, group)

    def subscribed(self, session: int, sid: int, filter: str, group: str, now: float) -> None:
        """A session subscribed (it is in the index by now). Raises: as `subscribing`, where that was not called."""
        self.subscribing(session, sid, filter, group)
        if self.durable.of_number(session) is not None or session == self.log_session:
            self._keep(group, filter, 1)
        if not group:
            self._young.add(session, sid, now)
        backlog = self._dispatch.groups.get((group, filter)) if group else None
        if backlog is not None:
            self._dispatch.pump(backlog, now)

    def unsubscribed(self, session: int, sid: int, held: str | tuple[str, str], now: float) -> None:
        """A session took a subscription back (it is out of the index by now). held: its filter, or (group, filter)."""
        client = self.durable.of_number(session)
        if client is not None:
            self.durable.unsubscribed(client, sid)
            self._keep(*(("", held) if isinstance(held, str) else held), -1)
            backlog = self._dispatch.own.get(session)
            if backlog is not None and not self._subscriptions.of_session(session):
                self._dispatch.drop_all(backlog, Drop.INTEREST_GONE)
        self._left_groups((held,), now)

    # -- connections ---------------------------------------------------------------------------------------------

    def open(self, session: int, terms: AckTerms) -> None:
        """A live session will acknowledge what it gets."""
        self._dispatch.windows[session] = Window(session, terms)

    def disconnect(self, session: int, now: float, held: Iterable[str | tuple[str, str]] = ()) -> None:
        """A session's connection ended. What was out goes back: to its durable client's queue, to other members of its groups; a live
        session's own events are counted as session_closed. Call it after a live session left the index; held: what it had
        subscribed to (`SubscriptionIndex.of_session`). Idempotent.

        A client that dies on an event dies on the first one it has not acknowledged: only that one gets a strike.
        """
        client = self.durable.of_number(session)
        self._end(session, Drop.SESSION_CLOSED, now)
        if client is None:
            self._backlog_gone(f"s/{session}", Drop.SESSION_CLOSED)
        elif client.away_since is None:
            client.away_since = now
        self._left_groups(held if client is None else self._subscriptions.of_session(session).values(), now)

    def _end(self, session: int, reason: Drop, now: float) -> None:
        """Take back what is out at a session. Its own events stay with its durable client, or are dropped."""
        dispatch = self._dispatch
        window = dispatch.windows.pop(session, None)
        untaken = dispatch.handing.forget(session)
        if window is None:
            return
        keeps = reason is not Drop.CLIENT_REMOVED and session < 0
        touched: dict[int, Backlog] = {}
        out = window.take_all()
        twins = len({handed.id for handed in out}) < len(out)
        for place, handed in enumerate(out):
            backlog = handed.backlog
            if handed.id in untaken and not twins:
                handed.deliveries -= 1  # it never left this machine: it need not say that it repeats
            if backlog.session and not keeps:
                self._counters.drop(reason, 1)
                dispatch.done(handed.share, backlog.part, 1)
                continue
            blamed = place == 0 and handed.due_at < NEVER
            dispatch.again(handed, window.terms, now, at_once=True, strike=blamed)
            touched[id(backlog)] = backlog
        for backlog in touched.values():
            dispatch.pump(backlog, now)

    def _backlog_gone(self, part: str, reason: Drop) -> None:
        backlog = self._dispatch.backlogs.get(part)
        if backlog is not None:
            self._dispatch.drop_all(backlog, reason)
            self._dispatch.forget(backlog)

    def _left_groups(self, held: Iterable[str | tuple[str, str]], now: float) -> None:
        for group in {one for one in held if not isinstance(one, str)}:
            backlog = self._dispatch.groups.get(group)
            if backlog is None:
                continue
            self._dispatch.pump(backlog, now)
            if not len(backlog) and not self._subscriptions.member_count(*group):
                self._dispatch.forget(backlog)

    def _serve(self, session: int, now: float) -> None:
        for backlog in self._dispatch.queues_of(session):
            self._dispatch.pump(backlog, now)

    # -- acknowledgements ----------------------------------------------------------------------------------------

    def ack(self, session: int, ids: Iterable[EventId], now: float, *, up_to: bool = False) -> int:
        """Events arrived for good. up_to: each id stands for everything sent until it. Returns how many were waited for.

        An acknowledgement that comes after its time still counts while the event was not sent again.
        """
        acked = 0
        window = self._dispatch.windows.get(session)
        if window is None:
            return 0
        for id in ids:
            covered = (window.up_to(id) or [id]) if up_to else [id]
            for one in covered:
                found = window.pop(one) or self._withdrawn(session, one)
                if not found:
                    self._unknown_acks += 1
                for handed in found:
                    self._dispatch.done(handed.share, handed.backlog.part, 1)
                acked += len(found)
        self._acked += acked
        self._dispatch.room_made(window, now)
        return acked

    def _withdrawn(self, session: int, id: EventId) -> list[Handed]:
        """An event that came back from this session and was not sent again, taken out of its queues."""
        found: list[Handed] = []
        for backlog in self._dispatch.queues_of(session):
            for handed in list(backlog.pending.get(id, ())):
                if handed.deliveries:
                    backlog.withdraw(handed)
                    found.append(handed)
        return found

    def _resume_after(self, session: int, id: EventId) -> None:
        """An event that is not known any more changes nothing. Cost: opens the records of what waits first, where an earlier process
        sent it."""
        backlog = self._dispatch.own.get(session)
        if backlog is None:
            return
        for taken in backlog.take_until(id):
            self._dispatch.done(taken.share, backlog.part, len(taken.indexes))
            self._acked += len(taken.indexes)

    def nack(self, session: int, id: EventId, now: float) -> bool:
        """The receiver refuses an event for now: it goes again after a back-off, a group's to whose turn it is then. False: it is not
        out."""
        window = self._dispatch.windows.get(session)
        found = [] if window is None else window.pop(id)
        if window is None or not found:
            self._unknown_acks += 1
            return False
        self._refused += 1
        for handed in found:
            self._dispatch.again(handed, window.terms, now, at_once=False)
            self._dispatch.pump(handed.backlog, now)
        self._dispatch.room_made(window, now)
        return True

    def written(self, session: int, deliveries: Iterable[Delivery], now: float) -> None:
        """A session's writer took these: who acknowledges by that has done so, of the others the time runs from now."""
        window = self._dispatch.windows.get(session)
        if window is None:
            return
        ids = [
            (*delivery.origin, event.seq)
            for delivery in deliveries
            if delivery.deliveries
            for event in delivery.events
        ]
        if window.terms.auto:
            self.ack(session, ids, now)
            return
        for id in ids:
            window.written(id, now)
        self._dispatch.wake(window, window.next_deadline())
        self._dispatch.room_made(window, now)

    # -- results and time ----------------------------------------------------------------------------------------

    def take_deliveries(self) -> dict[int, list[Delivery]]:
        """Deliveries by session since the last call."""
        return self._dispatch.handing.take()

    def next_deadline(self) -> float:
        """When `handle_deadline` has something to do."""
        return min(self._dispatch.next_deadline(), self._note_away_at)

    def handle_deadline(self, now: float) -> list[Transition]:
        """Deliver again what is due, bury what is too late, remove who stayed away. Returns what the region must be told."""
        due = self._dispatch.due(now)
        # Windows first: what is late goes before newer events of its key that are due at the same time.
        for who in due:
            if isinstance(who, Window):
                self._look_at_window(who, now)
        for who in due:
            if isinstance(who, Backlog):
                self._dispatch.look(who, now)
        told: list[Transition] = []
        if now >= self._note_away_at:
            self._note_away_at = now + AWAY_NOTE_S
            for client in self.durable:
                if client.away_since is None:
                    continue
                if now - client.away_since > self._limits.durable_age_s:
                    told += self.remove(client.name, now)
                else:
                    self.durable.note_away(client, now)
        return told

    def _look_at_window(self, window: Window, now: float) -> None:
        if self._dispatch.windows.get(window.session) is not window:
            return
        touched: dict[int, Backlog] = {}
        for handed in window.late(now):
            if window.terms.standing:
                self._acked += 1
                self._dispatch.done(handed.share, handed.backlog.part, 1)
                continue
            self._late += 1
            self._dispatch.again(handed, window.terms, now, at_once=True)
            touched[id(handed.backlog)] = handed.backlog
        for backlog in touched.values():
            self._dispatch.pump(backlog, now)
        self._dispatch.room_made(window, now)
        self._dispatch.wake(window, window.next_deadline())

    # -- views ---------------------------------------------------------------------------------------------------

    def clients(self, now: float) -> list[ClientView]:
        """Durable clients by name. Cost: O(clients)."""
        found = []
        for client in sorted(self.durable, key=lambda one: one.name):
            window = self._dispatch.windows.get(client.number)
            backlog = self._dispatch.own.get(client.number)
            oldest_at = min(
                NEVER if backlog is None else backlog.oldest_at(),
                NEVER if window is None else window.oldest_at(client.number),
            )
            found.append(
                ClientView(
                    client.name,
                    window is not None,
                    0 if backlog is None else len(backlog),
                    0 if backlog is None else backlog.bytes,
                    0 if window is None else window.count,
                    None if oldest_at == NEVER else now - oldest_at,
                    None if client.away_since is None else now - client.away_since,
                )
            )
        return found

    def statistics(self) -> ConsumerStatistics:
        """A frozen count. Cost: O(consumers)."""
        backlogs = self._dispatch.backlogs.values()
        return ConsumerStatistics(
            consumers=len(backlogs),
            clients=len(self.durable),
            out=sum(window.count for window in self._dispatch.windows.values()),
            waiting=sum(map(len, backlogs)),
            waiting_bytes=sum(backlog.bytes for backlog in backlogs),
            acked=self._acked,
            refused=self._refused,
            late=self._late,
            unknown_acks=self._unknown_acks,
        )


def _settings(terms: AckTerms) -> Settings:
    return Settings(terms.auto, terms.ack_timeout_s, terms.max_deliveries)


def event_id(mesh_id: MeshId) -> EventId:
    """The id as consumers know it."""
    return mesh_id.region, mesh_id.node, mesh_id.epoch, mesh_id.seq
