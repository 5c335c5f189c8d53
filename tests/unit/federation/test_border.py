"""What leaves over the bridge links, and when."""

from __future__ import annotations

from unit.federation.route_tester import OneNode, gone, update

from federation.core.route_settings import RouteSettings
from mesh.core.effects import Send
from mesh.wire.frames import INFINITY, Routes, RoutesDigest, RoutesPull

SETTINGS = RouteSettings()


def test_a_new_link_gets_the_whole_table_at_once() -> None:
    node = OneNode()
    node.up(1, "a")
    node.tell(1, update("z", 5, 10, "a,z"))
    node.take(Routes)
    node.up(2, "b")
    (table,) = node.take(Routes, 2)
    assert table.full
    assert [(told.region, told.metric, told.path) for told in table.updates] == [
        ("h", 0, ("h",)),
        ("z", 11, ("h", "a", "z")),
    ]


def test_updates_wait_a_moment_for_each_other_and_retractions_do_not() -> None:
    node = OneNode()
    node.up(1, "a")
    node.up(2, "b")
    node.take(Routes)
    node.tell(1, update("y", 5, 10, "a,y"))
    node.wait(0.04)
    node.tell(1, update("z", 5, 10, "a,z"))
    assert node.take(Routes, 2) == []
    node.wait(0.011)
    (frame,) = node.take(Routes, 2)
    assert {told.region for told in frame.updates} == {"y", "z"}
    node.tell(1, gone("y"))
    assert [(told.region, told.metric) for told in node.updates(2)] == [("y", INFINITY)]


def test_what_turns_towards_a_neighbour_is_retracted_from_it_at_once() -> None:
    node = OneNode()
    node.up(1, "a", cost=20)
    node.up(2, "b")
    node.tell(1, update("z", 5, 10, "a,z"))
    node.wait(1.0)
    node.take(Routes)
    node.tell(2, update("z", 5, 3, "b,z"))
    assert [(told.region, told.metric) for told in node.updates(2)] == [("z", INFINITY)]
    node.wait(1.0)
    assert [(told.region, told.metric) for told in node.updates(1)] == [("z", 4)]


def test_digests_are_sent_every_half_minute_and_carry_the_hash_of_what_was_announced() -> None:
    node = OneNode()
    node.up(1, "a")
    node.take(Routes)
    node.wait(30.0)
    assert node.take(RoutesDigest, 1) == [RoutesDigest(node.machine.export_root(1))]
    node.wait(30.1)
    assert len(node.take(RoutesDigest, 1)) == 1


def test_a_whole_table_is_sent_when_asked_for_but_not_more_than_once_a_second() -> None:
    node = OneNode()
    node.up(1, "a")
    node.wait(5.0)
    node.take(Routes)
    for _ in range(10):
        node.receive(1, RoutesPull())
        node.wait(0.1)
    assert [frame.full for frame in node.take(Routes, 1)] == [True]
    node.wait(0.2)
    assert [frame.full for frame in node.take(Routes, 1)] == [True]


def test_an_unacknowledged_table_is_repeated_and_the_digest_waits() -> None:
    node = OneNode()
    node.machine.neighbour_up(1, "a", "a1", "transit", 0, 0.0, node.now)
    (table,) = node.machine.drain()
    assert isinstance(table, Send)
    times, kinds = [], set()
    for _ in range(200):
        due = node.machine.next_deadline()
        assert due is not None
        if due > node.now + 40:
            break
        node.machine.handle_deadline(due)
        for effect in node.machine.drain():
            assert isinstance(effect, Send)
            kinds.add(type(effect.frame))
            times.append(due - node.now)
            assert effect == table
    assert times[:3] == [3.0, 9.0, 21.0]
    assert kinds == {Routes}
    assert node.machine.statistics().frames_resent == len(times)


def test_announcing_lowers_the_feasibility_distance_in_the_same_step() -> None:
    """The announcement of 11 to b makes a's other way of 12 infeasible, before anything can be drained."""
    node = OneNode()
    node.up(1, "a")
    node.up(2, "b")
    node.up(3, "c")
    node.tell(1, update("z", 5, 10, "a,z"))
    node.tell(3, update("z", 5, 12, "c,z"))
    assert [hop.link for hop in node.machine.fib["z"].alternates] == [3]
    due = node.machine.next_deadline()
    assert due is not None
    node.machine.handle_deadline(due)
    assert node.machine.fib["z"].alternates == ()
    row = next(row for row in node.routes("z") if row.next_hop == "c1")
    assert (row.state.value, row.detail) == ("infeasible", "12 >= 11")
