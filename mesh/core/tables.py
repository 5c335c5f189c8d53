"""The versioned tables of a scope: one history for each owner, written here or told by deltas.

Decides which deltas change a table, which are old and which leave a gap. `mesh.core.holdings` has the comparing of digests.
Never decides what a key means, who is told, or whether an owner's epoch is plausible: those are its callers'.

| what arrives                          | becomes                                                        |
|---------------------------------------|----------------------------------------------------------------|
| a delta that begins at or before here | applied whole if the root fits, else dropped and pulled from 0 |
| a delta from 0, newer                 | replaces the owner's map, whatever was held                    |
| a frame with root 0                   | staged until its last frame: a table never shows half a delta  |
| a delta that begins after here        | a gap: pulled                                                  |
| an older epoch or position            | nothing                                                        |
| the own table from others, newer      | refused: nobody else writes it                                 |

Invariants: every table is at a state its owner wrote (`mesh.core.history`); loss, repetition and reordering of any frame
change when sets become equal, never whether. Memory is bounded for any input: owners, entries, bytes, tombstones, staged.

Source: Scuttlebutt (see `mesh.core.history`); design pages "Routing" (Interest) and "Identity and restart".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from mesh.core.deltas import JUMP_MAX, Applied, Outcome, fault, merge
from mesh.core.history import KEY_BYTES, VALUE_BYTES, Change, History, Preview, Written, key_bytes
from mesh.core.holdings import OWNERS, Holdings, Shut
from mesh.core.staging import Chain, Staging
from mesh.model.ids import Version
from mesh.model.limits import Limits
from mesh.model.reasons import TableReason
from mesh.wire.frames import Delta, Pull, Scope

__all__ = ["Applied", "Change", "Outcome", "TableSet", "TableStatistics"]

REGION_FACTOR: Final = 5
"""All tables of a region together may hold so many times `Limits.remote_filters`; in WORLD the limit itself is the total."""
ENTRY_BYTES: Final = 512
"""Keys and values may average this over the entries that are allowed in total: 100 MB in WORLD by default."""


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """Sizes now (the own table included), and counts since the start. refused: by reason."""

    owners: int
    entries: int
    content_bytes: int
    tombstones: int
    staged_bytes: int
    shut_owners: int
    applied: int
    stale: int
    gaps: int
    purged: int
    refused: Mapping[str, int]


class _Base(NamedTuple):
    """One way to understand a delta: the frames it belongs to, itself the last, and the chain they are staged in."""

    frames: tuple[Delta, ...]
    chain: Chain | None

    @property
    def whole(self) -> bool:
        return self.frames[0].since == 0


class _Ready(NamedTuple):
    """What a delta writes, and what that makes of the table."""

    written: Written
    preview: Preview


class TableSet(Holdings):
    """All tables of one scope at one node.

    Args: owner: the own table's name, None where this node writes none. epoch: of this process, at least 1.
    limits: `remote_filters` bounds the entries of one owner, and of all in WORLD. Epochs of others are the caller's to bound.
    now: not needed, as tables have no deadline of their own; `expire` is called now and then.

    The own table exists for others from the start in REGION: even empty it ends what they hold of an earlier epoch. In WORLD it
    begins with its first write, or when others still tell of an earlier epoch: most nodes are no bridge and never have one.
    """

    def __init__(self, scope: Scope, owner: str | None, epoch: int, limits: Limits, now: float) -> None:
        super().__init__(scope, None if owner is None else History(owner, epoch))
        if self._own is not None and scope is Scope.REGION:
            self._begin(self._own)
        self.ends_earlier = True
        """Whether the own table, still unwritten, may end what others hold of an earlier epoch."""
        self._told = -1
        self._per_owner = limits.remote_filters
        self._total = limits.remote_filters * (REGION_FACTOR if scope is Scope.REGION else 1)
        self._staging = Staging(self._total * ENTRY_BYTES)
        # Of others' tables, all together:
        self._entries = 0
        self._bytes = 0
        self._dead = 0
        self._counts: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()

    # -- own table ---------------------------------------------------------------------------------------------

    def put(self, key: str, value: bytes, now: float) -> bool:
        """Write the own table; a new version only if the value changes, which is what is returned.

        Cost: O(1). Raises: ValueError if the key or the value is too long, or the table is full: state unaffected.
        """
        own = self._writable()
        if not 0 < key_bytes(key) <= KEY_BYTES:
            raise ValueError(f"table key of {key_bytes(key)} bytes: allowed are 1 to {KEY_BYTES}")
        if len(value) > VALUE_BYTES:
            raise ValueError(f"table value of {len(value)} bytes: allowed are {VALUE_BYTES}")
        if len(own.live) >= self._per_owner and key not in own.live:
            raise ValueError(f"the own table holds {self._per_owner} entries already: limits.remote_filters")
        if not own.put(key, value, now):
            return False
        self._begin(own)
        return True

    def delete(self, key: str, now: float) -> bool:
        """Delete a key of the own table; False if it was not there. Cost: O(1)."""
        own = self._writable()
        if not own.delete(key, now):
            return False
        self._touch(own.owner)
        return True

    @property
    def has_news(self) -> bool:
        """Whether `news` would return anything. Cost: O(1)."""
        own = self._own
        return own is not None and self._told != own.n and own.owner in self._tables

    def news(self) -> list[Delta]:
        """The own table's changes since the last call, coalesced, in frames under about 256 KiB; [] if there are none."""
        own = self._own
        if own is None or not self.has_news:
            return []
        frames = own.frames(self.scope, max(self._told, 0))
        self._told = own.n
        return frames

    # -- tables of others --------------------------------------------------------------------------------------

    def receive(self, delta: Delta, now: float) -> Applied:
        """Judge one delta of a peer and apply it if it fits. Never raises, whatever is in it.

        Returns: see `Applied`; with any outcome but APPLIED the tables are as before. Cost: O(entries), about 4 us each.
        """
        reason = fault(delta, self.scope)
        if reason is not None:
            return self._refuse(reason)
        if delta.owner == self.owner:
            return self._own_came_back(delta, now)
        held = self._tables.get(delta.owner)
        version = Version(delta.epoch, delta.upto)
        if held is not None and version <= held.version:
            return self._stale(TableReason.KNOWN if delta.epoch == held.epoch else TableReason.OLD_EPOCH)
        shut = self._shut.get(delta.owner)
        if shut is not None and shut.reason is TableReason.FORGOTTEN and delta.epoch <= shut.version.epoch:
            self._shut_out(delta.owner, version, shut.reason, now)
            return self._stale(TableReason.FORGOTTEN)
        n = held.n if held is not None and held.epoch == delta.epoch else 0
        if delta.upto - n > JUMP_MAX:
            return self._refuse(TableReason.JUMP)
        bases = self._bases(delta, held)
        if not bases:
            return self._missing(delta, shut, now)
        if delta.root == 0:
            return self._stage(delta, bases[0].chain, now)
        return self._complete(delta, bases, held, now)

    def forget(self, owner: str, now: float) -> list[Change]:
        """Drop an owner that is gone for good, and turn a deaf ear to its epoch for SHUT_S while others still speak of it.

        A newer epoch is heard at once; `welcome` ends the deafness for the same one. Returns: deletions of all it wrote.
        """
        assert owner != self.owner
        self._staging.passed(owner, None)
        held = self._tables.pop(owner, None)
        if held is None:
            return []
        self._count_out(held)
        self._shut_out(owner, held.version, TableReason.FORGOTTEN, now)
        self._touch(owner)
        return [Change(owner, held.epoch, key, None) for key in held.live]

    def statistics(self) -> TableStatistics:
        """Sizes and counts. Cost: O(owners)."""
        tables, counts = self._tables.values(), self._counts
        return TableStatistics(
            owners=len(tables),
            entries=sum(len(held.live) for held in tables),
            content_bytes=sum(held.size for held in tables),
            tombstones=sum(len(held.dead) for held in tables),
            staged_bytes=self._staging.size,
            shut_owners=len(self._shut),
            applied=counts["applied"],
            stale=counts["stale"],
            gaps=counts["gaps"],
            purged=counts["purged"],
            refused={str(reason): count for reason, count in sorted(self._refusals.items())},
        )

    def expire(self, now: float) -> None:
        """Upkeep, to be called every few seconds: old tombstones go, broken chains go, shut owners open again.

        Cost: O(owners + what goes).
        """
        for held in self._tables.values():
            purged = held.purge(now)
            self._counts["purged"] += purged
            self._dead -= 0 if held is self._own else purged
        for owner in [owner for owner, shut in self._shut.items() if now >= shut.until]:
            self.welcome(owner)
        self._staging.expire(now)

    # -- how a delta is judged ---------------------------------------------------------------------------------

    def _own_came_back(self, delta: Delta, now: float) -> Applied:
        assert self._own is not None
        version = Version(delta.epoch, delta.upto)
        if version <= self._own.version:
            if version.epoch < self._own.epoch and delta.owner not in self._tables and self.ends_earlier:
                self._begin(self._own)
            return self._stale(TableReason.KNOWN)
        newer = delta.epoch > self._own.epoch
        reason = TableReason.NAME_IN_USE if newer else TableReason.FOREIGN_WRITE
        self._shut_out(delta.owner, version, reason, now)
        return self._refuse(reason)

    def _bases(self, delta: Delta, held: History | None) -> list[_Base]:
        """Every way in which this frame may follow what is here: a staged chain first, then the table, or nothing."""
        bases = []
        chain = self._staging.continued_by(delta)
        if chain is not None:
            bases.append(_Base((*chain.frames, delta), chain))
        if delta.since == 0 or (held is not None and held.epoch == delta.epoch and delta.since <= held.n):
            bases.append(_Base((delta,), None))
        return bases

    def _missing(self, delta: Delta, shut: Shut | None, now: float) -> Applied:
        """What lies before this delta is not here."""
        if shut is not None and shut.version.epoch >= delta.epoch:
            self._shut_out(delta.owner, Version(delta.epoch, delta.upto), shut.reason, now)
            return self._refuse(shut.reason)
        if self._staging.under_way(delta.owner, delta.epoch):
            return self._stale(TableReason.CHAIN_BROKEN)
        self._counts["gaps"] += 1
        position = (delta.owner, *self._claim(delta.owner))
        return Applied(Outcome.GAP, reason=TableReason.GAP, pull=Pull(self.scope, (position,)))

    def _stage(self, delta: Delta, chain: Chain | None, now: float) -> Applied:
        if chain is None:
            reason = self._staging.begin(delta, now)
        else:
            reason = self._staging.extend(chain, delta, now)
        if reason is TableReason.KNOWN:
            return self._stale(reason)
        return Applied(Outcome.STAGED) if reason is None else self._refuse(reason)

    def _complete(self, delta: Delta, bases: list[_Base], held: History | None, now: float) -> Applied:
        """Apply the first base whose outcome has the delta's root."""
        for base in bases:
            table = held
            if base.whole or table is None:
                table = History(delta.owner, delta.epoch)
            written = merge(base.frames, table.n)
            ready = _Ready(written, table.preview(written))
            if ready.preview.root == delta.root:
                reason = self._over_limit(held, ready.preview)
                if reason is not None:
                    self._shut_out(delta.owner, Version(delta.epoch, delta.upto), reason, now)
                    return self._refuse(reason)
                return self._apply(table, held, ready, base, now)
        for base in bases:
            if base.chain is not None:
                self._staging.drop(delta.owner, base.chain)
        refused = self._refuse(TableReason.ROOT_MISMATCH)
        if all(base.whole for base in bases):
            return refused  # pulling from 0 again would bring the same: the next digests decide
        return replace(refused, pull=Pull(self.scope, ((delta.owner, delta.epoch, 0),)))

    def _over_limit(self, held: History | None, preview: Preview) -> TableReason | None:
        """Which bound a table would pass; one that shrinks passes none."""
        if held is None and len(self._tables) - (self.owner in self._tables) >= OWNERS[self.scope]:
            return TableReason.OWNERS
        live, size = (0, 0) if held is None else (len(held.live), held.size)
        if preview.live > max(live, self._per_owner):
            return TableReason.OWNER_ENTRIES
        if preview.live > live and self._entries + preview.live - live > self._total:
            return TableReason.TOTAL_ENTRIES
        if preview.size > size and self._bytes + preview.size - size > self._total * ENTRY_BYTES:
            return TableReason.TOTAL_BYTES
        return None

    def _apply(self, table: History, held: History | None, ready: _Ready, base: _Base, now: float) -> Applied:
        """Make `table` what the delta says; `held` is what was there before: the same, another, or nothing."""
        upto = base.frames[-1].upto
        if held is not None:
            self._count_out(held)
        if table is held:
            changes = table.write(ready.written, upto, now, ready.preview)
        else:
            table.load(ready.written, upto, ready.preview)
            changes = table.changes_from(held)
            self._tables[table.owner] = table
        self._entries += len(table.live)
        self._bytes += table.size
        self._dead += len(table.dead)
        if self._dead > self._per_owner:
            self._dead -= table.purge_oldest(len(table.dead))
        self._staging.passed(table.owner, table.version)
        self._shut.pop(table.owner, None)
        self._touch(table.owner)
        self._counts["applied"] += 1
        return Applied(Outcome.APPLIED, tuple(changes), advanced=True, chain=base.frames)

    def _count_out(self, held: History) -> None:
        self._entries -= len(held.live)
        self._bytes -= held.size
        self._dead -= len(held.dead)

    # -- small parts -------------------------------------------------------------------------------------------

    def _refuse(self, reason: TableReason) -> Applied:
        self._refusals[reason] += 1
        return Applied(Outcome.REFUSED, reason=reason)

    def _stale(self, reason: TableReason) -> Applied:
        self._counts["stale"] += 1
        return Applied(Outcome.STALE, reason=reason)

    def _begin(self, own: History) -> None:
        """The own table changed, or exists from now on."""
        self._tables[own.owner] = own
        self._touch(own.owner)

    def _writable(self) -> History:
        if self._own is None:
            raise ValueError(f"this node owns no table in scope {self.scope.name}")
        return self._own
