"""Long deltas under way: the frames of each that arrived so far, until the last one lets the table set apply the whole.

Decides which frame continues which chain, and when one is given up. Never looks at roots and never changes a table.
Invariant: frames of a chain follow one another without a gap; the bytes staged never pass the bound given.
A delta is split only by its sender, and its frames follow each other on one link: a chain that lost a frame is not mended,
the next exchange of digests sends the whole again.
Source: design page "Routing", Interest (deltas by version).
"""

from __future__ import annotations

from typing import Final

from mesh.core.deltas import weigh
from mesh.model.ids import Version
from mesh.model.reasons import TableReason
from mesh.wire.frames import Delta

CHAINS: Final = 4
"""Long deltas of one owner under way at once, from different peers; the oldest makes room."""
CHAIN_AGE_S: Final = 30.0
"""A chain without a new frame for this long is dropped."""


class Chain:
    """The frames of one long delta, in order, without its last."""

    __slots__ = ("epoch", "frames", "seen", "since", "size")

    def __init__(self, first: Delta, now: float) -> None:
        self.epoch = first.epoch
        self.since = first.since
        self.frames = [first]
        self.size = weigh(first)
        self.seen = now

    @property
    def upto(self) -> int:
        return self.frames[-1].upto


class Staging:
    """All chains of a table set, by owner. Args: bound: bytes staged at once, over all owners."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._chains: dict[str, list[Chain]] = {}
        self.size = 0

    def continued_by(self, delta: Delta) -> Chain | None:
        """The chain whose end is this frame's beginning. Cost: O(CHAINS)."""
        if delta.since > 0:
            for chain in self._chains.get(delta.owner, ()):
                if chain.epoch == delta.epoch and chain.upto == delta.since:
                    return chain
        return None

    def under_way(self, owner: str, epoch: int) -> bool:
        """Whether a long delta of this owner's epoch is arriving."""
        return any(chain.epoch == epoch for chain in self._chains.get(owner, ()))

    def extend(self, chain: Chain, delta: Delta, now: float) -> TableReason | None:
        """Add the next frame. Returns: None, or why not (the chain is given up)."""
        size = weigh(delta)
        if self.size + size > self._bound:
            self.drop(delta.owner, chain)
            return TableReason.STAGED_BYTES
        chain.frames.append(delta)
        chain.size += size
        chain.seen = now
        self.size += size
        return None

    def begin(self, delta: Delta, now: float) -> TableReason | None:
        """Start a chain. Returns: None, or why not: its first frame is there already, or the bound is reached."""
        chains = self._chains.get(delta.owner, [])
        for staged in chains:
            first = staged.frames[0]
            if (first.epoch, first.since, first.upto) == (delta.epoch, delta.since, delta.upto):
                return TableReason.KNOWN
        chain = Chain(delta, now)
        if self.size + chain.size > self._bound:
            return TableReason.STAGED_BYTES
        if len(chains) >= CHAINS:
            self.drop(delta.owner, min(chains, key=lambda chain: chain.seen))
        self._chains.setdefault(delta.owner, []).append(chain)
        self.size += chain.size
        return None

    def drop(self, owner: str, chain: Chain) -> None:
        """Give one chain up."""
        chains = self._chains[owner]
        chains.remove(chain)
        self.size -= chain.size
        if not chains:
            del self._chains[owner]

    def passed(self, owner: str, version: Version | None) -> None:
        """The owner's table reached `version`: chains that end at or before it are of no use. None: all of them."""
        for chain in list(self._chains.get(owner, ())):
            if version is None or Version(chain.epoch, chain.upto) <= version:
                self.drop(owner, chain)

    def expire(self, now: float) -> None:
        """Drop chains that stand still. Cost: O(chains)."""
        for owner, chains in list(self._chains.items()):
            for chain in list(chains):
                if now - chain.seen >= CHAIN_AGE_S:
                    self.drop(owner, chain)
