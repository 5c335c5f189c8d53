"""Seqnos: this origin's own, requests for newer ones of others, and requests that pass here.

Decides when the own seqno moves, when a request is sent or repeated, and whether one is passed on. Whether a newer seqno
is needed, and of whom, is decided by `source`.
Invariant: the own seqno moves by one, at most once in `seqno_bump_min_s` on request; a want ends with its answer, or
its tries run out where an answer is not needed; one request is passed on at most once in `request_suppress_s` with one
hop less, so requests cannot multiply.
Source: RFC 8966 sections 3.7.2, 3.8.1.2 and 3.8.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.core.route_settings import RouteSettings
from federation.core.selection import Hop, Key
from federation.core.source import Need, Source, Why
from mesh.model.dice import Dice
from mesh.wire.frames import SeqnoRequest


class OwnSeqno:
    """When this origin's seqno moves. renew_at: monotonic seconds of the next time."""

    __slots__ = ("_dice", "_moved_at", "_settings", "renew_at")

    def __init__(self, settings: RouteSettings, dice: Dice, now: float) -> None:
        self._settings = settings
        self._dice = dice
        self.moved(now)

    def moved(self, now: float) -> None:
        """The seqno moved just now: the next renewal is a spread minute away."""
        self._moved_at = now
        self.renew_at = now + self._settings.seqno_bump_s * self._dice.uniform(0.9, 1.1)

    def asked(self, now: float) -> bool:
        """Somebody lacks a newer one. Returns: move it now; else it moves as soon as the last move is old enough."""
        self.renew_at = min(self.renew_at, max(now, self._moved_at + self._settings.seqno_bump_min_s))
        return self.renew_at <= now


@dataclass(slots=True)
class Want:
    """One wish. tries: requests sent so far. due: when to ask next, None when it was given up until things change."""

    why: Why
    epoch: int
    seqno: int
    tries: int
    due: float | None


class SeqnoRequests:
    """Own wishes by source, and the requests of others that passed here."""

    __slots__ = ("_asked", "_seen", "_settings", "wants")

    def __init__(self, settings: RouteSettings) -> None:
        self._settings = settings
        self.wants: dict[Key, Want] = {}
        self._seen: dict[tuple[Key, int, int], float] = {}
        self._asked: dict[Key, tuple[int, int]] = {}

    def want(self, key: Key, need: Need, now: float) -> bool:
        """Note what source `key` needs. A need for the same seqno goes on where it was, sooner if it became urgent.

        Returns: the time to ask has come.
        """
        want = self._noted(key, need, now)
        return want.due is not None and want.due <= now

    def _noted(self, key: Key, need: Need, now: float) -> Want:
        known = self.wants.get(key)
        first = now + (self._settings.request_better_s if need.why is Why.BETTER else 0.0)
        if known is None:
            known = self.wants[key] = Want(need.why, need.epoch, need.seqno, 0, first)
        elif (known.epoch, known.seqno) != (need.epoch, need.seqno):
            # Part of an answer came: what was asked so far does not count, but one request a retry time is enough.
            if known.tries and known.due is not None:
                first = max(first, min(known.due, now + self._settings.request_retry_s))
            known = self.wants[key] = Want(need.why, need.epoch, need.seqno, 0, first)
        elif need.why > known.why:
            if known.why is Why.BETTER:
                known.tries = 0
                known.due = first
            known.why = need.why
            known.due = first if known.due is None else known.due
        else:
            known.why = need.why
        return known

    def satisfied(self, key: Key) -> None:
        """Nothing is needed any more."""
        self.wants.pop(key, None)

    def due(self, now: float) -> list[Key]:
        """Sources for which the time to ask has come."""
        return [key for key, want in self.wants.items() if want.due is not None and want.due <= now]

    def asked(self, key: Key, want: Want, now: float) -> None:
        """A request is sent: wait for the answer, twice as long each time."""
        self.note(key, want.epoch, want.seqno)
        wait_s = min(self._settings.request_retry_s * 2**want.tries, self._settings.request_retry_max_s)
        want.tries += 1
        want.due = now + wait_s

    def exhausted(self, want: Want) -> bool:
        """Enough was asked in vain. A starved source is never given up while somebody announces it."""
        return want.why is not Why.STARVED and want.tries >= self._settings.request_tries

    def next_deadline(self) -> float | None:
        return min((want.due for want in self.wants.values() if want.due is not None), default=None)

    # -- requests of others --------------------------------------------------------------------------------------

    def relay(
        self, asker: Hop, source: Source, frame: SeqnoRequest, now: float
    ) -> tuple[Hop, SeqnoRequest] | None:
        """Decide where a request that cannot be answered here goes on. None: nowhere, or it went just now."""
        hops = min(frame.hops, self._settings.request_hops) - 1
        target = source.towards(asker)
        if hops <= 0 or target is None:
            return None
        self.note(source.key, frame.epoch, frame.seqno)
        if not self._first_time(source.key, frame.epoch, frame.seqno, now):
            return None
        return target.hop, SeqnoRequest(*source.key, frame.epoch, frame.seqno, hops)

    def _first_time(self, key: Key, epoch: int, seqno: int, now: float) -> bool:
        """Note a request that is passed on. Returns: False when the same one was passed on just now."""
        mark = (key, epoch, seqno)
        until = self._seen.pop(mark, None)
        self._seen[mark] = now + self._settings.request_suppress_s if until is None or until <= now else until
        while len(self._seen) > self._settings.requests_kept:
            del self._seen[next(iter(self._seen))]
        return until is None or until <= now

    def note(self, key: Key, epoch: int, seqno: int) -> None:
        """Somebody waits for this seqno, so its arrival is urgent news."""
        if (epoch, seqno) > self._asked.get(key, (0, 0)):
            self._asked[key] = (epoch, seqno)
            while len(self._asked) > self._settings.requests_kept:
                del self._asked[next(iter(self._asked))]

    def awaited(self, key: Key, epoch: int, seqno: int) -> bool:
        """Did somebody wait for this? Answers once."""
        asked = self._asked.get(key)
        if asked is None or (epoch, seqno) < asked:
            return False
        del self._asked[key]
        return True
