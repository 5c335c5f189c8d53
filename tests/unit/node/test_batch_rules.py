"""What costs a peer its link: every header that no correct peer sends, and none that one does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from unit.core.bridged_worlds import build
from unit.node.wired_machines import BODY, GOOD, linked

from mesh.core.plan import MOST_GROUPS
from mesh.model.ids import NAME_MAX, NodeKey
from mesh.model.limits import Limits
from mesh.node.batch_rules import batch_problem
from mesh.wire.frames import BatchHeader, Data, Flag, Leg, LinkKind


@pytest.mark.parametrize(
    "claims",
    [
        {"region": "b"},
        {"region": "c"},
        {"path": ("z",)},
        {"flags": Flag.GROUP_ONLY | Flag.TO_NODE},
        {"groups": (("g", "t", "b"),) * 61},
        {"groups": (("g", "t", "b"),) * 60, "count": 2_000},
        {"groups": (("g", "t" * 600, "b"),)},
        {"region": "r" * 65, "path": ("r" * 65, "a")},
    ],
)
def test_a_batch_that_claims_what_no_peer_may_closes_its_link(claims: dict[str, object]) -> None:
    world, nodes = build([("a", "b")])
    machine = nodes["b-1"].machine
    [session] = machine.sessions.values()
    fields: dict[str, object] = {
        "region": "a",
        "node": "a-1",
        "path": ("a",),
        "flags": 0,
        "count": 1,
        "groups": (),
    }
    fields |= claims
    header = replace(BatchHeader(Leg.BRIDGE, 0, "a", "a-1", 1, ("b",), 0, 9, 0, ("a",), 1, 1), **fields)
    machine.receive(session.link, [Data(header, b"")], world.now)
    assert not session.is_open


LONG = tuple(f"r{n}" for n in range(1_100))


@pytest.mark.parametrize(
    ("region", "change"),
    [
        ("us", {"leg": Leg.LOCAL}),
        ("us", {"leg": Leg.TRANSIT}),
        ("eu", {"leg": Leg.BRIDGE}),
        ("us", {"path": ()}),
        ("us", {"path": ("us", "ap")}),
        ("us", {"regions": LONG}),
        ("us", {"path": (*LONG[:40], "us")}),
        ("us", {"tried": LONG[:40]}),
        ("us", {"groups": tuple(("g", "t", region) for region in LONG)}),
        ("us", {"hops_left": -1}),
        ("us", {"count": 0}),
        ("us", {"count": -1}),
        ("us", {"remaining_ms": -1}),
    ],
)
def test_a_batch_that_a_correct_peer_never_sends_costs_it_the_link(
    region: str, change: dict[str, object]
) -> None:
    net, a, _, link = linked(region)
    values = {name: getattr(GOOD, name) for name in GOOD.__struct_fields__} | change
    a.machine.receive(link, [Data(BatchHeader(**values), BODY)], net.now)
    net.take(a)
    assert a.closed() == [(f"{region}/n2", "protocol_error")]
    assert a.machine.sessions == {}
    assert a.machine.take_deliveries() == {}


# -- the rules alone -------------------------------------------------------------------------------------------------

LIMITS = Limits(regions=5, path_regions=4, tried_regions=3, filter_bytes=20, credit_events=120)
FAR = GOOD
"""From us/n2 over a bridge."""
NEAR = replace(GOOD, leg=Leg.LOCAL, region="eu", path=())
"""From eu/n3 inside the region."""
AGAIN = replace(GOOD, flags=int(Flag.GROUP_ONLY), groups=(("g", "t", "eu"),))
"""A queue group of a third region's event, assigned again by us."""


def problem(header: BatchHeader) -> str:
    over_bridge = header.leg is Leg.BRIDGE
    kind, key = (
        (LinkKind.BRIDGE, NodeKey("us", "n2")) if over_bridge else (LinkKind.PEER, NodeKey("eu", "n3"))
    )
    session: Any = SimpleNamespace(kind=kind, peer_key=key)
    return batch_problem(session, header, LIMITS)


@pytest.mark.parametrize(
    "header",
    [
        FAR,
        NEAR,
        replace(NEAR, leg=Leg.TRANSIT),
        AGAIN,
        replace(AGAIN, region="ap"),
        replace(FAR, flags=int(Flag.TO_NODE), to_node="n1"),
        replace(FAR, path=("us",), flags=int(Flag.REDELIVERED)),
        replace(FAR, hops_left=0, remaining_ms=0),
        replace(FAR, region="eu", path=("eu", "us")),
        replace(NEAR, path=("ap", "us")),
    ],
)
def test_what_correct_peers_send_is_no_problem(header: BatchHeader) -> None:
    """Also one that claims the own region as its origin: the check for loops is not this page's."""
    assert problem(header) == ""


@pytest.mark.parametrize("base", [FAR, NEAR], ids=["bridge", "peer"])
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("regions", ("r",) * 5, ("r",) * 6),
        ("tried", ("r",) * 3, ("r",) * 4),
        ("groups", (("g", "t", "r"),) * MOST_GROUPS, (("g", "t", "r"),) * (MOST_GROUPS + 1)),
        ("groups", (("g", "t" * 20, "r"),), (("g", "t" * 21, "r"),)),
        ("groups", (("g" * NAME_MAX, "t", "r"),), (("g" * (NAME_MAX + 1), "t", "r"),)),
        ("node", "n" * NAME_MAX, "n" * (NAME_MAX + 1)),
        ("hops_left", 0, -1),
        ("remaining_ms", 0, -1),
        ("count", 1, 0),
    ],
)
def test_a_bound_lets_its_own_value_pass_and_not_the_next(
    base: BatchHeader, name: str, good: object, bad: object
) -> None:
    assert problem(replace(base, **{name: good})) == ""
    assert problem(replace(base, **{name: bad}))


def test_the_path_is_bounded_and_tells_the_truth_about_both_its_ends() -> None:
    assert problem(replace(FAR, path=("us", "b", "c", "us"))) == ""
    assert "too long" in problem(replace(FAR, path=("us", "b", "c", "d", "us")))
    assert "end with" in problem(replace(FAR, path=("us", "b")))
    assert "end with" in problem(replace(FAR, path=()))
    assert "begin with" in problem(replace(FAR, path=("b", "us")))
    assert problem(replace(FAR, path=("b", "us"), flags=int(Flag.GROUP_ONLY))) == ""


def test_assignments_are_bounded_for_the_whole_batch() -> None:
    """They are carried out for each event and group: the product is what costs."""
    groups = (("g", "t", "eu"),) * 40
    assert problem(replace(FAR, groups=groups, count=3)) == ""
    assert "assignments" in problem(replace(FAR, groups=groups, count=4))


def test_the_leg_fits_the_kind_of_link() -> None:
    for leg in Leg:
        for kind, key in ((LinkKind.PEER, NodeKey("eu", "n3")), (LinkKind.BRIDGE, NodeKey("us", "n2"))):
            session: Any = SimpleNamespace(kind=kind, peer_key=key)
            found = batch_problem(session, replace(FAR, leg=leg), LIMITS)
            assert (found == "") == ((leg is Leg.BRIDGE) == (kind is LinkKind.BRIDGE))


def test_one_node_and_a_group_exclude_each_other() -> None:
    assert "both" in problem(replace(AGAIN, flags=int(Flag.GROUP_ONLY | Flag.TO_NODE)))
