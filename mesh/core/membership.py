"""Who is alive in this region: SWIM with Lifeguard, over the links of a full mesh.

Decides nothing alone: it hands frames, links and deadlines to its parts, which decide what to believe (`beliefs`), what
is told to whom (`spreading`), whom to probe (`roster`) and whether a probe failed (`probing`). Never decides how often a
missing link is dialled, whether a second process may take a name (it says that one did), or what happens to a member's
tables and routes: others follow the Notify effects.
Invariant: nodes that heard the same words agree. A lost link makes a suspect, never a dead. Where nothing changes no
gossip is sent.

The life of a member as seen here::

    unknown --its word, or a link--> alive --probe failed, link lost, accused--> suspect --time over, or declared--> dead
    suspect or dead --its own next incarnation--> alive
    any --a new epoch--> alive
    any --its own word--> left

Frames: Probe, ProbeAck, ProbeRequest, ProbeNack, Gossip, Members. A Members frame with a root compares live members and
is answered with the whole list where the roots differ; without one it is a list, `reply` asking for what its sender
lacks. A death told in a list makes a suspect only: it may be the far side's view of a partition that has healed.
A node that is told something wrong about itself answers whoever told it, at once.
Source: SWIM (Das, Gupta, Motivala 2002), Lifeguard (Dadgar, Phillips, Currey 2017); design page "Routing", Membership.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias, assert_never

from mesh.core.agenda import Agenda, Entry
from mesh.core.beliefs import Beliefs
from mesh.core.effects import CloseLink, Effect, Send
from mesh.core.members import PROVISIONAL, Due, MembershipSettings, MembershipStatistics, MemberView
from mesh.core.probing import Prober
from mesh.core.roster import Hint, Roster, Wanted
from mesh.core.rumors import Rumors
from mesh.core.spreading import Spreading
from mesh.core.suspicion import LocalHealth, Suspicion
from mesh.model.dice import Dice
from mesh.model.ids import BadName, check_name
from mesh.model.reasons import Close, MemberReason
from mesh.wire.frames import Gossip, Members, MemberState, Probe, ProbeAck, ProbeNack, ProbeRequest

__all__ = [
    "PROVISIONAL",
    "MemberView",
    "Membership",
    "MembershipFrame",
    "MembershipSettings",
    "MembershipStatistics",
    "Wanted",
]

MembershipFrame: TypeAlias = Probe | ProbeAck | ProbeRequest | ProbeNack | Gossip | Members


class Membership:
    """The membership machine of one node.

    In every call node names are NodeKey.node, epochs process starts, and `now` monotonic seconds that never go back.
    Effects: Send to member names; CloseLink to a member name; Notify of "member_alive", "member_suspect", "member_dead"
    and "member_left" (reason: MemberReason; data: epoch, incarnation, was, by) at each change of another member's state
    or epoch; Notify of "name_in_use" when the region speaks of a later process with this node's name.
    """

    def __init__(
        self,
        node: str,
        epoch: int,
        addresses: tuple[str, ...],
        settings: MembershipSettings,
        dice: Dice,
        now: float,
        *,
        software: str = "",
        bridge: bool = False,
    ) -> None:
        own = MemberView(
            node=check_name(node, "node"),
            epoch=epoch,
            incarnation=0,
            state=MemberState.ALIVE,
            addresses=addresses,
            software=software,
            bridge=bridge,
            since=now,
            reason=MemberReason.JOINED,
        )
        self.node = node
        self._settings = settings
        self._dice = dice
        self._outbox: list[Effect] = []
        self._agenda: Agenda[Due] = Agenda()
        self._roster = Roster(own, settings)
        self._health = LocalHealth(settings.health_max)
        self._rumors = Rumors()
        self._beliefs = Beliefs(
            settings, self._roster, self._rumors, self._health, self._agenda, self._outbox
        )
        self._spreading = Spreading(
            settings, self._roster, self._rumors, self._beliefs, self._agenda, dice, self._outbox, now
        )
        self._prober = Prober(
            settings,
            self._roster,
            self._health,
            self._beliefs.heard,
            self._beliefs.doubted,
            self._agenda,
            dice,
            self._outbox,
            self._spreading.news,
        )
        self._stalls = 0
        self._beliefs.speak(own)
        self._agenda.push(now + dice.random() * settings.probe_interval_s, Due.PROBE)

    # -- what is believed --------------------------------------------------------------------------------------

    def members(self) -> Mapping[str, MemberView]:
        """Every member known: this node, the dead and the left included. The mapping follows later changes, its views
        never change. Cost: O(1)."""
        return MappingProxyType(self._roster.views)

    def alive(self) -> tuple[str, ...]:
        """Names of the live members (alive or suspect), this node included, sorted. Cost: O(1) while none changes."""
        return self._roster.live_names()

    def is_live(self, node: str) -> bool:
        """Whether `node` is a member that is alive or suspect. Cost: O(1)."""
        view = self._roster.views.get(node)
        return view is not None and view.live

    def accusers(self, node: str) -> tuple[str, ...]:
        """Who suspects `node` as far as it is counted here, sorted; () when nobody does."""
        suspicion = self._beliefs.suspicions.get(node)
        return tuple(sorted(suspicion.accusers)) if suspicion is not None else ()

    def wanted_links(self, now: float) -> list[Wanted]:
        """To whom there should be a link and is none: the alive, the suspect, the dead that are still announced to, and
        nodes only hinted at (state None). The pace of dialling is the driver's. Cost: O(those missing and hints)."""
        return [] if self._left else self._roster.wanted(now)

    @property
    def root(self) -> int:
        """Equal on nodes that believe in the same live members, epochs and incarnations; never 0."""
        return self._spreading.root

    @property
    def _left(self) -> bool:
        return self._roster.own.state is MemberState.LEFT

    def statistics(self) -> MembershipStatistics:
        """Counters since the start and sizes now. Cost: O(kinds of refusals)."""
        roster, prober, beliefs = self._roster, self._prober, self._beliefs
        return MembershipStatistics(
            live=roster.live,
            suspects=len(beliefs.suspicions),
            gone=len(roster.gone),
            links=len(roster.links),
            hints=len(roster.hints),
            health=self._health.score,
            rumors=len(self._rumors),
            probes=prober.probes,
            probe_failures=prober.failures,
            indirect_probes=prober.indirect,
            relays=prober.relayed,
            late_answers=prober.late,
            withheld=beliefs.withheld,
            suspicions=beliefs.suspected,
            confirmations=beliefs.confirmed,
            spared=beliefs.spared,
            deaths=beliefs.deaths,
            refutations=beliefs.refutations,
            stalls=self._stalls,
            gossip_frames=self._spreading.gossip_frames,
            syncs=self._spreading.syncs,
            lists=self._spreading.lists,
            refused=MappingProxyType(dict(beliefs.refused)),
        )

    # -- frames ------------------------------------------------------------------------------------------------

    def receive(self, peer: str, frame: MembershipFrame, now: float) -> None:
        """Take a frame that came over the link to member `peer`. What is out of bounds in it is refused and counted;
        nothing raises. Cost: O(members in the frame), O(members known) where a list is asked for."""
        self.heard(peer, now)
        match frame:
            case Probe():
                if frame.target != self.node:
                    self._beliefs.refuse("wrong_target")
                    return
                wrong = self._beliefs.learn(frame.gossip, now)
                answer = ProbeAck(frame.seq, self._spreading.news(peer, self.node if wrong else ""))
                self._outbox.append(Send(peer, answer))
            case ProbeAck():
                self._spreading.learn(peer, frame.gossip, now)
                self._prober.acked(peer, frame.seq)
            case ProbeRequest():
                self._spreading.learn(peer, frame.gossip, now)
                self._prober.requested(peer, frame, now)
            case ProbeNack():
                self._spreading.learn(peer, frame.gossip, now)
                self._prober.nacked(peer, frame.seq)
            case Gossip():
                self._spreading.learn(peer, frame.members, now)
            case Members():
                self._spreading.compare(peer, frame, now)
            case _:
                assert_never(frame)
        self._spreading.arm(now)

    def heard(self, node: str, now: float) -> None:
        """Any frame of `node` arrived, of whatever machine: a sign of life. Call it for frames `receive` does not see.

        Answers a running probe. Never clears a suspicion (only the suspect's own word does), but the suspect is told of
        it once. Cost: O(1).
        """
        beliefs = self._beliefs
        if node not in self._roster.views:
            return
        beliefs.heard[node] = now
        if beliefs.doubted:
            beliefs.doubted.pop(node, None)
        if beliefs.suspicions and self._settings.buddy:
            suspicion = beliefs.suspicions.get(node)
            if suspicion is not None and not suspicion.told:
                beliefs.tell(node)

    # -- links -------------------------------------------------------------------------------------------------

    def linked(self, node: str, epoch: int, now: float) -> None:
        """The link to this process of `node` finished its opening exchange: it is alive, unless the region says
        otherwise of this epoch; then it is told, and refutes.

        Each end tells the other its own word at once. A node that knew nobody else asks for the whole list; one that did
        compares roots a moment later. A process older than the one known is sent away (CloseLink, old_epoch).
        Raises ValueError: the node's own name (misuse; state unaffected).
        """
        if node == self.node:
            raise ValueError(f"a link from {node} to itself")
        held = self._roster.views.get(node)
        if held is not None and epoch < held.epoch:
            self._outbox.append(CloseLink(node, Close.OLD_EPOCH, f"epoch {held.epoch} of {node} is known"))
            return
        if held is None or epoch > held.epoch:
            if held is None and not self._roster.room(now):
                self._beliefs.refuse("max_members")
                self._outbox.append(CloseLink(node, Close.LIMIT, "max_members"))
                return
            hint = self._roster.hints.get(node)
            self._beliefs.arrived(node, epoch, hint.addresses if hint is not None else (), now)
        self._roster.link(node, epoch)
        self.heard(node, now)
        if self._roster.views[node].state is MemberState.DEAD:
            self._beliefs.watch_dead(node, now)
        self._spreading.greet(node, now)
        self._spreading.arm(now)

    def unlinked(self, node: str, now: float, *, said_why: bool = False) -> None:
        """The last link to `node` is gone. End of stream or reset: suspect it at once, and let helpers look. Idempotent.

        said_why: one of the two ends closed it on purpose with a reason, so that the other process is known to run: no
        sign of death (and after leave() its word ran ahead). A closed duplicate of a link that stands is none of this
        machine's business.
        """
        if not self._roster.unlink(node) or said_why or self._left or not self.is_live(node):
            return
        self._beliefs.accuse(node, MemberReason.LINK_LOST, now)
        self._prober.hurry(node, now)
        self._spreading.arm(now)

    def introduce(self, node: str, epoch: int, addresses: tuple[str, ...], now: float) -> None:
        """Something else than the region (registry, seeds) speaks of a node: a hint to dial it, never a member.

        epoch 0: not known. Forgotten after settings.hint_keep_s unless repeated. Out of bounds: refused and counted.
        """
        if node == self.node or node in self._roster.links:
            return
        try:
            check_name(node, "node")
        except BadName:
            self._beliefs.refuse("bad_name")
            return
        settings = self._settings
        if len(addresses) > settings.max_addresses or any(len(a) > settings.address_bytes for a in addresses):
            self._beliefs.refuse("too_long")
        elif not self._roster.hint(node, Hint(epoch, addresses, now + settings.hint_keep_s)):
            self._beliefs.refuse("max_hints")

    def retract(self, node: str) -> None:
        """Whatever spoke of a node does so no more: the hint is dropped. What the region knows of it stays. Idempotent."""
        self._roster.hints.pop(node, None)

    # -- the own member ----------------------------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """Say that this node goes: to every link at once, so that the word runs ahead of the end of each stream, and by
        gossip. It probes no more and refutes nothing; others that still ask are still answered. Idempotent."""
        if self._left:
            return
        own = replace(
            self._roster.own,
            state=MemberState.LEFT,
            since=now,
            reason=MemberReason.LEFT,
            by=self.node,
        )
        self._beliefs.speak(own)
        self._prober.forgive()
        for peer in self._roster.links:
            self._outbox.append(Send(peer, Gossip((own.word(),))))
        self._spreading.arm(now)

    def describe(
        self, now: float, *, addresses: tuple[str, ...] | None = None, bridge: bool | None = None
    ) -> None:
        """Change what the region knows of this node; spread as its next incarnation if it differs."""
        own = self._roster.own
        new = replace(
            own,
            addresses=own.addresses if addresses is None else addresses,
            bridge=own.bridge if bridge is None else bridge,
        )
        if new == own or self._left:
            return
        self._beliefs.speak(replace(new, incarnation=own.incarnation + 1))
        self._spreading.arm(now)

    def limit_epochs(self, newest: int | None) -> None:
        """Refuse words of epochs after `newest` from now on (None: no bound). For a caller that sees a wall clock: an
        epoch may lie at most one day ahead of it."""
        self._beliefs.newest_epoch = newest

    def assume(self, model: Membership) -> None:
        """Begin with what `model` believes and with links to everyone it knows: a simulated region that starts
        converged at little cost. Only for a machine that has done nothing yet, whose word `model` knows."""
        self._roster.assume(model._roster)
        self._rumors.drop(self.node)

    # -- time --------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When handle_deadline wants to be called, monotonic seconds. Cost: O(1)."""
        return self._agenda.next()

    def handle_deadline(self, now: float) -> None:
        """Do what is due. Waking later than settings.late_s means that this process stood still: its running probes
        prove nothing, its suspects get the time back, and its health is worse by one. Cost: O(log n) each deadline."""
        due = self._agenda.next()
        if due is None or due > now:
            return
        if now - due > self._settings.late_s:
            self._stalls += 1
            self._health.note(1)
            self._prober.forgive()
            self._beliefs.slept(now - due)
        while (entry := self._agenda.pop(now)) is not None:
            self._handle(entry, now)
        self._spreading.arm(now)

    def drain(self) -> list[Effect]:
        """The effects since the last call, in order."""
        effects = self._outbox.copy()
        self._outbox.clear()
        return effects

    def _handle(self, entry: Entry[Due], now: float) -> None:
        late = now - entry.at > self._settings.slack_s
        match entry.kind, entry.key:
            case Due.PROBE, _:
                self._probe(entry.at, now)
            case Due.DIRECT, int(seq):
                self._prober.direct_failed(seq, now)
            case Due.VERDICT, int(seq):
                failed = self._prober.verdict(seq, now, late)
                if failed is not None:
                    self._beliefs.accuse(failed, MemberReason.PROBE_FAILED, now)
            case Due.RELAY, int(seq):
                self._prober.relay_due(seq)
            case Due.RELAY_END, int(seq):
                self._prober.relay_over(seq)
            case Due.GOSSIP, _:
                self._spreading.gossip()
            case Due.SYNC, _:
                self._spreading.sync(entry.at, now)
            case Due.SUSPICION, (str(node), Suspicion() as suspicion):
                self._beliefs.suspicion_due(node, suspicion, now, late)
            case Due.CLOSE_DEAD, str(node):
                self._beliefs.close_due(node)
            case kind, key:
                raise AssertionError(f"deadline {kind!r} with key {key!r}")

    def _probe(self, at: float, now: float) -> None:
        """Probe the next member of the round."""
        if self._left:
            return
        target = self._roster.next_target(self._dice, now)
        if target is not None:
            self._prober.start(target, now)
        step_s = self._health.scale(self._settings.probe_interval_s)
        self._agenda.push(at + step_s if at + step_s > now else now + step_s, Due.PROBE)
