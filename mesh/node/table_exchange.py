"""How versioned tables travel over a node's links: news pushed, digests compared, summaries flooded once.

Decides who is sent which delta, digest or pull, and how much one link may ask. Never decides what an entry means.
Invariant: a delta goes back neither over the link nor into the region it came from.
Source: design page "Routing", Interest (eager push, gossip as repair) and Security (limits for each peer).
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.effects import Effect, Send
from mesh.core.plan import Links
from mesh.core.session import LinkSession
from mesh.core.tables import TableSet
from mesh.model.dice import Dice
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.wire.frames import Delta, Digest, Pull, Scope

NEWS_COALESCE_S = 0.02
"""A node's first change goes out at once; those of the next 20 ms go together."""
ANTI_ENTROPY_S = 1.0
"""One random peer a second compares roots: gossip as repair of what the eager push missed."""
RESYNC_S = 30.0
"""Each bridge session compares roots."""
REPORTS_BURST = 20.0
REPORTS_PER_S = 1.0
"""Refused tables of one link that are told to operators at once, and on average."""


class TableExchange:
    """Args:
        tables, world: the tables of the region's nodes, and of all bridges. links: open links. effects: where frames are put.
    Cost: O(links) a push; O(1) a second at rest.
    """

    def __init__(
        self,
        tables: TableSet,
        world: TableSet,
        links: Links,
        effects: list[Effect],
        limits: Limits,
        dice: Dice,
        now: float,
    ) -> None:
        self.tables = tables
        self.world = world
        self.effects = effects
        self._links = links
        self._limits = limits
        self._dice = dice
        self.sides: dict[int, TableSet] = {}
        """Links with rules: what is told there in place of the mesh's summaries."""
        self._news_at: float | None = None
        self._pushed_at = float("-inf")
        self._entropy_at = now + dice.uniform(0.0, ANTI_ENTROPY_S)
        self._resync_at = now + dice.uniform(0.0, RESYNC_S)
        self._asked: dict[int, tuple[float, float]] = {}  # link -> (questions it may still ask, at this time)
        self._reported: dict[int, tuple[float, float]] = {}  # link -> the same for refusals it may log

    def set_of(self, scope: Scope, link: int) -> TableSet:
        """The tables of a scope, as a link knows them."""
        if scope is Scope.REGION:
            return self.tables
        return self.sides.get(link, self.world)

    def _open_bridges(self) -> Iterable[int]:
        """Links to other regions that carry the mesh's summaries as they are."""
        return (link for link in self._links.bridges if link not in self.sides)

    def asked(self, session: LinkSession, question: Digest | Pull, inside: bool, now: float) -> None:
        """Answer a digest or a pull. One from outside about the region's own tables gets no answer."""
        if not self._may_ask(session.link, now):
            session.refuse(Close.LIMIT, "updates_per_s: too many digests and pulls")
        elif question.scope is Scope.WORLD or inside:
            tables = self.set_of(question.scope, session.link)
            found: Iterable[Delta | Digest | Pull] = (
                tables.compare(question) if isinstance(question, Digest) else tables.answer(question)
            )
            self.effects += [Send(session.link, frame) for frame in found]

    def _may_ask(self, link: int, now: float) -> bool:
        """Digests and pulls cost the answering side far more than the asking one: a bucket per link."""
        limits = self._limits
        left, at = self._asked.get(link, (float(limits.updates_burst), now))
        left = min(float(limits.updates_burst), left + (now - at) * limits.updates_per_s) - 1.0
        self._asked[link] = (left, now)
        return left >= 0.0

    def may_report(self, link: int, now: float) -> bool:
        """Whether one more refused table of a link is worth a line of log: all of them are counted by the tables."""
        left, at = self._reported.get(link, (REPORTS_BURST, now))
        left = min(REPORTS_BURST, left + (now - at) * REPORTS_PER_S)
        if left < 1.0:
            return False
        self._reported[link] = (left - 1.0, now)
        return True

    def link_closed(self, link: int) -> None:
        """Nothing is remembered of a link that is gone."""
        self.sides.pop(link, None)
        self._asked.pop(link, None)
        self._reported.pop(link, None)

    @property
    def links_remembered(self) -> int:
        """Links of which something is remembered: never more than there are."""
        return max(len(self._asked), len(self._reported))

    def pass_on(self, session: LinkSession, delta: Delta, inside: bool) -> None:
        """Flood a newer summary: what came from outside goes to the region and to the other bridges, what came from a
        sibling goes out over the own bridge links only."""
        for link in self._open_bridges():
            if link != session.link:
                self.effects.append(Send(link, delta))
        if not inside:
            for link in self._links.peers.values():
                self.effects.append(Send(link, delta))

    def push_news(self, now: float) -> None:
        """Send what changed in the own tables, now or when those of the last push have had their 20 ms."""
        if self.tables.has_news or self.world.has_news or any(side.has_news for side in self.sides.values()):
            if now - self._pushed_at >= NEWS_COALESCE_S:
                self._push(now)
            elif self._news_at is None:
                self._news_at = self._pushed_at + NEWS_COALESCE_S

    def _push(self, now: float) -> None:
        self._news_at = None
        self._pushed_at = now
        for delta in self.tables.news():
            for link in self._links.peers.values():
                self.effects.append(Send(link, delta))
        for delta in self.world.news():
            for link in (*self._open_bridges(), *self._links.peers.values()):
                self.effects.append(Send(link, delta))
        told: dict[int, list[Delta]] = {}
        for link, side in self.sides.items():
            # Two links to one peer carry the same: its news is taken once.
            news = told.setdefault(id(side), side.news())
            self.effects += [Send(link, delta) for delta in news]

    def next_deadline(self) -> float:
        due = min(self._entropy_at, self._resync_at)
        return due if self._news_at is None else min(due, self._news_at)

    def handle_deadline(self, now: float) -> None:
        """Compare roots with a peer, with the bridges, and push what waits, as far as due."""
        if now >= self._entropy_at:
            self._entropy_at = now + ANTI_ENTROPY_S * self._dice.uniform(0.9, 1.1)
            if self._links.peers:
                link = self._dice.choice(list(self._links.peers.values()))
                self.effects.append(Send(link, self.tables.digest(full=False)))
                self.effects.append(Send(link, self.world.digest(full=False)))
        if now >= self._resync_at:
            self._resync_at = now + RESYNC_S * self._dice.uniform(0.9, 1.1)
            for bridge in self._links.bridges:
                self.effects.append(Send(bridge, self.set_of(Scope.WORLD, bridge).digest(full=False)))
        if self._news_at is not None and now >= self._news_at:
            self._push(now)
