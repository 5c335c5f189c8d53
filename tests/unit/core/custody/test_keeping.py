"""Each event once, in time, and nothing remembered of what the store refused: at a node of its own."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace
from unit.core.custody.test_custody import LINE, build
from unit.node.wired_machines import settings

from mesh.core.custody.record import decode_head
from mesh.core.custody.store import StoreRefusedError
from mesh.core.custody.window import AckTerms
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, Hold, Refuse
from mesh.model.topic_rules import TopicRule
from mesh.node.machine import NodeMachine
from mesh.testing.memory_store import MemoryStore
from mesh.wire.codec import decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

LOCAL = BatchHeader(Leg.LOCAL, Flag.CUSTODY, "us", "u1", 7, ("eu",), 0, 9, 0, ("us",), 1, 1)
NOW = 100.0


class Desk:
    """eu/n1, alone. Session 1 is served directly, session 2 acknowledges."""

    def __init__(self, *filters: str, acknowledging: str = "", limits: Limits | None = None) -> None:
        self.store = MemoryStore()
        more = {"limits": limits} if limits else {}
        self.machine = NodeMachine(
            settings("eu", "n1", alone=True, **more), random.Random(1), NOW, store=self.store
        )
        for sid, filter in enumerate(filters, 1):
            self.machine.subscribe(1, sid, filter, "", NOW)
        if acknowledging:
            self.machine.consumers.open(2, AckTerms(False, 30.0, 5, 100))
            self.machine.subscribe(2, 1, acknowledging, "", NOW)
        self.keeping = self.machine.custody.keeping
        self.counters = self.machine.counters

    def deliver(self, *events: Event, header: BatchHeader = LOCAL, now: float = NOW) -> int:
        header = replace(header, count=len(events))
        return self.keeping.deliver(header, list(events), encode_body(list(events)), now)

    def got(self) -> dict[int, list[int]]:
        """Seqs by session since the last call."""
        return {
            session: [event.seq for one in deliveries for event in one.events]
            for session, deliveries in self.machine.take_deliveries().items()
        }


def event(seq: int, topic: str = "t", deadline_ms: int = 0, extra: tuple[str, ...] | None = None) -> Event:
    return Event(seq, topic, "k", deadline_ms, extra, (), b"x")


def test_a_copy_is_delivered_once_and_counted() -> None:
    desk = Desk("t")
    desk.deliver(event(1), event(2))
    desk.deliver(event(2), event(3))
    assert desk.got() == {1: [1, 2, 3]}
    assert desk.counters.drops == {Drop.DUPLICATE: 1}


def test_below_the_window_nobody_can_say_so_it_is_delivered_and_counted() -> None:
    desk = Desk("t", limits=Limits(dedupe_window=64, credit_events=64, batch_events=64))
    desk.deliver(event(1))
    desk.deliver(event(1_000))
    desk.deliver(event(1))
    assert desk.got() == {1: [1, 1_000, 1]}
    assert desk.counters.passed_window == 1


def test_what_a_group_gets_again_is_not_taken_for_what_plain_subscriptions_had() -> None:
    desk = Desk("t")
    desk.machine.subscribe(1, 9, "t", "g", NOW)
    desk.deliver(event(1))
    again = replace(LOCAL, flags=LOCAL.flags | Flag.GROUP_ONLY, groups=(("g", "t", "eu"),))
    desk.deliver(event(1), header=again)
    desk.machine.flush(NOW)
    assert sorted(desk.got()[1]) == [1, 1]
    assert Drop.DUPLICATE not in desk.counters.drops


def test_a_refusal_of_the_store_leaves_no_trace_so_that_the_batch_may_come_again() -> None:
    desk = Desk(acknowledging="t")
    desk.store.fault = Refuse.NO_SPACE
    with pytest.raises(StoreRefusedError):
        desk.deliver(event(1), event(2))
    assert desk.got() == {}
    desk.store.fault = None
    assert desk.deliver(event(1), event(2)) == 1
    assert desk.got() == {2: [1, 2]}
    assert desk.counters.drops == {}


def test_only_what_somebody_acknowledges_needs_a_record_and_only_of_those_events() -> None:
    desk = Desk("t", acknowledging="u")
    assert desk.deliver(event(1)) == 0
    assert len(desk.store) == 0
    desk.deliver(event(1), event(2, "u"))
    [entry] = desk.store.outstanding()
    head, body = desk.store.read(entry.lsn)
    assert entry.parts == ("s/2",)
    assert [one.seq for one in decode_body(body, decode_head(head).header.count)] == [2]
    assert desk.got() == {1: [1], 2: [2]}


def test_by_its_exact_deadline_an_event_is_a_dead_letter_and_its_copy_no_second_one() -> None:
    desk = Desk("t")
    header = replace(LOCAL, remaining_ms=20)  # of 1024: 1004 ms have passed
    for _ in range(2):
        desk.deliver(event(1, deadline_ms=1_000), event(2, deadline_ms=1_010), event(3), header=header)
    assert desk.got() == {1: [2, 3]}
    letters = desk.machine.custody.letters.page(0, 9).letters
    assert [(one.event.seq, one.reason, one.part) for one in letters] == [(1, "expired", "here")]
    assert desk.counters.drops == {Drop.DUPLICATE: 3}


def chained(seq: int, before: int, age_ms: int = 10, deadline_ms: int = 0) -> Event:
    return event(seq, deadline_ms=deadline_ms, extra=("", "", f"eu={before}@{age_ms}"))


LATER = NOW + 100.0


def test_an_event_of_an_ordered_topic_waits_in_the_store_for_the_one_before_it() -> None:
    desk = Desk(acknowledging="t")
    desk.deliver(event(1), now=LATER)
    desk.deliver(chained(4, 3), now=LATER)
    desk.deliver(chained(3, 2), now=LATER)
    assert desk.got() == {2: [1]}
    assert [entry.parts for entry in desk.store.outstanding()] == [("s/2",), ("w/3",), ("w/2",)]
    desk.deliver(chained(2, 1), now=LATER)
    assert desk.got() == {2: [2, 3, 4]}
    assert desk.counters.order_gaps == 0
    assert [entry.parts for entry in desk.store.outstanding()] == [("s/2",)] * 4


def test_events_of_one_batch_wait_for_one_another() -> None:
    desk = Desk(acknowledging="t")
    desk.deliver(event(1), chained(3, 2), chained(4, 3), event(5), now=LATER)
    assert desk.got() == {2: [1, 5]}
    desk.deliver(chained(2, 1), now=LATER)
    assert desk.got() == {2: [2, 3, 4]}


def test_what_was_published_before_anybody_here_subscribed_is_not_waited_for() -> None:
    desk = Desk(acknowledging="t")
    desk.deliver(chained(3, 2, age_ms=500), now=NOW + 0.1)
    assert desk.got() == {2: [3]}


def test_after_its_time_it_goes_without_the_one_before_it_and_is_counted() -> None:
    desk = Desk(acknowledging="t")
    desk.deliver(chained(3, 2), now=LATER)
    desk.machine.custody.handle_deadline(LATER + 59.0)
    assert desk.got() == {}
    desk.machine.custody.handle_deadline(LATER + 60.0)
    assert desk.got() == {2: [3]}
    assert desk.counters.order_gaps == 1


def test_held_back_past_its_deadline_it_is_a_dead_letter() -> None:
    desk = Desk(acknowledging="t")
    header = replace(LOCAL, remaining_ms=1_024)
    desk.deliver(chained(3, 2, deadline_ms=1_000), header=header, now=LATER)
    desk.machine.custody.handle_deadline(LATER + 1.1)
    assert desk.got() == {}
    [letter] = desk.machine.custody.letters.page(0, 9).letters
    assert (letter.event.seq, letter.reason) == (3, "expired")
    assert [entry.parts for entry in desk.store.outstanding()] == [("d/expired/t",)]


def test_a_refused_batch_leaves_nothing_in_the_gate() -> None:
    desk = Desk(acknowledging="t")
    appended = desk.store.append
    desk.store.append = lambda parts, head, body: (  # type: ignore[method-assign]
        appended(parts, head, body) if parts[0].startswith("w/") else refuse()
    )
    with pytest.raises(StoreRefusedError):
        desk.deliver(event(1), chained(3, 2), now=LATER)
    assert len(desk.keeping.gate) == 0
    assert list(desk.store.outstanding()) == []
    desk.store.append = appended  # type: ignore[method-assign]
    desk.deliver(event(1), chained(3, 2), now=LATER)
    desk.deliver(event(2), now=LATER)
    assert desk.got() == {2: [1, 2, 3]}


def refuse() -> int:
    raise StoreRefusedError(Refuse.FULL)


class Lagging(MemoryStore):
    """On the disk is only what `synced` says."""

    behind = 0

    @property
    def synced(self) -> int:
        return super().synced - self.behind


class Durable:
    """A durable client of eu/n1, through several processes on one store."""

    def __init__(self) -> None:
        self.store = Lagging()
        self.start(NOW)
        self.connect(NOW)
        self.machine.subscribe(self.number, 1, "t", "", NOW)

    def start(self, now: float) -> None:
        self.machine = NodeMachine(settings("eu", "n1", alone=True), random.Random(1), now, store=self.store)
        self.machine.recover(0, now)

    def connect(self, now: float) -> None:
        self.number = self.machine.consumers.connect("c", AckTerms(False, 30.0, 5, 100), now).number

    def deliver(self, *events: Event, now: float = LATER) -> int:
        header = replace(LOCAL, count=len(events))
        lsn = self.machine.custody.keeping.deliver(header, list(events), encode_body(list(events)), now)
        self.machine.custody.acknowledge(now)
        return lsn

    def got(self) -> list[tuple[int, bool]]:
        """(seq, redelivered) since the last call."""
        found = self.machine.take_deliveries().get(self.number, [])
        return [(event.seq, one.redelivered) for one in found for event in one.events]


def test_a_restart_holds_back_what_was_held_back_and_keeps_the_order() -> None:
    desk = Durable()
    desk.deliver(event(1))
    desk.deliver(chained(3, 2))
    desk.start(LATER)
    desk.connect(LATER)
    assert desk.got() == [(1, True)]
    desk.deliver(chained(4, 3), now=LATER + 1)
    desk.deliver(chained(2, 1), now=LATER + 1)
    assert desk.got() == [(2, False), (3, True), (4, False)]


def test_after_a_restart_the_one_before_is_known_though_it_was_acknowledged() -> None:
    desk = Durable()
    desk.deliver(chained(2, 1, age_ms=99_000))
    assert desk.got() == [(2, False)]
    desk.machine.consumers.ack(desk.number, [("us", "u1", 7, 2)], LATER)
    assert list(desk.store.outstanding()) == []
    desk.start(LATER)
    desk.connect(LATER)
    desk.deliver(chained(3, 2), now=LATER + 1)
    assert desk.got() == [(3, False)]


def test_what_left_the_gate_is_settled_when_it_is_on_the_disk_and_not_delivered_twice_after_a_crash() -> None:
    desk = Durable()
    desk.store.behind = 99
    desk.deliver(chained(3, 2))
    desk.deliver(event(2))
    assert desk.got() == [(2, False), (3, False)]
    assert [entry.parts for entry in desk.store.outstanding()] == [("w/2",), ("c/c",), ("c/c",)]
    desk.start(LATER)
    desk.connect(LATER)
    assert desk.got() == [(2, True), (3, True)]
    assert [entry.parts for entry in desk.store.outstanding()] == [("c/c",), ("c/c",)]
    desk.start(LATER)
    desk.store.behind = 0
    desk.machine.custody.acknowledge(LATER)
    assert len(desk.machine.custody.keeping.gate) == 0


def test_a_crash_between_the_two_events_delivers_the_second_one_at_once() -> None:
    desk = Durable()
    desk.deliver(chained(3, 2))
    desk.machine.custody.keeping.gate.take(
        ("us", "u1", 7, 3)
    )  # as if the process had died before it let it out
    desk.deliver(event(2, extra=("", "", "")))
    desk.start(LATER)
    desk.connect(LATER)
    assert desk.got() == [(2, True), (3, True)]


def test_a_copy_is_taken_only_when_what_it_repeats_is_on_the_disk() -> None:
    desk = Desk(acknowledging="t")
    assert desk.deliver(event(1)) == 1
    assert desk.deliver(event(1)) == 1


def test_without_a_way_it_waits_with_its_rule_and_its_end() -> None:
    desk = Desk()
    away = replace(LOCAL, leg=Leg.BRIDGE, regions=("us",), path=())
    body = encode_body([event(1)])
    rule = TopicRule("t", spool_bytes=1_000)
    first = desk.keeping.keep(away, body, ("r/us",), NOW, rule=rule)
    second = desk.keeping.keep(away, body, ("r/us",), NOW, deadline_ms=5_000)
    departure = desk.machine.custody.departure
    assert list(departure.lanes["r/us"].waiting) == [first, second]
    assert departure.lanes["r/us"].held is Hold.NO_ROUTE
    ends = {lsn: (held.expires_at, held.ends_as) for lsn, held in departure.held.items()}
    assert ends == {first: (NOW + 86_400.0, Drop.SPOOL_AGE), second: (NOW + 5.0, Drop.EXPIRED)}
    assert desk.machine.custody.spools.waiting() == {"t": len(body)}
    assert decode_head(desk.store.read(first)[0]).rule == "t"


def test_a_record_that_ends_at_once_leaves_nothing_in_its_rules_spool() -> None:
    _, nodes = build(LINE[:1])
    machine, now = nodes["a-1"].machine, nodes["a-1"].now
    header = replace(LOCAL, leg=Leg.BRIDGE, regions=("b",), path=(), hops_left=0)
    rule = TopicRule("t", spool_bytes=1_000)
    machine.custody.keeping.keep(header, encode_body([event(1)]), ("r/b",), now, rule=rule)
    assert machine.custody.departure.held == {}
    assert machine.custody.spools.waiting() == {}
    [letter] = machine.custody.letters.page(0, 9).letters
    assert (letter.reason, letter.part) == ("hop_limit", "r/b")
