"""Consumers: everything that is owed ends once, in order of its key, whatever receivers do."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace as changed

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.core.custody.journal_twin import EXPLICIT, Desk, Twin, event, events, unpack

from mesh.core.custody.window import AckTerms
from mesh.core.subscriptions import Transition
from mesh.model.reasons import Drop
from mesh.wire.frames import Flag

AUTO = AckTerms(True, 30.0, 5, 4)


def test_a_durable_client_gets_its_window_and_then_as_much_as_it_acknowledges() -> None:
    desk = Desk()
    number = desk.connect("shop")
    lsn, wanted = desk.batch(events(1, 10))
    assert wanted.parts == {"c/shop": list(range(10))}
    assert wanted.direct == []
    assert desk.seqs(number) == [1, 2, 3, 4]
    assert desk.ack(number, 2) == 1
    assert desk.seqs(number) == [5]
    assert desk.ack(number, 5, up_to=True) == 4
    assert desk.seqs(number) == [6, 7, 8, 9]
    assert desk.settled == []
    assert desk.ack(number, 9, up_to=True) == 4
    assert desk.seqs(number) == [10]
    assert desk.ack(number, 10) == 1
    assert desk.settled == [(lsn, "c/shop")]
    assert desk.twin.records == {}


def test_what_waits_is_held_by_place_and_read_again_when_it_is_sent() -> None:
    desk = Desk()
    number = desk.connect("shop")
    for first in range(1, 400, 4):
        desk.batch(events(first, first + 3))
    assert desk.twin.reads == 0
    got: list[int] = []
    while fresh := desk.seqs(number):
        got += fresh
        desk.ack(number, fresh[-1], up_to=True)
    assert got == list(range(1, 401))
    assert 0 < desk.twin.reads <= 100
    assert len(desk.settled) == 100


def test_a_client_that_was_away_gets_what_waited_and_it_is_not_flagged() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.close(number, 1.0)
    desk.batch(events(1, 3), 2.0)
    assert desk.take() == {}
    found = desk.consumers.connect("shop", EXPLICIT, 3.0)
    assert found == (number, False, 3)
    (delivery,) = desk.take()[number]
    assert [one.seq for one in delivery.events] == [1, 2, 3]
    assert (delivery.redelivered, delivery.deliveries, delivery.sids) == (False, 1, (1,))


def test_what_was_not_acknowledged_before_the_connection_ended_comes_again_first_and_flagged() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.batch(events(1, 6))
    assert desk.write(number) == [1, 2, 3, 4]
    desk.ack(number, 2)
    desk.close(number)
    desk.connect("shop")
    again, fresh = desk.take()[number]
    assert [one.seq for one in again.events] == [1, 3, 4]
    assert (again.redelivered, again.deliveries) == (True, 2)
    assert [one.seq for one in fresh.events] == [5]
    assert not fresh.redelivered, "it had not left the node"


def test_a_client_that_dies_on_an_event_loses_that_one_and_no_other() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.batch(events(1, 3))
    for _ in range(5):
        assert desk.write(number)[0] == 1
        desk.close(number)
        desk.connect("shop")
    assert desk.dead == [(("us", "u1", 7, 1), Drop.MAX_DELIVERIES, "c/shop", 5)]
    assert desk.write(number) == [2, 3]


def test_a_newer_connection_takes_over_what_is_out_at_the_older_one() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.batch(events(1, 2))
    assert desk.seqs(number) == [1, 2]
    found = desk.consumers.connect("shop", EXPLICIT, 1.0)
    assert (found.created, found.waiting) == (False, 2)
    assert desk.seqs(number) == [1, 2]


def test_an_event_is_late_only_from_when_it_was_written() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.batch(events(1, 2))
    taken = desk.take()[number]
    desk.consumers.handle_deadline(100.0)
    assert desk.take() == {}
    desk.consumers.written(number, taken, 100.0)
    assert desk.consumers.next_deadline() == 130.0
    desk.consumers.handle_deadline(129.9)
    assert desk.take() == {}
    desk.consumers.handle_deadline(130.0)
    (again,) = desk.take()[number]
    assert [one.seq for one in again.events] == [1, 2]
    assert again.redelivered
    assert desk.consumers.statistics().late == 2


def test_a_refused_event_comes_again_after_a_back_off_that_doubles_and_is_a_dead_letter_in_the_end() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.batch([event(1)])
    now = 0.0
    for wait_s in (0.1, 0.2, 0.4, 0.8):
        assert desk.seqs(number) == [1]
        assert desk.nack(number, 1, now)
        assert desk.consumers.next_deadline() == pytest.approx(now + wait_s)
        now += wait_s
        desk.consumers.handle_deadline(now + 1e-6)
    assert desk.seqs(number) == [1]
    desk.nack(number, 1, now)
    assert desk.dead == [(("us", "u1", 7, 1), Drop.MAX_DELIVERIES, "c/shop", 5)]
    assert desk.twin.records == {}


def test_newer_events_of_a_refused_ones_key_wait_for_it_and_others_do_not() -> None:
    desk = Desk()
    number = desk.connect("shop", terms=changed(EXPLICIT, window=1))
    desk.batch([event(1, "a"), event(2, "b"), event(3, "a"), event(4, "b")])
    assert desk.seqs(number) == [1]
    desk.nack(number, 1)
    assert desk.seqs(number) == [2]
    desk.ack(number, 2)
    assert desk.seqs(number) == [4]
    desk.ack(number, 4)
    assert desk.take() == {}
    desk.consumers.handle_deadline(0.1)
    assert desk.seqs(number) == [1]
    desk.ack(number, 1, now=0.1)
    assert desk.seqs(number) == [3]


def test_an_acknowledgement_that_comes_late_still_counts_while_the_event_was_not_sent_again() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.batch([event(1)])
    desk.take()
    desk.nack(number, 1)
    assert desk.ack(number, 1) == 1
    assert desk.twin.records == {}
    desk.consumers.handle_deadline(10.0)
    assert desk.take() == {}
    assert desk.ack(number, 1) == 0
    assert desk.consumers.statistics().unknown_acks == 1


def test_an_event_past_its_deadline_is_a_dead_letter_wherever_it_waits() -> None:
    desk = Desk()
    number = desk.connect("shop", terms=changed(EXPLICIT, window=1))
    desk.batch([event(1), event(2, deadline_ms=3_000), event(3, deadline_ms=4_000), event(4)])
    desk.take()
    assert desk.consumers.next_deadline() == pytest.approx(3.0)
    desk.consumers.handle_deadline(3.0)
    assert desk.dead == [(("us", "u1", 7, 2), Drop.EXPIRED, "c/shop", 0)]
    desk.ack(number, 1, now=3.5)
    assert desk.seqs(number) == [3]
    desk.nack(number, 3, 3.95)
    desk.consumers.handle_deadline(4.0)
    assert desk.dead[1:] == [(("us", "u1", 7, 3), Drop.EXPIRED, "c/shop", 1)]
    assert desk.seqs(number) == [4]


@pytest.mark.parametrize("bound", [{"durable_events": 5}, {"durable_bytes": 5 * 204}])
def test_over_the_bound_of_a_client_the_oldest_are_dead_letters(bound: dict[str, int]) -> None:
    desk = Desk(**bound)
    number = desk.connect("shop")
    desk.close(number)
    desk.batch(events(1, 4))
    desk.batch(events(5, 8))
    assert [(id[3], reason) for id, reason, _, _ in desk.dead] == [
        (seq, Drop.DURABLE_FULL) for seq in (1, 2, 3)
    ]
    (view,) = desk.consumers.clients(1.0)
    assert (view.waiting, view.waiting_bytes, view.oldest_s) == (5, 5 * 204, 1.0)
    desk.connect("shop", terms=changed(EXPLICIT, window=9))
    assert desk.seqs(number) == [4, 5, 6, 7, 8]


def test_clients_and_their_interest_are_there_again_after_a_restart_and_what_they_get_is_flagged() -> None:
    desk = Desk()
    number = desk.connect("shop", filter="a/#")
    desk.subscribe(number, 2, "jobs", "g")
    desk.batch(events(1, 3))
    desk.take()
    desk.ack(number, 2)
    assert desk.begin(0.0) == [Transition("", "a/#", 1), Transition("g", "jobs", 1)]
    assert desk.take() == {}
    number = desk.consumers.connect("shop", EXPLICIT, 1.0).number
    (delivery,) = desk.take()[number]
    # That 2 was acknowledged is not written down before the whole part is: it repeats, and says so.
    assert [one.seq for one in delivery.events] == [1, 2, 3]
    assert (delivery.redelivered, delivery.deliveries) == (True, 2)
    desk.ack(number, 3, up_to=True)
    assert desk.twin.records == {}


def test_parts_of_clients_that_are_no_more_are_settled_at_a_restart() -> None:
    desk = Desk()
    desk.close(desk.connect("shop"))
    desk.batch(events(1, 3))
    del desk.twin.notes["client/shop"]
    desk.begin(0.0)
    assert desk.twin.records == {}
    assert [view.name for view in desk.consumers.clients(0.0)] == []


def test_a_note_that_does_not_decode_makes_no_client() -> None:
    twin = Twin(notes={"client/a": b"\xff", "subscription/a/1": b"\x01", "subscription/b/x": b"\x01"})
    assert list(Desk(twin).consumers.durable) == []


def test_a_removed_client_is_gone_with_what_waited() -> None:
    desk = Desk()
    number = desk.connect("shop", filter="a/#")
    desk.batch(events(1, 6))
    assert desk.consumers.remove("shop", 1.0) == [Transition("", "a/#", 0)]
    assert desk.counters.drops == {Drop.CLIENT_REMOVED: 6}
    assert desk.twin.records == {}
    assert desk.twin.notes == {}
    assert desk.ack(number, 1) == 0
    with pytest.raises(KeyError):
        desk.consumers.remove("shop", 1.0)


def test_a_client_away_for_too_long_is_removed_also_when_the_node_restarts_meanwhile() -> None:
    desk = Desk(durable_age_s=2_000.0)
    desk.close(desk.connect("shop", filter="a/#"), 0.0)
    desk.consumers.handle_deadline(600.0)
    desk.consumers.handle_deadline(1_200.0)
    desk.begin(5.0)  # the clock of the next process
    desk.consumers.handle_deadline(605.0)
    assert [view.away_s for view in desk.consumers.clients(605.0)] == [1_800.0]
    assert desk.consumers.handle_deadline(1_205.0) == [Transition("", "a/#", 0)]
    assert list(desk.consumers.durable) == []


def test_no_more_clients_than_the_limit_says() -> None:
    desk = Desk(durable_clients=1)
    desk.connect("a")
    with pytest.raises(ValueError, match="1 durable clients"):
        desk.connect("b")
    desk.connect("a")


def test_a_subscription_that_was_taken_back_frees_what_waited_for_it() -> None:
    desk = Desk()
    number = desk.connect("shop", filter="a/b")
    desk.subscribe(number, 2, "c")
    desk.batch([*events(1, 6), event(7, topic="c")])
    assert desk.seqs(number) == [1, 2, 3, 4]
    desk.unsubscribe(number, 1)
    desk.ack(number, 4, up_to=True)
    assert desk.seqs(number) == [7]
    assert desk.counters.drops == {Drop.INTEREST_GONE: 2}
    desk.batch(events(8, 12, topic="c"))
    desk.unsubscribe(number, 2)
    assert desk.counters.drops == {Drop.INTEREST_GONE: 4}
    desk.take()
    desk.close(number)
    desk.connect("shop", filter="")
    assert desk.counters.drops == {Drop.INTEREST_GONE: 8}
    assert desk.twin.records == {}


def test_plain_sessions_are_served_directly_unless_the_publisher_waits_for_them() -> None:
    desk = Desk()
    desk.subscribe(3, 1, "a/b")
    desk.subscribe(4, 1, "c")
    batch = [*events(1, 2), event(3, topic="c"), event(4, topic="nobody")]
    lsn, wanted = desk.batch(batch)
    assert lsn == 0
    assert wanted.direct == [(((3, (1,)),), batch[:2]), (((4, (1,)),), batch[2:3])]
    assert wanted.nobody == [3]
    lsn, wanted = desk.batch(batch, receipt=True)
    assert wanted.parts == {"s/3": [0, 1], "s/4": [2]}
    assert wanted.direct == []
    taken = desk.take()
    desk.consumers.written(3, taken[3], 0.0)
    assert desk.settled == [(lsn, "s/3")]
    desk.close(4)
    assert desk.settled == [(lsn, "s/3"), (lsn, "s/4")]
    assert desk.counters.drops == {Drop.SESSION_CLOSED: 1}


def test_an_audience_is_split_into_consumers_and_others() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.subscribe(3, 5, "a/b")
    desk.consumers.open(4, EXPLICIT)
    desk.subscribe(4, 1, "#")
    _, wanted = desk.batch(events(1, 2))
    assert wanted.parts == {"c/shop": [0, 1], "s/4": [0, 1]}
    assert wanted.direct == [(((3, (5,)),), events(1, 2))]
    assert set(desk.take()) == {number, 4}


def test_parts_of_live_sessions_are_settled_at_a_restart() -> None:
    desk = Desk()
    desk.consumers.open(4, EXPLICIT)
    desk.subscribe(4, 1, "#")
    desk.batch(events(1, 2))
    desk.begin(0.0)
    assert desk.twin.records == {}


def test_a_client_that_acknowledges_by_reading_needs_no_acks() -> None:
    desk = Desk()
    number = desk.connect("shop", terms=AUTO)
    desk.batch(events(1, 10))
    assert [desk.write(number), desk.write(number), desk.write(number)] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10],
    ]
    assert desk.twin.records == {}


def test_a_groups_work_goes_round_its_connected_members_with_room() -> None:
    desk = Desk()
    for session in (3, 4):
        desk.consumers.open(session, EXPLICIT)
        desk.subscribe(session, 7, "a/b", "g")
    away = desk.connect("away", filter="")
    desk.subscribe(away, 1, "a/b", "g")
    desk.close(away)
    lsn, wanted = desk.batch(events(1, 9), groups=[("g", "a/b")])
    assert wanted.parts == {"g/g/a/b": list(range(9))}
    taken = desk.take()
    assert {session: [one.seq for each in taken[session] for one in each.events] for session in taken} == {
        3: [1, 3, 5, 7],
        4: [2, 4, 6, 8],
    }
    assert taken[3][0].sids == (7,)
    desk.ack(4, 2)
    assert desk.seqs(4) == [9]
    desk.close(3)
    assert desk.take() == {}  # 4 is full
    desk.ack(4, 9, up_to=True)
    (again,) = desk.take()[4]
    assert ([one.seq for one in again.events], again.redelivered) == ([1, 3, 5, 7], True)
    desk.ack(4, 7, up_to=True)
    assert desk.settled == [(lsn, "g/g/a/b")]


def test_without_a_member_a_groups_events_are_handed_back_those_that_may_repeat_flagged() -> None:
    desk = Desk()
    desk.consumers.open(3, EXPLICIT)
    desk.subscribe(3, 7, "a/b", "g")
    lsn, _ = desk.batch(events(1, 6), groups=[("g", "a/b"), ("h", "a/b")])
    _, wanted = desk.batch([event(9)], groups=[("h", "a/b")])
    assert wanted.unserved == [("h", "a/b")]
    desk.take()
    desk.ack(3, 1)
    desk.close(3)
    assert desk.handed_back == [
        (lsn, [2], "g", "a/b", True),
        (lsn, [3], "g", "a/b", True),
        (lsn, [4], "g", "a/b", True),
        (lsn, [5], "g", "a/b", False),  # in the hands of a writer that never took it
        (lsn, [6], "g", "a/b", False),
    ]
    assert desk.settled == [(lsn, "g/g/a/b")]


def test_what_nobody_else_takes_waits_for_a_member_and_is_offered_again() -> None:
    desk = Desk()
    desk.takes_back = False
    away = desk.connect("away", filter="")
    desk.subscribe(away, 1, "a/b", "g")
    desk.close(away)
    lsn, _ = desk.batch(events(1, 3), groups=[("g", "a/b")])
    assert desk.consumers.next_deadline() == 5.0
    desk.consumers.handle_deadline(5.0)
    assert desk.consumers.next_deadline() == 10.0
    desk.subscribe(3, 1, "a/b", "g", 6.0)
    assert desk.seqs(3) == [1, 2, 3]
    desk.consumers.open(4, EXPLICIT)
    desk.takes_back = True
    desk.consumers.handle_deadline(10.0)
    assert desk.handed_back == []
    desk.close(3, 11.0)
    assert [seqs for _, seqs, *_ in desk.handed_back] == [[1], [2], [3]]
    assert desk.settled == [(lsn, "g/g/a/b")]


def test_after_a_restart_a_group_waits_for_its_members() -> None:
    desk = Desk()
    desk.subscribe(3, 1, "a/b", "g")
    desk.batch([event(1), event(2, topic="a/c")], groups=[("g", "a/b")])
    desk.begin(0.0)
    assert desk.handed_back == []
    desk.subscribe(1, 1, "a/b", "g", 1.0)
    (delivery,) = desk.take()[1]
    assert ([one.seq for one in delivery.events], delivery.redelivered) == ([1], True)
    desk.begin(0.0)
    desk.consumers.handle_deadline(5.0)
    assert desk.handed_back == [(1, [1], "g", "a/b", True)]
    assert desk.twin.records == {}


def test_one_mesh_id_out_for_two_reasons_is_acknowledged_at_once() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.subscribe(number, 2, "a/b", "g")
    desk.batch([event(1)], groups=[("g", "a/b")])
    assert desk.seqs(number) == [1, 1]
    assert desk.ack(number, 1) == 2
    assert desk.twin.records == {}


def test_a_batch_for_groups_alone_goes_to_no_plain_subscription() -> None:
    desk = Desk()
    desk.connect("shop")
    desk.subscribe(3, 1, "a/b", "g")
    _, wanted = desk.batch([event(1)], groups=[("g", "a/b")], flags=Flag.GROUP_ONLY)
    assert (set(wanted.parts), wanted.direct) == ({"g/g/a/b"}, [])


def test_a_record_that_cannot_be_read_is_counted_and_the_rest_goes_on() -> None:
    desk = Desk()
    number = desk.connect("shop")
    desk.close(number)
    for first in range(1, 100):
        desk.batch([event(first)])
    desk.twin.damaged = {1, 2, 99}
    desk.connect("shop", terms=changed(EXPLICIT, window=200))
    assert desk.seqs(number) == list(range(3, 99))
    assert desk.counters.drops == {Drop.JOURNAL_DAMAGED: 3}
    assert {(1, "c/shop"), (2, "c/shop"), (99, "c/shop")} == set(desk.settled)


# -- a naive model -----------------------------------------------------------------------------------------------


class Checked(Desk):
    """A desk whose every step is compared with what a list of debts says. One consumer per client: plain subscriptions only."""

    NAMES = ("a", "b")

    def __init__(self) -> None:
        super().__init__(durable_events=60, max_unacked=4)
        self.owed: dict[str, dict[int, str]] = {name: {} for name in self.NAMES}  # seq -> key
        self.ended: dict[str, set[int]] = {name: set() for name in self.NAMES}
        self.sent: dict[str, set[int]] = {name: set() for name in self.NAMES}
        self.out: dict[str, set[int]] = {name: set() for name in self.NAMES}
        self.may_repeat: dict[str, set[int]] = {name: set() for name in self.NAMES}
        self.next_seq = 1
        self.now = 0.0
        self.number: dict[str, int] = {}
        for name in self.NAMES:
            self.number[name] = self.connect(name)

    def end(self, name: str, seq: int) -> None:
        assert seq in self.owed[name], "only what is owed ends"
        assert seq not in self.ended[name], "and it ends once"
        self.ended[name].add(seq)
        self.out[name].discard(seq)

    def look(self) -> None:
        """Whatever happened: dead letters end events; what was handed over kept order, window and flags."""
        for id, _, part, _ in self.dead:
            self.end(part[2:], id[3])
        self.dead.clear()
        taken = self.take()
        for name, number in self.number.items():
            deliveries = taken.get(number, [])
            for delivery in deliveries:
                for one in delivery.events:
                    self.check_sent(name, one.seq, one.key, delivery.redelivered)
            self.consumers.written(number, deliveries, self.now)
            assert len(self.out[name]) <= EXPLICIT.window

    def check_sent(self, name: str, seq: int, key: str, redelivered: bool) -> None:
        assert seq not in self.ended[name]
        assert redelivered or seq not in self.sent[name] | self.may_repeat[name], "a repeat says so"
        if key:
            older = [
                one
                for one, of_key in self.owed[name].items()
                if of_key == key and one < seq and one not in self.ended[name] | self.out[name]
            ]
            assert not older, f"{older} of key {key} should have gone before {seq}"
        self.sent[name].add(seq)
        self.out[name].add(seq)

    def step(self, op: str, name: str, pick: int, dice: random.Random) -> None:
        number = self.number[name]
        connected = number in self.consumers._dispatch.windows
        out = sorted(self.out[name])
        self.now += dice.choice([0.0, 0.05, 1.0])
        match op:
            case "publish":
                batch = []
                for _ in range(1 + pick % 5):
                    key = dice.choice(["", "k", "l"])
                    deadline_ms = dice.choice([0, 0, 0, 500])
                    batch.append(event(self.next_seq, key, deadline_ms=deadline_ms))
                    for each in self.NAMES:
                        self.owed[each][self.next_seq] = key
                    self.next_seq += 1
                self.batch(batch, self.now)
            case "ack" if connected and out:
                seq = out[pick % len(out)]
                self.ack(number, seq, now=self.now)
                self.end(name, seq)
            case "up_to" if connected and out:
                before = {id[3] for id in self.consumers._dispatch.windows[number]._out}
                self.ack(number, out[pick % len(out)], now=self.now, up_to=True)
                gone = before - {id[3] for id in self.consumers._dispatch.windows[number]._out}
                for seq in gone:
                    self.end(name, seq)
            case "nack" if connected and out:
                seq = out[pick % len(out)]
                self.out[name].discard(seq)
                self.nack(number, seq, self.now)
            case "wait":
                self.now += dice.choice([0.2, 5.0, 31.0])
                self.consumers.handle_deadline(self.now)
                for each in self.NAMES:
                    window = self.consumers._dispatch.windows.get(self.number[each])
                    handed = self.take_peek(each)
                    self.out[each] = {id[3] for id in window._out} - handed if window else set()
            case "leave" if connected:
                self.close(number, self.now)
                self.out[name].clear()
            case "come":
                self.out[name].clear()
                self.connect(name, self.now)
            case "crash":
                for each in self.NAMES:
                    self.may_repeat[each] = set(self.owed[each])
                    self.out[each].clear()
                    # What of a part was acknowledged is not remembered before all of it was.
                    self.ended[each] = {seq for seq in self.ended[each] if not self.still_open(each, seq)}
                self.begin(self.now)
                self.number = {client.name: client.number for client in self.consumers.durable}
        self.look()

    def take_peek(self, name: str) -> set[int]:
        runs = self.consumers._dispatch.handing._waiting.get(self.number[name], [])
        return {one.seq for run in runs for one in run.events}

    def still_open(self, name: str, seq: int) -> bool:
        return any(
            f"c/{name}" in parts and seq in {one.seq for one in unpack(head, body)[1]}
            for parts, head, body in self.twin.records.values()
        )

    def drain(self) -> None:
        """Everybody connects and acknowledges everything: nothing is owed any more."""
        for _ in range(400):
            self.now += 0.5
            self.consumers.handle_deadline(self.now)
            self.look()
            for name in self.NAMES:
                if self.number[name] not in self.consumers._dispatch.windows:
                    self.connect(name, self.now)
                    self.look()
                for seq in sorted(self.out[name]):
                    self.ack(self.number[name], seq, now=self.now)
                    self.end(name, seq)
            self.look()
            if not any(self.out.values()) and not self.twin.records:
                break
        assert self.twin.records == {}
        for name in self.NAMES:
            assert self.ended[name] == set(self.owed[name])


OPS = ["publish", "publish", "publish", "ack", "up_to", "nack", "wait", "leave", "come", "crash"]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(OPS), st.sampled_from(Checked.NAMES), st.integers(0, 9)), max_size=60
    ),
    seed=st.integers(0, 1_000),
)
def test_whatever_clients_and_the_node_do_every_event_ends_once_and_keys_keep_their_order(
    steps: list[tuple[str, str, int]], seed: int
) -> None:
    dice = random.Random(seed)
    desk = Checked()
    for op, name, pick in steps:
        desk.step(op, name, pick, dice)
    desk.drain()


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["publish", "ack", "nack", "join", "leave", "wait"]), st.integers(0, 9)),
        max_size=60,
    )
)
def test_a_groups_events_end_once_at_some_member_or_are_handed_back(
    steps: list[tuple[str, int]],
) -> None:
    desk = Desk()
    now, seq = 0.0, 0
    members: list[int] = []
    fresh = 0
    ended: dict[int, int] = defaultdict(int)
    out: dict[int, set[int]] = defaultdict(set)
    seen: set[int] = set()
    for op, pick in steps:
        now += 0.05
        match op:
            case "publish" if members:
                desk.batch(events(seq + 1, seq + 1 + pick % 4), now, [("g", "a/b")])
                seq += 1 + pick % 4
            case "ack" if members and out[members[pick % len(members)]]:
                member = members[pick % len(members)]
                first = min(out[member])
                out[member].discard(first)
                assert desk.ack(member, first, now=now) == 1
                ended[first] += 1
            case "nack" if members and out[members[pick % len(members)]]:
                member = members[pick % len(members)]
                last = max(out[member])
                out[member].discard(last)
                desk.nack(member, last, now)
            case "join":
                fresh += 1
                members.append(fresh)
                desk.consumers.open(fresh, EXPLICIT)
                desk.subscribe(fresh, 1, "a/b", "g", now)
            case "leave" if members:
                member = members.pop(pick % len(members))
                out.pop(member, None)
                desk.close(member, now)
            case "wait":
                now += 2.0
                desk.consumers.handle_deadline(now)
        for member, deliveries in desk.take().items():
            for delivery in deliveries:
                for one in delivery.events:
                    assert delivery.redelivered == (one.seq in seen)
                    seen.add(one.seq)
                    out[member].add(one.seq)
            assert len(out[member]) <= EXPLICIT.window
    for member in members:
        desk.close(member, now)
    desk.consumers.handle_deadline(now + 60.0)
    for id, *_ in desk.dead:
        ended[id[3]] += 1
    for _, seqs, *_ in desk.handed_back:
        for back in seqs:
            ended[back] += 1
    assert dict(ended) == dict.fromkeys(range(1, seq + 1), 1)
    assert desk.twin.records == {}


def test_the_region_is_told_who_is_kept_here_and_what_outlives_the_process() -> None:
    desk = Desk()
    one, two = desk.connect("one", filter="a"), desk.connect("two", filter="a")
    desk.subscribe(one, 2, "jobs", "g")
    desk.subscribe(two, 2, "jobs", "g")
    desk.subscribe(7, 1, "live")
    kept, clients = desk.consumers.take_news()
    assert kept == [Transition("", "a", 1), Transition("g", "jobs", 1), Transition("g", "jobs", 2)]
    assert clients == {"one": True, "two": True}
    assert desk.consumers.take_news() == ([], {})
    desk.unsubscribe(one, 1)
    desk.consumers.remove("two", 0.0)
    assert desk.consumers.take_news() == (
        [Transition("", "a", 0), Transition("g", "jobs", 1)],
        {"two": False},
    )
    desk.begin(0.0)
    assert desk.consumers.take_news() == ([Transition("g", "jobs", 1)], {"one": True})
