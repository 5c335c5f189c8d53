"""Changes told to those who watch: one publisher, a few bounded queues.

Decides what a slow watcher loses: its oldest changes, counted, so that the publisher never waits.
Never decides what a change is.
Invariant: published while watching = received + queued + lost, for every watcher.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from mesh.model.errors import MeshError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WATCHERS: Final = 64
QUEUED_CHANGES: Final = 1_024


class Watch:
    """One watcher's end. lost: changes dropped because it read too slowly."""

    def __init__(self, bound: int) -> None:
        self.lost = 0
        self._queue: deque[dict[str, object]] = deque(maxlen=bound)
        self._wake = trio.Event()
        self._closed = False

    def put(self, change: dict[str, object]) -> int:
        """Queue a change; returns how many were lost for it (0 or 1). Never blocks."""
        lost = int(len(self._queue) == self._queue.maxlen)
        self.lost += lost
        self._queue.append(change)
        self._wake.set()
        return lost

    def close(self) -> None:
        """What is queued can still be received; then receive returns []."""
        self._closed = True
        self._wake.set()

    async def receive(self) -> list[dict[str, object]]:
        """Wait for changes and take all that are queued; [] means that the feed is closed."""
        await trio.lowlevel.checkpoint()
        while not self._queue and not self._closed:
            self._wake = trio.Event()
            await self._wake.wait()
        changes = list(self._queue)
        self._queue.clear()
        return changes


class Feed:
    """Fans changes out to watchers.

    Args: bound: changes queued for each watcher. watchers: how many may watch at once.
    """

    def __init__(self, bound: int = QUEUED_CHANGES, watchers: int = WATCHERS) -> None:
        self.lost = 0
        self._bound = bound
        self._watchers = watchers
        self._watching: list[Watch] = []
        self._closed = False

    def __bool__(self) -> bool:
        """Whether anybody watches: a publisher need not make changes for nobody."""
        return bool(self._watching)

    def publish(self, change: dict[str, object]) -> None:
        """Tell every watcher. Cost: O(watchers). Never blocks."""
        for watch in self._watching:
            self.lost += watch.put(change)

    def close(self) -> None:
        """End every watch, and those to come: the node stops."""
        self._closed = True
        for watch in self._watching:
            watch.close()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        """Watch while inside. Raises MeshError MESH-A019 when `watchers` do already."""
        if len(self._watching) >= self._watchers:
            raise MeshError("MESH-A019", "watch", f"{self._watchers} watches are open")
        watch = Watch(self._bound)
        if self._closed:
            watch.close()
        self._watching.append(watch)
        try:
            yield watch
        finally:
            self._watching.remove(watch)
            watch.close()
