"""Who hears of what: tables, members and bridges of small worlds, and frames that a correct peer never sends."""

from __future__ import annotations

import msgspec
import pytest
from unit.node.wired_machines import Net, Wired, hear, linked

from mesh.core.opening import Terms
from mesh.core.tables import TableSet
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.node.control import KEPT_S
from mesh.testing.world import SimNode, World
from mesh.wire import frames as wire
from mesh.wire.frames import Delta, Digest, Frame, Held, Scope

encode = msgspec.msgpack.encode


# -- frames in the wrong place -----------------------------------------------------------------------------------------

INSIDE: list[Frame] = [
    Held((("eu/n1", 1, 1),)),
    wire.Probe(1, "n1"),
    wire.ProbeAck(1),
    wire.ProbeRequest(1, "n3"),
    wire.ProbeNack(1),
    wire.Gossip(()),
    wire.Members((), False),
    Delta(Scope.REGION, "n2", 1, 0, 1, 1, ()),
]
BETWEEN: list[Frame] = [
    wire.Routes(1, True, ()),
    wire.RoutesAck(1),
    wire.RoutesDigest(1),
    wire.RoutesPull(),
]


@pytest.mark.parametrize(
    ("region", "frame"),
    [("us", frame) for frame in INSIDE] + [("eu", frame) for frame in BETWEEN],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_a_frame_on_the_wrong_kind_of_link_costs_the_peer_its_link(region: str, frame: Frame) -> None:
    net, a, _, link = linked(region)
    hear(net, a, link, frame)
    assert a.closed() == [(f"{region}/n2", "unexpected_frame")]
    assert a.machine.sessions == {}


# -- entries that are garbage ------------------------------------------------------------------------------------------


def told(net: Net, node: Wired, link: int, scope: Scope, owner: str, entries: dict[str, bytes]) -> None:
    """A peer passes on a whole table of an owner, root and all."""
    tables = TableSet(scope, owner, 7, Limits(), 0.0)
    for key, value in entries.items():
        tables.put(key, value, 0.0)
    hear(net, node, link, *tables.news())


GARBAGE = {
    "f": b"\x01",
    "fa+/b": b"\x01",
    "f$share/x/y": b"\x01",
    "fa/#/b": b"\x01",
    "g": b"\x01",
    "gno slash": b"\x01",
    "g/a": b"\x01",
    "gworkers/a": b"\xc1",
    "gworkers/b": encode("three"),
    "gworkers/c": encode(-3),
    "gworkers/d": encode(1 << 60),
    "r": b"\xc1",
    "rus": encode([1]),
    "rus/us-1": b"",
    "rbad name/us-1": encode([1, 1, 1, ["us"], "us-1"]),
    "w": b"\xc1",
    "zunknown": b"\xc1",
    "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"): b"",
}


@pytest.mark.parametrize("is_bridge", [False, True])
def test_bad_entries_of_a_member_are_named_and_the_rest_of_its_table_counts(is_bridge: bool) -> None:
    net, a, _, link = linked("eu")
    if is_bridge:
        net.connect(net.node("us", "n9"), a)
        net.settle()
    net.run(0.3)
    told(net, a, link, Scope.REGION, "n2", {**GARBAGE, "fgood/#": encode(1), "ggood/jobs": encode(2)})
    net.run(1.0)
    machine = a.machine
    bit = machine.destinations.find("n/n2")
    assert machine.interest.filters_of(bit) == {"good/#"}
    assert dict(machine.interest.group_members("good", "jobs")) == {bit: 2}
    bad = {n.about.removeprefix("n2 ") for n in a.notices if n.what == "bad_entry"}
    assert {"fa+/b", "gworkers/a", "gworkers/b", "gworkers/c", "gworkers/d", "gno slash"} <= bad
    if is_bridge:
        exported = {key for key, _ in machine.control.world.items("eu/n1")}
        assert exported == {"b", "c", "fgood/#", "ggood/jobs"}


