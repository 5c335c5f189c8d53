"""Each kind of fault does to a world what its line says, lasts as long as its plan says, and is over after healing."""

from __future__ import annotations

import random

import pytest

from mesh.model.ids import NodeKey
from mesh.testing.faults import Ailments, Fault, Trouble, draw_plan, target_of
from mesh.testing.network import Chaos
from mesh.testing.topology import Bridge, Shape, Topology
from mesh.testing.world import SimNode, World

A1, A2, B1, C1 = (NodeKey("a", "n1"), NodeKey("a", "n2"), NodeKey("b", "n1"), NodeKey("c", "n1"))
PAIRS = {(A1, B1): 0, (B1, C1): 1, (A1, A2): 2}
"""A line a - b - c, two nodes in a: the pair's index, as a plan names it."""


class Ward:
    """The line, settled, with one plan begun at its time 0."""

    def __init__(self, *plan: Trouble) -> None:
        self.topology = Topology(
            Shape.LINE,
            {"a": (50.0, 8.0), "b": (39.0, -77.0), "c": (1.0, 103.0)},
            [A1, A2, B1, C1],
            [Bridge(A1, B1), Bridge(B1, C1)],
        )
        self.world = World(1)
        for node in self.topology.build(self.world):
            node.start()
        self.world.run(5.0)
        self.ailments = Ailments(self.world, self.topology, plan)
        self.begun = self.world.now
        self.ailments.start()

    def node(self, key: NodeKey) -> SimNode:
        return self.world.nodes[key]

    def at(self, seconds: float) -> None:
        """Run until so long after the plan began."""
        self.world.run(self.begun + seconds - self.world.now)


def trouble(fault: Fault, target: int, amount: float = 0.2, lasts: float = 2.0) -> Trouble:
    return Trouble(fault, 1.0, lasts, target, amount)


def test_pairs_are_indexed_as_this_page_says() -> None:
    pairs = Ward().topology.pairs()
    assert {pair: pairs.index(pair) for pair in PAIRS} == PAIRS


@pytest.mark.parametrize(
    ("fault", "amount", "blocked"),
    [
        (Fault.CUT, 0.2, {(A1, B1), (B1, A1)}),
        (Fault.CUT_ONE_WAY, 0.2, {(A1, B1)}),
        (Fault.CUT_ONE_WAY, 0.7, {(B1, A1)}),
    ],
)
def test_a_cut_lasts_as_long_as_it_says(
    fault: Fault, amount: float, blocked: set[tuple[NodeKey, NodeKey]]
) -> None:
    ward = Ward(trouble(fault, PAIRS[A1, B1], amount))
    ward.at(0.99)
    assert ward.world.blocked == set()
    ward.at(1.01)
    assert ward.world.blocked == blocked
    ward.at(2.99)
    assert ward.world.blocked == blocked
    ward.at(3.01)
    assert ward.world.blocked == set()


def test_a_cut_that_ends_does_not_end_another_one_of_the_same_line() -> None:
    ward = Ward(
        Trouble(Fault.CUT, 1.0, 2.0, 0, 0.2),
        Trouble(Fault.CUT_ONE_WAY, 2.0, 3.0, 0, 0.2),
        Trouble(Fault.CUT, 2.0, 9.0, 1, 0.2),
    )
    ward.at(3.5)
    assert ward.world.blocked == {(A1, B1), (B1, C1), (C1, B1)}
    ward.at(5.5)
    assert ward.world.blocked == {(B1, C1), (C1, B1)}


def test_an_isolated_region_loses_all_its_bridges_and_no_link_inside() -> None:
    ward = Ward(trouble(Fault.ISOLATE, 1))
    ward.at(1.5)
    assert ward.world.blocked == {(A1, B1), (B1, A1), (B1, C1), (C1, B1)}
    ward.at(3.5)
    assert ward.world.blocked == set()


def test_a_reset_ends_the_connections_of_its_pair() -> None:
    ward = Ward(trouble(Fault.RESET, PAIRS[A1, A2]))
    [before] = [c for c in ward.node(A1).connections.values() if A2 in (c.a.key, c.b.key)]
    ward.at(1.01)
    assert before.dead
    ward.at(3.0)
    [after] = [c for c in ward.node(A1).connections.values() if A2 in (c.a.key, c.b.key)]
    assert after is not before, "it was dialled again"


@pytest.mark.parametrize(
    ("fault", "told"), [(Fault.CRASH, True), (Fault.POWER_LOSS, False), (Fault.SKEW, True)]
)
def test_a_crashed_node_returns_as_a_new_process(fault: Fault, told: bool) -> None:
    ward = Ward(trouble(fault, 3, 0.75))
    node, epoch = ward.node(C1), ward.node(C1).epoch
    ward.at(1.5)
    assert not node.up
    assert bool(ward.node(B1).machine.links.bridges.keys() - {1}) is not told or not told
    known = [str(s.peer_key) for s in ward.node(B1).machine.sessions.values() if s.peer is not None]
    assert ("c/n1" in known) is not told
    ward.at(3.1)
    assert node.up
    assert node.epoch > epoch
    assert node.skew_s == (1_800.0 if fault is Fault.SKEW else 0.0)
    assert ward.ailments.crashed


