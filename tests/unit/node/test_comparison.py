"""Every verdict of `mesh registry diff`, from what the registry listed, what gossip believes and how dialling went."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.members import MemberView
from mesh.model.reasons import MemberReason, Right, Verdict
from mesh.node.comparison import CLOCKS_S, FRESH_S, RIGHT, Compared, Evidence, Leased, Tried, compare
from mesh.wire.frames import MemberState
from registry.base import NodeEntry

NOW = 1_000.0
LEASE_S = 10.0
OLD = NOW - 20.0
"""Known for longer than FRESH_S, not long enough to tell that a lease is renewed."""


def leased(epoch: int = 5, since: float = OLD, address: str = "n:1", instance: str = "i") -> Leased:
    entry = NodeEntry(
        region="eu", node="n", instance=instance, epoch=epoch,
        addresses=(address,) if address else (), since=datetime(2025, 6, 1, tzinfo=UTC),
    )  # fmt: skip
    return Leased(entry, since)


def member(state: MemberState = MemberState.ALIVE, epoch: int = 5, since: float = OLD) -> MemberView:
    return MemberView("n", epoch, 0, state, ("n:1",), "", False, since, MemberReason.JOINED)


EMPTY = Evidence({}, NOW, True, {}, {}, {}, LEASE_S, NOW)


def judged(entry: Leased | None, view: MemberView | None, **more: object) -> Compared:
    evidence = replace(
        EMPTY, leased={"n": entry} if entry else {}, members={"n": view} if view else {}, **more
    )  # type: ignore[arg-type]
    [found] = compare(evidence)
    return found


REFUSED = {"n": Tried(NOW - 3.0, "connection refused")}
DEAD, LEFT = MemberState.DEAD, MemberState.LEFT
LONG_AGO = NOW - LEASE_S - CLOCKS_S - 1.0


@pytest.mark.parametrize(
    ("entry", "view", "more", "verdict", "right", "words"),
    [
        (leased(), member(), {}, "both", "both", ""),
        (leased(), member(), {"available": False, "listed_at": NOW - 40}, "both", "both", "40s ago"),
        (leased(), member(MemberState.SUSPECT), {}, "both", "both", ""),
        (leased(since=NOW - 1), None, {}, "joining", "registry", "not dialled yet"),
        (leased(since=NOW - 1), None, {"tried": REFUSED}, "joining", "registry", "3s ago"),
        (leased(), None, {}, "joining", "registry", "not dialled yet"),
        (leased(), None, {"tried": REFUSED}, "stale_entry", "gossip", "last tried 3s ago: connection refused"),
        (leased(since=LONG_AGO), None, {"tried": REFUSED}, "unreachable", "registry", "renews"),
        (leased(address=""), None, {}, "unreachable", "registry", "no address"),
        (leased(), member(DEAD), {"tried": REFUSED}, "stale_entry", "gossip", "announced to again"),
        (leased(since=LONG_AGO), member(DEAD), {"tried": REFUSED}, "stale_entry", "gossip", "refused"),
        (leased(since=LONG_AGO), member(DEAD, since=LONG_AGO), {}, "unreachable", "registry", "renews"),
        (leased(since=LONG_AGO), member(DEAD, since=LONG_AGO), {"available": False}, "stale_entry", "gossip", ""),
        (leased(epoch=6, since=NOW - 1), member(DEAD), {}, "joining", "registry", ""),
        (leased(), member(LEFT), {}, "left_behind", "gossip", "it left"),
        (leased(epoch=6), member(), {}, "restarted", "registry", "epoch 6"),
        (leased(epoch=4), member(), {}, "older_entry", "gossip", "epoch 4"),
        (leased(), member(), {"instances": {"n": "j"}}, "name_conflict", "nobody", "instance i"),
        (leased(), member(), {"instances": {"n": "i"}}, "both", "both", ""),
        (leased(address="x:9"), member(), {}, "address_differs", "gossip", "x:9"),
        (None, member(), {}, "unregistered", "gossip", "no entry"),
        (None, member(since=NOW - FRESH_S / 2), {}, "registering", "gossip", ""),
        (None, member(), {"available": False, "listed_at": NOW - 7}, "registry_away", "gossip", "7s ago"),
        (None, member(), {"available": True, "listed_at": None}, "registry_away", "gossip", "never read"),
    ],
)  # fmt: skip
def test_every_case_has_its_verdict_and_says_who_is_right(
    entry: Leased | None, view: MemberView | None, more: dict[str, object], verdict: str, right: str, words: str
) -> None:  # fmt: skip
    found = judged(entry, view, **more)
    assert (found.verdict.value, found.right.value) == (verdict, right)
    assert words in found.detail


def test_the_dead_and_the_left_that_nobody_leases_are_no_difference() -> None:
    for state in (DEAD, LEFT):
        assert compare(replace(EMPTY, members={"n": member(state)})) == []


def test_every_verdict_on_a_node_says_who_is_right() -> None:
    regions = {Verdict.FOREIGN_KEY, Verdict.NOT_LISTED, Verdict.LISTED_STALE}
    assert set(RIGHT) == set(Verdict) - regions
    assert set(RIGHT.values()) == set(Right)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.none() | st.builds(leased, st.integers(4, 6), st.floats(0.0, NOW), st.sampled_from(["", "n:1", "x:9"])),
    st.none() | st.builds(member, st.sampled_from(MemberState), st.integers(4, 6), st.floats(0.0, NOW)),
    st.booleans(),
    st.none() | st.floats(0.0, NOW),
    st.none() | st.builds(Tried, st.floats(0.0, NOW), st.sampled_from(["", "no answer"])),
)  # fmt: skip
def test_whatever_is_known_there_is_at_most_one_verdict_and_it_never_fails(
    entry: Leased | None, view: MemberView | None, available: bool, listed_at: float | None, tried: Tried | None
) -> None:  # fmt: skip
    evidence = replace(
        EMPTY,
        leased={"n": entry} if entry else {},
        members={"n": view} if view else {},
        available=available,
        listed_at=listed_at,
        tried={"n": tried} if tried else {},
    )
    found = compare(evidence)
    gone = entry is None and (view is None or view.state in (DEAD, LEFT))
    assert len(found) == (0 if gone else 1)
