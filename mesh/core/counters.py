"""Plain counters of one node's data plane: added to on the hot path, read when somebody asks.

Invariant: every event that does not reach a session it was meant for is counted once under its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.model.reasons import Drop


@dataclass(slots=True)
class Counters:
    """published: events taken in here. delivered: handed to sessions here. drops: events (times destinations, where a set
    of regions was lost) by reason; a destination counts once, whatever was wanted there."""

    published: int = 0
    delivered: int = 0
    drops: dict[Drop, int] = field(default_factory=dict)

    def drop(self, reason: Drop, events: int) -> None:
        """Count a drop. Cost: one dictionary update."""
        self.drops[reason] = self.drops.get(reason, 0) + events