def test_a_node_that_leaves_says_so_goes_and_returns() -> None:
    ward = Ward(trouble(Fault.LEAVE, 1, lasts=3.0))
    ward.at(1.1)
    assert ward.node(A2).up
    assert not ward.node(A2).serves
    ward.at(2.5)
    assert not ward.node(A2).up
    assert ward.node(A1).machine.control.live_members() == {"n1"}
    ward.at(8.0)
    assert ward.node(A2).serves
    assert ward.node(A1).machine.control.live_members() == {"n1", "n2"}


def test_a_node_that_is_gone_stays_away_also_after_healing_and_most_regions_are_spared() -> None:
    ward = Ward(
        trouble(Fault.GONE, 1), Trouble(Fault.GONE, 1.5, 1.0, 3, 0.1), Trouble(Fault.GONE, 1.6, 1.0, 0, 0.1)
    )
    ward.at(2.0)
    assert ward.ailments.gone == {A2}, "of three regions one may lose a node for good"
    ward.at(6.0)
    ward.ailments.heal()
    assert [str(node.key) for node in ward.world.live_nodes()] == ["a/n1", "b/n1", "c/n1"]


def test_a_slow_node_is_slow_for_a_while() -> None:
    ward = Ward(trouble(Fault.SLOW, 2, 1.0))
    ward.at(1.5)
    assert ward.node(B1).slow_s == pytest.approx(1.52)
    ward.at(3.5)
    assert ward.node(B1).slow_s == 0.0


def test_weather_narrow_lines_and_garbling_come_and_go() -> None:
    ward = Ward(
        Trouble(Fault.WEATHER, 1.0, 1.0, 0, 0.5),
        Trouble(Fault.GARBLE, 1.0, 2.0, 0, 1.0),
        Trouble(Fault.NARROW, 1.0, 3.0, 0, 1.0),
    )
    ward.at(1.5)
    chaos = ward.world.chaos
    assert (chaos.loss, chaos.jitter, chaos.bandwidth_bytes_s) == (0.05, 0.5, 520_000.0)
    assert chaos.drop == chaos.duplicate == chaos.reorder == pytest.approx(0.15)
    assert ward.world.narrow == {(A1, B1): 3_000.0, (B1, A1): 3_000.0}
    ward.at(2.5)
    assert (chaos.loss, chaos.jitter, chaos.bandwidth_bytes_s) == (0.0, 0.0, Chaos().bandwidth_bytes_s)
    assert not chaos.lossless
    ward.at(3.5)
    assert chaos.lossless
    assert ward.world.narrow
    ward.at(4.5)
    assert ward.world.narrow == {}


def test_repeated_batches_are_delivered_once_and_counted() -> None:
    ward = Ward(trouble(Fault.REPEAT, 0, 1.0, lasts=9.0))
    ward.node(C1).subscribe(1, 1, "t")
    ward.at(2.0)
    ward.node(A2).publish("t")
    ward.at(5.0)
    assert len(ward.world.delivered) == 1
    assert ward.ailments.repeats >= 3, "on each of three links"
    assert ward.world.drops()["duplicate"] >= 1


def test_healing_ends_everything_at_once_and_nothing_of_the_plan_happens_later() -> None:
    plan = [trouble(fault, 0, 0.9, lasts=30.0) for fault in Fault if fault is not Fault.GONE]
    ward = Ward(*plan, Trouble(Fault.CRASH, 5.0, 1.0, 3, 0.5))
    ward.at(3.0)
    ward.ailments.heal()
    world = ward.world
    assert all(node.up and node.serves and node.slow_s == 0.0 for node in world.nodes.values())
    assert (world.blocked, world.narrow, world.chaos, world.on_batch) == (set(), {}, Chaos(), [])
    epochs = {node.key: node.epoch for node in world.nodes.values()}
    ward.at(40.0)
    assert {node.key: node.epoch for node in world.nodes.values()} == epochs
    assert world.blocked == set()


def test_plans_are_drawn_by_their_dice_in_order_and_of_the_kinds_asked_for() -> None:
    plan = draw_plan(random.Random(1), 50, 20.0)
    assert plan == draw_plan(random.Random(1), 50, 20.0)
    assert len(plan) == 50
    assert [one.at for one in plan] == sorted(one.at for one in plan)
    assert all(0.0 <= one.at <= 20.0 and 0.0 < one.lasts <= 20.0 for one in plan)
    assert len({one.fault for one in draw_plan(random.Random(2), 300, 20.0)}) == len(Fault)
    few = draw_plan(random.Random(1), 50, 20.0, (Fault.RESET, Fault.GONE))
    assert {one.fault for one in few} == {Fault.RESET, Fault.GONE}


def test_targets_are_named_for_people() -> None:
    topology = Ward().topology
    assert target_of(trouble(Fault.CUT, 0), topology) == "a/n1 - b/n1"
    assert target_of(trouble(Fault.CUT_ONE_WAY, 0, 0.9), topology) == "b/n1 -> a/n1"
    assert target_of(trouble(Fault.NARROW, 2), topology) == "a/n1 - a/n2"
    assert target_of(trouble(Fault.ISOLATE, 5), topology) == "c"
    assert target_of(trouble(Fault.CRASH, 6), topology) == "b/n1"
    assert target_of(trouble(Fault.WEATHER, 6), topology) == "everywhere"
    assert target_of(trouble(Fault.CUT, 0), Topology(Shape.LINE)) == "nothing"
