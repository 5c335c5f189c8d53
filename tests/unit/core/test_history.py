"""One owner's history: numbers, tails for readers, roots, tombstones."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.deltas import merge
from mesh.core.history import FRAME_BYTES, TOMBSTONE_AGE_S, TOMBSTONES, Change, History, entry_hash
from mesh.model.ids import Version
from mesh.wire.frames import Scope


def written(history: History) -> dict[str, bytes]:
    return {key: value for key, (_, value) in history.live.items()}


def test_an_empty_history_has_a_root_that_is_not_0() -> None:
    history = History("a", 7)
    assert history.version == Version(7, 0)
    assert history.root == 1
    history.put("k", b"", 0.0)
    history.delete("k", 0.0)
    assert history.root == 1
    assert history.size == 0


def test_the_root_does_not_depend_on_the_order_of_writes_but_on_numbers_keys_and_values() -> None:
    root = History("a", 1)
    root.write({"x": (1, b"1"), "y": (2, b"2")}, 2, 0.0)
    other = History("a", 1)
    other.write({"y": (2, b"2")}, 2, 0.0)
    other.live["x"] = (1, b"1")
    assert root.root == (entry_hash("x", 1, b"1") + entry_hash("y", 2, b"2")) % (1 << 64)
    assert (
        len(
            {
                entry_hash("k", 1, b"1"),
                entry_hash("k", 11, b""),
                entry_hash("k1", 1, b""),
                entry_hash("k", 1, b""),
            }
        )
        == 4
    )


def test_what_a_reader_lacks_is_a_tail_in_the_order_of_numbers_with_tombstones() -> None:
    history = History("a", 1)
    for key in "abcd":
        history.put(key, b"1", 0.0)
    history.delete("b", 0.0)
    history.put("a", b"2", 0.0)
    history.delete("d", 0.0)
    assert history.since(4) == [("b", 5, None), ("a", 6, b"2"), ("d", 7, None)]
    assert history.since(6) == [("d", 7, None)]
    assert history.since(7) == []
    assert history.since(0) == [("c", 3, b"1"), ("a", 6, b"2")]


def test_a_rewritten_deleted_key_has_no_tombstone_left() -> None:
    history = History("a", 1)
    history.put("k", b"1", 0.0)
    history.delete("k", 0.0)
    history.put("k", b"1", 0.0)
    assert history.since(1) == [("k", 3, b"1")]
    assert history.dead == {}


def test_changes_are_told_against_what_was_held_before() -> None:
    before, after = History("a", 1), History("a", 2)
    before.write({"x": (1, b"1"), "y": (2, b"1")}, 2, 0.0)
    after.write({"y": (1, b"1"), "z": (2, b"1")}, 2, 0.0)
    assert after.changes_from(before) == [Change("a", 2, "x", None), Change("a", 2, "z", b"1")]
    assert len(after.changes_from(None)) == 2


def test_frames_stay_under_their_bound_and_follow_one_another() -> None:
    history = History("a", 1)
    for number in range(2_000):
        history.put(f"{number}" * 100, bytes(100), 0.0)
    history.put("big", bytes(FRAME_BYTES // 2), 0.0)
    frames = history.frames(Scope.REGION, 0)
    assert len(frames) > 2
    assert frames[0].since == 0
    assert frames[-1].upto == history.n
    for frame, following in pairwise(frames):
        assert frame.root == 0
        assert following.since == frame.upto == frame.entries[-1][1]
        assert sum(len(key) + len(value or b"") for key, _, value in frame.entries) < FRAME_BYTES
    assert frames[-1].root == history.root


def test_a_reader_below_the_floor_or_beyond_the_end_gets_the_whole_map() -> None:
    history = History("a", 1)
    history.put("x", b"", 0.0)
    history.put("y", b"", 0.0)
    history.delete("x", 0.0)
    assert history.purge(TOMBSTONE_AGE_S - 1) == 0
    assert history.purge(TOMBSTONE_AGE_S) == 1
    assert history.floor == 3
    assert history.frames(Scope.REGION, 2)[0].since == 0
    assert history.frames(Scope.REGION, 9)[0].since == 0
    assert history.frames(Scope.REGION, 3)[0].since == 3


def test_too_many_tombstones_lose_their_older_half() -> None:
    history = History("a", 1)
    for number in range(TOMBSTONES + 1):
        history.put(f"k{number}", b"", 0.0)
    for number in range(TOMBSTONES + 1):
        history.delete(f"k{number}", 0.0)
    assert len(history.dead) == TOMBSTONES // 2
    assert next(iter(history.dead.values()))[0] == history.floor + 1


STEPS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from([None, b"1", b"2"]), st.booleans()), max_size=40
)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(STEPS)
def test_a_reader_at_any_position_reaches_the_writers_map_and_root(
    steps: list[tuple[str, bytes | None, bool]],
) -> None:
    writer, reader = History("a", 1), History("a", 1)
    for key, value, read in steps:
        if value is None:
            writer.delete(key, 0.0)
        else:
            writer.put(key, value, 0.0)
        if read:
            (frame,) = writer.frames(Scope.REGION, reader.n)
            if frame.since == 0:
                fresh = History("a", 1)
                entries = merge([frame], 0)
                fresh.load(entries, frame.upto, fresh.preview(entries))
                reader = fresh
            else:
                reader.write(merge([frame], reader.n), frame.upto, 0.0)
            assert written(reader) == written(writer)
            assert (reader.root, reader.size) == (writer.root, writer.size)
            assert list(reader.live) == list(writer.live)
