"""What to believe of each member: words are weighed here, suspicions timed, and lies about the own member refuted.

Decides every change of a member's state and its reason. Never sends but to those concerned: a suspect or dead member is
told directly while there is a link to it. Spreading is done by whoever empties `rumors`.
Invariant: a view is replaced only by a greater word (members.MemberView.order), by an accusation of this node against
the word held, or by a link to a newer process. The own member is never believed suspect or dead.
Bounds: one suspicion a member, each with at most 1 + settings.confirmations accusers.
Source: SWIM section 4.2, Lifeguard sections IV-B and IV-C; design page "Routing", Membership.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from mesh.core.agenda import Agenda
from mesh.core.effects import CloseLink, Effect, Notify, Send
from mesh.core.members import PROVISIONAL, Due, MembershipSettings, MemberView
from mesh.core.roster import Roster
from mesh.core.rumors import Rumors
from mesh.core.suspicion import LocalHealth, Suspicion
from mesh.model.ids import NAME_MAX, BadName, check_name
from mesh.model.reasons import Close, MemberReason
from mesh.wire.frames import Gossip, Member, MemberState

_EVENT = {
    MemberState.ALIVE: "member_alive",
    MemberState.SUSPECT: "member_suspect",
    MemberState.DEAD: "member_dead",
    MemberState.LEFT: "member_left",
}


class Beliefs:
    """The views of one node and the suspicions that run. Effects go to `outbox`, which belongs to its machine.

    heard: when a frame of each member was last received. doubted: members not accused because the own health was bad,
    or that did not help with a probe, since when; until they are heard. newest_epoch: words of a later epoch are
    refused, None for no bound.
    """

    __slots__ = (
        "_agenda",
        "_health",
        "_outbox",
        "_roster",
        "_rumors",
        "_settings",
        "_usurper",
        "confirmed",
        "deaths",
        "doubted",
        "heard",
        "newest_epoch",
        "refused",
        "refutations",
        "spared",
        "suspected",
        "suspicions",
        "withheld",
    )

    def __init__(
        self,
        settings: MembershipSettings,
        roster: Roster,
        rumors: Rumors,
        health: LocalHealth,
        agenda: Agenda[Due],
        outbox: list[Effect],
    ) -> None:
        self._settings = settings
        self._roster = roster
        self._rumors = rumors
        self._health = health
        self._agenda = agenda
        self._outbox = outbox
        self._usurper = roster.own.epoch
        self.suspicions: dict[str, Suspicion] = {}
        self.heard: dict[str, float] = {}
        self.doubted: dict[str, float] = {}
        self.newest_epoch: int | None = None
        self.refused: dict[str, int] = {}
        self.confirmed = self.deaths = self.refutations = self.spared = self.suspected = self.withheld = 0

    def refuse(self, why: str) -> None:
        """Count something a peer said that is not taken."""
        self.refused[why] = self.refused.get(why, 0) + 1

    # -- words of others ---------------------------------------------------------------------------------------

    def learn(self, words: Iterable[Member], now: float, *, listed: bool = False) -> bool:
        """Weigh words. listed: they come from a list, whose deaths only make suspects.

        Returns True when one of them was wrong about the own member: its teller should get the own word.
        Cost: O(words).
        """
        views = self._roster.views
        own = self._roster.own.node
        wrong = False
        for word in words:
            held = views.get(word.node)
            if held is None:
                self._meet(word, now)
            elif word.node == own:
                wrong = self._about_own(word) or wrong
            elif (
                word.epoch == held.epoch and word.incarnation == held.incarnation and word.state <= held.state
            ):
                if word.state is MemberState.SUSPECT and held.state is MemberState.SUSPECT:
                    suspicion = self.suspicions[word.node]
                    if word.by not in suspicion.accusers and suspicion.open:
                        self._confirm(held, word.by)
            elif (word.epoch, word.incarnation, word.state) > held.order:
                self._supersede(held, word, now, listed)
        return wrong

    def _meet(self, word: Member, now: float) -> None:
        """The first word about somebody. The dead nobody here knew stay unknown, else they would never be forgotten."""
        if word.state >= MemberState.DEAD or not self._admissible(word, None):
            return
        if not self._roster.room(now):
            self.refuse("max_members")
            return
        reason = MemberReason.JOINED if word.state is MemberState.ALIVE else MemberReason.SUSPECTED_BY_OTHERS
        self._become(None, MemberView.of(word, word.state, now, reason), now)

    def _supersede(self, held: MemberView, word: Member, now: float, listed: bool) -> None:
        """A greater word than the one held."""
        if not self._admissible(word, held):
            return
        state = word.state
        if listed and state is MemberState.DEAD and held.live:
            state = MemberState.SUSPECT
            if (word.epoch, word.incarnation, state) <= held.order:
                return
        match state:
            case MemberState.ALIVE if word.epoch != held.epoch:
                reason = MemberReason.NEW_EPOCH
            case MemberState.ALIVE if held.state is MemberState.ALIVE:
                reason = held.reason
            case MemberState.ALIVE:
                # Back from the dead is a new beginning: others dropped what they held of it.
                reason = MemberReason.REFUTED if held.live else MemberReason.JOINED
            case MemberState.SUSPECT:
                reason = MemberReason.SUSPECTED_BY_OTHERS
            case MemberState.DEAD:
                reason = MemberReason.DECLARED_DEAD
            case MemberState.LEFT:
                reason = MemberReason.LEFT
        same = state is held.state and word.epoch == held.epoch
        since = held.since if same else now
        if (word.epoch, word.incarnation) == (held.epoch, held.incarnation):
            # The same incarnation: an accuser says nothing new about where the member is reached.
            view = replace(held, state=state, since=since, reason=reason, by=word.by)
        else:
            view = MemberView.of(word, state, since, reason)
        self._become(held, view, now)

    def _admissible(self, word: Member, held: MemberView | None) -> bool:
        """Whether a word is within bounds; counts why not."""
        settings = self._settings
        base = held.incarnation if held is not None and held.epoch == word.epoch else 0
        if word.epoch < 0 or word.incarnation < 0:
            self.refuse("malformed")
        elif word.incarnation - base > settings.incarnation_jump:
            self.refuse("incarnation_jump")
        elif self.newest_epoch is not None and word.epoch > self.newest_epoch:
            self.refuse("epoch_ahead")
        elif (
            len(word.addresses) > settings.max_addresses
            or len(word.software) > settings.software_bytes
            or len(word.by) > NAME_MAX
            or any(len(address) > settings.address_bytes for address in word.addresses)
        ):
            self.refuse("too_long")
        elif held is None and not _is_name(word.node):
            self.refuse("bad_name")
        else:
            return True
        return False

    def _about_own(self, word: Member) -> bool:
        """A word about this node. Only a live node speaks for itself: refute by the next incarnation."""
        own = self._roster.own
        if word.epoch != own.epoch:
            if word.epoch > self._usurper and (self.newest_epoch is None or word.epoch <= self.newest_epoch):
                self._usurper = word.epoch
                self._outbox.append(
                    Notify(
                        "name_in_use",
                        own.node,
                        Close.NAME_IN_USE.value,
                        f"another process runs as {own.node} since a later start",
                        {"epoch": word.epoch, "own_epoch": own.epoch},
                    )
                )
            return word.epoch < own.epoch
        if word.incarnation < own.incarnation:
            return word.state is not MemberState.ALIVE
        if own.state is MemberState.LEFT or (word.incarnation, word.state) <= (own.incarnation, own.state):
            return False
        if word.incarnation - own.incarnation > self._settings.incarnation_jump:
            self.refuse("incarnation_jump")
            return False
        if word.state is not MemberState.ALIVE:
            self._health.note(1)
        self.refutations += 1
        self.speak(replace(own, incarnation=word.incarnation + 1))
        return True

    def speak(self, own: MemberView) -> None:
        """Change the own member and spread it."""
        self._roster.put(own)
        self._rumors.put(own.word())

    # -- what this node finds ------------------------------------------------------------------------------------

    def arrived(self, node: str, epoch: int, addresses: tuple[str, ...], now: float) -> None:
        """There is a link to this process, which is unknown or newer than what is held: alive, until it speaks for
        itself."""
        held = self._roster.views.get(node)
        view = MemberView(
            node,
            epoch,
            PROVISIONAL,
            MemberState.ALIVE,
            addresses or (held.addresses if held is not None else ()),
            held.software if held is not None else "",
            held.bridge if held is not None else False,
            now,
            MemberReason.JOINED if held is None else MemberReason.NEW_EPOCH,
        )
        self._become(held, view, now)

    def accuse(self, node: str, reason: MemberReason, now: float) -> None:
        """This node found no sign of life: suspect `node`, or confirm its suspicion, unless the own health is bad."""
        held = self._roster.views.get(node)
        if held is None or not held.live:
            return
        # In bad health: perhaps it is me. But a member of which nothing was heard all the time since is accused all the
        # same: a node on the smaller side of a cut is in bad health while it still counts on the larger one.
        ill = self._health.score >= self._settings.health_bad
        if ill and now - self.doubted.setdefault(node, now) < self._settings.suspicion_max_s:
            self.withheld += 1
            return
        own = self._roster.own.node
        if held.state is MemberState.SUSPECT:
            self._confirm(held, own)
            return
        self._become(held, replace(held, state=MemberState.SUSPECT, since=now, reason=reason, by=own), now)
        if self._settings.buddy:
            self.tell(node)

    def _confirm(self, held: MemberView, by: str) -> None:
        """Another accuser of a suspect. Only live members count, so that made-up names shorten nothing."""
        suspicion = self.suspicions[held.node]
        accuser = self._roster.views.get(by)
        if accuser is None or not accuser.live or by == held.node or not suspicion.confirm(by):
            return
        self.confirmed += 1
        self._agenda.push(suspicion.ends, Due.SUSPICION, (held.node, suspicion))
        self._spread(replace(held, by=by))

    def tell(self, node: str) -> None:
        """Tell a suspect or dead member what is believed of it, if there is a link: it refutes at once if it can."""
        view = self._roster.views[node]
        suspicion = self.suspicions.get(node)
        if node in self._roster.links and view.incarnation != PROVISIONAL:
            if suspicion is not None:
                suspicion.told = True
            self._outbox.append(Send(node, Gossip((view.word(),))))

    # -- time ----------------------------------------------------------------------------------------------------

    def suspicion_due(self, node: str, suspicion: Suspicion, now: float, late: bool) -> None:
        """A suspicion's time may be over, or it is time to tell the suspect again.

        late: this process woke late; frames may wait unread, so look once more. A suspect heard since is told again and
        gets the shortest time once more: it is not dead, its refutation is under way or lost. Others may declare it.
        """
        if self.suspicions.get(node) is not suspicion:
            return
        own, settings = self._roster.own.node, self._settings
        ends = max(suspicion.ends, suspicion.extended)
        heard = self.heard.get(node, suspicion.heard)
        if ends > now:
            if own in suspicion.accusers and settings.buddy:
                self.tell(node)
                ends = min(ends, now + suspicion.min_s)
        elif late and not suspicion.deferred:
            suspicion.deferred = True
            ends = suspicion.extended = now + settings.probe_timeout_s
        elif heard > suspicion.heard and settings.buddy:
            suspicion.heard = heard
            self.spared += 1
            self.tell(node)
            ends = suspicion.extended = now + suspicion.min_s
        else:
            held, reason = self._roster.views[node], MemberReason.SUSPICION_TIMEOUT
            self._become(held, replace(held, state=MemberState.DEAD, since=now, reason=reason, by=own), now)
            return
        self._agenda.push(ends, Due.SUSPICION, (node, suspicion))

    def slept(self, late_s: float) -> None:
        """This process stood still for so long: that time was given to no suspect, and proves nothing."""
        self.doubted.clear()
        for suspicion in self.suspicions.values():
            suspicion.started += late_s + self._settings.probe_timeout_s

    def prune(self) -> None:
        """Drop what is kept of members the roster forgot. Cost: O(members)."""
        for node in [node for node in self.heard if node not in self._roster.views]:
            del self.heard[node]

    def close_due(self, node: str) -> None:
        """A dead member with a link had its time to refute: close the link, so that it rejoins cleanly."""
        view = self._roster.views.get(node)
        if view is not None and view.state is MemberState.DEAD and self._roster.unlink(node):
            self._outbox.append(CloseLink(node, Close.MEMBER_DEAD, f"declared dead by {view.by}"))

    # -- change --------------------------------------------------------------------------------------------------

    def _become(self, held: MemberView | None, view: MemberView, now: float) -> None:
        """Replace what is held, and everything that follows from it."""
        settings, node = self._settings, view.node
        if view.state is MemberState.SUSPECT:
            live = self._roster.live
            suspicion = Suspicion(
                view.by,
                min(settings.confirmations, max(0, live - 2)),
                settings.suspicion_min_s(live),
                settings.suspicion_max_s,
                now,
            )
            self.suspicions[node] = suspicion
            self.suspected += 1
            # Its accuser tells it again each min_s: the first word, or the answer, may have been lost.
            first = suspicion.min_s if view.by == self._roster.own.node else math.inf
            self._agenda.push(min(suspicion.ends, now + first), Due.SUSPICION, (node, suspicion))
        else:
            self.suspicions.pop(node, None)
        if not view.live:
            self.doubted.pop(node, None)
        self._roster.put(view)
        self._spread(view)
        if held is None or held.state is not view.state or held.epoch != view.epoch:
            self._notify(held, view)
        if view.state is MemberState.DEAD:
            self.deaths += 1
            if node in self._roster.links:
                self.watch_dead(node, now)

    def watch_dead(self, node: str, now: float) -> None:
        """There is a link to a dead member: tell it, and close the link unless it refutes in time."""
        if self._settings.buddy:
            self.tell(node)
        self._agenda.push(now + self._settings.close_dead_s, Due.CLOSE_DEAD, node)

    def _spread(self, view: MemberView) -> None:
        if view.incarnation != PROVISIONAL:
            self._rumors.put(view.word())

    def _notify(self, held: MemberView | None, view: MemberView) -> None:
        was = held.state.name.lower() if held is not None else ""
        detail = f"epoch {view.epoch}, incarnation {view.incarnation}" + (
            f", by {view.by}" if view.by else ""
        )
        data: dict[str, object] = {
            "epoch": view.epoch,
            "incarnation": view.incarnation,
            "was": was,
            "by": view.by,
        }
        self._outbox.append(Notify(_EVENT[view.state], view.node, view.reason.value, detail, data))


def _is_name(text: str) -> bool:
    try:
        check_name(text, "node")
    except BadName:
        return False
    return True
