"""One subscription of a client as it was asked for, and the filters that stand for it at the node.

Decides under which numbers its pieces are kept, and what has to change when other pieces are allowed.
Invariant: a subscription that is allowed whole has one piece, under its own sid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from mesh.access.screen import PIECE


@dataclass(slots=True)
class Held:
    """filter: as asked, without the group. pieces: number at the node -> filter. replayed: it began in the event log."""

    filter: str
    group: str
    pieces: dict[int, str]
    replayed: bool = False

    @classmethod
    def of(cls, sid: int, filter: str, group: str, filters: Sequence[str]) -> Held:
        """A subscription with its pieces numbered: sid, sid + PIECE, ..."""
        return cls(filter, group, {sid + at * PIECE: piece for at, piece in enumerate(filters)})

    def moved_to(self, fresh: Held) -> tuple[list[int], dict[int, str]] | None:
        """The numbers that go, and the pieces that come, to be what `fresh` is; None where it is already."""
        wanted, present = set(fresh.pieces.values()), set(self.pieces.values())
        if wanted == present:
            return None
        gone = [number for number, piece in self.pieces.items() if piece not in wanted]
        sid = min(self.pieces) % PIECE
        free = (sid + at * PIECE for at in count(0) if sid + at * PIECE not in self.pieces)
        coming = [piece for piece in fresh.pieces.values() if piece not in present]
        return gone, dict(zip(free, coming, strict=False))
