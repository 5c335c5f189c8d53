"""Events that at-least-once delivery could not deliver: kept with the reason, until a person decides.

Decides what is remembered of one, and which go first when there are too many. Never decides that an event is one.
Invariant: an event is in the store before the record it came from is settled, so that no crash loses both.
Bounds: `limits.dead_letters` and `limits.dead_letter_bytes`; the oldest go first, counted as `dead_letters_full`. `fresh` holds at
most FRESH of them, the others are counted by reason in `untold`.
Source: design pages "Routing" (Delivery) and "What a person sees" (dlq).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.store import JournalDamaged, Store, StoreRefusedError
from mesh.core.hop import mesh_id_of
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic import matches
from mesh.wire.codec import BodyError, decode_body, encode_body
from mesh.wire.frames import BatchHeader

DEAD: Final = "d/"
"""How the part of a dead letter's record begins; its reason follows, then "/" and its topic: what is asked for most often is
known without a read."""
TOPIC: Final = "$mesh/dlq/"
"""Where a dead letter is told to who listens: TOPIC + REASON/ + its own topic."""
FRESH: Final = 256
"""Dead letters that are told one by one between two bursts; beyond it only their number is told."""
READ_COST: Final = 20
PAGE_COST: Final = 20_000
"""What one page may cost: 1 for a dead letter that is passed over, READ_COST for one that is read. About 20 ms."""


class DeadHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a dead letter beside the event. part: the destination it did not reach ("r/eu,r/us" where several share one
    batch). attempts: times it was sent there. died_ms, seen_ms: wall clock when this node gave up, and when it had taken the event
    (0: not known)."""

    header: BatchHeader
    reason: str
    part: str
    attempts: int
    died_ms: int
    seen_ms: int = 0


_head: Final = msgspec.msgpack.Decoder(DeadHead).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class DeadLetter(NamedTuple):
    """One of them, read from the store. lsn: its number here. The rest as in DeadHead."""

    lsn: int
    mesh_id: str
    event: Event
    reason: str
    part: str
    attempts: int
    path: tuple[str, ...]
    died_ms: int
    seen_ms: int


class Fresh(NamedTuple):
    """One that nobody was told of yet. lsn 0: the store would not have it."""

    lsn: int
    header: BatchHeader
    event: Event
    reason: Drop
    part: str
    attempts: int
    died_ms: int


class Page(NamedTuple):
    """Some of them, oldest first. more: the number after which the next page begins, None at the end."""

    letters: list[DeadLetter]
    more: int | None


class _Row(NamedTuple):
    part: str
    size: int


