"""Which link may stay: one name, one process; one pair, one link; and only those regions that are welcome.

Decides between links that lead to the same node, and between two processes of one name: the holder of a name keeps it only
if it shows that it lives. Never sends or closes: it returns a verdict that the machine carries out.
Invariant: a pair of nodes keeps at most one open link.
Source: design page "Routing", Identity and restart; Membership (first paragraph).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mesh.core.membership import Membership
from mesh.core.plan import Links
from mesh.core.session import LinkSession, SessionState
from mesh.model.ids import NodeKey
from mesh.model.reasons import Close
from mesh.node.settings import NodeSettings
from mesh.wire.frames import LinkKind

HOLDER_ANSWERS_S = 1.0
"""How long the present holder of a name has to show that it lives before a newcomer takes over."""


class Verdict(NamedTuple):
    """What to do, in this order: refuse links with a reason, ask one for a sign of life, accept one."""

    refused: tuple[tuple[LinkSession, Close, str], ...] = ()
    asked: LinkSession | None = None
    accepted: LinkSession | None = None


@dataclass(slots=True)
class Challenge:
    """A second process claims a name that an open link holds: the holder was asked to answer until `deadline`."""

    newcomer: LinkSession
    holder: LinkSession
    asked_at: float
    deadline: float


class Admission:
    """Args: sessions, links: shared with the machine, read only. Cost: O(bridge links) a judgement."""

    def __init__(
        self, settings: NodeSettings, sessions: dict[int, LinkSession], links: Links, membership: Membership
    ) -> None:
        self._settings = settings
        self._key = NodeKey(settings.region, settings.node)
        self._sessions = sessions
        self._links = links
        self._membership = membership
        self._challenges: list[Challenge] = []
        self.draining = False

    def judge(self, session: LinkSession, now: float) -> Verdict:
        """The peer's Open is in order by itself: is there room for it beside the other links?"""
        peer = session.peer
        assert peer is not None
        refusal = self._not_welcome(session)
        if refusal is not None:
            return Verdict(((session, *refusal),))
        holder = self._link_to(session.peer_key)
        if holder is None:
            return Verdict(accepted=session)
        assert holder.peer is not None
        if holder.peer.instance == peer.instance:
            return self._one_of_two(holder, session)
        if holder.peer.epoch > peer.epoch:
            return Verdict(((session, Close.OLD_EPOCH, f"a newer process of {session.peer_key} is linked"),))
        if holder.peer.epoch == peer.epoch:
            # Started in the same second elsewhere: neither can replace the other's state, so the first one stays. Started again,
            # this one has a newer epoch, and the holder is asked whether it lives.
            where = holder.peer.address or "an address it does not tell"
            return Verdict(((session, Close.NAME_IN_USE, f"{session.peer_key} runs at {where}"),))
        self._challenges.append(Challenge(session, holder, now, now + HOLDER_ANSWERS_S))
        return Verdict(asked=holder)

    def _not_welcome(self, session: LinkSession) -> tuple[Close, str] | None:
        peer = session.peer
        assert peer is not None
        if session.peer_key == self._key:
            where = self._settings.address or "an address it does not tell"
            return Close.NAME_IN_USE, f"{self._key} runs at {where}"
        if self.draining:
            return Close.DRAINING, "this node is leaving"
        if len(self._sessions) > self._settings.limits.peer_links:
            return Close.LIMIT, "peer_links"
        if session.kind is LinkKind.PEER:
            known = self._membership.members().get(peer.node)
            if known is not None and known.epoch > peer.epoch:
                return Close.OLD_EPOCH, f"the region knows a newer process of {session.peer_key}"
        elif (
            not session.dialled
            and self._settings.accept == "listed"
            and peer.region not in self._settings.bridges
        ):
            return Close.REGION_NOT_LISTED, f"region {peer.region} is not in a [[bridge]] here"
        return None

    def _link_to(self, key: NodeKey) -> LinkSession | None:
        """The open link to a node, if there is one."""
        if key.region == self._key.region:
            link = self._links.peers.get(key.node)
            return None if link is None else self._sessions.get(link)
        return next((s for s in self._sessions.values() if s.is_open and s.peer_key == key), None)

    def _one_of_two(self, old: LinkSession, new: LinkSession) -> Verdict:
        """A pair keeps the link dialled by the smaller (region, id); of two from the same end, the older one."""
        smaller_is_me = self._key < new.peer_key
        if new.dialled == old.dialled or new.dialled != smaller_is_me:
            return Verdict(((new, Close.DUPLICATE_LINK, "this pair is linked already"),))
        return Verdict(
            ((old, Close.DUPLICATE_LINK, "the link dialled by the smaller name is kept"),), None, new
        )

    def gone(self, session: LinkSession) -> None:
        """A link ended: its challenge with it."""
        self._challenges = [c for c in self._challenges if c.newcomer is not session]

    def next_deadline(self) -> float:
        return min((c.deadline for c in self._challenges), default=float("inf"))

    def handle_deadline(self, now: float) -> Iterator[Verdict]:
        """Holders whose time is up: one that answered keeps the name, otherwise the newcomer has it.

        Each verdict must be carried out before the next is asked for: it may be about links of the same name.
        """
        ended = [c for c in self._challenges if c.deadline <= now]
        self._challenges = [c for c in self._challenges if c.deadline > now]
        for challenge in ended:
            if challenge.newcomer.state is SessionState.OPENING:
                yield self._end(challenge, now)

    def _end(self, challenge: Challenge, now: float) -> Verdict:
        newcomer, holder = challenge.newcomer, challenge.holder
        present = self._link_to(newcomer.peer_key)
        if present is not holder:
            # Another link has the name by now, perhaps one of the newcomer's own, or none has.
            return self.judge(newcomer, now)
        if holder.is_open and holder.last_heard > challenge.asked_at:
            assert holder.peer is not None
            where = holder.peer.address or "an address it does not tell"
            return Verdict(((newcomer, Close.NAME_IN_USE, f"{newcomer.peer_key} is alive at {where}"),))
        return Verdict(((holder, Close.OLD_EPOCH, "a newer process took over the name"),), None, newcomer)
