"""What a bridge tells the mesh its region wants: the region's interest, summarised, in the bridge's own WORLD table.

Decides when an entry appears (at once, changes coalesced for at most 20 ms), when it goes (5 s after the last node dropped
it, cancelled by a re-add), and which versions of the nodes' tables it covers, where somebody waits for a receipt.
Never sends: writing to the table is publishing.
Invariant: every filter of a live node of the region is covered by an entry of the table, at the latest 20 ms after it is known here.
Source: design page "Routing", Interest.
"""

from __future__ import annotations

from typing import Final

import msgspec

from federation.core.reach import FILTER_KEY, GROUP_KEY, MEMBERS_MAX, group_key, split_group_key
from federation.core.summary import Summary
from mesh.core.subscriptions import bucket
from mesh.core.tables import TableSet
from mesh.model.ids import Version

COALESCE_S: Final = 0.02
MERGING_COALESCE_S: Final = 0.2
"""The same above the budget, where working out what changed costs up to 30 ms."""
REMOVE_AFTER_S: Final = 5.0
WAITING_KEY: Final = "w"
COVERS_KEY: Final = "c"

_encode = msgspec.msgpack.encode
EXACT: Final = _encode(0)
MERGED: Final = _encode(1)


class Advertiser:
    """Args:
        table: the WORLD tables, of which this bridge owns one.
        budget: filters exported before the summary merges.
    Cost: O(1) a change, plus the summary's own cost; a flush costs the changed entries.
    """

    def __init__(self, table: TableSet, budget: int) -> None:
        self._table = table
        self._summary = Summary(budget)
        self._groups: dict[tuple[str, str], dict[str, int]] = {}
        self._held: dict[str, set[str]] = {}  # node -> its filters
        self._covers: dict[str, Version] = {}
        self._published: dict[str, bytes] = {}
        self._remove_at: dict[str, float] = {}
        self._dirty_groups: set[tuple[str, str]] = set()
        self._flush_at: float | None = None
        self._flushed_at = float("-inf")

    def entry(self, node: str, key: str, value: bytes | None, now: float) -> None:
        """A node of the region (this one included) gained, changed or lost an interest entry."""
        if key[0] == FILTER_KEY:
            self._filter(node, key[1:], value is not None)
        elif key[0] == GROUP_KEY:
            name = split_group_key(key)
            members = self._groups.setdefault(name, {})
            if value is None:
                members.pop(node, None)
            else:
                members[node] = max(0, msgspec.msgpack.decode(value, type=int))
            self._dirty_groups.add(name)
        self._touch(now)

    def _filter(self, node: str, filter: str, present: bool) -> None:
        """The summary counts nodes a filter: a value that was only rewritten must not count twice."""
        held = self._held.setdefault(node, set())
        if present and filter not in held:
            held.add(filter)
            self._summary.add(filter)
        elif not present and filter in held:
            held.discard(filter)
            self._summary.remove(filter)

    def waiting(self, node: str, version: Version | None, now: float) -> None:
        """A node waits for receipts of what its table said at `version`; None: no longer."""
        if version is None:
            self._covers.pop(node, None)
        else:
            self._covers[node] = version
        self._touch(now)

    def _touch(self, now: float) -> None:
        """The first change goes out at once; those that follow within 20 ms go together."""
        if self._flush_at is None:
            pace_s = MERGING_COALESCE_S if self._summary.merging else COALESCE_S
            self._flush_at = max(now, self._flushed_at + pace_s)

    def next_deadline(self) -> float | None:
        due = list(self._remove_at.values())
        if self._flush_at is not None:
            due.append(self._flush_at)
        return min(due, default=None)

    def handle_deadline(self, now: float) -> None:
        """Write what is due into the table."""
        if self._flush_at is not None and now >= self._flush_at:
            self._flush(now)
        for key in [key for key, at in self._remove_at.items() if at <= now]:
            del self._remove_at[key]
            self._published.pop(key, None)
            self._table.delete(key, now)

    def _flush(self, now: float) -> None:
        self._flush_at = None
        self._flushed_at = now
        added, removed = self._summary.take_changes()
        for filter, merged in added.items():
            self._put(FILTER_KEY + filter, MERGED if merged else EXACT, now)
        for filter in removed:
            self._remove_later(FILTER_KEY + filter, now)
        for name in self._dirty_groups:
            members = min(MEMBERS_MAX, sum(self._groups[name].values()))
            if members:
                self._put(group_key(*name), _encode(bucket(members)), now)
            else:
                del self._groups[name]
                self._remove_later(group_key(*name), now)
        self._dirty_groups.clear()
        if self._covers:
            # After the interest itself: whoever holds this entry holds all that it covers.
            self._put(
                COVERS_KEY,
                _encode({node: list(version) for node, version in sorted(self._covers.items())}),
                now,
            )
        elif COVERS_KEY in self._published:
            self._remove_later(COVERS_KEY, now)

    def _put(self, key: str, value: bytes, now: float) -> None:
        self._remove_at.pop(key, None)
        if self._published.get(key) != value:
            self._published[key] = value
            self._table.put(key, value, now)

    def _remove_later(self, key: str, now: float) -> None:
        if key in self._published:
            self._remove_at.setdefault(key, now + REMOVE_AFTER_S)
