"""What one node tells the others of the members: gossip, words that ride on probes, and lists where gossip missed.

Decides who is told what and when, and when two nodes compare what they believe. Never decides what to believe.
Invariant: while nothing waits to be told no gossip is sent, and two nodes that believe the same exchange a root and no
list. Push gossip alone misses a node now and then; comparing roots finds it.
Bounds: settings.gossip_members and piggyback_members words a frame, list_members a list frame, a list each list_gap_s.
Source: SWIM section 4.1, Lifeguard section IV-C (buddy system); design page "Routing", Membership.
"""

from __future__ import annotations

from mesh.core.agenda import Agenda
from mesh.core.beliefs import Beliefs
from mesh.core.effects import Effect, Send
from mesh.core.members import PROVISIONAL, Due, MembershipSettings
from mesh.core.roster import Roster
from mesh.core.rumors import Rumors
from mesh.model.dice import Dice
from mesh.wire.frames import Gossip, Member, Members, MemberState


class Spreading:
    """The telling half of one node's membership. Effects go to `outbox`, which belongs to its machine."""

    __slots__ = (
        "_agenda",
        "_armed",
        "_beliefs",
        "_dice",
        "_list_after",
        "_outbox",
        "_phase_s",
        "_roster",
        "_rumors",
        "_settings",
        "_sync_at",
        "_sync_with",
        "gossip_frames",
        "lists",
        "syncs",
    )

    def __init__(
        self,
        settings: MembershipSettings,
        roster: Roster,
        rumors: Rumors,
        beliefs: Beliefs,
        agenda: Agenda[Due],
        dice: Dice,
        outbox: list[Effect],
        now: float,
    ) -> None:
        self._settings = settings
        self._roster = roster
        self._rumors = rumors
        self._beliefs = beliefs
        self._agenda = agenda
        self._dice = dice
        self._outbox = outbox
        # All gossip of this node lies on one grid of time, so that nodes stay out of step.
        self._phase_s = now + dice.random() * settings.gossip_interval_s
        self._armed = False
        self._sync_at = now + dice.random() * settings.sync_interval_s
        self._sync_with = ""
        self._list_after = now
        self.gossip_frames = self.lists = self.syncs = 0
        agenda.push(self._sync_at, Due.SYNC)

    @property
    def root(self) -> int:
        """Fingerprint of the live members, never 0: in a Members frame 0 means that there is none."""
        return self._roster.root or 1

    # -- gossip ------------------------------------------------------------------------------------------------

    def learn(self, peer: str, words: tuple[Member, ...], now: float) -> None:
        """Weigh gossip; a teller of something wrong about this node gets the own word back."""
        if words and self._beliefs.learn(words, now):
            self._outbox.append(Send(peer, Gossip((self._roster.own.word(),))))

    def news(self, to: str, about: str) -> tuple[Member, ...]:
        """Words to ride on a frame to `to`: what waits to be told, and before it (buddy system) what `to` should know
        of its own suspicion, and what is believed of `about` if that is not alive or is this node."""
        settings = self._settings
        words: tuple[Member, ...] = ()
        if self._rumors:
            words = self._rumors.take(settings.piggyback_members, settings.transmits(self._roster.live))
        if about == self._roster.own.node:
            return (self._roster.own.word(), *words)
        if settings.buddy:
            for name in (about, to) if about != to else (to,):
                view = self._roster.views.get(name)
                if (
                    view is None
                    or view.state is MemberState.ALIVE
                    or view.incarnation == PROVISIONAL
                    or view.word() in words
                ):
                    continue
                words = (view.word(), *words)
        return words

    def arm(self, now: float) -> None:
        """Set the next gossip on the grid if there is something to tell and somebody to tell it to. Cost: O(1)."""
        if self._armed or not self._rumors or not self._roster.links:
            return
        self._armed = True
        interval_s = self._settings.gossip_interval_s
        wait_s = interval_s - (now - self._phase_s) % interval_s
        if wait_s < 0.01 * interval_s:
            wait_s += interval_s  # now is on the grid but for rounding
        self._agenda.push(now + wait_s, Due.GOSSIP)

    def gossip(self) -> None:
        """Tell a few members by dice what waits to be told. The caller arms again."""
        self._armed = False
        settings = self._settings
        for peer in self._roster.pick(settings.gossip_fanout, self._dice):
            words = self._rumors.take(settings.gossip_members, settings.transmits(self._roster.live))
            if not words:
                break
            self.gossip_frames += 1
            self._outbox.append(Send(peer, Gossip(words)))

    # -- comparing ---------------------------------------------------------------------------------------------

    def greet(self, node: str, now: float) -> None:
        """A link to `node` was just opened: tell it the own word, and what is believed of it if that is not alive.

        A node that knew nobody else asks for everything; one that did compares roots a moment later, by when gossip may
        have made it needless: a newcomer with a hundred links gets one list, not a hundred.
        """
        view = self._roster.views[node]
        words: tuple[Member, ...] = (self._roster.own.word(),)
        if view.state is not MemberState.ALIVE and view.incarnation != PROVISIONAL:
            words += (view.word(),)
        if self._roster.live <= 2 and self._roster.own.live:
            self._outbox.append(Send(node, Members(words, True, self.root)))
            return
        self._outbox.append(Send(node, Members(words, False)))
        self._sync_with = node
        at = now + self._settings.sync_soon_s * self._dice.uniform(0.5, 1.0)
        if at < self._sync_at:
            self._sync_at = at
            self._agenda.push(at, Due.SYNC)

    def sync(self, at: float, now: float) -> None:
        """Compare roots with one member: the last one linked, else one by dice. at: the time this was set for."""
        if at != self._sync_at or not self._roster.own.live:
            return  # it was brought forward, or this node left
        self._roster.sweep(now)
        self._beliefs.prune()
        peer = self._sync_with if self._sync_with in self._roster.links else ""
        self._sync_with = ""
        if not peer:
            peer = next(iter(self._roster.pick(1, self._dice)), "")
        if peer:
            self.syncs += 1
            self._outbox.append(Send(peer, Members((), True, self.root)))
        self._sync_at = now + self._settings.sync_interval_s * self._dice.uniform(0.8, 1.2)
        self._agenda.push(self._sync_at, Due.SYNC)

    def compare(self, peer: str, frame: Members, now: float) -> None:
        """A root to compare with, a whole list, or the rest of an exchange."""
        wrong = self._beliefs.learn(frame.members, now, listed=True)
        if frame.reply and (not frame.root or frame.root != self.root):
            told = () if frame.root else frame.members
            if self._give(peer, told, now):
                return
        if wrong:
            self._outbox.append(Send(peer, Gossip((self._roster.own.word(),))))

    def _give(self, peer: str, told: tuple[Member, ...], now: float) -> bool:
        """Send `peer` what is known here beyond what it told; everything if it told nothing, asking for the rest in
        return. False when lists are asked for too fast. Cost: O(members)."""
        settings = self._settings
        if now < self._list_after:
            self._beliefs.refuse("lists_too_fast")
            return False
        self._list_after = now + settings.list_gap_s
        known = {word.node: (word.epoch, word.incarnation, word.state) for word in told}
        words = [
            view.word()
            for view in self._roster.views.values()
            if view.incarnation != PROVISIONAL and view.order > known.get(view.node, (-1, 0, 0))
        ]
        self.lists += 1
        size = settings.list_members
        for at in range(0, len(words), size):
            last = at + size >= len(words)
            self._outbox.append(Send(peer, Members(tuple(words[at : at + size]), last and not told)))
        return True
