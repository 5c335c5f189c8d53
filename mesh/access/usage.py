"""What each principal uses of what it may: events and bytes a second, connections, subscriptions.

Decides when one more is too much. Buckets hold one second's worth: a call passes while anything is left in them and takes what it
needs, so that a call larger than a bucket passes too, and those behind it wait. Never knows rules or requests.
Invariant: over any time t a principal publishes at most (t + 1 s) times its rate, and one call more.
Bounds: PRINCIPALS are remembered; the one not seen for longest that has no connection goes first.
Source: design page "Architecture" (limits on everything); the token bucket as in RFC 2697 section 3.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from mesh.access.principal import Principal
from mesh.access.rights import Allowance

PRINCIPALS: Final = 10_000


@dataclass(slots=True)
class Use:
    """Of one principal. Counts are since the node started, or since it was forgotten."""

    principal: Principal
    connections: int = 0
    subscriptions: int = 0
    events: int = 0
    bytes: int = 0
    denied: int = 0
    limited: int = 0
    events_left: float = 0.0
    bytes_left: float = 0.0
    filled_at: float = float("-inf")

    def wait_s(self, events: int, size_bytes: int, allowance: Allowance, now: float) -> float:
        """Take what a call needs; 0 when it may pass, else how long until one may, and nothing was taken."""
        per_s, bytes_per_s = allowance.events_per_s, allowance.bytes_per_s
        if per_s is not None or bytes_per_s is not None:
            passed_s = min(now - self.filled_at, 3_600.0)
            self.filled_at = now
            wait_s = 0.0
            if per_s is not None:
                most = max(per_s, 1.0)
                self.events_left = min(most, self.events_left + passed_s * per_s)
                # A whole event must be there, but never more than a bucket holds.
                if self.events_left < 1.0 - 1e-9:
                    wait_s = (1.0 - self.events_left) / per_s
            if bytes_per_s is not None:
                self.bytes_left = min(bytes_per_s, self.bytes_left + passed_s * bytes_per_s)
                if self.bytes_left <= 0:
                    wait_s = max(wait_s, (1.0 - self.bytes_left) / bytes_per_s)
            if wait_s > 0:
                self.limited += 1
                return wait_s
            self.events_left -= events if per_s is not None else 0
            self.bytes_left -= size_bytes if bytes_per_s is not None else 0
        self.events += events
        self.bytes += size_bytes
        return 0.0


class Usage:
    """All principals of a node."""

    def __init__(self) -> None:
        self._uses: OrderedDict[tuple[str, str], Use] = OrderedDict()

    def __len__(self) -> int:
        return len(self._uses)

    def of(self, principal: Principal) -> Use:
        """The use of one principal: the same for all its connections."""
        key = (principal.kind.value, principal.name)
        found = self._uses.get(key)
        if found is None:
            if len(self._uses) >= PRINCIPALS:
                self._forget()
            found = self._uses[key] = Use(principal)
        else:
            self._uses.move_to_end(key)
        return found

    def _forget(self) -> None:
        idle = next((key for key, use in self._uses.items() if not use.connections), None)
        self._uses.pop(idle if idle is not None else next(iter(self._uses)))

    def all(self) -> list[Use]:
        """Every one that is remembered."""
        return list(self._uses.values())
