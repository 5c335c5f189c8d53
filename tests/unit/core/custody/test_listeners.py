"""Who of a node gets a batch, and what becomes of what nobody there takes."""

from __future__ import annotations

from msgspec.structs import replace
from unit.core.custody.test_keeping import LOCAL, NOW, Desk, event

from mesh.core.custody.window import AckTerms
from mesh.model.reasons import Drop
from mesh.wire.frames import Flag


def test_whoever_acknowledges_is_a_part_and_the_others_are_served_directly() -> None:
    desk = Desk("t", acknowledging="t")
    wanted = desk.machine.custody.keeping._listeners.sort(LOCAL, [event(1)])
    assert list(wanted.parts) == ["s/2"]
    assert [(session, [one.seq for one in some]) for ((session, _),), some in wanted.direct] == [(1, [1])]


def test_for_a_publisher_who_waits_for_delivery_everybody_is_a_part() -> None:
    desk = Desk("t", acknowledging="t")
    asked = replace(LOCAL, flags=LOCAL.flags | Flag.RECEIPT_DELIVERED)
    wanted = desk.machine.custody.keeping._listeners.sort(asked, [event(1)])
    assert (sorted(wanted.parts), wanted.direct) == (["s/1", "s/2"], [])


def test_what_nobody_wants_any_more_is_counted_and_makes_no_record() -> None:
    desk = Desk("t")
    assert desk.deliver(event(1, "gone"), event(2)) == 0
    assert desk.got() == {1: [2]}
    assert desk.counters.drops == {Drop.INTEREST_GONE: 1}
    assert desk.counters.delivered == 1


def test_a_groups_event_without_a_member_here_or_anywhere_is_a_dead_letter() -> None:
    desk = Desk()
    record = desk.deliver(event(1), header=replace(LOCAL, groups=(("g", "t", "eu"),)))
    [letter] = desk.machine.custody.letters.page(0, 9).letters
    assert (letter.lsn, letter.reason, letter.part) == (record, "no_members", "g/g/t")
    assert desk.counters.drops == {}


def test_of_the_parts_those_of_durable_clients_who_are_not_there_are_away() -> None:
    desk = Desk()
    machine = desk.machine
    number = machine.connect_client("shop", AckTerms(False, 30.0, 5, 100), NOW).number
    machine.connect_client("till", AckTerms(False, 30.0, 5, 100), NOW)
    machine.consumers.disconnect(number, NOW)
    listeners = machine.custody.keeping._listeners
    assert listeners.away(("c/shop", "c/till", "s/1", "g/g/t")) == ("c/shop",)
