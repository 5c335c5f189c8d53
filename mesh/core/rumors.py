"""The words about members that wait to be told on, and how often each was told.

Decides which words go out next: those told least often first, among them the newest first, so that fresh news is never
behind old. Never decides to whom.
Invariant: at most one word for each member, the last one put; each is taken at most `limit` times after it was put.
Bound: one word a member, so as many as the roster holds.
Source: SWIM (Das, Gupta, Motivala 2002) section 4.1; design page "Routing", Membership.
"""

from __future__ import annotations

from collections import deque

from mesh.wire.frames import Member


class Rumors:
    """Words by the number of times they were taken: level i holds those taken i times, in the order they came there."""

    __slots__ = ("_home", "_levels")

    def __init__(self) -> None:
        self._levels: deque[dict[str, Member]] = deque(({},))
        self._home: dict[str, dict[str, Member]] = {}  # member -> the level its word is on

    def __len__(self) -> int:
        return len(self._home)

    def put(self, word: Member) -> None:
        """Tell this from now on, in place of any earlier word about the same member. Cost: O(1)."""
        self.drop(word.node)
        level = self._home[word.node] = self._levels[0]
        level[word.node] = word

    def drop(self, node: str) -> None:
        """Say nothing more about `node`. Idempotent."""
        level = self._home.pop(node, None)
        if level is not None:
            del level[node]

    def take(self, count: int, limit: int) -> tuple[Member, ...]:
        """Take up to `count` words for one frame; a word taken `limit` times is dropped.

        Cost: O(words taken + levels); levels are at most the largest `limit` so far.
        """
        if not self._home or count <= 0:
            return ()
        if len(self._home) <= count:
            return self._take_all(limit)
        taken: list[tuple[int, Member]] = []
        for told, level in enumerate(self._levels):
            while level and len(taken) < count:
                taken.append((told, level.popitem()[1]))
            if len(taken) == count:
                break
        # Backwards, so that the newest word stays the newest on its next level.
        for told, word in reversed(taken):
            if told + 1 >= limit:
                del self._home[word.node]
                continue
            if told + 1 == len(self._levels):
                self._levels.append({})
            level = self._home[word.node] = self._levels[told + 1]
            level[word.node] = word
        return tuple(word for _, word in taken)

    def _take_all(self, limit: int) -> tuple[Member, ...]:
        """Every word goes out, so every level moves up by one."""
        words = [word for level in self._levels for word in level.values()]
        self._levels.appendleft({})
        while len(self._levels) > limit:
            for node in self._levels.pop():
                del self._home[node]
        return tuple(words)
