"""What this process registered, and until when.

Decides when a lease is over by this process's own clock: Nacos keeps an ephemeral instance as long as its connection, however
long nobody renews it. So the client itself takes out what was not renewed, up to GONE_S early, as Nacos shows a departure so late;
a process that is stopped or cut off cannot, and Nacos drops its connection after 20 to 30 s.
Never does I/O. Invariant: one lease a name. Source: `registry.base`; Nacos, `ConnectionManager`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mesh.model.ids import NodeKey
from registry.base import Lease, LeaseLost, NodeEntry
from registry.nacos.instance import Claim

GONE_S: Final = 0.5
GONE_OF_LEASE: Final = 0.05
"""But never earlier than this part of a lease."""


@dataclass(slots=True)
class Held:
    """A lease of this process. shown: it is, or should be, among the instances of its connection."""

    claim: Claim
    renewed_s: float
    shown: bool = True

    @property
    def until_s(self) -> float:
        return self.renewed_s + self.claim.lease_s

    @property
    def out_s(self) -> float:
        """When it is to be taken out."""
        return self.until_s - min(GONE_S, GONE_OF_LEASE * self.claim.lease_s)


class Leases:
    """Times are monotonic seconds of the caller."""

    def __init__(self) -> None:
        self._held: dict[NodeKey, Held] = {}
        self._changes = 0

    def next_change(self) -> int:
        self._changes += 1
        return self._changes

    def hold(self, claim: Claim, now: float) -> Held | None:
        """Take a name. Returns what was held of it before."""
        before = self._held.get(claim.entry.key)
        self._held[claim.entry.key] = Held(claim, now)
        return before

    def begin(self, claim: Claim, now: float) -> None:
        """Start the lease's time anew if this claim is still held."""
        held = self._held.get(claim.entry.key)
        if held is not None and held.claim == claim and held.shown:
            held.renewed_s = now

    def put_back(self, key: NodeKey, before: Held | None) -> None:
        """Undo `hold`."""
        if before is None:
            self._held.pop(key, None)
        else:
            self._held[key] = before

    def get(self, lease: Lease, now: float) -> Held:
        """The lease if it is still held. Raises: LeaseLost."""
        held = self._held.get(lease.key)
        where = f"registry entry {lease.key}"
        if held is None or not of_process(held.claim.entry, lease):
            raise LeaseLost(where, "this process does not hold it")
        if now >= held.until_s:
            del self._held[lease.key]
            raise LeaseLost(where, "it was not renewed in time")
        return held

    def drop(self, key: NodeKey) -> None:
        self._held.pop(key, None)

    def entry(self, key: NodeKey) -> Claim | None:
        held = self._held.get(key)
        return None if held is None else held.claim

    def claims(self, region: str) -> tuple[Claim, ...]:
        """What is to be shown of a region, in order."""
        return tuple(
            held.claim for key, held in sorted(self._held.items()) if key.region == region and held.shown
        )

    def regions(self) -> set[str]:
        return {key.region for key in self._held}

    def next_s(self) -> float:
        """When the next one is to be taken out; inf: none."""
        return min((held.out_s for held in self._held.values() if held.shown), default=float("inf"))

    def expire(self, now: float) -> set[str]:
        """Stop showing what was not renewed. Returns the regions that changed."""
        late = {key for key, held in self._held.items() if held.shown and now >= held.out_s}
        for key in late:
            self._held[key].shown = False
        return {key.region for key in late}


def of_process(entry: NodeEntry, lease: Lease) -> bool:
    return (entry.epoch, entry.instance) == (lease.epoch, lease.instance)
