"""What a hop does to a header: hops left and remaining time only ever become less, and the exact deadline is exact."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from unit.core.bridged_worlds import build

from mesh.core.hop import arrived, expired, leaving, mesh_id_of
from mesh.core.plan import Part
from mesh.model.event import Event
from mesh.model.ids import MeshId, NodeKey
from mesh.wire.codec import remaining_bucket
from mesh.wire.frames import BatchHeader, Flag, Leg

REGIONS = ("ap", "eu", "us")
LIFE_MS = 86_400_000
"""The longest deadline a publisher may ask for: a day."""

HEADER = BatchHeader(
    Leg.BRIDGE,
    int(Flag.REDIRECTED | Flag.REDELIVERED),
    "af",
    "n1",
    7,
    REGIONS,
    3,
    9,
    0,
    ("af",),
    4,
    2,
    (("g", "t", "eu"), ("g", "t", "us"), ("h", "t", "eu")),
)


@given(st.integers(0, 1 << 40), st.floats(0, 1e7), st.integers(0, 200), st.integers(0, 32))
@settings(max_examples=300, derandomize=True)
def test_arriving_takes_time_off_and_bounds_the_hops_a_peer_grants(
    remaining_ms: int, rtt_ms: float, hops: int, limit: int
) -> None:
    found = arrived(replace(HEADER, remaining_ms=remaining_ms, hops_left=hops), rtt_ms, limit)
    assert found.hops_left == min(hops, limit)
    if remaining_ms == 0:
        assert found.remaining_ms == 0, "no deadline stays none"
    elif remaining_ms - int(rtt_ms / 2) > 0:
        assert found.remaining_ms == remaining_ms - int(rtt_ms / 2)
    else:
        assert found.remaining_ms == -1, "0 would say that there is no deadline"
    assert replace(found, remaining_ms=0, hops_left=0) == replace(HEADER, hops_left=0)


@given(
    st.integers(1, LIFE_MS),
    st.integers(0, 16),
    st.lists(st.tuples(st.floats(0, 60_000), st.sampled_from(Leg)), max_size=24),
)
@settings(max_examples=200, derandomize=True)
def test_hops_and_remaining_time_only_ever_become_less_on_the_way(
    ms: int, hops: int, way: list[tuple[float, Leg]]
) -> None:
    header = replace(HEADER, remaining_ms=remaining_bucket(ms), hops_left=hops, path=())
    bridges = 0
    for at, (rtt_ms, leg) in enumerate(way):
        came = arrived(header, rtt_ms, 16)
        assert came.hops_left <= header.hops_left
        assert came.remaining_ms <= header.remaining_ms
        if came.remaining_ms < 0:
            return
        left = leaving(came, Part(1, leg, REGIONS), f"r{at}")
        if left is None:
            assert leg is Leg.BRIDGE
            assert bridges == hops, "it ends exactly when it crossed as many bridges as it was granted"
            return
        bridges += leg is Leg.BRIDGE
        assert (left.hops_left, len(left.path)) == (hops - bridges, bridges)
        assert left.remaining_ms == came.remaining_ms
        header = left


def test_over_a_bridge_a_part_carries_its_own_regions_and_groups_and_the_region_it_leaves() -> None:
    left = leaving(HEADER, Part(1, Leg.BRIDGE, ("eu", "ap")), "us")
    assert left == replace(
        HEADER,
        regions=("eu", "ap"),
        groups=(("g", "t", "eu"), ("h", "t", "eu")),
        hops_left=8,
        path=("af", "us"),
        flags=int(Flag.REDELIVERED),
    ), "redirected is said inside a region and forgotten where the batch leaves it"


def test_inside_a_region_a_part_costs_no_hop_and_leaves_no_trace_in_the_path() -> None:
    for leg in (Leg.LOCAL, Leg.TRANSIT):
        left = leaving(replace(HEADER, hops_left=0), Part(1, leg, ("us",)), "eu")
        assert left == replace(HEADER, leg=leg, regions=("us",), groups=(("g", "t", "us"),), hops_left=0)


def test_a_batch_without_hops_does_not_leave_over_a_bridge() -> None:
    for hops in (0, -1):
        assert leaving(replace(HEADER, hops_left=hops), Part(1, Leg.BRIDGE, ("us",)), "eu") is None


@given(st.integers(1, LIFE_MS), st.data())
@settings(max_examples=300, derandomize=True)
def test_an_event_expires_in_the_millisecond_of_its_deadline_whatever_its_bucket(
    ms: int, data: st.DataObject
) -> None:
    bucket = remaining_bucket(ms)
    passed_ms = data.draw(st.integers(0, bucket - 1) | st.sampled_from([ms - 1, ms]))
    assume(passed_ms < bucket)
    header = replace(HEADER, remaining_ms=bucket - passed_ms)
    assert expired(header, Event(1, "t", "", ms, None, (), b"")) == (passed_ms >= ms)


def test_a_batch_given_up_for_its_time_held_no_event_that_had_time_left() -> None:
    for ms in (1, 2, 3, 100, 128, 129, LIFE_MS):
        bucket = remaining_bucket(ms)
        assert arrived(replace(HEADER, remaining_ms=bucket), 2.0 * bucket, 16).remaining_ms == -1
        assert arrived(replace(HEADER, remaining_ms=bucket), 2.0 * (bucket - 1), 16).remaining_ms == 1
        assert bucket >= ms


def test_the_mesh_id_of_an_event_is_the_one_its_publisher_was_told() -> None:
    event = Event(42, "t", "", 0, None, (), b"")
    assert mesh_id_of(HEADER, event) == str(MeshId("af", "n1", 7, 42))


def test_a_stalled_stream_takes_nothing_off_the_remaining_time_but_half_a_round_trip() -> None:
    world, nodes = build([("a", "b")])
    nodes["b-1"].subscribe(1, 1, "t")
    world.run(1.0)
    world.cut(NodeKey("a", "a-1"), NodeKey("b", "b-1"), both=False)
    nodes["a-1"].publish("t", ttl_ms=100)
    nodes["a-1"].publish("t", ttl_ms=60_000)
    world.run(1.0)
    world.heal()
    world.run(0.2)
    assert len(world.delivered) == 2, "a stalled stream is no time the mesh can see"
    assert world.drops() == {}
