"""Records of a node that is gone, delivered by its mirror: as that node would after a restart, and flagged like that.

Decides what becomes of each part that the owner still owed. Never decides when an owner is gone (`mirror` does), nor where clients
are at home (`succession` does).
Invariant: a part of a copy is settled here only when a record of this node's own owes it, or a dead letter says why not; both are in
one journal, in that order. All that leaves says `redelivered`. Bound: AT_ONCE records in one go.
Source: decision 0019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.keeping import Keeping
from mesh.core.custody.mirror import Mirror
from mesh.core.custody.record import HELD_BACK, NODE, OUTWARD, Head, decode_head
from mesh.core.custody.store import JournalDamaged
from mesh.core.custody.succession import Succession
from mesh.core.custody.wanted import split_group_part
from mesh.model.event import Event
from mesh.model.reasons import Drop
from mesh.model.topic_rules import TopicRules
from mesh.wire.codec import BodyError, decode_body
from mesh.wire.frames import BatchHeader, Flag, Leg, RecordId

AT_ONCE: Final = 100
"""Records taken over in one go, about 20 ms; then everything else has its turn."""


class _Record(NamedTuple):
    owner: str
    id: RecordId
    head: Head
    header: BatchHeader
    body: bytes
    events: list[Event]


class Takeover:
    """Args: again: (header, event, group, filter, now) finds another place for a group's event. members: of a group at this node."""

    def __init__(
        self,
        region: str,
        node: str,
        *,
        mirror: Mirror,
        keeping: Keeping,
        succession: Succession,
        again: Callable[[BatchHeader, Event, str, str, float], int],
        members: Callable[[str, str], int],
        rules: TopicRules,
        counters: Counters,
    ) -> None:
        self._region = region
        self._node = node
        self._mirror = mirror
        self._keeping = keeping
        self._succession = succession
        self._again = again
        self._members = members
        self._rules = rules
        self._counters = counters

    def run(self, owner: str, ids: Sequence[RecordId], now: float) -> bool:
        """Take records over, some at once. True: there is more. Raises: StoreRefusedError: what was taken over by then is settled."""
        for id in ids[:AT_ONCE]:
            kept = self._mirror.kept.get(owner, {}).get(id)
            if kept is None:
                continue
            try:
                packed, body = self._mirror.journal.read(kept.lsn)
                head = decode_head(packed)
                header = _taken_over(head.header, now - kept.since)
                events = decode_body(body, header.count)
            except (JournalDamaged, LookupError, ValueError, BodyError):
                self._counters.drop(Drop.JOURNAL_DAMAGED, len(kept.parts))
                self._settle(owner, id, kept.parts)
                continue
            self._take(_Record(owner, id, head, header, body, events), kept.parts, now - kept.since, now)
            self._counters.copies_taken += 1
        return len(ids) > AT_ONCE

    def _settle(self, owner: str, id: RecordId, parts: Sequence[str]) -> None:
        for part in parts:
            self._mirror.ended(owner, id, part)

    def _take(self, one: _Record, parts: tuple[str, ...], held_s: float, now: float) -> None:
        here = NODE + self._node
        outward = tuple(part for part in parts if part.startswith(OUTWARD) and part != here)
        if outward:
            deadline_ms = max(1, one.head.deadline_ms - int(held_s * 1e3)) if one.head.deadline_ms else 0
            rule = self._rules.named(one.head.rule)
            self._keeping.keep(one.header, one.body, outward, now, deadline_ms=deadline_ms, rule=rule)
            self._settle(one.owner, one.id, outward)
        if here in parts:
            local = one.header
            if local.leg is not Leg.LOCAL or not local.groups:
                local = replace(local, leg=Leg.LOCAL, regions=(self._region,), groups=())
            if local.flags & Flag.MOVED:
                self._succession.deliver(local, one.events, one.body, now)
            else:
                self._keeping.deliver(local, one.events, one.body, now)
            self._settle(one.owner, one.id, (here,))
        clients = tuple(part for part in parts if part.startswith("c/"))
        if clients:
            local = replace(one.header, leg=Leg.LOCAL, regions=(self._region,), groups=())
            self._succession.inherit(one.owner, local, one.events, one.body, clients, now)
            self._settle(one.owner, one.id, clients)
        for part in parts:
            if part.startswith("g/"):
                self._group(one, part, now)
            elif part.startswith(HELD_BACK):
                # What it waited for may come to this node or not at all: its clients get it now.
                self._succession.bequeathed(one.owner, one.header, one.events, one.body, now)
                self._settle(one.owner, one.id, (part,))

    def _group(self, one: _Record, part: str, now: float) -> None:
        """A group's share goes to members here, else anywhere."""
        group, filter = split_group_part(part)
        header = replace(one.header, flags=one.header.flags | Flag.GROUP_ONLY)
        if self._members(group, filter):
            own = (group, filter, self._region)
            local = replace(header, leg=Leg.LOCAL, regions=(self._region,), groups=(own,))
            self._keeping.deliver(local, one.events, one.body, now)
        else:
            for event in one.events:
                self._again(header, event, group, filter, now)
        self._settle(one.owner, one.id, (part,))


def _taken_over(header: BatchHeader, held_s: float) -> BatchHeader:
    """As the owner would send it after a restart. What it had from a sibling to send over its own links may take any way from here."""
    remaining_ms = header.remaining_ms
    if remaining_ms:
        remaining_ms = max(1, remaining_ms - int(held_s * 1e3))
    leg = Leg.BRIDGE if header.leg is Leg.TRANSIT else header.leg
    flags = (header.flags | Flag.REDELIVERED) & ~Flag.REDIRECTED
    return replace(header, leg=leg, flags=flags, remaining_ms=remaining_ms)
