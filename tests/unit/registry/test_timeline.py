"""Entries with their changes: going on from a revision, or listing again."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.ids import NodeKey
from registry.base import Gone, NodeEntry, Put, Relist, Revision
from registry.timeline import HISTORY, Timeline

SINCE = datetime(2025, 6, 1, tzinfo=UTC)


def entry(node: str, epoch: int = 1, region: str = "eu") -> NodeEntry:
    return NodeEntry(region=region, node=node, instance="i", epoch=epoch, addresses=(), since=SINCE)


def test_only_what_changes_makes_a_revision() -> None:
    timeline = Timeline("t")
    assert timeline.put(entry("a"))
    before = timeline.revision
    assert not timeline.put(entry("a"))
    assert not timeline.end(NodeKey("eu", "b"), "expired")
    assert timeline.revision == before
    assert timeline.since(before, None) == []


def test_changes_of_other_regions_are_left_out() -> None:
    timeline = Timeline("t")
    start = timeline.revision
    timeline.put(entry("a"))
    timeline.put(entry("a", region="us"))
    timeline.end(NodeKey("us", "a"), "expired")
    assert [type(event) for event in timeline.since(start, "eu")] == [Put]
    assert [type(event) for event in timeline.since(start, "us")] == [Put, Gone]
    assert len(timeline.since(start, None)) == 3


def test_further_back_than_the_history_is_a_relist() -> None:
    timeline = Timeline("t")
    start = timeline.revision
    for number in range(HISTORY):
        timeline.put(entry("a", number))
    assert len(timeline.since(start, None)) == HISTORY
    timeline.put(entry("b"))
    (event,) = timeline.since(start, None)
    assert isinstance(event, Relist)
    assert [found.node for found in event.listing.entries] == ["a", "b"]


def test_a_revision_of_another_timeline_is_a_relist() -> None:
    timeline, other = Timeline("t"), Timeline("u")
    timeline.put(entry("a"))
    for revision in (
        None,
        other.revision,
        Revision(""),
        Revision("t"),
        Revision("t.2"),
        Revision("t.-1"),
        Revision("t.x"),
    ):
        assert [type(event) for event in timeline.since(revision, None)] == [Relist]


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["eu", "us"]), st.integers(0, 3), st.booleans()),
    max_size=40,
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(STEPS, st.sampled_from([None, "eu"]))
def test_what_a_watcher_pieces_together_is_what_is_live(
    steps: list[tuple[str, str, int, bool]], region: str | None
) -> None:
    timeline, seen = Timeline("t"), dict[NodeKey, NodeEntry]()
    after: Revision | None = None
    for node, of, epoch, look in steps:
        if epoch == 0:
            timeline.end(NodeKey(of, node), "expired")
        else:
            timeline.put(entry(node, epoch, of))
        if look:
            for event in timeline.since(after, region):
                match event:
                    case Relist():
                        seen = {found.key: found for found in event.listing.entries}
                    case Put():
                        seen[event.entry.key] = event.entry
                    case Gone():
                        del seen[event.key]
            after = timeline.revision
            assert tuple(seen[key] for key in sorted(seen)) == timeline.listing(region).entries
