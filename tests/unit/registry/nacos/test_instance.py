"""Entries as instances: nothing is lost, what Nacos would refuse is refused, what is foreign has a reason."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.base import BadEntry, NodeEntry
from registry.nacos.instance import METADATA_CHARACTERS, Claim, read, region_of, service_name, write
from registry.nacos.requests import Instance, to_body

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
ADDRESSES = st.lists(st.from_regex(r"[a-z0-9.:]{1,20}:[0-9]{1,5}", fullmatch=True), max_size=4).map(tuple)


def entry(**change: object) -> NodeEntry:
    fields: dict[str, object] = {
        "region": "eu", "node": "eu-1", "instance": "i", "epoch": 100, "addresses": ("10.0.0.1:7946", "[::1]:7946"),
        "bridge": True, "software": "hopmesh 0.1.0", "since": datetime(2025, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC),
    }  # fmt: skip
    return NodeEntry(**{**fields, **change})  # type: ignore[arg-type]


def raw(**metadata: str | None) -> msgspec.Raw:
    made: dict[str, str | None] = {**write(Claim(entry(), 30.0, 1)).metadata, **metadata}
    made = {name: value for name, value in made.items() if value != "-"}
    return msgspec.Raw(to_body(Instance(ip="10.0.0.1", port=1, metadata=made)))


@given(
    NAMES,
    NAMES,
    st.integers(1, 2**53 - 1),
    ADDRESSES,
    st.booleans(),
    st.floats(1.0, 3600.0),
    st.integers(1, 10**9),
)
def test_an_entry_comes_back_as_it_was(
    region: str, node: str, epoch: int, addresses: tuple[str, ...], bridge: bool, lease_s: float, change: int
) -> None:
    claim = Claim(
        entry(region=region, node=node, epoch=epoch, addresses=addresses, bridge=bridge), lease_s, change
    )
    found = read(msgspec.Raw(to_body(write(claim))), region)
    assert isinstance(found, Claim)
    assert (found.entry, found.change) == (claim.entry, change)
    assert found.lease_s == pytest.approx(lease_s, rel=1e-4)


def test_a_person_finds_the_node_in_the_console() -> None:
    found = write(Claim(entry(), 30.0, 1))
    assert (found.ip, found.port, found.service_name) == ("10.0.0.1", 7946, "hopmesh.eu")
    assert found.ephemeral
    assert found.healthy
    assert found.metadata == {
        "region": "eu", "node": "eu-1", "addresses": "10.0.0.1:7946,[::1]:7946", "version": "hopmesh 0.1.0",
        "bridge": "true", "since": "2025-06-01T12:00:00.250000+00:00", "epoch": "100", "instance": "i",
        "lease_s": "30", "change": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("address", "place"),
    [("", ("0.0.0.0", 0)), ("[::1]:7946", ("::1", 7946)), ("eu-1.example.org:1", ("eu-1.example.org", 1)),
     ("x" * 200 + ":1", ("0.0.0.0", 1)), ("host:99999", ("host", 0)), ("köln:1", ("0.0.0.0", 1)), ("odd", ("0.0.0.0", 0))],
)  # fmt: skip
def test_an_instance_has_an_address_that_nacos_takes(address: str, place: tuple[str, int]) -> None:
    found = write(Claim(entry(addresses=(address,) if address else ()), 30.0, 1))
    assert (found.ip, found.port) == place


def test_what_nacos_would_refuse_is_refused() -> None:
    with pytest.raises(BadEntry, match=f"takes {METADATA_CHARACTERS}"):
        write(Claim(entry(addresses=tuple("h" * 290 + f":{n}" for n in range(4))), 30.0, 1))
    with pytest.raises(BadEntry, match="comma"):
        write(Claim(entry(addresses=("a,b:1",)), 30.0, 1))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [({"region": "-"}, "not_ours"), ({"node": None}, "not_ours"), ({"region": "us"}, "wrong_region"),
     ({"epoch": "x"}, "no_entry"), ({"epoch": "0"}, "no_entry"), ({"epoch": "9" * 5000}, "no_entry"),
     ({"since": "yesterday"}, "no_entry"), ({"since": "2025-06-01T12:00:00"}, "no_entry"), ({"lease_s": "nan"}, "no_entry"),
     ({"lease_s": "-"}, "no_entry"), ({"bridge": "perhaps"}, "no_entry"), ({"instance": ""}, "no_entry"),
     ({"node": "no/slash"}, "no_entry"), ({"addresses": ","}, "no_entry"), ({"addresses": "a\nb:1"}, "no_entry")],
)  # fmt: skip
def test_what_is_no_entry_has_a_reason(metadata: dict[str, str | None], reason: str) -> None:
    assert read(raw(**metadata), "eu") == reason


@given(
    st.binary(max_size=60)
    | st.sampled_from([b"{}", b"[]", b"null", b'{"ip":1,"port":2}', b'{"ip":"a","port":"b"}'])
)
def test_no_bytes_raise(found: bytes) -> None:
    assert isinstance(read(msgspec.Raw(found), "eu"), str)


def test_services_that_are_not_of_a_mesh_have_no_region() -> None:
    assert region_of(service_name("eu-1.x")) == "eu-1.x"
    assert region_of("HOPMESH@@hopmesh.eu") == "eu"
    assert [region_of(name) for name in ("eu", "hopmesh.", "hopmesh.a b", "x.hopmesh.eu", "")] == [None] * 5