def test_of_a_member_that_is_away_only_what_durable_clients_hold_counts_and_garbage_is_named() -> None:
    net, a, _, link = linked("eu")
    net.run(0.3)
    entries = {
        "fgone/#": encode(1),
        "fkept/#": encode(1),
        "Fkept/#": encode(1),
        "gw/jobs": encode(4),
        "Gw/jobs": encode(1),
        "Fa/#/b": encode(1),
        "Gno slash": encode(1),
        "Gw/many": encode(1 << 60),
        "dshop": encode("127.0.0.1:7222"),
        "dlong": encode("x" * 999),
        "dbytes": b"\xc1",
    }
    told(net, a, link, Scope.REGION, "n9", entries)
    net.run(1.0)
    machine = a.machine
    bit = machine.destinations.find("n/n9")
    assert machine.interest.filters_of(bit) == {"kept/#"}
    assert dict(machine.interest.group_members("w", "jobs")) == {bit: 1}
    assert {n.about for n in a.notices if n.what == "bad_entry"} == {
        "n9 fa/#/b",
        "n9 gno slash",
        "n9 gw/many",
    }
    control = machine.control
    assert control.homes("shop") == [("n9", "127.0.0.1:7222")]
    assert control.homes("long") == control.homes("bytes") == control.homes("nobody") == []


def test_bad_entries_of_another_regions_summary_are_named_and_the_rest_counts() -> None:
    net, a, _, link = linked("us")
    net.run(0.2)
    told(net, a, link, Scope.WORLD, "us/n2", {**GARBAGE, "hzz": b"\xc1", "c": b"\xc1", "fgood/#": encode(0)})
    bit = a.machine.destinations.find("r/us")
    assert a.machine.interest.filters_of(bit) == {"good/#"}
    assert not any(a.machine.interest.group_members("workers", f) for f in "abcd")
    assert len([n for n in a.notices if n.what == "bad_entry"]) >= 6
    net.run(1.0)


@pytest.mark.parametrize(
    "owner", ["no slash", "/", "a/", "/b", "a/b/c", "bad name/x", "eu/ghost", "x" * 65 + "/n"]
)
def test_a_table_of_an_owner_that_cannot_be_harms_nobody(owner: str) -> None:
    net, a, _, link = linked("us")
    told(net, a, link, Scope.WORLD, owner, {"b": encode(1), "ft": encode(0), "c": encode({"n1": [1, 1]})})
    net.run(2.0)
    assert len(a.open_links()) <= 1
    a.machine.publish([], net.now)
    hear(net, a, link, Digest(Scope.WORLD, 1, None))


# -- members -----------------------------------------------------------------------------------------------------------


def region_of(count: int, seed: int = 4) -> tuple[World, list[SimNode]]:
    world = World(seed)
    nodes = [world.node("eu", f"n{n}") for n in range(1, count + 1)]
    for node in nodes[1:]:
        world.seed_link(node, nodes[0])
    for node in nodes:
        node.start()
    world.run(3.0)
    return world, nodes


def wanted_by(node: SimNode, other: SimNode) -> frozenset[str]:
    machine = node.machine
    return machine.interest.filters_of(machine.destinations.find(f"n/{other.key.node}"))


def test_a_dead_members_interest_goes_and_returns_with_it() -> None:
    world, (one, two, three) = region_of(3)
    three.subscribe(1, 1, "t")
    three.subscribe(1, 2, "jobs", "workers")
    world.run(0.5)
    assert wanted_by(one, three) == {"t"}
    three.crash()
    took = world.run_until(lambda: wanted_by(one, three) == frozenset(), 60.0)
    assert took is not None
    assert dict(one.machine.interest.group_members("workers", "jobs")) == {}
    three.start()
    assert world.run_until(lambda: wanted_by(one, three) == {"t"} == wanted_by(two, three), 10.0) is not None
    assert list(one.machine.interest.group_members("workers", "jobs").values()) == [1]


def test_what_a_member_dropped_while_it_was_cut_off_is_gone_after_healing() -> None:
    world, (one, two, three) = region_of(3)
    three.subscribe(1, 1, "old")
    world.run(0.5)
    for other in (one, two):
        world.cut(three.key, other.key)
    assert world.run_until(lambda: wanted_by(one, three) == frozenset(), 60.0) is not None
    three.unsubscribe(1, 1)
    three.subscribe(1, 1, "new")
    world.run(1.0)
    world.heal()
    assert (
        world.run_until(lambda: wanted_by(one, three) == {"new"} == wanted_by(two, three), 30.0) is not None
    )


def test_a_member_that_started_again_has_to_acknowledge_again() -> None:
    """It acknowledges, starts again before anybody called it dead, and the wait goes on."""
    net, a, old, link = linked("eu")
    wanted = a.machine.start_wait(net.now)
    net.take(a)
    net.run(0.1)
    receipts = a.machine.control.receipts
    assert receipts.in_region(wanted, ["n2"]).installed == ("n2",)
    old.silent = True
    a.machine.link_lost(link, Close.LINK_LOST, "reset", net.now)
    net.take(a)
    pipe = net.connect(net.node("eu", "n2", epoch=2), a)
    net.arrive(pipe, 1)
    assert "n2" in a.machine.links.peers
    assert receipts.in_region(wanted, ["n2"]).missing == (("n2", "interest_lagging"),)
    net.run(0.2)
    assert receipts.in_region(wanted, ["n2"]).missing == ()


