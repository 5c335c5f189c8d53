"""Asking for newer seqnos, and answering those who ask.

Decides whom a request goes to and what becomes of one that arrives: the origin moves its seqno, a node that has the
answer announces it, any other passes the request on towards the origin. When to ask is decided by `seqno`.
Invariant: a request is never answered with anything but an update that would be announced anyway.
Source: RFC 8966 sections 3.8.1.2 and 3.8.2.
"""

from __future__ import annotations

from federation.core.announcement import Announcements
from federation.core.border import Border
from federation.core.neighbour import NUMBER_MAX
from federation.core.rib import Rib
from federation.core.route_settings import RouteSettings
from federation.core.selection import Hop, Key
from federation.core.seqno import OwnSeqno, SeqnoRequests
from federation.core.source import Source, Why
from mesh.model.dice import Dice
from mesh.wire.frames import SeqnoRequest


class Inquiry:
    """Seqnos at one node: the own one, wants, and requests. sent, passed: requests so far."""

    __slots__ = ("_announcements", "_border", "_own", "_requests", "_rib", "_settings", "passed", "sent")

    def __init__(
        self,
        rib: Rib,
        border: Border,
        announcements: Announcements,
        settings: RouteSettings,
        dice: Dice,
        now: float,
    ) -> None:
        self._rib = rib
        self._border = border
        self._announcements = announcements
        self._settings = settings
        self._own = OwnSeqno(settings, dice, now)
        self._requests = SeqnoRequests(settings)
        self.sent = 0
        self.passed = 0

    # -- the own seqno -------------------------------------------------------------------------------------------

    def renew(self, now: float) -> None:
        """Move the own seqno if it is time and somebody is there to hear it."""
        if self._border.neighbours and self._own.renew_at <= now:
            self._move(now, self._settings.refresh_coalesce_s)

    def _move(self, now: float, wait_s: float) -> None:
        self._announcements.seqno += 1
        self._own.moved(now)
        self._border.mark(self._announcements.origin, now + wait_s)

    # -- own wants -----------------------------------------------------------------------------------------------

    def consider(self, source: Source, now: float) -> bool:
        """Look at a source that was evaluated: ask, go on waiting, or be satisfied.

        Returns: it was asked in vain and its selected route is no longer held; evaluate it again.
        """
        need = source.need()
        if need is None:
            self._requests.satisfied(source.key)
            return False
        return self._requests.want(source.key, need, now) and self._ask(source, now)

    def repeat(self, now: float) -> list[Key]:
        """Ask again where it is time. Returns: sources to evaluate again, as in `consider`."""
        return [key for key in self._requests.due(now) if self._ask(self._rib.sources[key], now)]

    def _ask(self, source: Source, now: float) -> bool:
        need, want = source.need(), self._requests.wants[source.key]
        assert need is not None
        if self._requests.exhausted(want):
            want.due = None
            if want.why is Why.ROSE:
                source.release()
            return want.why is Why.ROSE
        self._requests.asked(source.key, want, now)
        frame = SeqnoRequest(*source.key, need.epoch, need.seqno, self._settings.request_hops)
        for hop in need.hops:
            self.sent += self._border.request(hop, frame, now)
        return False

    def awaited(self, source: Source) -> bool:
        """Somebody waits for the seqno that the selected route now has. Answers once."""
        shape = source.shape
        return shape is not None and self._requests.awaited(source.key, shape.epoch, shape.seqno)

    def forget(self, key: Key) -> None:
        """The source is gone."""
        self._requests.satisfied(key)

    # -- requests of others --------------------------------------------------------------------------------------

    def answer(self, asker: Hop, frame: SeqnoRequest, now: float) -> bool:
        """Take in a request of a neighbour (link) or sibling (name). Returns: False when it makes no sense here."""
        key = (frame.region, frame.bridge)
        if not 0 <= frame.seqno < NUMBER_MAX:
            return False
        if key == self._announcements.origin:
            news = frame.epoch == self._announcements.epoch and frame.seqno > self._announcements.seqno
            if news and self._own.asked(now):
                self._move(now, 0.0)
            return news
        source = self._rib.sources.get(key)
        if source is None or frame.epoch != source.epoch:
            return False
        answer = source.selected if isinstance(asker, int) else source.external
        if answer is not None and answer.advert.seqno >= frame.seqno:
            if isinstance(asker, int):
                self._border.neighbours[asker].outbound.mark(key, now)
            return True
        relayed = self._requests.relay(asker, source, frame, now)
        if relayed is not None:
            self.passed += self._border.request(*relayed, now)
        return True

    def next_deadline(self) -> float | None:
        wants = self._requests.next_deadline()
        if not self._border.neighbours:
            return wants
        return self._own.renew_at if wants is None else min(wants, self._own.renew_at)
