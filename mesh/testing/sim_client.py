"""Clients of a simulated node that acknowledge what they get: durable ones by name, and live sessions that ask for it.

Decides when a client acknowledges, refuses or forgets an event, by its habit and the world's dice. Decides nothing of delivery.
Invariant: a client acknowledges an event only after it was delivered to it, and only over the connection that brought it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mesh.core.custody.window import AckTerms

TERMS: Final = AckTerms(auto=False, ack_timeout_s=3.0, max_deliveries=1_000, window=64)
"""Of clients here: what they refuse again and again is delivered again and again, so that nothing but faults ends an event."""


class Habit(NamedTuple):
    """How clients of a node behave. slowest_s: until an acknowledgement. refuses, forgets: shares of deliveries."""

    slowest_s: float = 0.02
    refuses: float = 0.0
    forgets: float = 0.0

    @property
    def repeats(self) -> bool:
        """Whether such a client makes an event come again though nothing went wrong."""
        return bool(self.refuses or self.forgets)

    def answers(self, dice: random.Random) -> bool | None:
        """True: acknowledges. False: refuses. None: neither."""
        chance = dice.random()
        if chance < self.forgets:
            return None
        return chance >= self.forgets + self.refuses


@dataclass(slots=True, eq=False)
class DurableSim:
    """A durable client as its person sees it: what it subscribed to, whether it wants to be connected, and whether it is. number: its
    session at the node while it is connected. connection: counts its connections."""

    name: str
    subscriptions: dict[int, tuple[str, str]] = field(default_factory=dict)
    terms: AckTerms = TERMS
    wants: bool = True
    number: int = 0
    connection: int = 0
