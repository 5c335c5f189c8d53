"""Dead letters published again: the same CloudEvent under a new mesh_id, and the dead letter gone once that is on disk.

Decides whether one may be published again, and when it is no more. Never decides who gets it: everybody who wants its topic now
does, also who had it the first time.
Invariant: a dead letter is dropped only after the record of its replay is synced; a crash before that leaves both.
Source: design page "What a person sees" (dlq replay).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from mesh.core.custody.dead_letters import DeadLetters
from mesh.core.custody.store import Store, StoreRefusedError
from mesh.core.ingress import Published
from mesh.core.plan import Plan
from mesh.model.event import NewEvent
from mesh.model.reasons import NoReplay, Refuse


class Replay(NamedTuple):
    """What became of one. why: "" when it was published again. seq: its new one. record: what must be synced before the dead letter
    goes, 0 for nothing. again: it ended as a dead letter at once (its queue group has no member)."""

    lsn: int
    why: NoReplay | Refuse | None = None
    seq: int = 0
    record: int = 0
    again: bool = False


class Publish(Protocol):
    """Takes events in at least once: what became of them, and the record to be synced. Raises: StoreRefusedError; ValueError, draining."""

    def __call__(self, events: Sequence[NewEvent], now: float) -> tuple[Published, int]: ...


class Reissue:
    """Cost: about 60 us a dead letter."""

    def __init__(
        self, letters: DeadLetters, store: Store, plan_of: Callable[[str], Plan], publish: Publish
    ) -> None:
        self._letters = letters
        self._store = store
        self._plan_of = plan_of
        self._publish = publish
        self.under_way: dict[int, int] = {}
        """Dead letters that are published again, and the record of each that is not synced yet."""

    def replay(self, lsn: int, now: float) -> Replay:
        """Publish one again. State unaffected where it says why not."""
        letters = self._letters
        if lsn in self.under_way:
            return Replay(lsn, NoReplay.UNDER_WAY)
        letter = letters.get(lsn)
        if letter is None:
            return Replay(lsn, NoReplay.UNKNOWN)
        event = letter.event
        plan = self._plan_of(event.topic)
        if not (plan.local or plan.nodes or plan.regions or plan.groups or plan.unreached):
            return Replay(lsn, NoReplay.NOBODY)
        born = letters.born
        try:
            published, record = self._publish(
                [NewEvent(event.topic, event.key, event.deadline_ms, event.attributes, event.data)], now
            )
        except StoreRefusedError as refused:
            return Replay(lsn, refused.reason)
        except ValueError:
            return Replay(lsn, NoReplay.DRAINING)
        if record > self._store.synced:
            self.under_way[lsn] = record
        else:
            letters.drop(lsn)  # handed to plain sessions alone: nothing waits for a disk
        return Replay(lsn, None, published.first_seq, record, letters.born > born)

    def synced(self) -> None:
        """The store committed: what has its replay on disk is no dead letter any more."""
        if not self.under_way:
            return
        synced = self._store.synced
        for lsn in [lsn for lsn, record in self.under_way.items() if record <= synced]:
            del self.under_way[lsn]
            self._letters.drop(lsn)
