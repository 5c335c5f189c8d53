"""Keys and values in etcd, and what stands there and is no entry."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.ids import BadName, NodeKey
from registry.base import FoundRegion, NodeEntry, RegionEntry, to_json
from registry.etcd import etcd_pb2 as pb
from registry.etcd.layout import Layout

LAYOUT = Layout("/hopmesh")
ENTRY = NodeEntry(region="eu", node="eu-1", instance="i", epoch=7, addresses=("10.0.0.1:1",), since=datetime(2025, 6, 1, tzinfo=UTC))  # fmt: skip


def kv(key: bytes, value: bytes, lease: int = 5) -> pb.KeyValue:
    return pb.KeyValue(key=key, value=value, lease=lease, mod_revision=9)


def test_the_keys_are_those_of_the_documentation() -> None:
    assert LAYOUT.node(NodeKey("eu", "eu-1")) == b"/hopmesh/nodes/eu/eu-1"
    assert LAYOUT.region("eu") == b"/hopmesh/regions/eu"
    assert LAYOUT.nodes(None) == (b"/hopmesh/nodes/", b"/hopmesh/nodes0")
    assert LAYOUT.nodes("eu") == (b"/hopmesh/nodes/eu/", b"/hopmesh/nodes/eu0")
    assert LAYOUT.regions() == (b"/hopmesh/regions/", b"/hopmesh/regions0")


@pytest.mark.parametrize("region", ["", "a/b", "..", "x" * 65])
def test_a_region_that_is_no_name_makes_no_key(region: str) -> None:
    for make in (LAYOUT.region, LAYOUT.nodes):
        with pytest.raises(BadName):
            make(region)


def test_an_entry_is_read_as_it_was_written() -> None:
    assert LAYOUT.read_node(kv(b"/hopmesh/nodes/eu/eu-1", to_json(ENTRY))) == ENTRY
    region = RegionEntry(region="eu", endpoints=("a:1",))
    assert LAYOUT.read_region(kv(b"/hopmesh/regions/eu", to_json(region), 0)) == FoundRegion(region, "9")


@pytest.mark.parametrize(
    ("key", "value", "lease", "reason"),
    [
        (b"nodes/eu/eu-2", to_json(ENTRY), 5, "wrong_name"),
        (b"nodes/eu/eu-1", to_json(ENTRY), 0, "no_lease"),
        (b"nodes/eu/eu-1", to_json(ENTRY) + b" " * 16_384, 5, "too_large"),
        (b"nodes/eu/eu-1", b"not json", 5, "no_entry"),
        (b"nodes/eu/eu-1/x", to_json(ENTRY), 5, "foreign_key"),
        (b"nodes/eu", to_json(ENTRY), 5, "foreign_key"),
        (b"nodes//eu-1", to_json(ENTRY), 5, "foreign_key"),
        (b"nodes/eu/\xff", to_json(ENTRY), 5, "foreign_key"),
        (b"elsewhere/eu/eu-1", to_json(ENTRY), 5, "foreign_key"),
    ],
)
def test_what_is_no_entry_has_a_reason(key: bytes, value: bytes, lease: int, reason: str) -> None:
    assert LAYOUT.read_node(kv(b"/hopmesh/" + key, value, lease)) == reason


@given(key=st.binary(max_size=40), value=st.binary(max_size=200), lease=st.integers(0, 2))
def test_whatever_the_bytes_are_reading_never_raises(key: bytes, value: bytes, lease: int) -> None:
    for prefix in (b"/hopmesh/nodes/", b"/hopmesh/nodes/eu/eu-1", b"/hopmesh/regions/", b""):
        LAYOUT.read_node(kv(prefix + key, value, lease))
        LAYOUT.read_region(kv(prefix + key, value, lease))
