"""What a boundary has to remember for its two directions: requests whose replies may come back, and names of queue groups.

Decides whether a reply belongs to a request that crossed the other way, and under which filter a group is known on each side.
Bounds: `most` requests in each direction, the oldest go first; each is forgotten after `wait_s`. Names: as many as interest entries.
Source: design page "Routing", Boundary (a reply crosses inwards only against a live outbound request).
"""

from __future__ import annotations

from collections import OrderedDict

from federation.core.policy.rules import Direction

GroupName = tuple[str, str, str]
"""(region, group, filter)."""


class Requests:
    """Requests under way over one boundary, in both directions. Cost: O(1)."""

    def __init__(self, most: int, wait_s: float) -> None:
        self._most = most
        self._wait_s = wait_s
        self._live: dict[Direction, OrderedDict[str, float]] = {
            direction: OrderedDict() for direction in Direction
        }
        self.forgotten = 0
        """Requests that went because there were too many: their replies are denied."""

    def crossed(self, direction: Direction, reply_to: str, now: float) -> None:
        """A request crossed. reply_to: REGION/NODE/INBOX."""
        live = self._live[direction]
        live.pop(reply_to, None)
        live[reply_to] = now + self._wait_s
        while live and (len(live) > self._most or next(iter(live.values())) <= now):
            _, until = live.popitem(last=False)
            self.forgotten += until > now

    def answers(self, direction: Direction, reply_to: str, now: float, *, ends: bool) -> bool:
        """Whether mail that wants to cross in a direction answers a live request that crossed the other way. ends: it is the reply."""
        other = Direction.IMPORT if direction is Direction.EXPORT else Direction.EXPORT
        until = self._live[other].get(reply_to)
        if until is None or until <= now:
            return False
        if ends:
            del self._live[other][reply_to]
        return True

    def live(self, direction: Direction) -> int:
        """How many are remembered."""
        return len(self._live[direction])


class GroupNames:
    """Filters of queue groups on both sides. before: as where events come from; after: as where they go."""

    def __init__(self) -> None:
        self._after: dict[GroupName, str] = {}
        """(region, group, filter before the crossing) -> after it."""

    def replace(self, names: dict[GroupName, str]) -> None:
        """All names of one direction of a link."""
        self._after = names

    def after(self, region: str, group: str, before: str) -> str | None:
        """The filter after the crossing, None where the group was never told across."""
        return self._after.get((region, group, before))
