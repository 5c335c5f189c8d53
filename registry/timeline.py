"""A registry's live entries with the changes that led to them, so that a watch can go on from a revision.

Decides whether a watcher gets changes or has to list again. Used by kinds whose service has no history of its own.
Invariant: applying what `since` returns to what was seen at a revision gives the entries of now.
Source: design page "Routing", The registry; the watch of etcd (API v3: a compacted revision must be listed again).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from mesh.model.ids import NodeKey
from registry.base import Event, Gone, Listing, NodeEntry, Put, Relist, Revision, Watch

HISTORY: Final = 1_024
"""Changes remembered; a watcher further behind lists again."""


class Timeline:
    """Live entries and their last HISTORY changes. Args: name: tells revisions of one timeline from those of another."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._number = 0
        self._history: deque[Put | Gone] = deque(maxlen=HISTORY)
        self.entries: dict[NodeKey, NodeEntry] = {}

    @property
    def revision(self) -> Revision:
        return Revision(f"{self._name}.{self._number}")

    def put(self, entry: NodeEntry) -> bool:
        """An entry is live. Returns False if it was already, and the same."""
        if self.entries.get(entry.key) == entry:
            return False
        self.entries[entry.key] = entry
        self._number += 1
        self._history.append(Put(self.revision, entry))
        return True

    def end(self, key: NodeKey, reason: str) -> bool:
        """An entry ended. Returns False if there was none."""
        if self.entries.pop(key, None) is None:
            return False
        self._number += 1
        self._history.append(Gone(self.revision, key, reason))
        return True

    def listing(self, region: str | None) -> Listing:
        """What is live, in order. Cost: O(entries)."""
        found = [self.entries[key] for key in sorted(self.entries) if region in (None, key.region)]
        return Listing(self.revision, tuple(found))

    def since(self, after: Revision | None, region: str | None) -> list[Event]:
        """Changes of a region (None: of all) after a revision, or one Relist where they are not known any more."""
        name, _, number = (after or "").rpartition(".")
        behind = self._number - int(number) if name == self._name and number.isdecimal() else -1
        if not 0 <= behind <= len(self._history):
            return [Relist(self.listing(region))]
        recent = [self._history[index] for index in range(len(self._history) - behind, len(self._history))]
        return [event for event in recent if region in (None, _region(event))]


class TimelineWatch(Watch):
    """A watch on a timeline that somebody else brings up to date.

    Args: refresh: brings it up to date. wait: returns when there may be something new.
    """

    def __init__(
        self,
        timeline: Timeline,
        region: str | None,
        after: Revision | None,
        refresh: Callable[[], Awaitable[None]],
        wait: Callable[[], Awaitable[None]],
    ) -> None:
        self._timeline = timeline
        self._region = region
        self._after = after
        self._refresh = refresh
        self._wait = wait

    async def next(self) -> list[Event]:
        while True:
            await self._refresh()
            events = self._timeline.since(self._after, self._region)
            self._after = self._timeline.revision
            if events:
                return events
            await self._wait()


def _region(event: Put | Gone) -> str:
    return event.entry.region if isinstance(event, Put) else event.key.region
