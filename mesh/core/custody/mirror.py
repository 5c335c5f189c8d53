"""What this node keeps for other nodes of its region: second copies of their records, and who their durable clients are.

Decides what it takes, what it drops when the owner settled it, and whose records are its own by now: of an owner that has been away
for long enough, or that has lost its journal. Never delivers (`takeover` does).
Invariant: a copy is told as kept only when it is on this disk; it is dropped only when its owner says so, when it was taken over, or
when it is older than anything that may wait. Bound: `limits.copies_bytes`; more is refused.
Source: design page "Routing", Delivery (`copies: 2`); decision 0019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from mesh.core.custody.record import HELD_BACK, MIRRORED, NODE, REGION
from mesh.core.custody.store import Entry, Store, StoreRefusedError
from mesh.core.effects import Effect, Send
from mesh.model.limits import Limits
from mesh.model.reasons import Refuse
from mesh.wire.frames import CopiedClient, CopiesHeld, CopiesOwed, Copy, CopyAck, RecordId

CLIENT_NOTE: Final = "copied/"
"""copied/OWNER/JOURNAL/NAME: a durable client of another node."""
CLIENT_BYTES: Final = 256 * 1024
"""Of one client's settings and subscriptions; a larger one is not kept for another node."""
KINDS: Final = frozenset({REGION, NODE, "c/", "g/", HELD_BACK})
"""How the parts begin that somebody else can take over: not sessions, which end with their node, nor its event log."""
IDS: Final = 10_000
"""In one CopiesHeld."""
HEAD_BYTES: Final = 1_024
LOOK_S: Final = 60.0
"""How often copies are looked at that are too old."""


class Kept:
    """A record of another node. lsn: its number here. parts: what its owner owes, as far as it said. since: monotonic seconds, when it
    came."""

    __slots__ = ("lsn", "parts", "since", "size")

    def __init__(self, lsn: int, parts: tuple[str, ...], size: int, since: float) -> None:
        self.lsn = lsn
        self.parts = parts
        self.size = size
        self.since = since


