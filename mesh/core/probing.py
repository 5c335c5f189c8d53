"""Is that member there: probes of one's own, and probes made for others.

Decides when a probe has succeeded or failed, whom to ask for help, and what that says about the own health. Never decides
what follows from a failure: `membership` accuses, or does not.
Stream fallback: every frame rides a link, so there is no second transport to try. In its place, any frame heard from
the target since the probe began counts as its answer (though not as a sign of good own health); without a link the
direct probe has failed before it began and helpers are asked at once.
Invariant: each probe ends once, by an answer, by its verdict or forgiven; each request of another is answered at most
once with a nack and at most once with an ack.
Bounds: own probes one a member, `settings.relays` for others.
Source: SWIM section 3.1; Lifeguard section IV-A; design page "Routing", Membership.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mesh.core.agenda import Agenda
from mesh.core.effects import Effect, Send
from mesh.core.members import Due, MembershipSettings
from mesh.core.roster import Roster
from mesh.core.suspicion import LocalHealth
from mesh.model.dice import Dice
from mesh.wire.frames import Member, Probe, ProbeAck, ProbeNack, ProbeRequest

News = Callable[[str, str], tuple[Member, ...]]
"""Words to ride on a frame to the first, about the second when that is not alive: see Membership._news."""


@dataclass(slots=True)
class _Own:
    """A probe of one's own. asked: helpers. missing: those of them that said nothing so far. indirect: the direct part
    failed. deferred: its verdict was put off for a late wake-up."""

    target: str
    started: float
    asked: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    indirect: bool = False
    deferred: bool = False


@dataclass(slots=True)
class _Relay:
    """A probe made for `asker`, who knows it as `asked_seq`."""

    asker: str
    asked_seq: int
    target: str
    started: float


class Prober:
    """The probes of one node.

    heard: when a frame of each member was last received, kept by its owner. doubted: members that are not asked for
    help, since when. outbox: where effects go; it belongs to the machine this is part of. news: what rides on each
    frame.
    """

    __slots__ = (
        "_agenda",
        "_dice",
        "_doubted",
        "_health",
        "_heard",
        "_news",
        "_outbox",
        "_own",
        "_relays",
        "_roster",
        "_seq",
        "_settings",
        "_targets",
        "failures",
        "indirect",
        "late",
        "probes",
        "relayed",
    )

    def __init__(
        self,
        settings: MembershipSettings,
        roster: Roster,
        health: LocalHealth,
        heard: Mapping[str, float],
        doubted: dict[str, float],
        agenda: Agenda[Due],
        dice: Dice,
        outbox: list[Effect],
        news: News,
    ) -> None:
        self._settings = settings
        self._roster = roster
        self._health = health
        self._heard = heard
        self._doubted = doubted
        self._agenda = agenda
        self._dice = dice
        self._news = news
        self._outbox = outbox
        self._seq = 0
        self._own: dict[int, _Own] = {}
        self._targets: dict[str, int] = {}
        self._relays: dict[int, _Relay] = {}
        self.probes = self.failures = self.indirect = self.relayed = self.late = 0

    # -- own probes --------------------------------------------------------------------------------------------

    def start(self, target: str, now: float) -> None:
        """Probe `target`, directly over its link, else through helpers. One probe of a member at a time."""
        if target in self._targets:
            return
        self._seq += 1
        seq = self._seq
        probe = self._own[seq] = _Own(target, now)
        self._targets[target] = seq
        self.probes += 1
        if target in self._roster.links:
            self._outbox.append(Send(target, Probe(seq, target, self._news(target, target))))
            self._agenda.push(now + self._health.scale(self._settings.probe_timeout_s), Due.DIRECT, seq)
        else:
            self._ask(seq, probe, now)

    def hurry(self, target: str, now: float) -> None:
        """The link to `target` was lost: a direct probe of it has failed by that; ask helpers now."""
        seq = self._targets.get(target)
        if seq is None:
            self.start(target, now)
        else:
            self.direct_failed(seq, now)

    def direct_failed(self, seq: int, now: float) -> None:
        """The direct answer's time is over: ask helpers, unless the target was heard meanwhile."""
        probe = self._own.get(seq)
        if probe is None or probe.indirect:
            return
        if self._heard_since(probe.target, probe.started):
            self._end(seq)
        else:
            self._ask(seq, probe, now)

    def verdict(self, seq: int, now: float, late: bool) -> str | None:
        """The probe's time is over. Returns the target if it failed. late: woken late, so wait once more for
        frames that are still unread."""
        probe = self._own.get(seq)
        if probe is None:
            return None
        if late and not probe.deferred:
            probe.deferred = True
            self._agenda.push(now + self._settings.probe_timeout_s, Due.VERDICT, seq)
            return None
        self._end(seq)
        if self._heard_since(probe.target, probe.started):
            return None
        self.failures += 1
        # Helpers that said "I failed too" speak for the own health, as an answer would; those that said nothing against
        # it, and the more when none of them did. Each counts once: it is not asked again until it is heard.
        if self._settings.nacks and probe.asked:
            silent = len(probe.missing)
            self._health.note(silent + (silent == len(probe.asked)) if silent else -1)
            for helper in probe.missing:
                if not self._heard_since(helper, probe.started):
                    self._doubted.setdefault(helper, now)
        else:
            self._health.note(1)
        return probe.target

    def acked(self, peer: str, seq: int) -> None:
        """An answer to an own probe, from the target or through a helper; or to one made for another."""
        relay = self._relays.get(seq)
        if relay is not None and peer == relay.target:
            del self._relays[seq]
            self._outbox.append(Send(relay.asker, ProbeAck(relay.asked_seq, self._news(relay.asker, ""))))
            return
        probe = self._own.get(seq)
        if probe is None or (peer != probe.target and peer not in probe.asked):
            self.late += 1
            return
        if not probe.indirect:
            self._health.note(-1)
        self._doubted.pop(probe.target, None)
        self._end(seq)

    def nacked(self, peer: str, seq: int) -> None:
        """A helper failed too: it is alive and so is the way to it."""
        probe = self._own.get(seq)
        if probe is None:
            self.late += 1
        elif peer in probe.missing:
            probe.missing = tuple(name for name in probe.missing if name != peer)

    def forgive(self) -> None:
        """This process stood still: what it did not hear proves nothing. Ends all own probes without a verdict."""
        self._own.clear()
        self._targets.clear()

    def _ask(self, seq: int, probe: _Own, now: float) -> None:
        """Ask helpers to probe in this node's place, and set the time of the verdict."""
        settings = self._settings
        helpers = self._roster.pick(settings.indirect, self._dice, {probe.target, *self._doubted})
        probe.indirect = True
        probe.asked = probe.missing = tuple(helpers)
        for helper in helpers:
            self.indirect += 1
            self._outbox.append(
                Send(helper, ProbeRequest(seq, probe.target, self._news(helper, probe.target)))
            )
        at = probe.started + self._health.scale(settings.probe_interval_s)
        # A probe without a link has the whole interval; one whose direct part was late still waits for its helpers.
        self._agenda.push(
            max(at, now + settings.probe_interval_s - settings.probe_timeout_s), Due.VERDICT, seq
        )

    def _end(self, seq: int) -> None:
        probe = self._own.pop(seq)
        del self._targets[probe.target]

    def _heard_since(self, node: str, since: float) -> bool:
        return self._heard.get(node, since) > since

    # -- probes for others -------------------------------------------------------------------------------------

    def requested(self, peer: str, frame: ProbeRequest, now: float) -> None:
        """Probe frame.target for `peer`. No link to it, or too many already: a nack at once."""
        target = frame.target
        if target not in self._roster.links or len(self._relays) >= self._settings.relays:
            self._nack(peer, frame.seq)
            return
        self._seq += 1
        seq = self._seq
        self._relays[seq] = _Relay(peer, frame.seq, target, now)
        self.relayed += 1
        self._outbox.append(Send(target, Probe(seq, target, self._news(target, target))))
        # The asker waits (interval - timeout) after asking; the nack must be back by then.
        window_s = self._settings.probe_interval_s - self._settings.probe_timeout_s
        self._agenda.push(now + window_s * self._settings.nack_share, Due.RELAY, seq)
        self._agenda.push(now + 2 * self._settings.probe_interval_s, Due.RELAY_END, seq)

    def relay_due(self, seq: int) -> None:
        """No answer for the asker so far: say so, and still pass a late one on."""
        relay = self._relays.get(seq)
        if relay is None:
            return
        if self._heard_since(relay.target, relay.started):
            del self._relays[seq]
            self._outbox.append(Send(relay.asker, ProbeAck(relay.asked_seq, self._news(relay.asker, ""))))
        else:
            self._nack(relay.asker, relay.asked_seq)

    def relay_over(self, seq: int) -> None:
        """Nobody waits for this any more."""
        self._relays.pop(seq, None)

    def _nack(self, to: str, seq: int) -> None:
        if self._settings.nacks:
            self._outbox.append(Send(to, ProbeNack(seq, self._news(to, ""))))
