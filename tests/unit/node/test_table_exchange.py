"""How tables travel: who is sent which delta or digest, and how much one link may ask."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from unit.node.wired_machines import hear, linked, tight

from mesh.core.effects import Effect, Send
from mesh.core.plan import Links
from mesh.core.tables import TableSet
from mesh.model.limits import Limits
from mesh.node.table_exchange import (
    ANTI_ENTROPY_S,
    NEWS_COALESCE_S,
    REPORTS_BURST,
    RESYNC_S,
    TableExchange,
)
from mesh.testing.world import World
from mesh.wire.frames import Delta, Digest, Frame, Pull, Scope


@pytest.mark.parametrize("frame", [Digest(Scope.REGION, 5), Pull(Scope.REGION, (("n1", 1, 0),))])
def test_a_question_about_the_regions_tables_from_outside_is_not_answered(frame: Frame) -> None:
    net, a, _, link = linked("us")
    hear(net, a, link, frame)
    answers = [f for burst in net.pipes[0].queues[0] for f in burst or ()]
    assert all(f.scope is not Scope.REGION for f in answers if isinstance(f, Delta | Digest | Pull))


@pytest.mark.parametrize("region", ["eu", "us"])
@pytest.mark.parametrize("frame", [Digest(Scope.WORLD, 5, ()), Pull(Scope.WORLD, ())])
def test_a_flood_of_questions_costs_the_link_and_a_steady_pace_does_not(region: str, frame: Frame) -> None:
    net, a, _, link = linked(region, tight(updates_per_s=10.0, updates_burst=200))
    for _ in range(300):
        net.now += 0.11
        hear(net, a, link, frame)
    assert a.closed() == []
    for _ in range(205):
        hear(net, a, link, frame)
    assert a.closed() == [(f"{region}/n2", "limit")]
    assert a.machine.control.exchange.links_remembered == 0, "nothing is remembered of a link that is gone"


def test_a_summary_crosses_a_transit_region_unmodified_and_once() -> None:
    world = World(5)
    a, b, c = (
        world.node("a", "a1", bridges=["b"]),
        world.node("b", "b1", bridges=["c"]),
        world.node("c", "c1"),
    )
    world.seed_link(a, b)
    world.seed_link(b, c)
    for node in (a, b, c):
        node.start()
    world.run(3.0)
    a.subscribe(1, 1, "x/#")
    world.run(1.0)
    for node in (b, c):
        assert dict(node.machine.control.world.items("a/a1")) == dict(a.machine.control.world.items("a/a1"))
    assert c.machine.interest.holders("x/#") == c.machine.destinations.find("r/a")


# -- one node's exchange ---------------------------------------------------------------------------------------------


class Desk:
    """The exchange of eu/n1: links 1 and 2 to members, 7 and 8 to other regions. `sent` empties what it wants sent."""

    def __init__(self, *, linked: bool = True) -> None:
        self.tables = TableSet(Scope.REGION, "n1", 1, Limits(), 0.0)
        self.world = TableSet(Scope.WORLD, "eu/n1", 1, Limits(), 0.0)
        self.effects: list[Effect] = []
        links = Links({"n2": 1, "n3": 2}, {7: "us", 8: "ap"}) if linked else Links()
        self.exchange = TableExchange(
            self.tables, self.world, links, self.effects, Limits(), random.Random(3), 0.0
        )

    def sent(self) -> list[tuple[int | str, type, Scope]]:
        found = [(e.to, type(e.frame), e.frame.scope) for e in self.effects if isinstance(e, Send)]  # type: ignore[union-attr]
        assert len(found) == len(self.effects)
        self.effects.clear()
        return found


def session(link: int) -> Any:
    return SimpleNamespace(link=link)


DELTA = Delta(Scope.WORLD, "us/u1", 1, 0, 1, 1, ())


def test_a_summary_goes_back_neither_over_its_link_nor_into_the_region_it_came_from() -> None:
    desk = Desk()
    desk.exchange.pass_on(session(7), DELTA, inside=False)
    assert sorted(to for to, _, _ in desk.sent()) == [1, 2, 8]
    desk.exchange.pass_on(session(1), DELTA, inside=True)
    assert sorted(to for to, _, _ in desk.sent()) == [7, 8]


def test_the_regions_own_tables_never_leave_it_and_summaries_go_everywhere() -> None:
    desk = Desk()
    desk.tables.put("ft", b"x", 0.0)
    desk.world.put("ft", b"x", 0.0)
    desk.exchange.push_news(0.0)
    found = desk.sent()
    assert {to for to, _, scope in found if scope is Scope.REGION} == {1, 2}
    assert {to for to, _, scope in found if scope is Scope.WORLD} == {1, 2, 7, 8}
    assert {kind for _, kind, _ in found} == {Delta}


def test_a_first_change_goes_at_once_and_those_of_the_next_20_ms_together() -> None:
    desk = Desk()
    assert NEWS_COALESCE_S == 0.02
    desk.tables.put("fa", b"x", 5.0)
    desk.exchange.push_news(5.0)
    assert len(desk.sent()) == 2
    for at in range(1, 10):
        desk.tables.put(f"f{at}", b"x", 5.0 + at / 1000)
        desk.exchange.push_news(5.0 + at / 1000)
    assert desk.sent() == []
    assert desk.exchange.next_deadline() <= 5.0 + NEWS_COALESCE_S
    desk.exchange._entropy_at = desk.exchange._resync_at = 1e9
    assert desk.exchange.next_deadline() == 5.0 + NEWS_COALESCE_S
    desk.exchange.handle_deadline(5.0 + NEWS_COALESCE_S)
    assert [to for to, _, _ in desk.sent()] == [1, 2], "nine changes in one frame a link"
    assert desk.exchange.next_deadline() == 1e9
    desk.exchange.push_news(6.0)
    assert desk.sent() == [], "nothing changed since"


def test_at_rest_one_member_a_second_and_each_bridge_every_30_s_is_asked_for_its_root() -> None:
    desk = Desk()
    asked: list[tuple[int | str, type, Scope]] = []
    while (now := desk.exchange.next_deadline()) < 300.0:
        desk.exchange.handle_deadline(now)
        asked += desk.sent()
    inside = [one for one in asked if one[0] in (1, 2)]
    outside = [one for one in asked if one[0] in (7, 8)]
    assert {kind for _, kind, _ in asked} == {Digest}
    rounds = 300 / ANTI_ENTROPY_S
    assert abs(len(inside) - 2 * rounds) < 0.1 * rounds, "each round the roots of both scopes"
    assert {scope for _, _, scope in inside} == {Scope.REGION, Scope.WORLD}
    assert min([to for to, _, _ in inside].count(link) for link in (1, 2)) > 0.8 * rounds
    assert {scope for _, _, scope in outside} == {Scope.WORLD}
    assert abs(len(outside) - 2 * 300 / RESYNC_S) <= 4


def test_a_node_on_its_own_asks_nobody() -> None:
    desk = Desk(linked=False)
    desk.tables.put("ft", b"x", 0.0)
    desk.exchange.push_news(0.0)
    for _ in range(20):
        desk.exchange.handle_deadline(desk.exchange.next_deadline())
    assert desk.sent() == []


def test_a_link_that_tells_nonsense_writes_a_line_of_log_a_second_and_no_more() -> None:
    desk = Desk()
    lines = sum(desk.exchange.may_report(7, 0.0) for _ in range(1_000))
    assert lines == REPORTS_BURST
    assert sum(desk.exchange.may_report(7, 10.0) for _ in range(1_000)) == 10
    assert desk.exchange.may_report(8, 10.0), "another link has lines of its own"
    assert desk.exchange.links_remembered == 2
    desk.exchange.link_closed(7)
    desk.exchange.link_closed(7)
    assert desk.exchange.links_remembered == 1


def test_a_scope_names_its_tables() -> None:
    desk = Desk()
    assert desk.exchange.set_of(Scope.REGION, 1) is desk.tables
    assert desk.exchange.set_of(Scope.WORLD, 1) is desk.world
    side = desk.exchange.sides[1] = TableSet(Scope.WORLD, "eu/a>us/b", 1, Limits(), 0.0)
    assert desk.exchange.set_of(Scope.WORLD, 1) is side
    assert desk.exchange.set_of(Scope.WORLD, 2) is desk.world
