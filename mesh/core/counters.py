"""Plain counters of one node's data plane: added to on the hot path, read when somebody asks.

Invariant: every event that does not reach a session it was meant for is counted once under its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.model.reasons import Drop, Short


@dataclass(slots=True)
class Counters:
    """published: events taken in here. delivered: handed to sessions here. drops: events (times destinations, where a set
    of regions was lost) by reason; a destination counts once, whatever was wanted there."""

    published: int = 0
    delivered: int = 0
    drops: dict[Drop, int] = field(default_factory=dict)
    passed_window: int = 0
    """Events at least once that were below the dedupe window: delivered, and nobody can say whether again."""
    order_gaps: int = 0
    """Events of ordered topics that were handed over although the one before them had not come in time."""
    refused: dict[str, int] = field(default_factory=dict)
    """Batches in custody that a next hop did not take, by its reason: kept here, and tried again."""
    dead_letters: dict[Drop, int] = field(default_factory=dict)
    """Events (times destinations) that ended as dead letters here."""

    copies_short: dict[Short, int] = field(default_factory=dict)
    """Events accepted with one copy where a rule wants two."""
    copies_taken: int = 0
    """Records of nodes that are gone that this node took over."""

    def drop(self, reason: Drop, events: int) -> None:
        """Count a drop. Cost: one dictionary update."""
        self.drops[reason] = self.drops.get(reason, 0) + events

    def refuse(self, reason: str) -> None:
        """Count a batch that came back."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def dead_letter(self, reason: Drop, events: int) -> None:
        """Count events that ended as dead letters."""
        self.dead_letters[reason] = self.dead_letters.get(reason, 0) + events
