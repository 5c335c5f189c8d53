"""Processes that die at every moment of the custody protocol, in small worlds; `scripts/sim --crash-points` lives all of them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest

from mesh.model.ids import NodeKey
from mesh.testing.crash_points import PLAYS, Death, every_death, live, lives, pairs
from mesh.testing.soak import main

A, B = NodeKey("a", "a-1"), NodeKey("b", "b-1")
FOUND = {
    "the region was away when its neighbour started again, which then knew of nobody to keep events for": (
        "two-regions",
        [Death(A, 6, True, 0.5, 0.05), Death(B, 19, False, 0.0, 5.0)],
    ),
    "a bridge that started again told at first that its region wants nothing": (
        "two-regions",
        [Death(B, 10, True, 1.0, 0.05), Death(A, 1, True, 1.0, 5.0)],
    ),
    "the only bridge of a region started again, and told what it wants before it had heard its members": (
        "behind",
        [Death(B, 91, True, 0.0, 0.7)],
    ),
    "a bridge that started again ended its old table before it had a link, while its neighbour still told its old route": (
        "ordered",
        [
            Death(NodeKey("c", "c-2"), 94, told=False, torn=0.0),
            Death(B, 375, torn=1.0, down_s=0.05),
        ],
    ),
    "the entry bridge started again and did not know of a durable client on a member that was away": (
        "ordered",
        [
            Death(NodeKey("c", "c-1"), 149, torn=0.0, down_s=5.0),
            Death(B, 141, torn=1.0, down_s=0.05),
            Death(NodeKey("c", "c-2"), 479, torn=0.44194696248880916, down_s=0.05),
        ],
    ),
    "as the first, while the neighbour was accepting": (
        "two-regions",
        [Death(B, 46, False, 1.0, 5.0), Death(A, 16, True, 0.5, 0.7)],
    ),
}


def unharmed(name: str, deaths: Sequence[Sequence[Death]]) -> None:
    found, told = lives(PLAYS[name], deaths)
    assert not found, "\n".join(told)


@pytest.mark.parametrize("name", PLAYS)
def test_a_play_without_deaths_keeps_every_promise_exactly(name: str) -> None:
    life = live(PLAYS[name])
    assert life.violations == []
    assert life.accepted >= 6
    assert sum(map(len, life.moments.values())) > 100


def test_a_death_in_each_kind_of_moment_of_each_node() -> None:
    """One for each node and kind of moment, told and not, the commit torn in each way."""
    kinds: dict[tuple[object, ...], Death] = {}
    moments = live(PLAYS["two-regions"]).moments
    for death in every_death(PLAYS["two-regions"]):
        what = moments[death.node][death.moment - 1]
        kinds.setdefault((death.node, what, death.told, death.torn), death)
    assert len(kinds) > 40
    unharmed("two-regions", [(death,) for death in kinds.values()])


@pytest.mark.parametrize(("name", "count"), [("two-regions", 40), ("chain", 25), ("groups", 10)])
def test_two_deaths(name: str, count: int) -> None:
    unharmed(name, [*pairs(PLAYS[name], random.Random(11), count)])


def test_ordered_topics_keep_their_order_through_two_deaths_that_split_the_ways() -> None:
    """Without the gate two of five of these lives change the order (see test_custody_checkers)."""
    dice = random.Random(5)
    unharmed(
        "ordered",
        [
            (
                Death(
                    NodeKey("c", dice.choice(("c-1", "c-2"))),
                    dice.randint(50, 250),
                    told=dice.random() < 0.5,
                    torn=0.0,
                    down_s=dice.choice((0.7, 5.0)),
                ),
                Death(B, dice.randint(80, 380), torn=1.0, down_s=dice.choice((0.05, 0.7))),
            )
            for _ in range(25)
        ],
    )


@pytest.mark.parametrize("what", FOUND)
def test_what_once_failed(what: str) -> None:
    name, deaths = FOUND[what]
    unharmed(name, [deaths])


def test_the_command_tells_how_many_lives_it_lived(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--crash-points", "two-regions", "--pairs", "2", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "play": "two-regions",
        "lives": 2,
        "violated": {},
        "told": [],
    }
