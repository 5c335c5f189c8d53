"""Who may stay, as far as its first frame tells: each rule by itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mesh.core.opening import DAY_S, Identity, Terms, open_problem, said_first
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.wire.frames import LinkKind, Open

ME = Identity("eu", "n1", "instance-1", 7, "hopmesh/0", "n1:1")
THEM = Identity("us", "u1", "instance-2", 9, "hopmesh/0", "")
ANYBODY = Terms()
WALL_MS = 1_700_000_000_000
SAID = said_first(THEM, Terms("eu", "stub", 5), LinkKind.BRIDGE, (1_000, 10), WALL_MS)


def problem(frame: Open, terms: Terms = ANYBODY) -> Close | None:
    found = open_problem(frame, ME, terms, Limits(), WALL_MS)
    return found[0] if found is not None else None


def test_what_one_end_says_the_other_accepts() -> None:
    assert problem(SAID) is None
    assert (SAID.expect_region, SAID.role, SAID.cost) == ("eu", "stub", 5)
    assert (SAID.credit_bytes, SAID.credit_events) == (1_000, 10)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": 2}, Close.VERSION_MISMATCH),
        ({"region": "a b"}, Close.MALFORMED),
        ({"node": ""}, Close.MALFORMED),
        ({"role": "king"}, Close.MALFORMED),
        ({"instance": "instance-1"}, Close.SELF_LINK),
        ({"expect_region": "ap"}, Close.REGION_MISMATCH),
        ({"wall_ms": WALL_MS + DAY_S * 1_000 + 1}, Close.CLOCK_SKEW),
        ({"wall_ms": WALL_MS - DAY_S * 1_000 - 1}, Close.CLOCK_SKEW),
        ({"wall_ms": WALL_MS + DAY_S * 1_000}, None),
        ({"epoch": WALL_MS // 1_000 + DAY_S + 1}, Close.EPOCH_AHEAD),
        ({"epoch": WALL_MS // 1_000 + DAY_S}, None),
        ({"expect_region": ""}, None),
    ],
)
def test_one_thing_that_is_wrong_has_one_reason(change: dict[str, object], reason: Close | None) -> None:
    assert problem(replace(SAID, **change)) is reason


def test_who_is_not_of_the_region_that_was_dialled_is_named() -> None:
    found = open_problem(SAID, ME, Terms(expect_region="ap"), Limits(), WALL_MS)
    assert found == (Close.REGION_MISMATCH, "expected region ap, found us")
    assert problem(SAID, Terms(expect_region="us")) is None


@pytest.mark.parametrize(
    ("certified", "reason"),
    [
        (None, None),
        (NodeKey("us", "u1"), None),
        (NodeKey("us", "u2"), Close.NAME_NOT_CERTIFIED),
        (NodeKey("ap", "u1"), Close.NAME_NOT_CERTIFIED),
        (NodeKey("eu", "n1"), Close.NAME_NOT_CERTIFIED),
    ],
)
def test_who_the_certificate_names_is_who_may_speak(certified: NodeKey | None, reason: Close | None) -> None:
    for terms in (ANYBODY, Terms(expect_region="ap")):
        found = open_problem(SAID, ME, terms, Limits(), WALL_MS, certified)
        if reason is not None:
            assert found == (reason, f"its certificate is for {certified}, and it says to be us/u1")
        elif terms is ANYBODY:
            assert found is None


def test_a_name_that_is_none_is_told_as_that_whatever_the_certificate() -> None:
    found = open_problem(replace(SAID, node="a b"), ME, ANYBODY, Limits(), WALL_MS, NodeKey("us", "u1"))
    assert found is not None
    assert found[0] is Close.MALFORMED
