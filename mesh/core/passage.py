"""What the data plane asks of a boundary: of one batch on one link, which part may cross, and in which form.

Decides nothing: rules are in `federation.core.policy`. A link without a `Passage` has no rules, and its batches are not decoded.
Invariant: the plain parts of the pieces and what is denied are together the batch, once for each region.
Source: design pages "Routing" (Boundary) and "Wire and speed" (rule 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mesh.model.event import Event
from mesh.wire.frames import BatchHeader


class Piece(NamedTuple):
    """Part of a batch that may cross. header, body: as they cross. plain_header, plain_body: as they came: what is sent again, or
    another way, is judged again from these."""

    header: BatchHeader
    body: bytes
    plain_header: BatchHeader
    plain_body: bytes


class Denied(NamedTuple):
    """One event that may not cross for these regions. The reason is in the boundary's audit."""

    event: Event
    regions: tuple[str, ...]


@dataclass(slots=True)
class Judged:
    """What became of a batch. malformed: nobody can read it, so that nothing of it crosses."""

    pieces: list[Piece]
    denied: list[Denied]
    malformed: bool = False

    @property
    def denied_weight(self) -> int:
        """Events times regions that may not cross, as drops are counted."""
        return sum(max(1, len(one.regions)) for one in self.denied)

    def denied_regions(self) -> frozenset[str]:
        """Regions that would not get everything."""
        return frozenset(region for one in self.denied for region in one.regions)


class Passage(Protocol):
    """The rules of one link."""

    def outward(self, header: BatchHeader, body: bytes, now: float) -> Judged:
        """What of a batch may leave over the link."""
        ...

    def inward(self, header: BatchHeader, body: bytes, now: float) -> Judged:
        """What of a batch may come in over it."""
        ...