def test_a_member_forgotten_by_membership_leaves_no_table_and_no_bit() -> None:
    world, (one, two, three) = region_of(3)
    three.subscribe(1, 1, "t")
    world.run(0.5)
    three.crash()
    world.run(60.0)
    membership = one.machine.control.membership
    held = membership.members()
    assert "n3" in held
    assert "n/n3" in one.machine.destinations
    known = membership.members
    membership.members = lambda: {n: m for n, m in known().items() if n != "n3"}  # type: ignore[method-assign]
    one.machine.control._forget_the_long_gone(world.now)
    membership.members = known  # type: ignore[method-assign]
    assert one.machine.control.tables.position("n3") is None
    assert "n/n3" not in one.machine.destinations, "or each name a region ever had makes every mask longer"
    two.subscribe(1, 1, "t")
    world.run(0.5)
    one.publish("t")
    world.run(0.5)
    assert [d.node.node for d in world.delivered] == ["n2"]


# -- bridges -----------------------------------------------------------------------------------------------------------


def test_interest_of_a_region_that_nobody_reaches_is_kept_for_a_day_and_then_forgotten() -> None:
    world = World(2)
    a, b = world.node("eu", "n1", bridges=["us"]), world.node("us", "n2")
    world.seed_link(a, b)
    a.start()
    b.start()
    b.subscribe(1, 1, "t")
    world.run(3.0)
    b.crash()
    world.run(5.0)
    control, now = a.machine.control, world.now
    control._forget_the_long_gone(now)
    control._forget_the_long_gone(now + KEPT_S - 1)
    assert control.reach.kept == {"us"}
    control._forget_the_long_gone(now + KEPT_S + 1)
    assert (set(control.reach.regions()), control.reach.kept) == (set(), set())
    assert control.world.position("us/n2") is None
    assert "r/us" not in a.machine.destinations


def test_a_bridge_that_is_back_before_the_day_is_over_begins_a_new_day() -> None:
    world = World(2)
    a, b = world.node("eu", "n1", bridges=["us"]), world.node("us", "n2")
    world.seed_link(a, b)
    a.start()
    b.start()
    b.subscribe(1, 1, "t")
    world.run(3.0)
    control = a.machine.control
    b.crash()
    world.run(5.0)
    control._forget_the_long_gone(world.now)
    b.start()
    world.run(5.0)
    control._forget_the_long_gone(world.now + KEPT_S)
    assert control._quiet == {}
    assert set(control.reach.regions()) == {"us"}


def two_bridges() -> tuple[World, dict[str, SimNode]]:
    """eu with two bridges and a plain node, us with two bridges."""
    world = World(9)
    nodes = {
        name: world.node(region, name, bridges=bridges)
        for region, name, bridges in (
            ("eu", "e1", ["us"]),
            ("eu", "e2", ["us"]),
            ("eu", "e3", []),
            ("us", "u1", []),
            ("us", "u2", []),
        )
    }
    for a, b in (("e2", "e1"), ("e3", "e1"), ("u2", "u1"), ("e1", "u1"), ("e2", "u2")):
        world.seed_link(nodes[a], nodes[b], Terms(nodes[b].key.region))
    for node in nodes.values():
        node.start()
    world.run(4.0)
    return world, nodes


def test_a_receipt_comes_over_either_of_two_bridges_and_also_when_one_of_them_is_gone() -> None:
    world, nodes = two_bridges()
    e3 = nodes["e3"]
    for lost in ("", "e1"):
        if lost:
            nodes[lost].crash()
            world.run(20.0)
        e3.subscribe(1, len(lost) + 1, f"t{lost}")
        wanted = e3.machine.start_wait(world.now)
        e3.after()
        receipts = e3.machine.control.receipts
        took = world.run_until(lambda: receipts.in_mesh(wanted, ["us"], {"us"}).installed == ("us",), 5.0)  # noqa: B023
        assert took is not None
        for name in ("u1", "u2"):
            machine = nodes[name].machine
            assert f"t{lost}" in machine.interest.filters_of(machine.destinations.find("r/eu"))
        e3.machine.stop_wait(world.now)
        e3.after()
        world.run(10.0)
        for owner in ("us/u1", "us/u2"):
            kept = [key for key, _ in e3.machine.control.world.items(owner) if key.startswith("h")]
            assert kept == [], "nothing of it exists while nobody waits"


