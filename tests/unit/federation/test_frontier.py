"""What two boundary nodes tell each other of interest, over the tables of one link."""

from __future__ import annotations

import msgspec
import pytest

from federation.core.frontier import TOLD_MAX, Frontier, Side, read_entry
from federation.core.policy.rule_file import parse
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Direction
from federation.core.reach import Reach
from mesh.core.interest import Destinations, InterestIndex
from mesh.core.tables import TableSet
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.wire.frames import Delta, Scope

ONE = msgspec.msgpack.encode(0)


class End:
    """One boundary node of a region."""

    def __init__(
        self, region: str, rules: str = "export to * allow topic #\nimport from * allow topic #"
    ) -> None:
        self.region = region
        self.owner = f"{region}/1"
        self.world = TableSet(Scope.WORLD, self.owner, 1, Limits(), 0.0)
        self.interest = InterestIndex()
        self.reach = Reach(Destinations(), self.interest)
        self.rules = parse(rules, "p").rules
        self.frontier = Frontier(
            region, self.world, self.owner, 1, self.reach, Limits(), lambda _: frozenset()
        )

    def meet(self, other: str) -> Side:
        books = [Rulebook(self.rules, direction, other, "transit", open=False) for direction in Direction]
        link = len(self.frontier.of_link) + 1
        return self.frontier.link_opened(link, NodeKey(other, "1"), books[0], books[1], 0.0)

    def wants(self, filter: str) -> None:
        self.world.put("f" + filter, ONE, 0.0)

    def told(self, region: str) -> list[str]:
        """What counts here of a region's interest."""
        return sorted(self.reach.entries(region))


def exchange(ends: list[End], links: list[tuple[int, int]], rounds: int = 8) -> None:
    """Let all of them settle, and carry whole tables over the links."""
    for at in range(rounds):
        for end in ends:
            end.frontier.settle(float(at), at_once=True)
        for one, other in links:
            near = ends[one].frontier.sides[NodeKey(ends[other].region, "1")].table
            far = ends[other].frontier.sides[NodeKey(ends[one].region, "1")].table
            for source, sink in ((near, far), (far, near)):
                for delta in source.compare(sink.digest(True)):
                    if isinstance(delta, Delta):
                        sink.receive(delta, float(at))


def line(*ends: End) -> list[tuple[int, int]]:
    links = [(at, at + 1) for at in range(len(ends) - 1)]
    for one, other in links:
        ends[one].meet(ends[other].region)
        ends[other].meet(ends[one].region)
    return links


def test_interest_crosses_two_boundaries_under_its_own_region() -> None:
    a, b, c = End("a"), End("b"), End("c")
    links = line(a, b, c)
    c.wants("orders/#")
    a.wants("tickets/+")
    exchange([a, b, c], links)
    assert a.told("c") == ["forders/#"]
    assert b.told("c") == ["forders/#"]
    assert c.told("a") == ["ftickets/+"]
    assert a.world.get("a/1", "nc/forders/#") is not None, "the region's other nodes read it there"


def test_it_is_narrowed_renamed_and_its_withholding_is_told() -> None:
    a = End("a", "export to b allow topic orders/# rename orders -> acme\nimport from b allow topic t/#")
    b = End("b")
    links = line(a, b)
    b.wants("#")
    a.wants("secret/#")
    a.wants("t/1")
    exchange([a, b], links)
    assert a.told("b") == ["forders/#"]
    assert b.told("a") == ["ft/1"]
    side = a.frontier.sides[NodeKey("b", "1")]
    assert not any("secret" in key for key, _ in side.table.items("a/1>b/1"))
    held = {(one.direction, one.key): (one.told, one.why) for one in side.withheld}
    assert held[Direction.IMPORT, "fsecret/#"] == ((), "no rule allows it")
    told, why = held[Direction.EXPORT, "f#"]
    assert told == ("forders/#",)
    assert "p:1" in why


