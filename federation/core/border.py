"""All bridge links of one node, as far as routes cross them: who is told what, and when it leaves.

Decides when tables, updates, retractions, repetitions, digests and requests are sent. What is said of a source is decided
by `announcement`, how it is numbered and paced by `exchange`. Never changes a route.
Invariant: whatever is announced is reported to `advertised` in the same step, before any effect is drained, so that the
feasibility distance is never above what a neighbour may come to know.
Source: design page "Routing", Routes (triggered updates coalesce 50 ms, retractions go at once, digests every 30 s).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from federation.core.announcement import Announcements
from federation.core.exchange import route_root
from federation.core.neighbour import Neighbour
from federation.core.route_settings import RouteSettings
from federation.core.selection import Hop, Key
from mesh.core.effects import Effect, Send
from mesh.model.dice import Dice
from mesh.wire.frames import INFINITY, Routes, RoutesDigest, RouteUpdate, SeqnoRequest


class Border:
    """The sending side towards all neighbours. neighbours: by link. updates, resent, tables: sent so far."""

    __slots__ = (
        "_advertised",
        "_announcements",
        "_dice",
        "_effects",
        "_settings",
        "neighbours",
        "resent",
        "tables",
        "updates",
    )

    def __init__(
        self,
        announcements: Announcements,
        advertised: Callable[[RouteUpdate], None],
        effects: list[Effect],
        settings: RouteSettings,
        dice: Dice,
    ) -> None:
        self._announcements = announcements
        self._advertised = advertised
        self._effects = effects
        self._settings = settings
        self._dice = dice
        self.neighbours: dict[int, Neighbour] = {}
        self.updates = 0
        self.resent = 0
        self.tables = 0

    def up(self, neighbour: Neighbour, sources: Iterable[Key], now: float) -> None:
        """A link is open: announce the whole table on it."""
        neighbour.digest_at = now + self._settings.digest_s * self._dice.uniform(0.5, 1.0)
        self.neighbours[neighbour.link] = neighbour
        self._send_full(neighbour, sources, now)

    def mark(self, key: Key, due: float) -> None:
        """A source may have to be announced anew, at `due` (s) at the latest."""
        for neighbour in self.neighbours.values():
            neighbour.outbound.mark(key, due)

    def withdraw(self, keys: Iterable[Key], now: float) -> None:
        """Retract at once wherever a neighbour was told and now must not be. Cost: O(keys * neighbours)."""
        for neighbour in self.neighbours.values():
            told = neighbour.outbound.announced
            gone = [key for key in keys if key in told and self._announcements.to(neighbour, key) is None]
            for frame in neighbour.outbound.retract(gone, now):
                self._send(neighbour, frame)

    def flush(self, now: float) -> None:
        """Announce what is due."""
        for neighbour in self.neighbours.values():
            if neighbour.outbound.due(now):
                for frame in neighbour.outbound.flush(partial(self._announcements.to, neighbour), now):
                    self._send(neighbour, frame)

    def tend(self, sources: Iterable[Key], now: float) -> None:
        """The links' own deadlines: a whole table that was asked for, frames to repeat, digests."""
        for neighbour in self.neighbours.values():
            if neighbour.full_at is not None and neighbour.full_at <= now:
                self._send_full(neighbour, sources, now)
            for frame in neighbour.outbound.again(now):
                self.resent += 1
                self._effects.append(Send(neighbour.link, frame))
            if neighbour.digest_at <= now:
                self._compare(neighbour, now)

    def _compare(self, neighbour: Neighbour, now: float) -> None:
        # While frames are on their way the digests cannot agree: look again a little later.
        settled = neighbour.outbound.settled
        neighbour.digest_at = now + (self._settings.digest_s if settled else self._settings.full_min_s)
        if settled:
            self._effects.append(Send(neighbour.link, RoutesDigest(self.root(neighbour.link))))

    def root(self, link: int) -> int:
        """Hash of what is announced on a link. Raises KeyError: no such link."""
        return route_root(self.neighbours[link].outbound.announced.values())

    def request(self, hop: Hop, frame: SeqnoRequest, now: float) -> bool:
        """Send a seqno request, unless the link's pace forbids it: it is repeated later. Returns: it was sent."""
        if isinstance(hop, int) and not self.neighbours[hop].outbound.allow_request(now):
            return False
        self._effects.append(Send(hop, frame))
        return True

    def next_deadline(self) -> float | None:
        """When `tend` or `flush` has something to do. Cost: O(neighbours)."""
        times: list[float | None] = []
        for neighbour in self.neighbours.values():
            times += (neighbour.outbound.next_deadline(), neighbour.full_at, neighbour.digest_at)
        return min((at for at in times if at is not None), default=None)

    def _send_full(self, neighbour: Neighbour, sources: Iterable[Key], now: float) -> None:
        keys = (self._announcements.origin, *sources)
        told = [update for key in keys if (update := self._announcements.to(neighbour, key)) is not None]
        neighbour.last_full = now
        neighbour.full_at = None
        self.tables += 1
        self._send(neighbour, neighbour.outbound.full(told, now))

    def _send(self, neighbour: Neighbour, frame: Routes) -> None:
        self._effects.append(Send(neighbour.link, frame))
        self.updates += len(frame.updates)
        for update in frame.updates:
            if update.metric < INFINITY:
                self._advertised(update)
