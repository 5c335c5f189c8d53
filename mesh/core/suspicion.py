"""How long a suspect has to refute, and how far a node trusts its own judgement.

Decides the end of one suspicion from the number of independent accusers, and the local health score that slows a node's
probes down and, from `health_bad` on, stops it from accusing. Never decides who is suspected.
Invariant: a suspicion only ever gets shorter by confirmations, never shorter than its minimum; 0 <= score <= maximum.
Source: Lifeguard (Dadgar, Phillips, Currey 2017) sections IV-A (local health) and IV-B (suspicion); test vectors of
memberlist's suspicion timer.
"""

from __future__ import annotations

import math


def suspicion_timeout_s(confirmations: int, k: int, min_s: float, max_s: float) -> float:
    """Length of a suspicion with so many confirmations out of the `k` that make it shortest.

    Falls from max_s to min_s with the logarithm: the first confirmations say most. k < 1: always min_s.
    """
    if k < 1:
        return min_s
    share = math.log(confirmations + 1) / math.log(k + 1)
    return max(min_s, max_s - share * (max_s - min_s))


def remaining_s(confirmations: int, k: int, elapsed_s: float, min_s: float, max_s: float) -> float:
    """What is left of a suspicion that began `elapsed_s` ago; negative when it should have ended."""
    return suspicion_timeout_s(confirmations, k, min_s, max_s) - elapsed_s


class Suspicion:
    """One member's suspicion as this node times it.

    started: monotonic seconds, moved forward by time this process stood still. heard: last time something of the
    suspect was heard when its end was put off for that. deferred: its end was already put off for a late wake-up.
    extended: put off until then. told: the suspect was told.
    """

    __slots__ = ("accusers", "deferred", "extended", "heard", "k", "max_s", "min_s", "started", "told")

    def __init__(self, by: str, k: int, min_s: float, max_s: float, now: float) -> None:
        self.accusers = {by}
        self.k = k
        self.min_s = min_s
        self.max_s = max(min_s, max_s)
        self.started = now
        self.heard = now
        self.deferred = False
        self.extended = now
        self.told = False

    def confirm(self, by: str) -> bool:
        """Count another accuser. True if it was news: a new one, and not more than k beyond the first."""
        if by in self.accusers or not self.open:
            return False
        self.accusers.add(by)
        return True

    @property
    def open(self) -> bool:
        """Whether another accuser would shorten it."""
        return len(self.accusers) <= self.k

    @property
    def ends(self) -> float:
        """Monotonic time at which the suspect is declared dead."""
        return self.started + suspicion_timeout_s(len(self.accusers) - 1, self.k, self.min_s, self.max_s)


class LocalHealth:
    """Lifeguard's local health multiplier: 0 is well, the maximum is in trouble."""

    __slots__ = ("maximum", "score")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.score = 0

    def note(self, delta: int) -> None:
        """A probe answered in time is -1; an unanswered one, a missing nack, a refutation, a standstill are +1 each."""
        self.score = min(self.maximum, max(0, self.score + delta))

    def scale(self, seconds: float) -> float:
        """A probe's interval or timeout as this node should use it now."""
        return seconds * (1 + self.score)