def test_interest_that_goes_goes_everywhere_also_in_a_ring() -> None:
    ends = [End("a"), End("b"), End("c")]
    links = line(*ends)
    ends[0].meet("c")
    ends[2].meet("a")
    links.append((0, 2))
    ends[0].wants("x")
    exchange(ends, links)
    assert [end.told("a") for end in ends[1:]] == [["fx"], ["fx"]]
    ends[0].world.delete("fx", 9.0)
    exchange(ends, links, 12)
    assert [end.told("a") for end in ends[1:]] == [[], []], "its own echo keeps it not alive"


def test_a_group_crosses_where_one_filter_stands_for_its_own() -> None:
    a = End("a", "export to b allow topic o/#\nexport to b allow topic p/#")
    b = End("b")
    links = line(a, b)
    b.world.put("gwork/o/+", msgspec.msgpack.encode(3), 0.0)
    b.world.put("gall/#", msgspec.msgpack.encode(3), 0.0)
    exchange([a, b], links)
    assert a.told("b") == ["gwork/o/+"]


def test_what_other_rules_would_change_is_told_without_changing_it() -> None:
    a, b = End("a", "export to b allow topic o/#"), End("b")
    links = line(a, b)
    b.wants("#")
    exchange([a, b], links)
    side = a.frontier.sides[NodeKey("b", "1")]
    other = parse("export to b allow topic n/#", "p").rules
    books = [Rulebook(other, direction, "b", "transit", open=False) for direction in Direction]
    assert a.frontier.with_rules(side, books[0], books[1]) == ({"b/fn/#"}, set())
    assert a.told("b") == ["fo/#"]


def test_what_came_through_a_region_is_not_told_to_it_again() -> None:
    """Also where that region has no rules, and passed on a table that names nobody on its way."""
    a = End("a")
    side = a.meet("b")
    far = TableSet(Scope.WORLD, "c/1", 1, Limits(), 0.0)
    far.put("fx", ONE, 0.0)
    for delta in far.news():
        side.table.receive(delta, 0.0)
    a.frontier.settle(0.0, at_once=True)
    assert a.told("c") == ["fx"]
    assert [key for key, _ in side.table.items("a/1>b/1")] == ["b"], "nothing but that it is a bridge"


def test_what_cannot_be_read_is_passed_over() -> None:
    garbage = [
        ("f#", b"\xc1"), ("fa/#/b", ONE), ("g", ONE), ("n", ONE), ("nx", ONE), ("nx/", ONE), ("nx/f#", ONE), ("zz", ONE),
        ("n../f#", msgspec.msgpack.encode((0, ()))), ("nx/f#", msgspec.msgpack.encode((0, ["r"] * 40))),
        ("nx/h", msgspec.msgpack.encode((0, ()))),
    ]  # fmt: skip
    assert [read_entry("r", key, value) for key, value in garbage] == [None] * len(garbage)
    found = read_entry("r", "nx/fa", msgspec.msgpack.encode((1, ("y",))))
    assert found == ("x", "fa", 1, ("y",))


def test_a_peer_that_tells_too_much_is_refused_the_surplus_and_nothing_breaks() -> None:
    a, b = End("a"), End("b")
    links = line(a, b)
    side, other = a.frontier.sides[NodeKey("b", "1")], b.frontier.sides[NodeKey("a", "1")]
    for n in range(1_200):
        other.table.put(f"nr{n}/fx", msgspec.msgpack.encode((0, ("b",))), 0.0)
    for delta in other.table.compare(side.table.digest(True)):
        if isinstance(delta, Delta):
            side.table.receive(delta, 0.0)
    a.frontier.settle(1.0, at_once=True)
    assert len([region for region in a.reach.regions() if region.startswith("r")]) <= Limits().regions
    assert a.frontier.refused >= 1_200 - Limits().regions
    assert links
    for n in range(TOLD_MAX - 1_201):
        other.table.put(f"f{n}", ONE, 0.0)
    with pytest.raises(ValueError, match="remote_filters"):
        other.table.put("fone too many", ONE, 0.0)
