"""This node's part in second copies, whole: what it owes and who keeps it, too; what it keeps for others; whose clients it takes over.

Decides only who hears of what. Each decision is in its own module: `copies` (the owner's side), `mirror` (what is kept for others),
`takeover` (records of a node that is gone), `succession` (its durable clients).
Invariant: whatever is said to a sibling here is on this disk, or follows from what it said itself.
Source: design page "Routing", Delivery (`copies: 2`); decision 0019.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from mesh.core.counters import Counters
from mesh.core.custody.consumers import Consumers
from mesh.core.custody.copies import Copies
from mesh.core.custody.keeping import Keeping
from mesh.core.custody.mirror import Mirror
from mesh.core.custody.store import StoreRefusedError
from mesh.core.custody.succession import Succession
from mesh.core.custody.takeover import Takeover
from mesh.core.effects import Effect
from mesh.core.plan import Planner
from mesh.core.subscriptions import Transition
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.model.topic_rules import TopicRules
from mesh.wire.frames import BatchHeader, CopiedClient, CopiesHeld, CopiesOwed, Copy, CopyAck

Frame: TypeAlias = Copy | CopyAck | CopiesHeld | CopiesOwed | CopiedClient
FRAMES: Final = (Copy, CopyAck, CopiesHeld, CopiesOwed, CopiedClient)
RETRY_S: Final = 1.0
"""What the store would not take over is tried again after so long."""


class Pairs:
    """Args: again: finds another place for a group's event. Cost: nothing for events without the flag COPIES."""

    def __init__(
        self,
        region: str,
        node: str,
        *,
        copies: Copies,
        consumers: Consumers,
        keeping: Keeping,
        planner: Planner,
        again: Callable[[BatchHeader, Event, str, str, float], int],
        rules: TopicRules,
        limits: Limits,
        counters: Counters,
        now: float,
    ) -> None:
        self.copies = copies
        self.mirror = Mirror(copies.store.journal, limits, now)
        self.succession = Succession(
            region,
            node,
            store=copies.store,
            copies=copies,
            consumers=consumers,
            keeping=keeping,
            planner=planner,
            rules=rules,
            counters=counters,
            now=now,
        )
        self._takeover = Takeover(
            region,
            node,
            mirror=self.mirror,
            keeping=keeping,
            succession=self.succession,
            again=again,
            members=planner.subscriptions.member_count,
            rules=rules,
            counters=counters,
        )
        self.effects: list[Effect] = []
        copies.effects = self.mirror.effects = self.effects
        copies.clients = self.succession.clients
        copies.touch = self.succession.touch
        self.informed: Callable[[float], bool] = lambda now: True
        """Whether this node knows who wants what: before that it takes nothing over."""
        self.keeps: Callable[[str, str], bool] = lambda node, client: False
        """Whether a member's table names a client as its own."""
        self._retry_at = 0.0
        self._marks: list[tuple[str, bool]] = []

    # -- siblings ------------------------------------------------------------------------------------------------

    def receive(self, node: str, frame: Frame, now: float) -> str:
        """A frame of a sibling. Returns what no correct sibling sends, "" for nothing."""
        match frame:
            case Copy():
                return self.mirror.take(node, frame, now)
            case CopyAck():
                self.copies.acked(node, frame, now)
            case CopiesHeld():
                self.copies.held(node, frame, now)
            case CopiesOwed():
                self.mirror.owed(node, frame)
            case CopiedClient():
                self.mirror.client(node, frame)
        return ""

    def peer_opened(self, node: str, now: float) -> None:
        """A link to a sibling opened."""
        self.mirror.greet(node)
        self.copies.peer_opened(node, now)

    def links_changed(self, now: float) -> None:
        """Links, members or tables changed."""
        self.mirror.members_changed()
        self.copies.links_changed(now)

    def acknowledge(self, now: float) -> None:
        """After a burst, and after every sync: say what is on the disk, and which clients changed."""
        self.mirror.acknowledge()
        self.succession.tell(now)

    # -- time ----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        due = [self.copies.next_deadline(), self.succession.next_deadline()]
        if not self.mirror.draining:
            orphans = self.mirror.next_deadline()
            due.append(None if orphans is None else max(orphans, self._retry_at))
        return min((at for at in due if at is not None), default=None)

    def handle_deadline(self, now: float) -> list[Transition]:
        """Do what is due. Returns what the region must be told; `take_marks` what this node's table says then."""
        self.copies.handle_deadline(now)
        self.mirror.drop_old(now)
        told = self.succession.give_up(now)
        self._marks += [(former, False) for former in self.succession.forget(self.keeps, now)]
        if not self.mirror.draining and now >= self._retry_at:
            told += self._take_over(now)
            self.mirror.members_changed()
        return told

    def _take_over(self, now: float) -> list[Transition]:
        if not self.informed(now):
            self._retry_at = now + RETRY_S
            return []
        told: list[Transition] = []
        for owner, ids in list(self.mirror.orphans(now)):
            clients = self.mirror.take_clients(owner)
            if clients:
                told += self.succession.adopt(owner, clients, now)
                if owner in self.succession.taken:
                    self._marks.append((owner, True))
            try:
                self._takeover.run(owner, ids, now)
            except StoreRefusedError:
                self._retry_at = now + RETRY_S
                break
        return told

    def take_marks(self) -> list[tuple[str, bool]]:
        """(node, whether its clients are here) as this node's table has to say it, after the interest of those clients."""
        marks, self._marks = self._marks, []
        return marks
