"""What publishers are told beyond "accepted": that every region has an event, or that every subscriber acknowledged it.

Decides when a call is acknowledged, from receipts that travel back to the origin like replies, in custody themselves. Never decides
who gets an event: the entry bridge of a region says which of its nodes do, and each of those says when its sessions have.
Invariant: a call is acknowledged only after everybody who was to get its events has said so; a receipt that comes before the one
that announces it is remembered.
Bounds: whoever waits has a connection, so `limits.client_connections` bounds the calls; each ends by its time-out.
Source: design page "Routing", Delivery (publisher acknowledgement levels).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from mesh.wire.frames import BatchHeader, Flag

RECEIPT: Final = "$mesh/receipt/"
"""Topic of a receipt's event: RECEIPT + the origin's epoch."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Seqs, as (first, last) pairs."""


class Told(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One receipt. who: `r/REGION` (stored at its entry bridge; `nodes` of it will deliver), or `n/REGION/NODE` (delivered there; `away`:
    durable clients for which it is only stored)."""

    who: str
    seqs: Ranges
    nodes: tuple[str, ...] = ()
    away: tuple[str, ...] = ()


encode_told: Final = msgspec.msgpack.Encoder().encode
decode_told: Final = msgspec.msgpack.Decoder(tuple[Told, ...]).decode


def ranges(seqs: Iterable[int]) -> Ranges:
    """Seqs in any order, as few ranges."""
    found: list[tuple[int, int]] = []
    for seq in sorted(seqs):
        if found and found[-1][1] == seq - 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return tuple(found)


class Acknowledgement(NamedTuple):
    """How a call stands. missing: who has not said anything yet. away: durable clients for which it is stored."""

    complete: bool
    missing: tuple[str, ...]
    away: tuple[str, ...]


class Awaited:
    """One call's events, and who still has to say that it has them."""

    __slots__ = ("_early", "away", "delivered", "first", "last", "missing")

    def __init__(self, first: int, last: int, *, delivered: bool) -> None:
        self.first = first
        self.last = last
        self.delivered = delivered
        self.missing: dict[str, set[int]] = {}
        self._early: dict[str, set[int]] = {}
        self.away: set[str] = set()

    def expect(self, who: str, seqs: Iterable[int]) -> None:
        """Somebody gets these events, unless it has said already that it got them."""
        rest = set(seqs) - self._early.get(who, set())
        if rest:
            self.missing.setdefault(who, set()).update(rest)

    def told(self, told: Told) -> None:
        """A receipt for some of these events."""
        seqs = {
            seq for low, high in told.seqs for seq in range(max(low, self.first), min(high, self.last) + 1)
        }
        if not seqs:
            return
        region, _, _ = told.who[2:].partition("/")
        self.away.update(told.away)
        self._early.setdefault(told.who, set()).update(seqs)
        waiting = self.missing.get(told.who)
        if waiting is not None:
            waiting -= seqs
            if not waiting:
                del self.missing[told.who]
        if self.delivered:
            for node in told.nodes:
                self.expect(f"n/{region}/{node}", seqs)

    def acknowledgement(self) -> Acknowledgement:
        return Acknowledgement(not self.missing, tuple(sorted(self.missing)), tuple(sorted(self.away)))


class Receipts:
    """At the origin: the calls that wait. Args: epoch: of this process; receipts of an earlier one mean nothing.
    Cost: O(log calls) and O(events) a receipt."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._calls: list[Awaited] = []
        self._firsts: list[int] = []
        self.changed = False
        """Some call moved since the composed machine looked."""

    def __len__(self) -> int:
        return len(self._calls)

    def open(self, first: int, count: int, *, delivered: bool) -> Awaited:
        """A call of `count` events waits from now on. Pair with `close`."""
        call = Awaited(first, first + count - 1, delivered=delivered)
        self._calls.append(call)
        self._firsts.append(first)
        return call

    def close(self, call: Awaited) -> None:
        """Nobody waits for it any more. Idempotent."""
        at = bisect_right(self._firsts, call.first) - 1
        if at >= 0 and self._calls[at] is call:
            del self._calls[at], self._firsts[at]

    def take(self, epoch: int, told: Sequence[Told]) -> None:
        """Receipts that arrived."""
        if epoch != self._epoch or not self._calls:
            return
        for one in told:
            for low, high in one.seqs:
                at = max(0, bisect_right(self._firsts, low) - 1)
                while at < len(self._calls) and self._calls[at].first <= high:
                    self._calls[at].told(one)
                    at += 1
        self.changed = True


class Origin(NamedTuple):
    """Who waits for receipts."""

    region: str
    node: str
    epoch: int


class _Due(NamedTuple):
    lsn: int
    origin: Origin
    told: Told


class _Pending(NamedTuple):
    origin: Origin
    seqs: Ranges
    parts: set[str]
    away: tuple[str, ...]


class Outgoing:
    """What this node owes to origins: receipts that wait for a sync, and records whose subscribers have not all acknowledged.

    Args: who: `n/REGION/NODE` of this node. Cost: O(1) a batch that asks for receipts, nothing for others.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._due: list[_Due] = []
        self._pending: dict[int, _Pending] = {}

    def region_has(
        self, header: BatchHeader, seqs: Ranges, lsn: int, region: str, nodes: Iterable[str]
    ) -> None:
        """The entry bridge took a batch: to be told once `lsn` is synced."""
        if wanted(header):
            told = Told(f"r/{region}", seqs, tuple(sorted(nodes)))
            self._due.append(_Due(lsn, _origin(header), told))

    def node_has(
        self, header: BatchHeader, seqs: Ranges, lsn: int, parts: Iterable[str], away: Iterable[str]
    ) -> None:
        """A delivering node took a batch for these consumers, of whom those `away` have it as soon as it is stored."""
        if not header.flags & Flag.RECEIPT_DELIVERED:
            return
        away = tuple(away)
        waiting = set(parts).difference(away)
        if waiting:
            self._pending[lsn] = _Pending(_origin(header), seqs, waiting, away)
        else:
            self._due.append(_Due(lsn, _origin(header), Told(self._who, seqs, (), away)))

    def settled(self, lsn: int, part: str) -> None:
        """A consumer had all its events of a record."""
        pending = self._pending.get(lsn)
        if pending is None:
            return
        pending.parts.discard(part)
        if not pending.parts:
            del self._pending[lsn]
            self._due.append(_Due(lsn, pending.origin, Told(self._who, pending.seqs, (), pending.away)))

    def dead(self, lsn: int) -> None:
        """A consumer did not take an event of a record: nobody will say that it was delivered."""
        self._pending.pop(lsn, None)

    def take(self, synced: int) -> dict[Origin, list[Told]]:
        """Receipts that may be sent, by who waits for them."""
        if not self._due:
            return {}
        found: dict[Origin, list[Told]] = {}
        later: list[_Due] = []
        for due in self._due:
            if due.lsn <= synced:
                found.setdefault(due.origin, []).append(due.told)
            else:
                later.append(due)
        self._due = later
        return found

    def again(self, origin: Origin, told: Iterable[Told]) -> None:
        """These could not be sent now."""
        self._due += [_Due(0, origin, one) for one in told]

    def __len__(self) -> int:
        return len(self._due) + len(self._pending)


def _origin(header: BatchHeader) -> Origin:
    return Origin(header.region, header.node, header.epoch)


def wanted(header: BatchHeader) -> bool:
    """Whether the origin of a batch waits for receipts."""
    return bool(header.flags & (Flag.RECEIPT | Flag.RECEIPT_DELIVERED))
