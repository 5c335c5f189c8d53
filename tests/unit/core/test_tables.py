"""Versioned tables: what a delta may do to a set, and that sets become equal whatever the line does to frames."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.deltas import JUMP_MAX, Outcome
from mesh.core.history import FRAME_BYTES, KEY_BYTES, VALUE_BYTES, Change, entry_hash
from mesh.core.holdings import OWNERS, SHUT_S
from mesh.core.tables import ENTRY_BYTES, TableSet
from mesh.model.ids import Version
from mesh.model.limits import Limits
from mesh.model.reasons import TableReason
from mesh.wire.frames import Delta, Digest, Pull, Scope

LIMITS = Limits()
SMALL = Limits(remote_filters=10)


def table_set(
    owner: str | None = "a", epoch: int = 100, limits: Limits = LIMITS, scope: Scope = Scope.REGION
) -> TableSet:
    return TableSet(scope, owner, epoch, limits, 0.0)


def tell(source: TableSet, *readers: TableSet, now: float = 0.0) -> list[Delta]:
    news = source.news()
    for reader in readers:
        for delta in news:
            reader.receive(delta, now)
    return news


def content(tables: TableSet, owner: str) -> dict[str, bytes]:
    return dict(tables.items(owner))


def delta(
    owner: str = "x", epoch: int = 5, since: int = 0, upto: int = 0, root: int = 1, entries: Sequence = ()
) -> Delta:
    return Delta(Scope.REGION, owner, epoch, since, upto, root, tuple(entries))


def sound(owner: str, epoch: int, entries: Sequence[tuple[str, int, bytes]]) -> Delta:
    """A whole table with the right root."""
    root = sum(entry_hash(*entry) for entry in entries) % (1 << 64) or 1
    return delta(owner, epoch, 0, entries[-1][1], root, entries)


class TestTheOwnTable:
    def test_a_put_makes_a_version_only_when_the_value_changes(self) -> None:
        tables = table_set()
        assert tables.position("a") == Version(100, 0)
        assert tables.put("f/x", b"1", 0.0)
        assert not tables.put("f/x", b"1", 0.0)
        assert tables.position("a") == Version(100, 1)
        assert tables.put("f/x", b"2", 0.0)
        assert tables.position("a") == Version(100, 2)
        assert tables.get("a", "f/x") == b"2"

    def test_a_delete_makes_a_version_only_when_the_key_was_there(self) -> None:
        tables = table_set()
        assert not tables.delete("f/x", 0.0)
        tables.put("f/x", b"1", 0.0)
        assert tables.delete("f/x", 0.0)
        assert tables.position("a") == Version(100, 2)
        assert tables.get("a", "f/x") is None
        assert tables.items("a") == []

    def test_news_are_coalesced_and_told_once(self) -> None:
        tables = table_set()
        tables.news()
        for value in (b"1", b"2", b"3"):
            tables.put("k", value, 0.0)
        tables.put("gone", b"", 0.0)
        tables.delete("gone", 0.0)
        (news,) = tables.news()
        assert (news.since, news.upto) == (0, 5)
        assert news.entries == (("k", 3, b"3"),)
        assert tables.news() == []
        tables.delete("k", 0.0)
        (news,) = tables.news()
        assert (news.since, news.upto, news.entries) == (5, 6, (("k", 6, None),))

    def test_the_first_news_ends_an_earlier_epoch_even_with_nothing_to_tell(self) -> None:
        old, reader = table_set(epoch=1), table_set("b")
        old.put("k", b"1", 0.0)
        tell(old, reader)
        tell(table_set(epoch=2), reader)
        assert reader.position("a") == Version(2, 0)
        assert reader.items("a") == []

    def test_in_the_world_the_own_table_begins_with_its_first_write(self) -> None:
        tables, other = table_set("r/a", scope=Scope.WORLD), table_set("r/b", scope=Scope.WORLD)
        assert not tables.has_news
        assert tables.news() == []
        assert (tables.owners(), tables.positions(), tables.position("r/a")) == ((), (), None)
        assert tables.root() == other.root()
        tables.put("c", b"", 0.0)
        assert tables.has_news
        tell(tables, other)
        assert not tables.has_news
        assert other.owners() == ("r/a",)
        assert tables.root() == other.root()

    def test_a_bridge_that_is_one_no_more_after_its_restart_ends_its_old_summary(self) -> None:
        before, after, other = (
            table_set(o, e, scope=Scope.WORLD) for o, e in (("r/a", 1), ("r/a", 2), ("r/b", 9))
        )
        before.put("f/x", b"1", 0.0)
        tell(before, other)
        for frame in other.compare(after.digest(True)):
            assert isinstance(frame, Delta)
            assert after.receive(frame, 0.0).outcome is Outcome.STALE
        assert after.has_news
        tell(after, other)
        assert other.items("r/a") == []
        assert other.root() == after.root()

    def test_a_node_without_an_own_table_cannot_write_and_has_no_news(self) -> None:
        tables = table_set(None, scope=Scope.WORLD)
        with pytest.raises(ValueError, match="owns no table in scope WORLD"):
            tables.put("k", b"", 0.0)
        assert tables.news() == []
        assert tables.owners() == ()

    def test_a_key_or_value_that_others_would_refuse_is_refused_at_once(self) -> None:
        tables = table_set(limits=SMALL)
        for key, value in (
            ("", b""),
            ("k" * (KEY_BYTES + 1), b""),
            ("é" * KEY_BYTES, b""),
            ("k", bytes(VALUE_BYTES + 1)),
        ):
            with pytest.raises(ValueError, match="bytes"):
                tables.put(key, value, 0.0)
        for number in range(10):
            tables.put(f"k{number}", b"", 0.0)
        with pytest.raises(ValueError, match="remote_filters"):
            tables.put("one more", b"", 0.0)
        assert tables.put("k3", b"new", 0.0)
        assert tables.position("a") == Version(100, 11)


class TestReceiving:
    def test_changes_tell_exactly_what_an_index_must_learn(self) -> None:
        writer, reader = table_set(), table_set("b")
        for key in "xyz":
            writer.put(key, b"1", 0.0)
        (news,) = writer.news()
        applied = reader.receive(news, 0.0)
        assert applied.outcome is Outcome.APPLIED
        assert applied.advanced
        assert applied.chain == (news,)
        assert set(applied.changes) == {Change("a", 100, key, b"1") for key in "xyz"}
        writer.delete("x", 0.0)
        writer.put("x", b"1", 0.0)  # the same again: a new version, no change
        writer.delete("y", 0.0)
        writer.put("z", b"2", 0.0)
        (news,) = writer.news()
        assert set(reader.receive(news, 0.0).changes) == {
            Change("a", 100, "y", None),
            Change("a", 100, "z", b"2"),
        }
        assert reader.table_root("a") == writer.table_root("a")

    def test_a_repeated_or_older_delta_is_stale_and_changes_nothing(self) -> None:
        writer, reader = table_set(), table_set("b")
        frames = []
        for number in range(3):
            writer.put("k", b"%d" % number, 0.0)
            frames += writer.news()
        for frame in frames:
            reader.receive(frame, 0.0)
        root = reader.root()
        for frame in frames:
            applied = reader.receive(frame, 0.0)
            assert (applied.outcome, applied.reason) == (Outcome.STALE, TableReason.KNOWN)
        assert reader.root() == root
        assert reader.statistics().stale == 3

    def test_a_delta_that_overlaps_what_is_held_is_applied_from_there(self) -> None:
        writer, reader = table_set(), table_set("b")
        writer.put("x", b"1", 0.0)
        tell(writer, reader)
        start = writer.position("a")
        writer.put("y", b"1", 0.0)
        tell(writer, reader)
        writer.delete("x", 0.0)
        (frame,) = [f for f in writer.answer(Pull(Scope.REGION, (("a", *start),))) if isinstance(f, Delta)]
        assert frame.since == 1
        assert reader.receive(frame, 0.0).changes == (Change("a", 100, "x", None),)

    def test_a_gap_is_pulled_from_what_is_held(self) -> None:
        writer, reader = table_set(), table_set("b")
        writer.put("x", b"1", 0.0)
        tell(writer, reader)
        writer.put("y", b"1", 0.0)
        writer.news()  # lost
        writer.put("z", b"1", 0.0)
        (late,) = writer.news()
        applied = reader.receive(late, 0.0)
        assert (applied.outcome, applied.reason) == (Outcome.GAP, TableReason.GAP)
        assert applied.pull == Pull(Scope.REGION, (("a", 100, 1),))
        assert content(reader, "a") == {"x": b"1"}
        for frame in writer.answer(applied.pull):
            assert isinstance(frame, Delta)
            reader.receive(frame, 0.0)
        assert content(reader, "a") == content(writer, "a")
        assert reader.statistics().gaps == 1

    def test_a_new_epoch_replaces_all_and_reports_the_vanished_keys(self) -> None:
        before, after, reader = table_set(epoch=1), table_set(epoch=2), table_set("b")
        before.put("stays", b"1", 0.0)
        before.put("goes", b"1", 0.0)
        after.put("comes", b"1", 0.0)
        after.put("stays", b"1", 0.0)
        old = tell(before, reader)
        (news,) = after.news()
        assert set(reader.receive(news, 0.0).changes) == {
            Change("a", 2, "goes", None),
            Change("a", 2, "comes", b"1"),
        }
        applied = reader.receive(old[0], 0.0)
        assert (applied.outcome, applied.reason) == (Outcome.STALE, TableReason.OLD_EPOCH)
        assert content(reader, "a") == {"comes": b"1", "stays": b"1"}

    def test_a_new_epoch_that_does_not_begin_at_0_is_a_gap(self) -> None:
        before, after, reader = table_set(epoch=1), table_set(epoch=2), table_set("b")
        before.put("k", b"1", 0.0)
        tell(before, reader)
        after.put("k", b"2", 0.0)
        after.news()
        after.put("k", b"3", 0.0)
        (news,) = after.news()
        applied = reader.receive(news, 0.0)
        assert applied.outcome is Outcome.GAP
        assert applied.pull is not None
        (frame,) = after.answer(applied.pull)
        assert isinstance(frame, Delta)
        assert frame.since == 0
        assert reader.receive(frame, 0.0).advanced

    def test_a_wrong_root_drops_the_delta_whole_and_pulls_from_0(self) -> None:
        writer, reader = table_set(), table_set("b")
        writer.put("k", b"1", 0.0)
        tell(writer, reader)
        writer.put("k", b"2", 0.0)
        writer.put("l", b"2", 0.0)
        (news,) = writer.news()
        bad = delta("a", 100, news.since, news.upto, news.root ^ 2, news.entries)
        applied = reader.receive(bad, 0.0)
        assert (applied.outcome, applied.reason) == (Outcome.REFUSED, TableReason.ROOT_MISMATCH)
        assert applied.pull == Pull(Scope.REGION, (("a", 100, 0),))
        assert content(reader, "a") == {"k": b"1"}
        assert reader.statistics().refused == {"root_mismatch": 1}
        (whole,) = writer.answer(applied.pull)
        assert isinstance(whole, Delta)
        assert whole.since == 0
        assert set(reader.receive(whole, 0.0).changes) == {
            Change("a", 100, "k", b"2"),
            Change("a", 100, "l", b"2"),
        }

    def test_a_whole_table_with_a_wrong_root_is_not_pulled_again(self) -> None:
        applied = table_set().receive(delta("x", 5, 0, 1, 77, [("k", 1, b"")]), 0.0)
        assert applied.reason is TableReason.ROOT_MISMATCH
        assert applied.pull is None

    def test_nobody_else_writes_the_own_table(self) -> None:
        tables = table_set("a", 100)
        tables.put("k", b"1", 0.0)
        (own,) = tables.news()
        assert tables.receive(own, 0.0).reason is TableReason.KNOWN
        assert tables.receive(sound("a", 99, [("k", 7, b"old")]), 0.0).reason is TableReason.KNOWN
        foreign = tables.receive(sound("a", 100, [("k", 7, b"2")]), 0.0)
        assert (foreign.outcome, foreign.reason) == (Outcome.REFUSED, TableReason.FOREIGN_WRITE)
        other = tables.receive(sound("a", 101, [("k", 1, b"2")]), 0.0)
        assert (other.outcome, other.reason) == (Outcome.REFUSED, TableReason.NAME_IN_USE)
        assert other.pull is None
        assert content(tables, "a") == {"k": b"1"}
        assert tables.position("a") == Version(100, 1)
        assert tables.statistics().refused == {"foreign_write": 1, "name_in_use": 1}


class TestLongDeltas:
    def filled(self, entries: int = 3_000) -> TableSet:
        writer = table_set()
        for number in range(entries):
            writer.put(f"f{number:06}" + "x" * 300, b"1", 0.0)
        return writer

    def test_a_table_never_shows_half_a_delta(self) -> None:
        writer, reader = self.filled(), table_set("b")
        frames = writer.news()
        assert len(frames) > 3
        assert [frame.root != 0 for frame in frames] == [False] * (len(frames) - 1) + [True]
        for frame in frames[:-1]:
            applied = reader.receive(frame, 0.0)
            assert applied.outcome is Outcome.STAGED
            assert not applied.advanced
            assert reader.position("a") is None
        assert reader.statistics().staged_bytes > 700_000
        last = reader.receive(frames[-1], 0.0)
        assert last.advanced
        assert last.chain == tuple(frames)
        assert len(last.changes) == 3_000
        assert content(reader, "a") == content(writer, "a")
        assert reader.statistics().staged_bytes == 0

    def test_the_old_content_stays_until_the_last_frame_of_its_replacement(self) -> None:
        old, writer, reader = table_set(epoch=1), self.filled(), table_set("b")
        old.put("old", b"1", 0.0)
        tell(old, reader)
        frames = writer.news()
        for frame in frames[:-1]:
            reader.receive(frame, 0.0)
        assert content(reader, "a") == {"old": b"1"}
        reader.receive(frames[-1], 0.0)
        assert len(reader.items("a")) == 3_000

    def test_a_lost_frame_spoils_the_chain_without_a_storm_of_pulls(self) -> None:
        writer, reader = self.filled(), table_set("b")
        frames = writer.news()
        outcomes = [reader.receive(frame, 0.0) for frame in frames[:1] + frames[2:]]
        assert [applied.reason for applied in outcomes[1:]] == [TableReason.CHAIN_BROKEN] * (len(frames) - 2)
        assert all(applied.pull is None for applied in outcomes)
        reader.expire(31.0)
        assert reader.statistics().staged_bytes == 0
        assert reader.receive(frames[-1], 31.0).outcome is Outcome.GAP
        for frame in frames:
            reader.receive(frame, 31.0)
        assert content(reader, "a") == content(writer, "a")

    def test_the_same_chain_over_two_links_interleaved_is_applied_once(self) -> None:
        writer, reader = self.filled(), table_set("b")
        advanced = [reader.receive(frame, 0.0).advanced for frame in writer.news() for _ in range(2)]
        assert advanced.count(True) == 1
        assert content(reader, "a") == content(writer, "a")

    def test_chains_of_two_states_interleaved_end_at_the_newer_one(self) -> None:
        writer, reader = self.filled(), table_set("b")
        first = writer.news()
        for number in range(0, 3_000, 50):
            writer.delete(f"f{number:06}" + "x" * 300, 0.0)
        second = [f for f in writer.answer(Pull(Scope.REGION, (("a", 0, 0),))) if isinstance(f, Delta)]
        for pair in zip_longest(first, second):
            for frame in pair:
                if frame is not None:
                    reader.receive(frame, 0.0)
        assert content(reader, "a") in (content(writer, "a"), {})
        reader.expire(31.0)
        assert reader.statistics().staged_bytes == 0


class TestLimits:
    def test_garbage_is_refused_with_a_reason_and_leaves_the_state_alone(self) -> None:
        tables = table_set()
        tables.receive(sound("x", 5, [("k", 3, b"v")]), 0.0)
        root = tables.root()
        garbage = {
            TableReason.WRONG_SCOPE: [Delta(Scope.WORLD, "x", 5, 3, 4, 1, (("k", 4, b""),))],
            TableReason.MALFORMED: [
                delta(""),
                delta("x" * 130),
                delta("x", 0),
                delta("x", -1),
                delta("x", 5, -1, 4),
                delta("x", 5, 5, 4),
                delta("x", 5, 0, 1 << 60),
                delta("x", 5, 3, 4, 0),
                delta("x", 5, 3, 9, 0, [("k", 4, b"")]),
                delta("x", 5, 3, 9, 1, [("k", 3, b"")]),
                delta("x", 5, 3, 9, 1, [("k", 5, b""), ("l", 5, b"")]),
                delta("x", 5, 3, 9, 1, [("k", 10, b"")]),
            ],
            TableReason.KEY_BYTES: [
                delta("x", 5, 3, 4, 1, [("", 4, b"")]),
                delta("x", 5, 3, 4, 1, [("k" * 1101, 4, b"")]),
            ],
            TableReason.VALUE_BYTES: [delta("x", 5, 3, 4, 1, [("k", 4, bytes(VALUE_BYTES + 1))])],
            TableReason.JUMP: [delta("x", 5, 3, 4 + JUMP_MAX, 1, [("k", 4, b"")])],
            TableReason.ROOT_MISMATCH: [
                delta("x", 5, 3, 4, -1, [("\udcff", 4, b"")]),
                delta("x", 5, 3, 4, 1 << 70, [("k", 4, None)]),
            ],
        }
        for reason, frames in garbage.items():
            for frame in frames:
                applied = tables.receive(frame, 0.0)
                assert (applied.outcome, applied.reason) == (Outcome.REFUSED, reason), frame
        assert tables.root() == root
        assert tables.statistics().refused == {
            reason.value: len(frames) for reason, frames in garbage.items()
        }

    def test_one_owner_over_its_limit_is_refused_and_not_asked_for_again(self) -> None:
        writer, reader = table_set("a"), table_set("b", limits=SMALL)
        for number in range(11):
            writer.put(f"k{number}", b"", 0.0)
        (news,) = writer.news()
        assert reader.receive(news, 0.0).reason is TableReason.OWNER_ENTRIES
        assert reader.position("a") is None
        assert reader.positions() == (("b", 100, 0),)
        assert ("a", 100, 11) in (reader.digest(True).positions or ())
        assert reader.compare(writer.digest(True)) != writer.compare(reader.digest(True))
        assert not any(isinstance(frame, Pull) for frame in reader.compare(writer.digest(True)))
        assert writer.compare(reader.digest(True)) == [Pull(Scope.REGION, (("b", 0, 0),))]
        writer.put("k0", b"more", 0.0)
        (news,) = writer.news()
        applied = reader.receive(news, 1.0)
        assert (applied.outcome, applied.reason, applied.pull) == (
            Outcome.REFUSED,
            TableReason.OWNER_ENTRIES,
            None,
        )
        reader.expire(SHUT_S)
        assert Pull(Scope.REGION, (("a", 0, 0),)) in reader.compare(writer.digest(True))
        for number in range(5):
            writer.delete(f"k{number}", 0.0)
        (whole,) = [f for f in writer.answer(Pull(Scope.REGION, (("a", 0, 0),))) if isinstance(f, Delta)]
        assert reader.receive(whole, SHUT_S).advanced

    def test_all_tables_of_the_world_together_stay_within_the_limit(self) -> None:
        reader = table_set("r/b", limits=SMALL, scope=Scope.WORLD)
        for owner, count, outcome in (
            ("x/1", 6, Outcome.APPLIED),
            ("y/1", 6, Outcome.REFUSED),
            ("z/1", 4, Outcome.APPLIED),
        ):
            writer = table_set(owner, scope=Scope.WORLD)
            for number in range(count):
                writer.put(f"k{number}", b"", 0.0)
            assert reader.receive(writer.news()[0], 0.0).outcome is outcome
        assert reader.statistics().refused == {"total_entries": 1}
        assert reader.statistics().entries == 10
        reader.forget("x/1", 0.0)
        writer = table_set("y/1", 101, scope=Scope.WORLD)
        writer.put("k", b"", 0.0)
        assert reader.receive(writer.news()[0], 0.0).outcome is Outcome.APPLIED

    def test_a_table_at_the_limit_may_change_and_shrink(self) -> None:
        writer, reader = table_set(), table_set("b", limits=SMALL)
        for number in range(10):
            writer.put(f"k{number}", b"", 0.0)
        tell(writer, reader)
        writer.put("k1", b"other", 0.0)
        tell(writer, reader)
        writer.delete("k2", 0.0)
        tell(writer, reader)
        assert content(reader, "a") == content(writer, "a")

    def test_bytes_and_owners_and_tombstones_are_bounded_too(self) -> None:
        reader = table_set("b", limits=Limits(remote_filters=1))
        big = sound("x", 5, [("k", 1, bytes(5 * ENTRY_BYTES + 1))])
        assert reader.receive(big, 0.0).reason is TableReason.TOTAL_BYTES
        reader = table_set("b", limits=SMALL)
        for number in range(OWNERS[Scope.REGION]):
            assert reader.receive(delta(f"n{number}"), 0.0).advanced
        assert reader.receive(delta("one-more"), 0.0).reason is TableReason.OWNERS
        writer = table_set("n1", 6)
        for number in range(40):
            writer.put(f"k{number}", b"", 0.0)
            tell(writer, reader)
            writer.delete(f"k{number}", 0.0)
            tell(writer, reader)
        assert reader.position("n1") == Version(6, 80)
        assert reader.statistics().tombstones <= 10

    def test_staged_frames_are_bounded(self) -> None:
        reader = table_set("b", limits=Limits(remote_filters=100))
        refused = None
        for number in range(1, 10):
            refused = reader.receive(
                delta(f"n{number}", 5, 0, 1, 0, [("k", 1, bytes(VALUE_BYTES))]), 0.0
            ).reason
        assert refused is TableReason.STAGED_BYTES
        assert reader.statistics().staged_bytes <= 100 * 5 * ENTRY_BYTES


class TestForgetting:
    def test_an_owner_that_is_gone_is_not_brought_back_by_those_who_still_hold_it(self) -> None:
        writer, keeper, reader = table_set("a"), table_set("k"), table_set("b")
        writer.put("f", b"1", 0.0)
        tell(writer, keeper, reader)
        assert reader.forget("a", 10.0) == [Change("a", 100, "f", None)]
        assert reader.position("a") is None
        writer.put("g", b"1", 0.0)
        tell(writer, keeper)
        for frame in (
            *keeper.compare(reader.digest(True)),
            *keeper.answer(Pull(Scope.REGION, (("a", 0, 0),))),
        ):
            if isinstance(frame, Delta) and frame.owner == "a":
                assert reader.receive(frame, 11.0).reason is TableReason.FORGOTTEN
        assert not any(
            isinstance(frame, Pull) and any(owner == "a" for owner, _, _ in frame.positions)
            for frame in reader.compare(keeper.digest(True))
        )
        assert reader.forget("never-heard-of", 11.0) == []

    def test_a_new_epoch_or_a_welcome_or_time_brings_it_back(self) -> None:
        for back in ("epoch", "welcome", "time"):
            writer, reader = table_set("a"), table_set("b")
            writer.put("f", b"1", 0.0)
            frames = tell(writer, reader)
            reader.forget("a", 10.0)
            if back == "epoch":
                writer = table_set("a", 101)
                writer.put("f", b"2", 0.0)
                frames = writer.news()
            elif back == "welcome":
                reader.welcome("a")
            else:
                reader.expire(10.0 + SHUT_S)
            assert reader.receive(frames[0], 11.0).advanced, back
            assert content(reader, "a") == content(writer, "a")


class TestTombstones:
    def test_a_reader_that_was_away_longer_than_tombstones_live_gets_the_whole_table(self) -> None:
        writer, reader = table_set(), table_set("b")
        writer.put("x", b"1", 0.0)
        writer.put("y", b"1", 0.0)
        tell(writer, reader)
        writer.delete("x", 100.0)
        writer.expire(999.0)
        assert writer.statistics().tombstones == 1
        writer.expire(1_000.0)
        assert writer.statistics().tombstones == 0
        assert writer.statistics().purged == 1
        writer.put("z", b"1", 1_000.0)
        (whole,) = writer.news()
        assert whole.since == 0
        assert set(reader.receive(whole, 1_000.0).changes) == {
            Change("a", 100, "x", None),
            Change("a", 100, "z", b"1"),
        }


class Line:
    """Loses, repeats and reorders frames between sets, by seeded dice."""

    def __init__(self, sets: dict[str, TableSet], seed: int, loss: float) -> None:
        self.sets, self.dice, self.loss = sets, random.Random(seed), loss
        self.flying: list[tuple[str, str, Delta | Digest | Pull]] = []

    def send(self, source: str, to: str, frames: Sequence[Delta | Digest | Pull]) -> None:
        for frame in frames:
            if self.dice.random() >= self.loss:
                self.flying.append((source, to, frame))
                if self.dice.random() < self.loss:
                    self.flying.append((source, to, frame))

    def step(self, now: float) -> None:
        index = self.dice.randrange(0, min(len(self.flying), 1 + int(self.loss * 20)))
        source, to, frame = self.flying.pop(index)
        tables = self.sets[to]
        match frame:
            case Digest():
                self.send(to, source, tables.compare(frame))
            case Pull():
                self.send(to, source, tables.answer(frame))
            case Delta():
                applied = tables.receive(frame, now)
                # A chain spliced from two states of a table may not add up: it is dropped, never shown.
                assert applied.outcome is not Outcome.REFUSED or applied.reason is TableReason.ROOT_MISMATCH
                if applied.pull is not None:
                    self.send(to, source, [applied.pull])
                if applied.advanced and self.dice.random() < 0.3:
                    others = [name for name in self.sets if name not in (to, source)]
                    self.send(to, self.dice.choice(others), applied.chain)

    def settle(self, now: float) -> None:
        while self.flying:
            self.step(now)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "delete", "tell", "tell", "step", "step", "step", "restart", "digest", "late"]),
              st.integers(0, 4), st.integers(0, 7), st.integers(0, 2)),
    min_size=10, max_size=120,
)  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(ACTIONS, st.integers(3, 5), st.integers(0, 1 << 16), st.sampled_from([0.0, 0.2, 0.5]), st.booleans())
def test_sets_become_equal_to_what_was_written_whatever_the_line_does(
    actions: list[tuple[str, int, int, int]], count: int, seed: int, loss: float, split: bool
) -> None:
    with mock.patch("mesh.core.history.FRAME_BYTES", 50 if split else FRAME_BYTES):
        run_schedule(actions, count, seed, loss)


def run_schedule(actions: list[tuple[str, int, int, int]], count: int, seed: int, loss: float) -> None:
    names = [f"n{number}" for number in range(count)]
    sets = {name: table_set(name, 1) for name in names}
    truth: dict[str, dict[str, bytes]] = {name: {} for name in names}
    known: dict[str, dict[tuple[str, str], bytes]] = {name: {} for name in names}
    line, now = Line(sets, seed, loss), 0.0
    for action, who, key, value in actions:
        name, now = names[who % count], now + 1.0
        tables = sets[name]
        match action:
            case "put":
                tables.put(f"k{key}", bytes([value]), now)
                truth[name][f"k{key}"] = bytes([value])
            case "delete":
                tables.delete(f"k{key}", now)
                truth[name].pop(f"k{key}", None)
            case "tell":
                news = tables.news()
                for other in names:
                    if other != name:
                        line.send(name, other, news)
            case "digest":
                line.send(name, names[(who + 1 + key % (count - 1)) % count], [tables.digest(key % 2 == 0)])
            case "restart":
                epoch, _ = tables.position(name) or (0, 0)
                sets[name], truth[name], known[name] = table_set(name, epoch + 1), {}, {}
            case "late":
                now += 600.0
                tables.expire(now)
            case _:
                if line.flying:
                    line.step(now)
    line.loss = 0.0
    for _ in range(3):
        for name in names:
            for other in names:
                if other != name:
                    line.send(name, other, [sets[name].digest(False)])
        line.settle(now)
    assert len({tables.root() for tables in sets.values()}) == 1
    for tables in sets.values():
        assert {owner: content(tables, owner) for owner in tables.owners()} == truth
        assert sorted(tables.positions()) == sorted(sets[names[0]].positions())


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=60),
    st.integers(0, 1 << 16),
)
def test_an_index_fed_with_changes_alone_equals_the_table(
    steps: list[tuple[int, int, bool]], seed: int
) -> None:
    dice = random.Random(seed)
    writer, reader = table_set("a", 1), table_set("b")
    index: dict[str, bytes] = {}
    for number, (key, value, lost) in enumerate(steps):
        if value == 3:
            writer.delete(f"k{key}", float(number))
        else:
            writer.put(f"k{key}", bytes([value]), float(number))
        if dice.random() < 0.1:
            writer = table_set("a", (writer.position("a") or Version(0, 0)).epoch + 1)
        queue: list[Delta] = [] if lost else writer.news()
        while queue:
            applied = reader.receive(queue.pop(0), float(number))
            if applied.pull is not None:
                queue += [frame for frame in writer.answer(applied.pull) if isinstance(frame, Delta)]
            for change in applied.changes:
                if change.value is None:
                    del index[change.key]  # a deletion is told once, of a key that was told
                else:
                    assert index.get(change.key) != change.value
                    index[change.key] = change.value
        assert index == content(reader, "a")
