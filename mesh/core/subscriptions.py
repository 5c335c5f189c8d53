"""The subscriptions of this node's own client sessions: who gets an event that is delivered here.

Decides which sessions match a topic and under which of their numbers (sids), which member of a queue group is next, and
which changes the rest of the region must hear of. Never delivers and never checks a bound or a filter: its caller did.
Invariant: counts are exact. A `Transition` is returned exactly when a plain filter gets its first or loses its last
subscription, or when the bucket of a group's member count changes; so the transitions added up equal `held()`.
Source: design page "Routing", section Interest (0<->1 transitions, session leaves) and Forwarding (queue groups).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from mesh.core.trie import FilterTrie, TopicCache

CACHE_WEIGHT: Final = 262_144  # remembered topics, each counted as 1 and its sessions (8 bytes each)

Entry: TypeAlias = tuple[int, tuple[int, ...]]
"""A session and those of its sids that match, ascending."""

_Leaf: TypeAlias = tuple[int, int] | dict[int, Entry]
"""(session, sid) while a filter has one subscription, as most have: a fifth of the dict's memory."""

Group: TypeAlias = tuple[str, str]
"""A queue group is (GROUP, FILTER)."""


class Transition(NamedTuple):
    """What the region must be told. group: "" for a plain filter. members: bucketed count from now on, 0: withdrawn."""

    group: str
    filter: str
    members: int


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """sessions: with at least one subscription. plain_filters, groups: distinct ones. searches: matches not answered
    from the cache. cached: topics remembered."""

    sessions: int
    subscriptions: int
    plain_filters: int
    groups: int
    searches: int
    cached: int


def bucket(count: int) -> int:
    """A member count as others see it: 0, or the largest power of two up to it, so that only a change by a factor of
    about two makes a new table version."""
    return 1 << (count.bit_length() - 1) if count > 0 else 0


