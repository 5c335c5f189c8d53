from __future__ import annotations

from collections.abc import Sequence

import pytest
from unit.core.custody.memory_store import MemoryStore, event, header

from mesh.core.counters import Counters
from mesh.core.custody.dead_letters import DeadLetters
from mesh.core.custody.reissue import Reissue
from mesh.core.custody.store import StoreRefusedError
from mesh.core.ingress import Published
from mesh.core.plan import Plan
from mesh.model.event import NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, NoReplay, Refuse

NOBODY = Plan((), (), (), (), (), False)
SOMEBODY = Plan((), (), ("ap",), (), (), False)


class Desk:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.letters = DeadLetters(self.store, Limits(), Counters())
        self.published: list[NewEvent] = []
        self.plan = SOMEBODY
        self.error: Exception | None = None
        self.keeps = True
        self.reissue = Reissue(self.letters, self.store, lambda topic: self.plan, self._publish)

    def _publish(self, events: Sequence[NewEvent], now: float) -> tuple[Published, int, object]:
        if self.error is not None:
            raise self.error
        self.published += events
        lsn = self.store.append(("r/ap",), b"", b"") if self.keeps else 0
        return Published(100 + len(self.published), [], {}), lsn, None

    def dead(self, seq: int = 1) -> int:
        lsn = self.letters.put(header(), event(seq, "orders/x", b'{"n":1}', 250), "r/ap", Drop.EXPIRED, 0)
        self.store.sync()
        return lsn


def test_it_is_published_again_as_it_was_and_is_gone_only_when_that_is_on_disk() -> None:
    desk = Desk()
    lsn = desk.dead()
    replay = desk.reissue.replay(lsn, 0.0)
    assert (replay.why, replay.seq, replay.record, replay.again) == (None, 101, lsn + 1, False)
    assert desk.published == [NewEvent("orders/x", "", 250, None, b'{"n":1}')]
    desk.reissue.synced()
    assert len(desk.letters) == 1, "a crash now must leave it"
    assert desk.reissue.replay(lsn, 0.0).why is NoReplay.UNDER_WAY
    desk.store.sync()
    desk.reissue.synced()
    assert (len(desk.letters), desk.reissue.under_way) == (0, {})
    assert desk.reissue.replay(lsn, 0.0).why is NoReplay.UNKNOWN
    assert len(desk.published) == 1


def test_what_goes_to_plain_sessions_alone_waits_for_no_disk() -> None:
    desk = Desk()
    desk.keeps = False
    lsn = desk.dead()
    assert desk.reissue.replay(lsn, 0.0).record == 0
    assert len(desk.letters) == 0


@pytest.mark.parametrize(
    ("plan", "error", "why"),
    [
        (NOBODY, None, NoReplay.NOBODY),
        (SOMEBODY, StoreRefusedError(Refuse.NO_SPACE), Refuse.NO_SPACE),
        (SOMEBODY, ValueError("draining"), NoReplay.DRAINING),
    ],
)
def test_one_that_cannot_be_published_again_says_why_and_stays(
    plan: Plan, error: Exception | None, why: object
) -> None:
    desk = Desk()
    lsn = desk.dead()
    desk.plan, desk.error = plan, error
    assert desk.reissue.replay(lsn, 0.0).why is why
    desk.store.sync()
    desk.reissue.synced()
    assert (len(desk.letters), desk.published) == (1, [])
    desk.plan, desk.error = SOMEBODY, None
    assert desk.reissue.replay(lsn, 0.0).why is None


def test_one_that_its_disk_lost_is_unknown() -> None:
    desk = Desk()
    lsn = desk.dead()
    desk.store.damaged.add(lsn)
    assert desk.reissue.replay(lsn, 0.0).why is NoReplay.UNKNOWN


def test_one_that_dies_again_at_once_says_so() -> None:
    desk = Desk()
    lsn = desk.dead()

    def dies(events: Sequence[NewEvent], now: float) -> tuple[Published, int, object]:
        return Published(1, [], {}), desk.letters.put(header(), event(2), "g/a/x", Drop.NO_MEMBERS, 0), None

    reissue = Reissue(desk.letters, desk.store, lambda topic: SOMEBODY, dies)
    assert reissue.replay(lsn, 0.0).again
    desk.store.sync()
    reissue.synced()
    assert [one.reason for one in desk.letters.page(0, 9).letters] == ["no_members"]
