"""Who has a name among all instances that claim it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.ids import NodeKey
from registry.base import Gone, NodeEntry
from registry.nacos import claims
from registry.nacos.claims import RegionClaims
from registry.nacos.instance import Claim, write
from registry.nacos.requests import ServiceInfo, to_body
from registry.timeline import Timeline

SINCE = datetime(2025, 6, 1, tzinfo=UTC)
LEASE_S = 10.0


def claim(node: str, epoch: int = 1, instance: str = "i", change: int = 1, port: int = 1) -> Claim:
    entry = NodeEntry(
        region="eu", node=node, instance=instance, epoch=epoch, addresses=(f"a:{port}",), since=SINCE
    )
    return Claim(entry, LEASE_S, change)


def told(*found: Claim | bytes, at_ms: int = 0) -> ServiceInfo:
    hosts = [msgspec.Raw(each if isinstance(each, bytes) else to_body(write(each))) for each in found]
    return ServiceInfo(name="hopmesh.eu", hosts=hosts, last_ref_time=at_ms)


def made() -> tuple[RegionClaims, Timeline]:
    timeline = Timeline("t")
    return RegionClaims("eu", timeline), timeline


@given(
    st.permutations(
        [claim("a", 1, "z", 9), claim("a", 2, "b", 1), claim("a", 2, "c", 1), claim("a", 2, "c", 2, 7)]
    )
)
def test_the_greatest_has_the_name_whatever_the_order(found: list[Claim]) -> None:
    region, timeline = made()
    region.apply(told(*found), 1, 0.0, 0.0)
    assert list(timeline.entries.values()) == [claim("a", 2, "c", 2, 7).entry]
    assert len(region) == 1


def test_what_is_not_claimed_any_more_has_ended() -> None:
    region, timeline = made()
    region.apply(told(claim("a"), claim("b")), 1, 0.0, 0.0)
    before = timeline.revision
    region.apply(told(claim("b")), 1, 0.0, 1.0)
    (event,) = timeline.since(before, "eu")
    assert isinstance(event, Gone)
    assert (event.key, event.reason) == (NodeKey("eu", "a"), "ended")


def test_after_a_new_connection_the_missing_are_kept_for_their_lease() -> None:
    region, timeline = made()
    region.apply(told(claim("a"), claim("b"), claim("c")), 1, 0.0, 0.0)
    region.apply(told(claim("b")), 2, 100.0, 100.0)
    assert len(timeline.entries) == 3
    region.apply(told(claim("a"), claim("b")), 2, 100.0, 100.0 + LEASE_S - 0.1)
    assert len(timeline.entries) == 3
    region.apply(told(claim("b")), 2, 100.0, 100.0 + LEASE_S)
    assert [key.node for key in timeline.entries] == [
        "b"
    ]  # a was seen on this connection, c was waited for long enough


def test_an_answer_that_was_overtaken_changes_nothing() -> None:
    region, timeline = made()
    region.apply(told(claim("a"), claim("b"), at_ms=5_000), 1, 0.0, 0.0)
    region.apply(told(claim("a"), at_ms=4_000), 1, 0.0, 0.0)
    assert len(timeline.entries) == 2
    region.apply(told(at_ms=5_000), 1, 0.0, 0.0)
    assert not timeline.entries
    region.apply(told(claim("c"), at_ms=1), 1, 0.0, 0.0)  # overtaken
    assert not timeline.entries
    region.apply(told(claim("c"), at_ms=1), 2, 0.0, 0.0)  # another server's clock
    assert len(timeline.entries) == 1


def test_a_clock_that_was_set_back_does_not_stop_anything() -> None:
    region, timeline = made()
    region.apply(told(claim("a"), at_ms=10_000_000), 1, 0.0, 0.0)
    region.apply(told(claim("b"), at_ms=1_000), 1, 0.0, 0.0)
    assert [key.node for key in timeline.entries] == ["b"]


def test_foreign_instances_are_counted_as_they_are_now() -> None:
    region, timeline = made()
    foreign = b'{"ip":"10.9.9.9","port":80,"metadata":{"x":"y"}}'
    region.apply(told(claim("a"), foreign, b'{"ip":7}', b"[]"), 1, 0.0, 0.0)
    assert len(timeline.entries) == 1
    assert region.ignored == {"not_ours": 1, "no_entry": 2}
    region.apply(told(claim("a"), foreign), 1, 0.0, 0.0)
    assert region.ignored == {"not_ours": 1}


def test_too_many_are_cut() -> None:
    region, _timeline = made()
    foreign = b'{"ip":"10.9.9.9","port":80}'
    region.apply(told(*[foreign] * (claims.ENTRIES + 5)), 1, 0.0, 0.0)
    assert region.ignored == {"not_ours": claims.ENTRIES, "too_many": 5}


def test_what_this_process_took_out_is_forgotten_at_once() -> None:
    region, timeline = made()
    region.apply(told(claim("a")), 1, 0.0, 0.0)
    region.forget(NodeKey("eu", "a"))
    region.forget(NodeKey("eu", "a"))
    assert not timeline.entries
    assert region.seen(NodeKey("eu", "a")) is None