class SubscriptionIndex:
    """All subscriptions of the local sessions. Cost: 3 to 6 us a change; about 290 bytes a subscription, its
    filter's text included."""

    __slots__ = ("_cache", "_groups", "_plain", "_searches", "_sessions", "_subscriptions", "generation")

    def __init__(self, *, cache_weight: int = CACHE_WEIGHT) -> None:
        self.generation = 0
        """Grows with every change of a plain subscription: what `match` answered before may be wrong."""
        self._plain: FilterTrie[_Leaf] = FilterTrie()
        # Members in the order in which they are served: a member that was chosen goes to the end.
        self._groups: dict[Group, OrderedDict[tuple[int, int], None]] = {}
        # session -> sid -> the plain filter, or the group it joined.
        self._sessions: dict[int, dict[int, str | Group]] = {}
        self._subscriptions = 0
        self._cache: TopicCache[tuple[int, tuple[Entry, ...]]] = TopicCache(cache_weight)
        self._searches = 0

    def subscribe(self, session: int, sid: int, filter: str, group: str = "") -> tuple[Transition, ...]:
        """Add a subscription under the session's own number.

        Args:
            filter: plain and well formed (`$share/...` already split). group: "" for none.
        Returns: what the region must be told, if anything.
        Raises: ValueError if the session uses this sid already; state unaffected.
        """
        own = self._sessions.setdefault(session, {})
        if sid in own:
            raise ValueError(
                f"session {session}: sid {sid} is in use. Unsubscribe it or choose another number"
            )
        self._subscriptions += 1
        if group:
            own[sid] = key = (group, filter)
            members = self._groups.setdefault(key, OrderedDict())
            members[session, sid] = None
            return _bucket_change(key, len(members) - 1, len(members))
        own[sid] = filter
        self.generation += 1
        leaf = self._plain.get(filter)
        if leaf is None:
            self._plain.put(filter, (session, sid))
            return (Transition("", filter, 1),)
        if isinstance(leaf, tuple):
            leaf = {leaf[0]: (leaf[0], (leaf[1],))}
            self._plain.put(filter, leaf)
        known = leaf.get(session)
        leaf[session] = (session, (sid,) if known is None else tuple(sorted((*known[1], sid))))
        return ()

    def unsubscribe(self, session: int, sid: int) -> tuple[Transition, ...]:
        """Remove one subscription. Returns: what the region must be told. Raises: KeyError if unknown; state unaffected."""
        own = self._sessions.get(session)
        if own is None or sid not in own:
            raise KeyError(f"session {session} has no subscription {sid}")
        held = own.pop(sid)
        if not own:
            del self._sessions[session]
        return self._take_out(session, sid, held)

    def drop_session(self, session: int) -> tuple[Transition, ...]:
        """Remove a session with all it subscribed to; unknown: nothing happens. Cost: that of its subscriptions.

        Returns: one transition for each filter or group that changed, with where it ended.
        """
        last: dict[Group, Transition] = {}
        for sid, held in self._sessions.pop(session, {}).items():
            for transition in self._take_out(session, sid, held):
                last[transition.group, transition.filter] = transition
        return tuple(last.values())

    def _take_out(self, session: int, sid: int, held: str | Group) -> tuple[Transition, ...]:
        self._subscriptions -= 1
        if isinstance(held, tuple):
            members = self._groups[held]
            del members[session, sid]
            if not members:
                del self._groups[held]
            return _bucket_change(held, len(members) + 1, len(members))
        self.generation += 1
        leaf = self._plain.get(held)
        assert leaf is not None, "a session's filter is in the trie"
        if isinstance(leaf, tuple):
            assert leaf == (session, sid), "a filter of one subscription belongs to it"
            self._plain.pop(held)
            return (Transition("", held, 0),)
        sids = tuple(other for other in leaf[session][1] if other != sid)
        if sids:
            leaf[session] = (session, sids)
        else:
            del leaf[session]
        if not leaf:
            self._plain.pop(held)
            return (Transition("", held, 0),)
        return ()

    def match(self, topic: str) -> tuple[Entry, ...]:
        """The sessions with plain subscriptions that match `topic`, each once with all its matching sids.

        Cost: 0.15 us when nothing changed since it was last asked, else a search of the trie and 0.1 us a session.
        """
        known = self._cache.get(topic)
        if known is not None and known[0] == self.generation:
            return known[1]
        self._searches += 1
        entries = _merge(self._plain.match(topic))
        self._cache.keep(topic, (self.generation, entries), 1 + len(entries))
        return entries

    def next_in_group(self, group: str, filter: str) -> tuple[int, int] | None:
        """(session, sid) of the member whose turn it is, and the turn passes on; None without members. Cost: 0.4 us."""
        members = self._groups.get((group, filter))
        if members is None:
            return None
        member = next(iter(members))
        members.move_to_end(member)
        return member

    def group_sessions(self, group: str, filter: str) -> tuple[tuple[int, int], ...]:
        """(session, sid) of all members, whose turn is next first. Cost: their number."""
        return tuple(self._groups.get((group, filter), ()))

    def member_count(self, group: str, filter: str) -> int:
        """Members of a group on this node, exact; for group "" the subscriptions to exactly this plain filter."""
        if group:
            return len(self._groups.get((group, filter), ()))
        leaf = self._plain.get(filter)
        if leaf is None:
            return 0
        return 1 if isinstance(leaf, tuple) else sum(len(sids) for _, sids in leaf.values())

    def of_session(self, session: int) -> Mapping[int, str | Group]:
        """sid -> plain filter, or (group, filter), of one session. A live view: read it, do not keep it."""
        return MappingProxyType(self._sessions.get(session, {}))

    def sessions(self) -> Iterator[int]:
        """Sessions with at least one subscription. The index must not change meanwhile."""
        return iter(self._sessions)

    def held(self) -> tuple[Transition, ...]:
        """Everything the region was told, as if told anew: for rebuilding a table. Cost: all subscriptions."""
        plain = {held for own in self._sessions.values() for held in own.values() if isinstance(held, str)}
        groups = ((key, bucket(len(members))) for key, members in self._groups.items())
        return (
            *(Transition("", filter, 1) for filter in sorted(plain)),
            *(Transition(key[0], key[1], members) for key, members in sorted(groups)),
        )

    def statistics(self) -> SubscriptionStatistics:
        """A frozen count. Cost: constant."""
        return SubscriptionStatistics(
            sessions=len(self._sessions),
            subscriptions=self._subscriptions,
            plain_filters=len(self._plain),
            groups=len(self._groups),
            searches=self._searches,
            cached=len(self._cache),
        )


def _bucket_change(key: Group, before: int, after: int) -> tuple[Transition, ...]:
    told = bucket(after)
    return () if bucket(before) == told else (Transition(key[0], key[1], told),)


def _merge(leaves: list[_Leaf]) -> tuple[Entry, ...]:
    """One entry for each session. Entries of leaves are shared, not copied: 10,000 sessions on a filter cost each
    remembered topic 8 bytes a session."""
    if not leaves:
        return ()
    if len(leaves) == 1:
        return tuple(_entries(leaves[0]))
    merged: dict[int, Entry] = {}
    for leaf in leaves:
        for entry in _entries(leaf):
            session = entry[0]
            known = merged.get(session)
            merged[session] = entry if known is None else (session, tuple(sorted(known[1] + entry[1])))
    return tuple(merged.values())


def _entries(leaf: _Leaf) -> Iterable[Entry]:
    return ((leaf[0], (leaf[1],)),) if isinstance(leaf, tuple) else leaf.values()
