"""What this process holds, by its own clock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mesh.model.ids import NodeKey
from registry.base import Lease, LeaseLost, NodeEntry
from registry.nacos.instance import Claim
from registry.nacos.leases import GONE_S, Leases

KEY = NodeKey("eu", "a")


def claim(change: int = 1, instance: str = "i", lease_s: float = 10.0) -> Claim:
    since = datetime(2025, 6, 1, tzinfo=UTC)
    return Claim(
        NodeEntry(region="eu", node="a", instance=instance, epoch=1, addresses=(), since=since),
        lease_s,
        change,
    )


def lease(instance: str = "i") -> Lease:
    return Lease(KEY, instance, 1, 10.0)


def test_a_lease_is_held_until_its_time_is_over() -> None:
    leases = Leases()
    leases.hold(claim(), 100.0)
    assert leases.get(lease(), 109.9).claim == claim()
    with pytest.raises(LeaseLost, match="in time"):
        leases.get(lease(), 110.0)
    with pytest.raises(LeaseLost, match="does not hold"):
        leases.get(lease(), 100.0)


def test_another_process_does_not_hold_it() -> None:
    leases = Leases()
    leases.hold(claim(), 0.0)
    with pytest.raises(LeaseLost):
        leases.get(lease("other"), 0.0)


def test_what_is_not_renewed_is_taken_out_a_little_early_and_shown_again_when_it_is() -> None:
    leases = Leases()
    leases.hold(claim(), 0.0)
    assert leases.next_s() == 10.0 - GONE_S
    assert leases.expire(9.4) == set()
    assert leases.expire(9.5) == {"eu"}
    assert leases.claims("eu") == ()
    assert leases.expire(9.6) == set()
    assert leases.next_s() == float("inf")
    held = leases.get(lease(), 9.7)
    held.renewed_s, held.shown = 9.7, True
    assert leases.claims("eu") == (claim(),)
    assert leases.claims("us") == ()


def test_a_short_lease_is_not_cut_by_much() -> None:
    leases = Leases()
    leases.hold(claim(lease_s=1.0), 0.0)
    assert leases.next_s() == 0.95


def test_taking_a_name_can_be_undone() -> None:
    leases = Leases()
    assert leases.hold(claim(1), 0.0) is None
    before = leases.hold(claim(2), 1.0)
    leases.put_back(KEY, before)
    assert leases.entry(KEY) == claim(1)
    leases.put_back(KEY, None)
    assert leases.entry(KEY) is None
    assert leases.regions() == set()


def test_a_lease_begins_when_its_owner_is_told_of_it() -> None:
    leases = Leases()
    leases.hold(claim(), 0.0)
    leases.begin(claim(), 1.0)
    assert leases.get(lease(), 10.9).until_s == 11.0
    leases.begin(claim(2), 5.0)  # not the one that is held
    assert leases.get(lease(), 10.9).until_s == 11.0
