"""Comparing digests and answering pulls: what two nodes owe each other, and in which portions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.holdings import BURST_BYTES, PULL_POSITIONS, Reply
from mesh.core.tables import TableSet
from mesh.model.limits import Limits
from mesh.wire.frames import Delta, Digest, Pull, Scope


def table_set(owner: str, limits: Limits | None = None) -> TableSet:
    return TableSet(Scope.REGION, owner, 100, limits or Limits(), 0.0)


def test_equal_roots_need_no_answer_and_different_ones_the_full_digest() -> None:
    one, two = table_set("a"), table_set("b")
    assert one.root() != two.root()
    assert two.compare(one.digest(False)) == [two.digest(True)]
    for delta in one.news():
        two.receive(delta, 0.0)
    for delta in two.news():
        one.receive(delta, 0.0)
    assert one.root() == two.root()
    assert two.compare(one.digest(False)) == two.compare(one.digest(True)) == []


def test_a_full_digest_is_answered_by_what_each_side_lacks() -> None:
    one, two = table_set("a"), table_set("b")
    one.put("x", b"1", 0.0)
    two.put("y", b"1", 0.0)
    replies = two.compare(one.digest(True))
    assert [type(reply) for reply in replies] == [Delta, Pull]
    assert replies[1] == Pull(Scope.REGION, (("a", 0, 0),))
    (answer,) = one.answer(Pull(Scope.REGION, (("a", 0, 0),)))
    assert isinstance(answer, Delta)
    assert two.receive(answer, 0.0).advanced


def test_the_root_tells_positions_apart_even_where_the_content_is_equal() -> None:
    one, two = table_set("a"), table_set("b")
    for delta in one.news():
        two.receive(delta, 0.0)
    before = two.root()
    one.put("x", b"1", 0.0)
    one.delete("x", 0.0)
    for delta in one.news():
        two.receive(delta, 0.0)
    assert two.items("a") == []
    assert two.root() != before


def test_what_is_owed_comes_in_bursts_and_each_asks_for_the_next() -> None:
    hub, late = table_set("hub"), table_set("late", Limits(remote_filters=100_000))
    for number in range(30):
        writer = table_set(f"n{number}")
        for key in range(200):
            writer.put(f"f{key}" + "x" * 500, b"1", 0.0)
        for delta in writer.news():
            hub.receive(delta, 0.0)
    to_late, to_hub = [*hub.compare(late.digest(True))], list[Reply]()
    bursts = 0
    while to_late or to_hub:
        burst = sum(len(key) for reply in to_late if isinstance(reply, Delta) for key, _, _ in reply.entries)
        assert burst <= BURST_BYTES + 200 * 600
        bursts += burst > 0
        for source, sink, reader in ((to_late, to_hub, late), (to_hub, to_late, hub)):
            for frame in list(source):
                if isinstance(frame, Delta):
                    reader.receive(frame, 0.0)
                elif isinstance(frame, Digest):
                    sink += reader.compare(frame)
                else:
                    sink += reader.answer(frame)
            source.clear()
    assert bursts == 3
    assert late.root() == hub.root()
    assert len(late.owners()) == 32


def test_a_pull_for_what_is_not_held_or_not_newer_is_passed_over() -> None:
    tables = table_set("a")
    tables.put("x", b"1", 0.0)
    assert tables.answer(Pull(Scope.REGION, (("b", 0, 0), ("a", 100, 1), ("a", 100, 2), ("a", 101, 0)))) == []
    assert tables.answer(Pull(Scope.WORLD, (("a", 0, 0),))) == []
    for position in (("a", 0, 0), ("a", 99, 7), ("a", 100, 0), ("a", -5, -5)):
        (delta,) = tables.answer(Pull(Scope.REGION, (position,)))
        assert isinstance(delta, Delta)
        assert delta.since == 0


def test_positions_that_no_honest_node_has_are_not_pulled() -> None:
    tables = table_set("a")
    garbage = (("", 1, 1), ("x" * 500, 1, 1), ("x", 0, 5), ("x", 5, 1 << 60), ("y", -1, -1), ("a", 500, 9))
    assert not any(isinstance(reply, Pull) for reply in tables.compare(Digest(Scope.REGION, 0, garbage)))
    flood = tuple((f"n{number}", 1, 1) for number in range(2 * PULL_POSITIONS))
    (pull,) = [reply for reply in tables.compare(Digest(Scope.REGION, 0, flood)) if isinstance(reply, Pull)]
    assert len(pull.positions) == PULL_POSITIONS
    assert tables.compare(Digest(Scope.WORLD, 0, None)) == []


def test_reading_an_owner_that_is_not_held_finds_nothing() -> None:
    tables = table_set("a")
    assert tables.position("x") is None
    assert tables.get("x", "k") is None
    assert tables.items("x") == []
    assert tables.table_root("x") == 0
    assert tables.table_root("a") == 1


@pytest.mark.parametrize("full", [True, False])
def test_a_digest_is_the_same_object_until_something_changes(full: bool) -> None:
    tables = table_set("a")
    first = tables.digest(full)
    assert tables.digest(full) == first
    tables.put("x", b"1", 0.0)
    assert tables.digest(full) != first
    assert tables.digest(True) is tables.digest(True)


ANY = st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(0, 101)
POSITIONS = st.lists(st.tuples(st.text(max_size=3) | st.sampled_from("ab"), ANY, ANY), max_size=5).map(tuple)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(list(Scope)), ANY, st.none() | POSITIONS, POSITIONS)
def test_garbage_never_raises_and_never_changes_anything(
    scope: Scope,
    root: int,
    positions: tuple[tuple[str, int, int], ...] | None,
    pulled: tuple[tuple[str, int, int], ...],
) -> None:
    tables, other = table_set("a"), table_set("b")
    other.put("k", b"1", 0.0)
    for delta in other.news():
        tables.receive(delta, 0.0)
    before = tables.root(), tables.positions()
    tables.compare(Digest(scope, root, positions))
    tables.answer(Pull(scope, pulled))
    assert (tables.root(), tables.positions()) == before
