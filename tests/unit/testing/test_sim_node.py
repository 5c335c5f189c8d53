"""A simulated node lives as a process does: clocks of its own, a new epoch each time, its clients ask again."""

from __future__ import annotations

import pytest

from mesh.testing.network import WALL_S
from mesh.testing.world import SimNode, World


def three(seed: int = 1) -> tuple[World, SimNode, SimNode, SimNode]:
    world = World(seed)
    a, b, c = (world.node("eu", name) for name in "abc")
    for one, other in ((a, b), (b, c), (c, a)):
        world.seed_link(one, other)
    for node in (a, b, c):
        node.start()
    world.run(3.0)
    return world, a, b, c


def test_nodes_link_and_deliver() -> None:
    world, a, b, _ = three()
    b.subscribe(1, 7, "t/+")
    world.run(0.5)
    [mesh_id] = a.publish("t/x", key="k", data=b"payload")
    world.run(0.5)
    [one] = world.delivered
    assert (one.node, one.session, one.mesh_id) == (b.key, 1, mesh_id)
    assert (one.delivery.sids, one.event.data, one.event.key) == ((7,), b"payload", "k")
    [taken] = world.taken
    assert (taken.node, taken.mesh_id, taken.topic, taken.plan.nodes) == (
        a.key,
        mesh_id,
        "t/x",
        ("b",),
    )


def test_a_process_has_a_higher_epoch_than_the_one_before_and_its_clients_ask_again() -> None:
    world, a, b, _ = three()
    b.subscribe(1, 1, "t")
    before = b.epoch
    b.crash()
    assert not b.up
    b.start()
    assert b.epoch == max(before + 1, int(WALL_S + world.now))
    world.run(5.0)
    a.publish("t")
    world.run(0.5)
    assert [one.node for one in world.delivered] == [b.key]
    b.unsubscribe(1, 1)
    assert b.subscriptions == {}
    assert b.asked == {(1, 1): ("t", "")}


def test_an_epoch_never_falls_though_the_wall_clock_does() -> None:
    world, a, _, _ = three()
    before = a.epoch
    a.crash()
    a.skew_s = -3_600.0
    a.start()
    assert a.epoch == before + 1
    world.run(3.0)
    assert len(a.machine.links.peers) == 2, "an hour apart is no reason to refuse"


def test_a_monotonic_clock_begins_anywhere_counts_at_its_own_rate_and_never_goes_back() -> None:
    world = World(1)
    a, b = world.node("eu", "a"), world.node("eu", "b")
    a.clock_begun_s, a.clock_rate = 90_000.0, 1.0005
    b.clock_begun_s, b.clock_rate = 5.0, 0.9995
    world.seed_link(a, b)
    a.start()
    b.start()
    world.run(100.0)
    assert a.now == pytest.approx(90_000 + 100.05)
    assert b.now == pytest.approx(5 + 99.95)
    assert set(a.machine.links.peers) == {"b"}, "what one clock says never reaches the other"
    b.subscribe(1, 1, "t")
    world.run(0.5)
    a.publish("t", ttl_ms=400)
    world.run(0.5)
    assert len(world.delivered) == 1
    seen = a.now
    a._now = seen + 1.0
    assert a.now == seen + 1.0


def test_deadlines_strike_on_time_by_the_nodes_own_clock_and_late_on_a_slow_one() -> None:
    world = World(1)
    node = world.node("eu", "a")
    node.clock_begun_s, node.clock_rate = 1e6, 1.0005
    node.start()
    struck: list[tuple[float, float]] = []
    handle = node.machine.handle_deadline

    def watch(now: float) -> None:
        struck.append((world.now, now - node.machine.next_deadline()))
        handle(now)

    node.machine.handle_deadline = watch  # type: ignore[method-assign]
    world.run(20.0)
    assert len(struck) > 10
    assert all(0.0 <= late < 0.01 for _, late in struck), "never early, and not late without a reason"
    node.slow_s = 0.3
    world.run(2.0)
    struck.clear()
    world.run(10.0)
    assert struck
    assert all(late == pytest.approx(0.3 * node.clock_rate, abs=0.01) for _, late in struck)


def test_what_dies_with_a_process_is_remembered_by_the_world() -> None:
    world, a, b, _ = three()
    b.subscribe(1, 1, "t")
    world.run(0.5)
    world.cut(a.key, b.key)
    a.publish("t", "t", "t")
    a.crash()
    assert world.drops(buried=True)["shutdown"] == 3


def test_sigterm_empties_the_queues_tells_the_region_and_ends_the_process() -> None:
    world, a, b, c = three()
    b.subscribe(1, 1, "t")
    world.run(0.5)
    b.slow_s = 0.1
    a.publish(*["t"] * 50)
    a.terminate()
    assert a.up
    assert not a.serves
    with pytest.raises(ValueError, match="draining"):
        a.publish("t")
    world.run(3.0)
    assert not a.up
    assert len(world.delivered) == 50, "what was taken in before is not lost"
    assert c.machine.control.live_members() == {"b", "c"}
    assert b.machine.control.live_members() == {"b", "c"}
    a.start()
    world.run(3.0)
    assert a.serves
    assert c.machine.control.live_members() == {"a", "b", "c"}


def test_a_node_that_is_stopped_while_it_leaves_does_not_stop_its_next_process() -> None:
    world, a, _, _ = three()
    a.terminate()
    a.crash()
    a.start()
    world.run(15.0)
    assert a.up
    assert a.serves


def test_a_request_ends_with_a_reply_or_with_no_responders() -> None:
    world, a, b, _ = three()
    inbox = a.request("nobody", 5.0)
    world.run(0.1)
    [ended] = a.ended
    assert (ended.inbox, ended.problem) == (inbox, "no_responders")
    b.subscribe(1, 1, "ask")
    world.run(0.5)
    waiting = a.request("ask", 1.0)
    world.run(2.0)
    assert (a.ended[1].inbox, a.ended[1].problem) == (waiting, "timeout")
    assert world.delivered[0].node == b.key
    b.replies = True
    a.request("ask", 1.0)
    world.run(0.5)
    assert [ended.event.data for ended in a.ended if ended.event is not None] == [b"!"]
