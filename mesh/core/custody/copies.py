"""Second copies of what this node owes: which records another node of the region keeps, too, and who waits for that.

Decides which sibling is the mirror, what is sent to it and when, and how long an acknowledgement waits for it. Never decides what is
kept for others (`mirror` does), and never holds up what leaves: only who was told "accepted" waits.
Invariants: a record with the flag COPIES is copied to the mirror of the moment until it is settled; `CopyingStore.synced` passes one
only when the mirror has it, or after the time for that, counted in `copies_short`. What the mirror was sent and this process settled,
it is told. Bounds: `copies_window_bytes` under way; beyond that record numbers wait, 200 bytes each.
Source: design page "Routing", Delivery (`copies: 2`); decision 0019.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.mirror import KINDS
from mesh.core.custody.record import Head, decode_head, encode_head
from mesh.core.custody.store import Entry, JournalDamaged, Store, StoreRefusedError
from mesh.core.effects import Effect, Send
from mesh.core.groups import member_node
from mesh.model.limits import Limits
from mesh.model.reasons import Refuse, Short
from mesh.wire.frames import BatchHeader, CopiedClient, CopiesHeld, CopiesOwed, Copy, CopyAck, RecordId

NOTE: Final = "copies"
"""Epoch of the process that first had a record of this journal copied: ids below it are of a journal that is lost."""
RECOPY_S: Final = 1.0
"""A new mirror has so long to say what it keeps already, before older records are sent to it."""
AVOID_S: Final = 5.0
"""A mirror that refuses or is late is not waited for, and is passed over where there is another one, for so long."""
TELL_S: Final = 0.05
"""What was settled is told so often."""
TOLD_BYTES: Final = 256 * 1024
"""And in frames of about so much."""
FRAME_BYTES: Final = 4_096
"""What a Copy takes beside parts, head and body, at most."""


class Copied:
    """A record that is to have a second copy. parts: open ones. has: the mirror that has it, "" for none. sent: whom this process
    sent it to last. since: monotonic seconds, when this node took it. aged: whether its head tells the time it had then."""

    __slots__ = ("count", "has", "id", "parts", "sent", "since", "size")

    def __init__(self, id: RecordId, parts: tuple[str, ...], size: int, count: int, since: float) -> None:
        self.id = id
        self.parts = parts
        self.size = size
        self.count = count
        self.since = since
        self.has = ""
        self.sent = ""


class CopyingStore:
    """The journal as the rest of custody sees it: `synced` says what is safe by the rule of its topic, not by this disk alone.

    Args: journal: this node's. Cost: 0.1 us a settle and a look at `synced`; the rest is the journal's own.
    """

    def __init__(self, journal: Store) -> None:
        self.journal = journal
        self.awaited: dict[int, float] = {}
        """Records that are not safe before the mirror has them -> until when that is waited for. In order."""
        self.copied: dict[int, Copied] = {}
        self.settled: dict[int, Copied] = {}
        """Those of which parts were settled since the mirror was told last."""
        self.moved = False
        """`synced` may have passed something without a commit."""

    @property
    def synced(self) -> int:
        synced = self.journal.synced
        return min(synced, next(iter(self.awaited)) - 1) if self.awaited else synced

    @property
    def notes(self) -> Mapping[str, bytes]:
        return self.journal.notes

    def refusal(self, size_bytes: int) -> Refuse | None:
        return self.journal.refusal(size_bytes)

    @property
    def notes_made(self) -> int:
        return self.journal.notes_made

    @property
    def notes_synced(self) -> int:
        return self.journal.notes_synced

    def append(self, parts: Sequence[str], head: bytes, body: bytes) -> int:
        return self.journal.append(parts, head, body)

    def note(self, key: str, value: bytes | None) -> None:
        self.journal.note(key, value)

    def outstanding(self) -> Iterable[Entry]:
        return self.journal.outstanding()

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        return self.journal.read(lsn)

    def read_ahead(self, lsns: Sequence[int]) -> None:
        self.journal.read_ahead(lsns)

    def settle(self, lsn: int, part: str) -> bool:
        copied = self.copied.get(lsn)
        if copied is not None and part in copied.parts:
            copied.parts = tuple(other for other in copied.parts if other != part)
            self.settled[lsn] = copied
            if not copied.parts:
                del self.copied[lsn]
                self.passed(lsn)  # somebody else has it
        return self.journal.settle(lsn, part)

    def passed(self, lsn: int) -> bool:
        """A record need not be waited for any longer. False: it was not."""
        if self.awaited.pop(lsn, None) is None:
            return False
        self.moved = True
        return True


class Copies:
    """Args: epoch: of this process. peers: siblings that are linked. Cost: about 20 us a record with COPIES; nothing for others."""

    def __init__(
        self,
        store: CopyingStore,
        node: str,
        epoch: int,
        *,
        peers: Mapping[str, int],
        limits: Limits,
        counters: Counters,
    ) -> None:
        self.store = store
        self.epoch = epoch
        self.mirror = ""
        self.effects: list[Effect] = []
        self.clients: Callable[[], Iterable[tuple[str, bytes]]] = lambda: ()
        """Durable clients that the mirror is to know of."""
        self.touch: Callable[[Iterable[str]], None] = lambda parts: None
        """Told of the parts of each record that is to have a second copy."""
        self._node = node
        self._peers = peers
        self._limits = limits
        self._counters = counters
        noted = store.notes.get(NOTE, b"").decode("ascii", "replace")
        self._noted = noted.isdecimal()
        self._journal_epoch = int(noted) if self._noted else epoch
        self._new: deque[int] = deque()
        self._old: deque[int] = deque()
        self._under_way: dict[int, int] = {}
        self._under_way_bytes = 0
        self._stale: dict[str, list[RecordId]] = {}
        """Former mirrors, and what they said they keep: to be dropped once the mirror has it all."""
        self._avoided: dict[str, float] = {}
        self._recopy_at = 0.0
        self._no_wait_until = 0.0
        self._tell_at = 0.0

    # -- records -------------------------------------------------------------------------------------------------

    def added(
        self, lsn: int, parts: Iterable[str], head: bytes, body: bytes, header: BatchHeader, now: float
    ) -> None:
        """The journal has just taken a record with the flag COPIES, whose head says this process's epoch."""
        wanted = _outliving(parts)
        if not wanted:
            return
        self._note()
        store = self.store
        copied = Copied((self.epoch, lsn), wanted, len(body), header.count, now)
        if not self.mirror:
            self._choose(now)
        store.copied[lsn] = copied
        self.touch(wanted)
        if not self.mirror:
            self._short(Short.NO_SIBLING, copied)
        elif not self._fits(copied, head, body):
            self._short(Short.TOO_LARGE, copied)
            del store.copied[lsn]
        else:
            if now < self._no_wait_until:
                self._short(Short.LATE, copied)
            else:
                store.awaited[lsn] = now + self._limits.copies_wait_s
            if self._new or self._window_full():
                self._new.append(lsn)
            else:
                self._send(lsn, copied, head, body)

    def _note(self) -> None:
        if self._noted:
            return
        try:
            self.store.note(NOTE, str(self.epoch).encode())
        except StoreRefusedError:
            return  # the next process takes its journal for a new one: what is kept for it comes twice, flagged
        self._noted = True

    def recovered(self, lsn: int, parts: Iterable[str], head: Head, size: int, since: float) -> None:
        """A record of an earlier process, with parts that are open."""
        wanted = _outliving(parts)
        if wanted:
            self.store.copied[lsn] = Copied((head.epoch, lsn), wanted, size, head.header.count, since)
            self._old.append(lsn)

    def _short(self, why: Short, copied: Copied) -> None:
        counts = self._counters.copies_short
        counts[why] = counts.get(why, 0) + copied.count

    def _fits(self, copied: Copied, head: bytes, body: bytes) -> bool:
        size = FRAME_BYTES + len(head) + len(body) + sum(len(part) + 8 for part in copied.parts)
        return size <= self._limits.frame_bytes

    # -- sending -------------------------------------------------------------------------------------------------

    def _window_full(self) -> bool:
        return bool(self._under_way) and self._under_way_bytes >= self._limits.copies_window_bytes

    def _send(self, lsn: int, copied: Copied, head: bytes, body: bytes) -> None:
        copied.sent = self.mirror
        self._under_way[lsn] = copied.size
        self._under_way_bytes += copied.size
        self.effects.append(Send(self.mirror, Copy(copied.id, copied.parts, head, body)))

    def _pump(self, now: float) -> None:
        """Send what waits, new records first."""
        while self.mirror and not self._window_full():
            if self._new:
                lsn = self._new.popleft()
            elif self._old and now >= self._recopy_at:
                lsn = self._old.popleft()
            else:
                break
            copied = self.store.copied.get(lsn)
            if copied is None or copied.has == self.mirror or lsn in self._under_way:
                continue
            try:
                packed, body = self.store.read(lsn)
                head = _aged(packed, now - copied.since)
            except (JournalDamaged, LookupError, ValueError):
                continue  # whoever owes it finds out and counts it
            if self._fits(copied, head, body):
                self._send(lsn, copied, head, body)
            else:
                self.store.passed(lsn)
                self._short(Short.TOO_LARGE, copied)
        if not self._new and not self._old and not self._under_way and self._stale:
            self._forget_stale()

    def _ended(self, lsn: int) -> None:
        self._under_way_bytes -= self._under_way.pop(lsn, 0)

    def acked(self, node: str, ack: CopyAck, now: float) -> None:
        """A sibling said what it has on its disk, and what it did not take."""
        if node != self.mirror:
            return
        for id in ack.kept:
            self._ended(id[1])
            copied = self.store.copied.get(id[1])
            if copied is not None and copied.id == id:
                copied.has = node
                self.store.passed(id[1])
        for id, _ in ack.refused:
            self._ended(id[1])
            copied = self.store.copied.get(id[1])
            if copied is not None and copied.id == id:
                copied.sent = ""
                self._old.append(id[1])
                if self.store.passed(id[1]):
                    self._short(Short.REFUSED, copied)
        if ack.refused:
            self._avoid(now)
        self._pump(now)

    def _avoid(self, now: float) -> None:
        """The mirror does not do: another one, or this one later, and nobody waits for it."""
        self._avoided[self.mirror] = self._no_wait_until = self._recopy_at = now + AVOID_S
        self._choose(now)

    def _choose(self, now: float) -> None:
        """The mirror: the one there is while it is linked and takes what it is sent, else the first by rendezvous."""
        peers = [node for node in self._peers if self._avoided.get(node, 0.0) <= now]
        chosen = self.mirror if self.mirror in peers else member_node(self._node, NOTE, peers)
        if chosen is None and self.mirror not in self._peers:
            chosen = member_node(self._node, NOTE, self._peers)
        if chosen is None:
            chosen = self.mirror if self.mirror in self._peers else ""
        if chosen != self.mirror:
            self._changed(chosen, now)

    def _changed(self, mirror: str, now: float) -> None:
        if self.mirror:
            known = (*self.store.copied.values(), *self.store.settled.values())
            self._stale.setdefault(self.mirror, []).extend(
                copied.id for copied in known if copied.sent == self.mirror
            )
        self.mirror = mirror
        if mirror:
            self._tell(mirror, [(id, self._owed(id)) for id in self._stale.pop(mirror, ())])
        self._under_way.clear()
        self._under_way_bytes = 0
        self._new.clear()
        self._old = deque(sorted(self.store.copied))
        self._recopy_at = now + RECOPY_S
        self._no_wait_until = 0.0
        for copied in self.store.copied.values():
            copied.has = copied.sent = ""
        awaited = [lsn for lsn in self.store.awaited if lsn in self.store.copied]
        if mirror:
            self._new.extend(awaited)
            self._note()
            self._tell_of(mirror, "", None)
            for name, value in self.clients():
                self._tell_of(mirror, name, value)
            return
        for lsn in awaited:
            self._short(Short.NO_SIBLING, self.store.copied[lsn])
            self.store.passed(lsn)

    def _tell_of(self, mirror: str, name: str, value: bytes | None) -> None:
        self.effects.append(Send(mirror, CopiedClient(self._journal_epoch, name, value)))

    def _owed(self, id: RecordId) -> tuple[str, ...]:
        """What is open of a record now."""
        copied = self.store.copied.get(id[1])
        return copied.parts if copied is not None and copied.id == id else ()

    def client_changed(self, name: str, value: bytes | None, now: float) -> None:
        """A durable client that the mirror is to know of came, changed or went."""
        if not self.mirror:
            self._choose(now)  # which tells all of them
        elif self.mirror:
            self._tell_of(self.mirror, name, value)

    # -- telling -------------------------------------------------------------------------------------------------

    def held(self, node: str, frame: CopiesHeld, now: float) -> None:
        """A sibling says what it keeps for this node."""
        owed: list[tuple[RecordId, tuple[str, ...]]] = []
        if not self.mirror:
            self._choose(now)
        stale = [] if node == self.mirror else self._stale.setdefault(node, [])
        for id in frame.ids:
            copied = self.store.copied.get(id[1])
            if id[0] < self._journal_epoch:
                continue  # of a journal that is lost
            if copied is None or copied.id != id:
                owed.append((id, ()))
                continue
            owed.append((id, copied.parts))
            if node == self.mirror:
                copied.has = copied.sent = node
                self.store.passed(id[1])
            else:
                stale.append(id)
        self._tell(node, owed, answer=True)
        self._pump(now)

    def _forget_stale(self) -> None:
        for node in [node for node in self._stale if node in self._peers]:
            self._tell(node, [(id, ()) for id in self._stale.pop(node)])
            self._tell_of(node, "", None)

    def _tell(self, node: str, owed: list[tuple[RecordId, tuple[str, ...]]], *, answer: bool = False) -> None:
        some: list[tuple[RecordId, tuple[str, ...]]] = []
        size = 0
        for entry in owed:
            some.append(entry)
            size += 24 + sum(map(len, entry[1]))
            if size > TOLD_BYTES:
                self.effects.append(Send(node, CopiesOwed(tuple(some), self._journal_epoch)))
                some, size = [], 0
        if some or answer:
            self.effects.append(Send(node, CopiesOwed(tuple(some), self._journal_epoch)))

    # -- links and time ------------------------------------------------------------------------------------------

    def peer_opened(self, node: str, now: float) -> None:
        """A link to a sibling opened: what was under way on one before is sent again."""
        if node == self.mirror:
            self._changed(node, now)
        self.links_changed(now)

    def links_changed(self, now: float) -> None:
        """A link to a sibling opened or ended."""
        if not self.mirror and not self.store.copied and not any(True for _ in self.clients()):
            return
        self._choose(now)
        self._pump(now)

    def next_deadline(self) -> float | None:
        due = [self._tell_at] if self.store.settled else []
        awaited = self.store.awaited
        if awaited:
            due.append(awaited[next(iter(awaited))])
        if self._old and self.mirror and not self._window_full():
            due.append(self._recopy_at)
        return min(due, default=None)

    def handle_deadline(self, now: float) -> None:
        """Give up waiting, tell what was settled, send what waits."""
        awaited = self.store.awaited
        late = [lsn for lsn, until in awaited.items() if until <= now]
        for lsn in late:
            self.store.passed(lsn)
            self._short(Short.LATE, self.store.copied[lsn])
        if late:
            self._avoid(now)
        settled = self.store.settled
        if settled and now >= self._tell_at:
            self._tell_at = now + TELL_S
            self.store.settled = {}
            if self.mirror:
                told = [
                    (copied.id, copied.parts) for copied in settled.values() if copied.sent == self.mirror
                ]
                self._tell(self.mirror, told)
            for lsn in settled:
                if lsn not in self.store.copied:
                    self._ended(lsn)
        self._pump(now)

    def take_moved(self) -> bool:
        """Whether `synced` may have passed something without a commit, since the last call."""
        moved, self.store.moved = self.store.moved, False
        return moved

    def alone(self) -> tuple[int, int, int, float | None]:
        """(records, events, bytes, since when) without a second copy now. Cost: O(records with COPIES)."""
        found = [
            copied for copied in self.store.copied.values() if not copied.has or copied.has != self.mirror
        ]
        since = min((copied.since for copied in found), default=None)
        return len(found), sum(one.count for one in found), sum(one.size for one in found), since


def _outliving(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(part for part in parts if part[:2] in KINDS)


def _aged(packed: bytes, held_s: float) -> bytes:
    """A record's head with the time it was held taken off."""
    head = decode_head(packed)
    held_ms = int(held_s * 1e3)
    if held_ms <= 0 or not (head.deadline_ms or head.header.remaining_ms):
        return packed
    header = head.header
    if header.remaining_ms:
        header = replace(header, remaining_ms=max(1, header.remaining_ms - held_ms))
    deadline_ms = max(1, head.deadline_ms - held_ms) if head.deadline_ms else 0
    return encode_head(replace(head, header=header, deadline_ms=deadline_ms))