class DeadLetters:
    """Cost: about 20 us to keep one, 200 bytes of memory each beside the store's own; one read to get one."""

    def __init__(self, store: Store, limits: Limits, counters: Counters) -> None:
        self._store = store
        self._limits = limits
        self._counters = counters
        self.wall_ms: Callable[[], int] = lambda: 0
        """The wall clock, shown to people only."""
        self._rows: OrderedDict[int, _Row] = OrderedDict()
        """An OrderedDict finds its first one at once, however many went before it."""
        self._bytes = 0
        self.fresh: list[Fresh] = []
        """New ones since the composed machine took them, at most FRESH."""
        self.untold: dict[Drop, int] = {}
        """How many more there were, by reason."""
        self.born = 0
        """How many there were in this process, kept or not."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def recover(self, lsn: int, part: str, size: int) -> None:
        """One of an earlier process."""
        self._add(lsn, part, size)

    def put(
        self,
        header: BatchHeader,
        event: Event,
        part: str,
        why: Drop,
        attempts: int,
        held_s: float | None = None,
    ) -> int:
        """Keep one event. Returns the number of its record, 0 when the store would not have it: then it is dropped and counted.

        Args: held_s: how long this node had it, None where that is not known.
        """
        if event.topic.startswith(TOPIC):
            self._counters.drop(why, 1)  # no dead letter of the news of one
            return 0
        self.born += 1
        self._counters.dead_letter(why, 1)
        if header.remaining_ms < 0:  # as it is known here, and nowhere on a wire or disk
            header = replace(header, remaining_ms=0)
        died_ms = self.wall_ms()
        seen_ms = 0 if held_s is None else died_ms - round(held_s * 1e3)
        head = _encode(DeadHead(header, why.value, part, attempts, died_ms, seen_ms))
        body = encode_body([event])
        name = f"{DEAD}{why.value}/{event.topic}"
        try:
            lsn = self._store.append((name,), head, body)
        except StoreRefusedError:
            self._counters.drop(why, 1)
            lsn = 0
        if len(self.fresh) < FRESH:
            self.fresh.append(Fresh(lsn, header, event, why, part, attempts, died_ms))
        else:
            self.untold[why] = self.untold.get(why, 0) + 1
        if lsn:
            self._add(lsn, name, len(head) + len(body))
            self._make_room()
        return lsn

    def _make_room(self) -> None:
        most, most_bytes = self._limits.dead_letters, self._limits.dead_letter_bytes
        while len(self._rows) > 1 and (len(self._rows) > most or self._bytes > most_bytes):
            self.drop(next(iter(self._rows)))
            self._counters.drop(Drop.DEAD_LETTERS_FULL, 1)

    def put_all(
        self,
        header: BatchHeader,
        body: bytes,
        part: str,
        why: Drop,
        attempts: int,
        held_s: float | None = None,
    ) -> int:
        """Keep every event of a batch. Returns the number of the last record."""
        try:
            events = decode_body(body, header.count)
        except BodyError:
            self._counters.drop(Drop.MALFORMED, header.count)
            return 0
        lsn = 0
        for event in events:
            lsn = max(lsn, self.put(header, event, part, why, attempts, held_s))
        return lsn

    def take_fresh(self) -> tuple[list[Fresh], dict[Drop, int]]:
        """What nobody was told of yet: some of them, and how many others by reason."""
        fresh, self.fresh = self.fresh, []
        untold, self.untold = self.untold, {}
        return fresh, untold

    def _add(self, lsn: int, name: str, size: int) -> None:
        self._rows[lsn] = _Row(name, size)
        self._bytes += size

    def drop(self, lsn: int) -> bool:
        """Forget one. False: there is none of this number."""
        found = self._rows.pop(lsn, None)
        if found is None:
            return False
        self._bytes -= found.size
        self._store.settle(lsn, found.part)
        return True

    # -- looking -----------------------------------------------------------------------------------------------------

    def get(self, lsn: int) -> DeadLetter | None:
        """One of them; None when there is none of this number, or its disk lost it. Cost: one read of the store."""
        if lsn not in self._rows:
            return None
        try:
            packed, body = self._store.read(lsn)
            head = _head(packed)
            [event] = decode_body(body, 1)
        except (JournalDamaged, LookupError, ValueError):
            return None
        mesh_id = mesh_id_of(head.header, event)
        return DeadLetter(
            lsn,
            mesh_id,
            event,
            head.reason,
            head.part,
            head.attempts,
            head.header.path,
            head.died_ms,
            head.seen_ms,
        )

    def numbers(self, after: int = 0) -> Iterator[int]:
        """Their numbers beyond `after`, oldest first."""
        return (lsn for lsn in self._rows if lsn > after)

    def page(self, after: int, limit: int, *, reason: str = "", topic: str = "", part: str = "") -> Page:
        """At most `limit` of those beyond `after`, oldest first; fewer, with `more`, when looking for them would cost too much at once.

        Args: reason, part: the very one. topic: a filter. "" for any.
        """
        found: list[DeadLetter] = []
        cost, last = 0, after
        for lsn in self.numbers(after):
            if cost >= PAGE_COST or len(found) >= limit:
                return Page(found, last)
            last = lsn
            cost += 1
            why, _, of = self._rows[lsn].part[len(DEAD) :].partition("/")
            if (reason and why != reason) or (topic and not matches(topic, of)):
                continue
            cost += READ_COST
            letter = self.get(lsn)
            if letter is not None and (not part or part in letter.part.split(",")):
                found.append(letter)
        return Page(found, None)
