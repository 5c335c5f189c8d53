"""What costs a peer its link: every header that no correct peer sends, and none that one does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from unit.core.bridged_worlds import build
from unit.node.wired_machines import BODY, GOOD, linked

from mesh.wire.frames import BatchHeader, Data, Flag, Leg


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
