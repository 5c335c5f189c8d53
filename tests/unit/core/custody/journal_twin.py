"""A journal in memory, and a custody that only notes what consumers tell it: for the tests of consumers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.consumers import Consumers
from mesh.core.custody.records import EventId
from mesh.core.custody.store import JournalDamaged
from mesh.core.custody.wanted import Wanted
from mesh.core.custody.window import AckTerms
from mesh.core.interest import Destinations, InterestIndex
from mesh.core.plan import Links, PlanMemory, Planner
from mesh.core.subscriptions import SubscriptionIndex, Transition
from mesh.model.event import Delivery, Event
from mesh.model.journal import Damage, DamageReason
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.codec import decode_body, encode_body, remaining_bucket
from mesh.wire.frames import BatchHeader, Leg

HEADER = BatchHeader(Leg.LOCAL, 0, "us", "u1", 7, ("r0",), 0, 9, 0, ("us",), 1, 1)
EXPLICIT = AckTerms(False, 30.0, 5, 4)
_encode = msgspec.msgpack.encode
_header = msgspec.msgpack.Decoder(BatchHeader)


@dataclass
class Twin:
    """A `Store`. damaged: records that cannot be read."""

    records: dict[int, tuple[set[str], bytes, bytes]] = field(default_factory=dict)
    notes: dict[str, bytes] = field(default_factory=dict)
    damaged: set[int] = field(default_factory=set)
    reads: int = 0
    last: int = 0

    def append(self, parts: tuple[str, ...], head: bytes, body: bytes, stored_ms: int) -> int:
        self.last += 1
        self.records[self.last] = (set(parts), head, body)
        return self.last

    def settle(self, lsn: int, part: str) -> bool:
        record = self.records.get(lsn)
        if record is None or part not in record[0]:
            return False
        record[0].discard(part)
        if not record[0]:
            del self.records[lsn]
        return not record[0]

    def note(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.notes.pop(key, None)
        else:
            self.notes[key] = value

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        self.reads += 1
        if lsn in self.damaged or lsn not in self.records:
            raise JournalDamaged(lsn, Damage(1, 0, DamageReason.BAD_RECORD, 0))
        return self.records[lsn][1:]


def unpack(head: bytes, body: bytes) -> tuple[BatchHeader, list[Event]]:
    header = _header.decode(head)
    return header, decode_body(body, header.count)


class Desk:
    """Consumers of node r0/me over a twin. `restart` is a crash: only the twin survives."""

    def __init__(self, twin: Twin | None = None, **limits: float) -> None:
        self.twin = twin or Twin()
        self.limits = Limits(**limits)  # type: ignore[arg-type]
        self.settled: list[tuple[int, str]] = []
        self.dead: list[tuple[EventId, Drop, str, int]] = []
        self.handed_back: list[tuple[int, list[int], str, str, bool]] = []
        self.takes_back = True
        self.counters = Counters()
        self.begin(0.0)

    def begin(self, now: float) -> list[Transition]:
        self.counters = Counters()
        self.subscriptions = SubscriptionIndex()
        self.consumers = Consumers(
            self.twin,
            unpack,
            self,
            subscriptions=self.subscriptions,
            limits=self.limits,
            counters=self.counters,
        )
        planner = Planner(
            "r0",
            "me",
            destinations=Destinations(),
            interest=InterestIndex(),
            subscriptions=self.subscriptions,
            links=Links(),
            fib=dict,
            exits=lambda region: (),
        )
        self.plans = PlanMemory(planner.region_plan)
        told = self.consumers.restore(now)
        for lsn, (parts, head, body) in sorted(self.twin.records.items()):
            header, events = unpack(head, body)
            self.consumers.recover(lsn, header, events, sorted(parts), now)
        return told

    # -- owner -----------------------------------------------------------------------------------------------

    def settle(self, lsn: int, part: str) -> None:
        self.settled.append((lsn, part))
        self.twin.settle(lsn, part)

    def dead_letter(
        self, lsn: int, header: BatchHeader, event: Event, reason: Drop, part: str, attempts: int, now: float
    ) -> None:
        id = (header.region, header.node, header.epoch, event.seq)
        self.dead.append((id, reason, part, attempts))

    def hand_back(
        self, lsn: int, header: BatchHeader, events: Sequence[Event], group: str, filter: str, now: float
    ) -> bool:
        if self.takes_back:
            self.handed_back.append((lsn, [one.seq for one in events], group, filter, bool(header.flags & 1)))
        return self.takes_back

    # -- what tests do ---------------------------------------------------------------------------------------

    def connect(self, name: str, now: float = 0.0, terms: AckTerms = EXPLICIT, filter: str = "#") -> int:
        number = self.consumers.connect(name, terms, now).number
        if filter and 1 not in self.subscriptions.of_session(number):
            self.subscribe(number, 1, filter, "", now)
        return number

    def subscribe(self, session: int, sid: int, filter: str, group: str = "", now: float = 0.0) -> None:
        self.subscriptions.subscribe(session, sid, filter, group)
        self.plans.forget()
        self.consumers.subscribed(session, sid, filter, group, now)

    def unsubscribe(self, session: int, sid: int, now: float = 0.0) -> None:
        held = self.subscriptions.of_session(session)[sid]
        self.subscriptions.unsubscribe(session, sid)
        self.plans.forget()
        self.consumers.unsubscribed(session, sid, held, now)

    def close(self, session: int, now: float = 0.0) -> None:
        held = list(self.subscriptions.of_session(session).values())
        if session > 0:
            self.subscriptions.drop_session(session)
            self.plans.forget()
        self.consumers.disconnect(session, now, held)

    def batch(
        self,
        events: Sequence[Event],
        now: float = 0.0,
        groups: Sequence[tuple[str, str]] = (),
        *,
        receipt: bool = False,
        flags: int = 0,
    ) -> tuple[int, Wanted]:
        """A batch that custody took in. Returns (its lsn or 0, what `sort` said)."""
        deadline_ms = max(one.deadline_ms for one in events)
        header = replace(
            HEADER,
            count=len(events),
            flags=flags,
            remaining_ms=remaining_bucket(deadline_ms),
            groups=tuple((group, filter, "r0") for group, filter in groups),
        )
        wanted = self.consumers.sort(header, events, self.plans, receipt=receipt)
        if not wanted.parts:
            return 0, wanted
        lsn = self.twin.append(tuple(wanted.parts), _encode(header), encode_body(list(events)), 0)
        self.consumers.add(lsn, header, events, wanted, now)
        return lsn, wanted

    def take(self) -> dict[int, list[Delivery]]:
        return self.consumers.take_deliveries()

    def seqs(self, session: int) -> list[int]:
        """The seqs handed to a session since the last call of `take` by anybody."""
        return [event.seq for one in self.take().get(session, ()) for event in one.events]

    def ack(self, session: int, *seqs: int, now: float = 0.0, up_to: bool = False) -> int:
        return self.consumers.ack(session, [("us", "u1", 7, seq) for seq in seqs], now, up_to=up_to)

    def nack(self, session: int, seq: int, now: float = 0.0) -> bool:
        return self.consumers.nack(session, ("us", "u1", 7, seq), now)

    def write(self, session: int, now: float = 0.0) -> list[int]:
        """The session's writer takes what was handed to it."""
        deliveries = self.take().get(session, [])
        self.consumers.written(session, deliveries, now)
        return [event.seq for one in deliveries for event in one.events]


def event(seq: int, key: str = "", topic: str = "a/b", deadline_ms: int = 0, data: bytes = b"x") -> Event:
    return Event(seq, topic, key, deadline_ms, None, (), data)


def events(first: int, last: int, **changes: str) -> list[Event]:
    return [event(seq, **changes) for seq in range(first, last + 1)]  # type: ignore[arg-type]
