"""What a bridge publishes in its region's table: for each source, the best route over its own links.

Decides when a published route changes (coalesced), waits, or is withdrawn (at once). Never publishes a sibling's route,
which is the iBGP rule: inside a region every route is one hop away from the bridge it leaves by.
Invariant: nothing is published that would make the selected route infeasible. When the own route is of a newer seqno
than the selected sibling's, publication waits until that one has caught up, too.
Source: design page "Routing", Routes; RFC 4456 for the rule between siblings.
"""

from __future__ import annotations

from typing import TypeAlias

from federation.core.policy.roles import Role
from federation.core.route_settings import RouteSettings
from federation.core.selection import Candidate, Key
from federation.core.source import Source
from mesh.model.reasons import RouteReason

Published: TypeAlias = tuple[int, int, int, tuple[str, ...], str]
"""Value of an "r" key of the region's table: (epoch, seqno, metric, path, role of the link it was learned over)."""

_ROLES = frozenset(role.value for role in Role)


def published_value(value: tuple[object, ...] | list[object]) -> Published | None:
    """Read a table value; None when it has another form. One without a role counts as learned over transit."""
    match list(value):
        case [int(epoch), int(seqno), int(metric), list() | tuple() as path, *rest]:
            learned = rest[0] if rest else Role.TRANSIT.value
            names = tuple(name for name in path if isinstance(name, str))
            known = isinstance(learned, str) and learned in _ROLES
            if known and len(names) == len(path) > 0 and min(epoch, seqno) >= 0 < metric:
                return (epoch, seqno, metric, names, str(learned))
    return None


class Publication:
    """This node's part of the region's route table."""

    __slots__ = ("_closed", "_due", "_outdated", "_settings", "_taken", "_told", "_waiting")

    def __init__(self, settings: RouteSettings) -> None:
        self._settings = settings
        self._told: dict[Key, Published] = {}
        self._waiting: dict[Key, Source] = {}
        self._due: float | None = None
        self._outdated: dict[Key, float] = {}
        self._taken: list[tuple[str, str, Published | None]] = []
        self._closed = False

    def consider(self, source: Source, now: float) -> None:
        """Look at a source that was evaluated, and note or withdraw what is published of it."""
        key, external, selected = source.key, source.external, source.selected
        self._waiting.pop(key, None)
        if external is None:
            if key in self._told and not self._merely_outdated(source, now):
                self._withdraw(key)
            return
        self._outdated.pop(key, None)
        assert selected is not None
        if self._closed or external.advert[:2] > selected.advert[:2]:
            return
        if self._told.get(key) != _value(external):
            # A mere new seqno is no less urgent here: a sibling whose route just went may be starved without it.
            self._waiting[key] = source
            due = now + self._settings.coalesce_s
            self._due = due if self._due is None else min(self._due, due)

    def _merely_outdated(self, source: Source, now: float) -> bool:
        """The own route lags behind a seqno that came another way. What was published is still true of the way and
        cannot make a loop, so it stays a moment instead of blinking at every renewal."""
        lags = any(
            route.external and route.refusal is not None and route.refusal.reason is RouteReason.STALE_SEQNO
            for route in source.candidates.values()
        )
        if not lags or self._closed:
            return False
        return now < self._outdated.setdefault(source.key, now) + self._settings.withdraw_grace_s

    def _withdraw(self, key: Key) -> None:
        self._outdated.pop(key, None)
        del self._told[key]
        self._taken.append((*key, None))

    def publish(self, now: float) -> list[tuple[Source, Published]]:
        """Publish what is due. Returns: what is advertised from now on, to lower the feasibility distances by."""
        if self._due is None or self._due > now:
            return []
        self._due = None
        fresh = []
        waiting, self._waiting = self._waiting, {}
        for key, source in waiting.items():
            assert source.external is not None
            value = _value(source.external)
            self._told[key] = value
            self._taken.append((*key, value))
            fresh.append((source, value))
        return fresh

    def outdated(self, now: float) -> list[Key]:
        """Sources whose grace is over: evaluate and consider them again."""
        keys = []
        for key, since in self._outdated.items():
            if now < since + self._settings.withdraw_grace_s:
                break
            keys.append(key)
        return keys

    def next_deadline(self) -> float | None:
        first = next(iter(self._outdated.values()), None)
        grace = None if first is None else first + self._settings.withdraw_grace_s
        if self._due is None or grace is None:
            return grace if self._due is None else self._due
        return min(self._due, grace)

    def close(self) -> None:
        """Withdraw everything, for good."""
        self._closed = True
        self._waiting.clear()
        self._due = None
        for key in list(self._told):
            self._withdraw(key)

    def take(self) -> list[tuple[str, str, Published | None]]:
        """Drain the changes: (region, bridge, value to put, or None to delete). In order."""
        taken, self._taken = self._taken, []
        return taken


def _value(external: Candidate) -> Published:
    advert = external.advert
    return (advert.epoch, advert.seqno, external.metric, external.path, external.learned.value)