class Mirror:
    """Args: journal: this node's own: what is kept for others is safe here when it is on this disk. Cost: about 10 us a copy."""

    def __init__(self, journal: Store, limits: Limits, now: float) -> None:
        self.journal = journal
        self.effects: list[Effect] = []
        self.kept: dict[str, dict[RecordId, Kept]] = {}
        """By owner, in the order in which they came."""
        self.size_bytes = 0
        self.clients: dict[str, dict[tuple[int, str], bytes]] = {}
        """Durable clients by their home: (its journal, name) -> settings and subscriptions."""
        self._journals: dict[str, int] = {}
        """Epoch in which the journal began that an owner has now: it has lost what is kept of earlier ones."""
        self._lost: set[str] = set()
        """Owners of which something is kept that they have lost."""
        self.dropped = 0
        """Records that were older than anything that may wait."""
        self.draining = False
        self.away_since: Callable[[str], float | None] = lambda node: None
        """Since when a member is dead or has left; None for one that is there."""
        self._limits = limits
        self._unsaid: dict[str, list[tuple[int, RecordId]]] = {}
        """By owner: (the record here that must be synced first, whose copy it is)."""
        self._refused: dict[str, list[tuple[RecordId, str]]] = {}
        self._look_at = now + LOOK_S
        self._orphan_at: float | None = None
        for key, value in list(journal.notes.items()):
            if key.startswith(CLIENT_NOTE):
                owner, begun, name = key[len(CLIENT_NOTE) :].split("/", 2)
                self.clients.setdefault(owner, {})[int(begun), name] = value

    def recover(self, entry: Entry, since: float) -> bool:
        """A record of an earlier process. False: it is none that is kept for another node."""
        if not entry.parts[0].startswith(MIRRORED):
            return False
        owner, id, _ = split(entry.parts[0])
        parts = tuple(split(part)[2] for part in entry.parts)
        size = entry.head_bytes + entry.body_bytes
        self._put(owner, id, Kept(entry.lsn, parts, size, since))
        return True

    def _put(self, owner: str, id: RecordId, kept: Kept) -> None:
        self.kept.setdefault(owner, {})[id] = kept
        self.size_bytes += kept.size

    # -- from owners ---------------------------------------------------------------------------------------------

    def take(self, owner: str, frame: Copy, now: float) -> str:
        """Keep a record for its owner; `acknowledge` says when it is on the disk. Returns what no correct owner sends, "" for nothing."""
        parts = frame.parts
        if any(part[:2] not in KINDS or "\0" in part for part in parts) or len(set(parts)) < len(parts):
            return "a copy with parts that nobody could take over"
        self._take(owner, frame, now)
        return ""

    def _take(self, owner: str, frame: Copy, now: float) -> None:
        known = self.kept.get(owner, {}).get(frame.id)
        if known is not None:
            self._unsaid.setdefault(owner, []).append((known.lsn, frame.id))
            return
        size = len(frame.head) + len(frame.body)
        why = self._refusal(size)
        if why is None:
            parts = [part_of(owner, frame.id, part) for part in frame.parts]
            try:
                lsn = self.journal.append(parts, bytes(frame.head), bytes(frame.body)) if parts else 0
            except StoreRefusedError as refused:
                why = refused.reason
        if why is not None:
            self._refused.setdefault(owner, []).append((frame.id, why.value))
            return
        if lsn:
            self._put(owner, frame.id, Kept(lsn, tuple(frame.parts), size, now))
        self._unsaid.setdefault(owner, []).append((lsn, frame.id))

    def _refusal(self, size: int) -> Refuse | None:
        if self.draining:
            return Refuse.DRAINING
        if self.size_bytes + size > self._limits.copies_bytes:
            return Refuse.FULL
        return self.journal.refusal(size + HEAD_BYTES)

    def acknowledge(self) -> None:
        """Tell owners what is on the disk by now. Cost: O(1) where nobody waits."""
        if not self._unsaid and not self._refused:
            return
        synced = self.journal.synced
        for owner in {*self._unsaid, *self._refused}:
            unsaid = self._unsaid.pop(owner, [])
            kept = tuple(id for lsn, id in unsaid if lsn <= synced)
            rest = [(lsn, id) for lsn, id in unsaid if lsn > synced]
            if rest:
                self._unsaid[owner] = rest
            refused = tuple(self._refused.pop(owner, ()))
            if kept or refused:
                self.effects.append(Send(owner, CopyAck(kept, refused)))

    def owed(self, owner: str, frame: CopiesOwed) -> None:
        """The owner tells what of its records is still open, and since when it has its journal."""
        self._journal_is(owner, frame.journal)
        records = self.kept.get(owner, {})
        for id, parts in frame.owed:
            kept = records.get(id)
            if kept is not None:
                for part in [part for part in kept.parts if part not in parts]:
                    self.ended(owner, id, part)

    def _journal_is(self, owner: str, journal: int) -> None:
        if self._journals.get(owner) == journal:
            return
        self._journals[owner] = journal
        if self._lost_of(owner) or self._lost_clients_of(owner):
            self._lost.add(owner)

    def _lost_of(self, owner: str) -> list[RecordId]:
        journal = self._journals.get(owner, 0)
        return sorted(id for id in self.kept.get(owner, ()) if id[0] < journal)

    def _lost_clients_of(self, owner: str) -> list[tuple[int, str]]:
        journal = self._journals.get(owner, 0)
        return [key for key in self.clients.get(owner, ()) if key[0] < journal]

    def client(self, owner: str, frame: CopiedClient) -> None:
        """The owner tells of a durable client, or to forget all of its journal."""
        self._journal_is(owner, frame.journal)
        clients = self.clients.setdefault(owner, {})
        most = self._limits.durable_clients
        given = (frame.journal, frame.name)
        keys = [given] if frame.name else [key for key in clients if key[0] == frame.journal]
        for key in keys:
            value = frame.value if frame.name else None
            if value is not None and len(value) <= CLIENT_BYTES and len(clients) < most:
                clients[key] = bytes(value)
            else:
                clients.pop(key, None)
            self._note(owner, key, clients.get(key))
        if not clients:
            del self.clients[owner]

    def _note(self, owner: str, key: tuple[int, str], value: bytes | None) -> None:
        try:
            self.journal.note(f"{CLIENT_NOTE}{owner}/{key[0]}/{key[1]}", value)
        except StoreRefusedError:
            return  # no room for notes: known until this process ends

    def greet(self, owner: str) -> None:
        """A link to a sibling opened: tell it what is kept for it here."""
        self._unsaid.pop(owner, None)
        self._refused.pop(owner, None)
        ids = tuple(self.kept.get(owner, ()))
        if ids or owner in self.clients:
            for at in range(0, max(1, len(ids)), IDS):
                self.effects.append(Send(owner, CopiesHeld(ids[at : at + IDS])))

    # -- ends ----------------------------------------------------------------------------------------------------

    def ended(self, owner: str, id: RecordId, part: str) -> None:
        """A part of a copy need not be kept any longer. Unknown ones are fine."""
        records = self.kept.get(owner, {})
        kept = records.get(id)
        if kept is None or part not in kept.parts:
            return
        kept.parts = tuple(other for other in kept.parts if other != part)
        self.journal.settle(kept.lsn, part_of(owner, id, part))
        if not kept.parts:
            del records[id]
            self.size_bytes -= kept.size
            if not records:
                del self.kept[owner]

    def take_clients(self, owner: str) -> dict[str, bytes]:
        """The clients of a node that is gone, or of a journal it has lost: no longer kept for it."""
        clients = self.clients.get(owner, {})
        gone = list(clients) if self._is_orphan(owner) else self._lost_clients_of(owner)
        taken = {key[1]: clients.pop(key) for key in sorted(gone)}
        for key in gone:
            self._note(owner, key, None)
        if not clients:
            self.clients.pop(owner, None)
        return taken

    def home_of(self, client: str) -> str | None:
        """The node whose client this is, as it told: this node keeps it for when that node is gone."""
        for owner, clients in self.clients.items():
            if any(name == client for _, name in clients):
                return owner
        return None

    def _is_orphan(self, owner: str) -> bool:
        return self.away_since(owner) is not None

    # -- time ----------------------------------------------------------------------------------------------------

    def orphans(self, now: float) -> Iterator[tuple[str, list[RecordId]]]:
        """(owner, its records) that are this node's by now. An owner that has none but clients is among them, too."""
        for owner in sorted({*self.kept, *self.clients}):
            due = self._due_at(owner)
            if due is not None and due <= now:
                yield owner, sorted(self.kept.get(owner, ()))
        for owner in sorted(self._lost):
            ids = self._lost_of(owner)
            if not ids and not self._lost_clients_of(owner):
                self._lost.discard(owner)
            else:
                yield owner, ids

    def _due_at(self, owner: str) -> float | None:
        since = self.away_since(owner)
        return None if since is None else since + self._limits.copies_takeover_s

    def next_deadline(self) -> float | None:
        """When `orphans` may have something new."""
        if self._lost:
            return 0.0
        due = [self._look_at] if self.kept else []
        if self._orphan_at is not None:
            due.append(self._orphan_at)
        return min(due, default=None)

    def members_changed(self) -> None:
        """Members came or went, or what is kept for them. Cost: O(owners), and a look at each."""
        due = [at for at in map(self._due_at, {*self.kept, *self.clients}) if at is not None]
        self._orphan_at = min(due, default=None)

    def drop_old(self, now: float) -> None:
        """Copies that no owner can still owe: it was away, and is neither dead nor linked."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        oldest = now - max(self._limits.spool_age_s, self._limits.durable_age_s)
        for owner, records in list(self.kept.items()):
            for id, kept in [(id, kept) for id, kept in records.items() if kept.since < oldest]:
                self.dropped += 1
                for part in kept.parts:
                    self.ended(owner, id, part)


def part_of(owner: str, id: RecordId, part: str) -> str:
    """How a part of another node's record is called here."""
    return f"{MIRRORED}{owner}/{id[0]:x}.{id[1]:x}/{part}"


def split(part: str) -> tuple[str, RecordId, str]:
    """(owner, id, part) of what `part_of` made."""
    owner, id, rest = part[len(MIRRORED) :].split("/", 2)
    epoch, _, lsn = id.partition(".")
    return owner, (int(epoch, 16), int(lsn, 16)), rest
