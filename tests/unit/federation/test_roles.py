"""Link roles: what the two ends make of them, and what may cross."""

from __future__ import annotations

import pytest

from federation.core.policy.roles import ALLOW, CONFIGURABLE, OpenPolicy, Role, link_role, valley_free
from mesh.model.reasons import RouteReason


@pytest.mark.parametrize(
    ("mine", "theirs", "role"),
    [
        ("transit", "transit", Role.TRANSIT),
        ("stub", "transit", Role.STUB),
        ("transit", "stub", Role.UPLINK),
        ("stub", "stub", Role.UPLINK),
        ("peer", "transit", Role.PEER),
        ("stub", "peer", Role.PEER),
        ("peer", "stub", Role.UPLINK),
        ("transit", "dmz", Role.DMZ),
        ("dmz", "stub", Role.DMZ),
        ("transit", "", Role.TRANSIT),
    ],
)
def test_the_stricter_end_decides_the_role_of_a_link(mine: str, theirs: str, role: Role) -> None:
    assert link_role(mine, theirs) is role


def test_what_one_end_may_not_send_on_the_other_may_not_either_unless_it_is_the_upstream() -> None:
    for mine in CONFIGURABLE:
        for theirs in CONFIGURABLE:
            pair = {link_role(mine, theirs), link_role(theirs, mine)}
            assert len(pair) == 1 or Role.UPLINK in pair, (mine, theirs)


@pytest.mark.parametrize("link", [Role.PEER, Role.UPLINK])
def test_only_what_lies_behind_a_stub_leaves_to_a_peer_or_uplink(link: Role) -> None:
    assert valley_free(Role.STUB, link) is None
    for learned in (Role.TRANSIT, Role.PEER, Role.UPLINK):
        assert valley_free(learned, link) is RouteReason.VALLEY_FREE


@pytest.mark.parametrize("link", [Role.TRANSIT, Role.STUB])
def test_everything_leaves_to_a_stub_or_transit(link: Role) -> None:
    assert all(valley_free(learned, link) is None for learned in Role if learned is not Role.DMZ)


def test_a_dmz_link_passes_nothing_without_a_rule() -> None:
    policy = OpenPolicy()
    for rule in (policy.import_route, policy.export_route):
        assert rule(Role.TRANSIT, "us", "us", ("us",)) == ALLOW
        assert not rule(Role.DMZ, "us", "us", ("us",)).allowed
