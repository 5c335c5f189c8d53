"""The demo's screen and its sums. The whole demo is run by tests/e2e."""

from __future__ import annotations

import io

import pytest
import trio

from mesh.model.errors import MeshError
from mesh.testing.demo import BATCH, Demo, Screen


def test_colour_only_where_it_is_wanted() -> None:
    plain, painted = io.StringIO(), io.StringIO()
    for out, color in ((plain, False), (painted, True)):
        screen = Screen(out, color)
        screen.say("fine", "good")
        screen.say("as it is")
        screen.say()
    assert plain.getvalue() == "fine\nas it is\n\n"
    assert painted.getvalue() == "\x1b[32mfine\x1b[0m\nas it is\n\n"


def test_traffic_has_settled_when_the_last_order_sent_is_among_the_last_that_came() -> None:
    demo = Demo(1.0, False, io.StringIO())
    demo.tally.sent = {"a": 1.0, "b": 2.0}
    demo.tally.got = ["a"]
    assert not demo._settled()
    demo.tally.got.append("b")
    assert demo._settled()
    demo.tally.got += [f"x{n}" for n in range(BATCH)]
    assert not demo._settled()


async def _fail() -> int:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_raise)
    return 0


async def _raise() -> None:
    raise MeshError("MESH-A020", "us-1", "the node did not start")


def test_a_node_that_does_not_start_ends_the_demo_with_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = Demo(1.0, False, io.StringIO())
    monkeypatch.setattr(demo, "_run", _fail)
    with pytest.raises(MeshError, match="did not start"):
        demo.run()


def test_a_demo_that_kept_its_promises_ends_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = Demo(1.0, False, io.StringIO())

    async def lived() -> int:
        return 1 if demo.problems else 0

    monkeypatch.setattr(demo, "_run", lived)
    assert demo.run() == 0
    demo.problems.append("nothing arrives twice")
    assert demo.run() == 1