def test_leaving_withdraws_the_routes_before_the_links_go() -> None:
    world, nodes = two_bridges()
    nodes["e1"].leave()
    world.run(0.5)
    routes = nodes["u1"].machine.control.routes
    assert "e1" not in routes.live_bridges("eu")
    assert nodes["u1"].machine.links.bridges, "the link is still there"


def test_a_peer_that_ends_a_link_on_purpose_is_no_suspect() -> None:
    net, a, _, link = linked("eu")
    hear(net, a, link, wire.CloseLink(Close.DRAINING, "bye"))
    assert a.machine.control.membership.members()["n2"].state.name == "ALIVE"
    net, a, _, link = linked("eu")
    a.machine.link_lost(link, Close.LINK_LOST, "reset", net.now)
    assert a.machine.control.membership.members()["n2"].state.name == "SUSPECT"


# -- a member's earlier process ----------------------------------------------------------------------------------------


def bridge_behind() -> tuple[World, SimNode, SimNode]:
    """eu/n1 reaches us only through its sibling eu/n2. us tells no newer seqno meanwhile."""
    world = World(5)
    plain, bridge = world.node("eu", "n1"), world.node("eu", "n2", bridges=["us"])
    us = world.node("us", "n1")
    world.seed_link(plain, bridge)
    world.seed_link(bridge, us)
    for node in (plain, bridge, us):
        node.start()
    world.run(3.0)
    assert "us" in plain.machine.control.routes.fib
    return world, plain, bridge


@pytest.mark.parametrize("away_s", [0.1, 40.0], ids=["still suspect", "dead meanwhile"])
def test_routes_of_a_members_earlier_process_are_not_relied_on(away_s: float) -> None:
    world, plain, bridge = bridge_behind()
    bridge.crash()
    world.run(away_s)
    used_early = []

    def look(node: SimNode) -> None:
        new = plain.machine.control._epochs["n2"] == bridge.epoch
        if node is plain and new and "us" in plain.machine.control.routes.fib:
            used_early.append(world.now)

    world.cut(bridge.key, NodeKey("us", "n1"))
    world.on_settled.append(look)
    bridge.start()
    world.run(5.0)
    assert "n2" in plain.machine.links.peers
    assert plain.machine.control._epochs["n2"] == bridge.epoch
    assert used_early == [], (
        "a new process may use routes of this very node: together they would run in a circle"
    )
    world.on_settled.remove(look)
    world.heal()
    world.run(10.0)
    assert "us" in plain.machine.control.routes.fib


def test_a_table_of_a_members_earlier_process_that_comes_late_brings_no_routes() -> None:
    world, plain, bridge = bridge_behind()
    [(key, value)] = [(k, v) for k, v in plain.machine.control.tables.items("n2") if k[0] == "r"]
    control = plain.machine.control
    control._new_process("n2", bridge.epoch + 1, world.now)
    control._entry("n2", key, value, world.now)
    assert "us" not in control.routes.fib


def test_a_route_that_a_members_new_process_tells_alike_counts() -> None:
    world, plain, bridge = bridge_behind()
    control = plain.machine.control
    before = control.tables.get("n2", "rus/n1")
    bridge.crash()
    world.run(0.05)
    bridge.start()
    world.run(5.0)
    assert control._epochs["n2"] == bridge.epoch
    assert control.tables.get("n2", "rus/n1") == before, "the world was built so that it tells the same again"
    assert "us" in control.routes.fib


def test_what_durable_clients_of_a_dead_member_want_is_kept_for_a_day_though_membership_forgets_it() -> None:
    world, (one, _, three) = region_of(3)
    three.join("ledger", ("orders/#", ""))
    world.run(2.0)
    three.crash()
    world.run(60.0)
    control = one.machine.control
    known = control.membership.members
    control.membership.members = lambda: {n: m for n, m in known().items() if n != "n3"}  # type: ignore[method-assign]
    now = world.now
    control._forget_the_long_gone(now)
    control._forget_the_long_gone(now + KEPT_S - 1)
    assert [away.node for away in one.machine.planner.plan("orders/x").unreached] == ["n3"]
    control._forget_the_long_gone(now + KEPT_S + 1)
    assert one.machine.planner.plan("orders/x").unreached == ()
    assert control.tables.position("n3") is None
