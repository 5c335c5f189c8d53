"""Which links have rules, what routes follow from them, and what a change of the file does."""

from __future__ import annotations

import pytest

from federation.core.frontier import Side
from federation.core.policy.boundary import Boundary
from federation.core.policy.roles import Role
from federation.core.policy.rule_file import parse
from federation.core.policy.rules import Direction
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits


def boundary(text: str | None) -> Boundary:
    return Boundary("in", Limits(), None if text is None else parse(text, "p.rules"))


def gated(one: Boundary, region: str, role: str) -> bool:
    books = (one.book(Direction.EXPORT, region, role), one.book(Direction.IMPORT, region, role))
    side = Side(NodeKey(region, "n"), *books, "in/1", 1, Limits(), 0.0)
    return one.gate(side, region, role) is not None


def test_only_links_on_which_something_is_decided_decode_batches() -> None:
    some = boundary("export to p deny topic hr/#")
    assert gated(some, "p", "transit")
    assert not gated(some, "q", "transit"), "no rule speaks of it, and it is open"
    assert gated(some, "q", "dmz")
    assert not gated(boundary(""), "p", "peer")
    assert gated(boundary(None), "p", "dmz")


def test_interest_is_apart_on_every_link_once_there_is_a_file() -> None:
    assert not boundary(None).has_rules("transit")
    assert boundary(None).has_rules("dmz")
    assert boundary("").has_rules("transit")


def test_without_a_file_routes_are_as_roles_say() -> None:
    none = boundary(None)
    for rule in (none.import_route, none.export_route):
        assert rule(Role.TRANSIT, "p", "x", ("p", "x")).allowed
        assert not rule(Role.DMZ, "p", "x", ("p", "x")).allowed
        assert rule(Role.DMZ, "p", "x", ("p", "x")).rule == 'role "dmz": no rule allows it'


@pytest.mark.parametrize(
    ("text", "told", "taken"),
    [
        # Events may leave: their destinations are taken, and this region is told for the replies.
        ("export to p allow topic a", {"in", "r"}, {"p", "r"}),
        ("export to p allow topic a destination p", {"in", "r"}, {"p"}),
        ("export to p allow topic a origin in", {"in"}, {"p", "r"}),
        ("import from p allow topic a", {"in", "r"}, {"p", "r"}),
        ("import from p allow topic a destination in", {"in"}, {"p", "r"}),
        ("import from p allow topic a origin p", {"in", "r"}, {"p"}),
        ("import from q allow topic a", set(), set()),
        ("import from p deny topic #\nimport from p allow topic a", set(), set()),
    ],
)
def test_routes_follow_from_the_rules(text: str, told: set[str], taken: set[str]) -> None:
    """r is a region behind this one, and another time one behind p."""
    one = boundary(text)
    assert {region for region in ("in", "r") if one.export_route(Role.DMZ, "p", region, ()).allowed} == told
    assert {region for region in ("p", "r") if one.import_route(Role.DMZ, "p", region, ()).allowed} == taken


def test_a_refusal_names_the_rule() -> None:
    one = boundary("import from p deny topic #")
    assert one.export_route(Role.TRANSIT, "p", "in", ()).allowed, "events may leave, and replies come back"
    both = boundary("import from p deny topic #\nexport to p deny topic #")
    assert (
        both.export_route(Role.TRANSIT, "p", "in", ()).rule == 'rule "import from p deny topic #" (p.rules:1)'
    )


def test_other_rules_begin_to_count_anew_and_need_a_file_at_the_start() -> None:
    one = boundary("export to p allow topic a")
    before = one.book(Direction.EXPORT, "p", "dmz")
    assert one.book(Direction.EXPORT, "p", "dmz") is before, "links of a pair of regions share counts"
    one.replace(parse("", "p.rules"), {})
    assert one.book(Direction.EXPORT, "p", "dmz") is not before
    assert one.generation == 1
    with pytest.raises(ValueError, match="without a policy file"):
        boundary(None).replace(parse("", "p.rules"), {})
