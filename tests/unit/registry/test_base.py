"""What a registry keeps: the form of entries, their JSON, and editing a region's entry against others."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.model.errors import ERRORS
from registry.base import (
    ADDRESSES,
    EDIT_ATTEMPTS,
    ENTRY_BYTES,
    LABELS,
    BadEntry,
    Conflict,
    LeaseLost,
    NodeEntry,
    RegionEntry,
    RegistryError,
    RegistryFull,
    RegistryUnavailable,
    Superseded,
    check_lease,
    check_node,
    check_region,
    edit_region,
    node_from_json,
    region_from_json,
    to_json,
)
from registry.memory import MemoryRegistry, MemoryStore

SINCE = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
NODE = NodeEntry(region="eu", node="eu-1", instance="i7", epoch=5, addresses=("a:1", "[::1]:2"), since=SINCE)
REGION = RegionEntry(region="eu", endpoints=("a:1",), fingerprint="sha256:00", labels={"site": "Köln"})


def test_an_entry_is_json_that_a_person_can_read() -> None:
    assert to_json(NODE).decode() == (
        '{\n  "region": "eu",\n  "node": "eu-1",\n  "instance": "i7",\n  "epoch": 5,\n  "addresses": [\n    "a:1",\n'
        '    "[::1]:2"\n  ],\n  "bridge": false,\n  "software": "",\n  "since": "2025-06-01T12:00:00Z"\n}\n'
    )
    assert "Köln" in to_json(REGION).decode()


def test_what_was_written_is_read_back_and_unknown_fields_are_passed_over() -> None:
    assert node_from_json(to_json(NODE)) == NODE
    assert region_from_json(to_json(REGION)) == REGION
    wider = msgspec.json.decode(to_json(NODE)) | {"zone": "b", "later": [1]}
    assert node_from_json(msgspec.json.encode(wider)) == NODE


def test_the_largest_entry_that_is_allowed_can_be_read_back() -> None:
    labels = {f"{number:03}" + "k" * 100: "v" * 100 for number in range(LABELS)}
    largest = RegionEntry(
        region="r" * 64, endpoints=("e" * 300,) * ADDRESSES, fingerprint="f" * 256, labels=labels
    )
    raw = to_json(check_region(largest))
    assert len(raw) < ENTRY_BYTES
    assert region_from_json(raw) == largest


@pytest.mark.parametrize(
    "change",
    [
        {"region": "a b"},
        {"node": "-x"},
        {"instance": "x" * 65},
        {"instance": "é"},
        {"instance": "a\tb"},
        {"epoch": 0},
        {"epoch": 1 << 53},
        {"addresses": ("",)},
        {"addresses": ("a:1",) * (ADDRESSES + 1)},
        {"addresses": ("é" * 151,)},
        {"addresses": ("a\x1b[2J:1",)},
        {"software": "s" * 257},
        {"since": datetime(2025, 6, 1, tzinfo=timezone(timedelta(hours=2)))},
    ],
)
def test_a_node_outside_the_form_is_a_bad_entry(change: dict[str, object]) -> None:
    with pytest.raises(BadEntry):
        check_node(msgspec.structs.replace(NODE, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"region": ""},
        {"endpoints": ("a:1\n",)},
        {"fingerprint": "f" * 257},
        {"labels": {str(number): "" for number in range(LABELS + 1)}},
        {"labels": {"k" * 257: ""}},
    ],
)
def test_a_region_outside_the_form_is_a_bad_entry(change: dict[str, object]) -> None:
    with pytest.raises(BadEntry):
        check_region(msgspec.structs.replace(REGION, **change))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
@example(b"[" * ENTRY_BYTES)
@example(b" " * (ENTRY_BYTES + 1))
@example(to_json(NODE)[:-3])
@example(to_json(NODE).replace(b"Z", b"+05:00"))
@example(to_json(NODE).replace(b"2025-06-01T12:00:00Z", b"2025-06-01T12:00:00"))
@example(to_json(NODE).replace(b'"eu-1"', b"1"))
@example(b'{"region": "\xff"}')
def test_garbage_is_a_bad_entry_and_nothing_else(raw: bytes) -> None:
    for read in (node_from_json, region_from_json):
        with pytest.raises(BadEntry):
            read(raw)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_garbled_entry_is_a_bad_entry_or_a_sound_one(at: int, garbage: bytes) -> None:
    raw = to_json(NODE)
    with suppress(BadEntry):
        check_node(node_from_json(raw[:at] + garbage + raw[at + len(garbage) :]))


def test_a_lease_is_neither_too_short_nor_too_long() -> None:
    assert check_lease(1.0) == 1.0
    for lease_s in (0.9, 3_600.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lease"):
            check_lease(lease_s)


def test_every_error_has_its_row() -> None:
    kinds: list[type[RegistryError]] = [
        RegistryUnavailable,
        LeaseLost,
        Conflict,
        Superseded,
        BadEntry,
        RegistryFull,
    ]
    codes = [kind("here", "what").code for kind in kinds]  # type: ignore[call-arg]
    assert len(set(codes)) == len(codes)
    assert all(code in ERRORS for code in codes)


async def test_an_edit_gives_up_when_others_are_always_faster() -> None:
    store = MemoryStore()
    one, other = MemoryRegistry(store), MemoryRegistry(store)
    tries = 0

    class Faster(MemoryRegistry):
        async def put_region(self, entry: RegionEntry, expected: object) -> object:  # type: ignore[override]
            nonlocal tries
            tries += 1
            await edit_region(other, "eu", lambda _: RegionEntry(region="eu", endpoints=(f"other:{tries}",)))
            return await super().put_region(entry, expected)  # type: ignore[arg-type]

    with pytest.raises(Conflict):
        await edit_region(Faster(store), "eu", lambda _: REGION)
    assert tries == EDIT_ATTEMPTS
    found = await one.get_region("eu")
    assert found is not None
    assert found.entry.endpoints == (f"other:{EDIT_ATTEMPTS}",)
