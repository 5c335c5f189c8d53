"""What is explained is what the forwarder then does: over tables made for the test, and in whole small worlds."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from unit.core.bridged_worlds import build
from unit.core.planner_bench import Bench, Line, Way

from federation.core.explain import Copy, Explainer, Missed
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, NotDelivered
from mesh.testing.walk import follow
from mesh.wire.frames import Flag, Leg


def explainer(
    bench: Bench, known: frozenset[str] = frozenset(), congested: frozenset[str] = frozenset()
) -> Explainer:
    return Explainer(
        "r0",
        "me",
        planner=bench.planner,
        limits=Limits(hop_limit=3),
        known=lambda: known,
        congested=lambda name: name in congested,
    )


def two_exits() -> Bench:
    """Regions us over the own bridge and ap over a sibling; the member n2."""
    bench = Bench({"us": Line((Way(link=7),)), "ap": Line((Way(node="sibling"),))})
    bench.links.peers |= {"n2": 1, "sibling": 2}
    bench.links.bridges |= {7: "us"}
    return bench


# -- one step --------------------------------------------------------------------------------------------------------


def test_published_here_it_names_sessions_copies_and_everybody_who_goes_without() -> None:
    bench = two_exits()
    for name in ("n/n2", "n/n3", "r/us", "r/ap", "r/zz"):
        bench.want(name, "t")
    bench.subscriptions.subscribe(4, 1, "#", "")
    step = explainer(bench, frozenset({"us", "ap", "zz", "idle"})).published("t", "r0/me/1/1")
    assert step.sessions == ((4, (1,)),)
    assert step.copies == (
        Copy(1, Leg.LOCAL, ("r0",), (), ()),
        Copy(2, Leg.TRANSIT, ("ap",), (), ()),
        Copy(7, Leg.BRIDGE, ("us",), (), ("r0",)),
    )
    assert {(m.region, m.node, m.reason) for m in step.missed} == {
        ("r0", "n3", NotDelivered.LINK_DOWN),
        ("zz", "", NotDelivered.NO_ROUTE),
        ("idle", "", NotDelivered.NO_INTEREST),
    }


def test_a_group_is_assigned_once_and_the_regions_passed_over_are_told_so() -> None:
    bench = two_exits()
    for name in ("n/n2", "r/us"):
        bench.group(name, 1)
    step = explainer(bench).published("t", "r0/me/1/1")
    assert step.copies == (Copy(1, Leg.LOCAL, ("r0",), (("g", "t", "r0"),), ()),)
    assert [(m.region, m.reason, m.detail) for m in step.missed] == [
        ("us", NotDelivered.GROUP_ASSIGNED, "g/t -> r0")
    ]
    step = explainer(bench, congested=frozenset({"n2"})).published("t", "r0/me/1/1")
    assert step.copies == (Copy(7, Leg.BRIDGE, ("us",), (("g", "t", "us"),), ("r0",)),)


def test_a_group_without_a_member_in_reach_is_no_members() -> None:
    bench = two_exits()
    bench.group("r/zz", 1)
    step = explainer(bench).published("t", "r0/me/1/1")
    assert step.copies == ()
    assert step.missed == (Missed("r0", "", Drop.NO_MEMBERS, "g/t"),)


def test_a_copy_that_was_here_before_is_a_loop_for_all_its_regions() -> None:
    copy = Copy(7, Leg.BRIDGE, ("us", "ap"), (), ("af", "r0"))
    step = explainer(two_exits()).entered("t", "af/x/1/1", copy, 3, "af/x")
    assert (step.sessions, step.groups, step.copies) == ((), (), ())
    assert [(m.region, m.reason) for m in step.missed] == [("us", Drop.LOOP), ("ap", Drop.LOOP)]


def test_a_copy_without_hops_stays_where_it_is_and_its_own_region_still_gets_it() -> None:
    bench = two_exits()
    bench.subscriptions.subscribe(4, 1, "t", "")
    copy = Copy(7, Leg.BRIDGE, ("r0", "us"), (), ("af",))
    step = explainer(bench).entered("t", "af/x/1/1", copy, 0, "af/x")
    assert step.sessions == ((4, (1,)),)
    assert step.copies == ()
    assert step.missed == (Missed("us", "", Drop.HOP_LIMIT, ""),)


def test_where_nobody_of_the_region_wants_it_any_more_the_interest_is_gone() -> None:
    copy = Copy(7, Leg.BRIDGE, ("r0",), (), ("af",))
    step = explainer(two_exits()).entered("t", "af/x/1/1", copy, 3, "af/x")
    assert step.missed == (Missed("r0", "", Drop.INTEREST_GONE, ""),)
    step = explainer(two_exits()).delivered("t", Copy(1, Leg.LOCAL, ("r0",), (), ("af",)))
    assert step.missed == (Missed("r0", "me", Drop.INTEREST_GONE, ""),)


@pytest.mark.parametrize("redirected", [False, True])
def test_a_transit_copy_goes_on_to_a_sibling_once(redirected: bool) -> None:
    flags = int(Flag.REDIRECTED) if redirected else 0
    copy = Copy(1, Leg.TRANSIT, ("us", "ap"), (), (), flags)
    step = explainer(two_exits()).transited(copy, 3)
    own = Copy(7, Leg.BRIDGE, ("us",), (), ("r0",), 0)
    if redirected:
        assert step.copies == (own,)
        assert step.missed == (Missed("ap", "", Drop.NO_ROUTE, ""),)
    else:
        assert step.copies == (own, Copy(2, Leg.TRANSIT, ("ap",), (), (), int(Flag.REDIRECTED)))
        assert step.missed == ()


def test_a_local_copy_serves_the_groups_that_have_a_member_here_still() -> None:
    bench = two_exits()
    bench.subscriptions.subscribe(4, 1, "t", "g")
    copy = Copy(1, Leg.LOCAL, ("r0",), (("g", "t", "r0"), ("h", "t", "r0")), ())
    step = explainer(bench).delivered("t", copy)
    assert step.groups == (("g", "t"),)
    assert step.missed == (Missed("r0", "me", Drop.NO_MEMBERS, "h/t"),)


# -- whole worlds ----------------------------------------------------------------------------------------------------

SHAPES = {
    "chain": [("a", "b"), ("b", "c")],
    "ring": [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")],
    "star": [("a", "b"), ("a", "c"), ("a", "d")],
}
TOPICS = ("t", "t/x", "u", "none")


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("cut", [False, True])
def test_in_a_world_clients_copies_groups_and_losses_are_those_that_were_explained(
    shape: str, cut: bool
) -> None:
    """Random subscriptions; cut: one bridge is gone, the routes found their new ways or none."""
    dice = random.Random(f"{shape} {cut}")
    edges = SHAPES[shape]
    world, nodes = build(edges, per_region=2)
    for session, node in enumerate(nodes.values()):
        for sid in range(dice.randrange(3)):
            node.subscribe(session, sid, dice.choice(("t", "t/#", "+/x", "u")), dice.choice(("", "", "g")))
    world.run(2.0)
    if cut:
        one, other = dice.choice(edges)
        world.cut(nodes[f"{one}-1"].key, nodes[f"{other}-1"].key)
        world.run(10.0)
    for node in nodes.values():
        for topic in TOPICS:
            copies: list[tuple[object, object, Leg]] = []
            world.delivered.clear()
            before = Counter(world.drops())
            seq = node.machine.forwarder.ingress.seq + 1
            walk = follow(world, node, topic, (node.key.region, node.key.node, node.epoch, seq))
            assert world.delivered == []
            assert node.machine.forwarder.ingress.seq == seq - 1, "nothing was sent or numbered"
            world.on_batch.append(lambda a, b, header, body: copies.append((a.key, b.key, header.leg)))  # noqa: B023
            node.publish(topic)
            world.run(0.5)
            world.on_batch.pop()
            # Two copies that leave at one time arrive in the order of their links' latencies, not of the walk.
            assert Counter(copies) == Counter(walk.copies), (str(node.key), topic)
            plain = Counter((one.node, one.session) for one in world.delivered)
            for group, members in walk.groups.items():
                assert len(members) == 1, "a group has one member"
                sessions = [
                    one
                    for one in plain
                    if one[0] == members[0] and group[::-1] in world.nodes[one[0]].subscriptions.values()
                ]
                assert sessions
            assert set(walk.clients) <= set(plain)
            assert sum(plain.values()) == len(walk.clients) + len(walk.groups)
            lost = Counter(m.reason for _, m in walk.missed if m.reason in set(Drop))
            assert Counter(world.drops()) - before == lost, (str(node.key), topic)


def test_every_reason_that_is_told_is_one_of_the_closed_sets() -> None:
    world, nodes = build(SHAPES["chain"], limits=Limits(hop_limit=1))
    nodes["c-1"].subscribe(1, 1, "t")
    nodes["b-1"].subscribe(1, 1, "t", "g")
    world.run(1.0)
    walk = follow(world, nodes["a-1"], "t", ("a", "a-1", nodes["a-1"].epoch, 1))
    reasons = {(m.region, m.reason) for _, m in walk.missed}
    assert reasons == {("c", Drop.HOP_LIMIT)}
    nodes["a-1"].publish("t")
    world.run(1.0)
    assert world.drops() == {"hop_limit": 1}
