"""What SQLite's errors mean for the event log: a full disk, a damaged file, one that is no event log, one that cannot be opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import apsw
import pytest

from mesh.model.event import Event, Logged
from mesh.model.reasons import LogGap
from mesh.store.eventlog import LogFailed
from mesh.store.eventlog_sqlite import DAMAGED_FILE, FILE, SqliteLog, set_aside


def entries(begin: int, end: int, size: int = 200) -> list[Logged]:
    return [
        Logged(n, n, 1 << 50, ("eu", "n", n // 500), (), Event(n, "a", "", 0, None, None, b"x" * size))
        for n in range(begin, end)
    ]


def count(engine: SqliteLog, end: int) -> int:
    found, begin = 0, 1
    while begin < end:
        chunk = engine.read(("#",), begin, end, 0)
        found += len(chunk.entries)
        begin = chunk.next
    return found


def test_a_full_disk_leaves_the_log_as_it_was_and_it_goes_on_when_there_is_space(tmp_path: Path) -> None:
    engine = SqliteLog(tmp_path)
    engine.append(entries(1, 100))
    assert engine._writer is not None
    pages = engine._writer.pragma("page_count")
    engine._writer.pragma("max_page_count", int(str(pages)) + 2)
    for _ in range(2):
        with pytest.raises(LogFailed) as failed:
            engine.append(entries(100, 5_000))
        assert failed.value.reason is LogGap.NO_SPACE
        assert engine.next == 100
        assert count(engine, 5_000) == 99
        assert engine.statistics().events == 99
        assert len(engine._origins_by_id) == 1, "origins that were not stored are not known"
    engine._writer.pragma("max_page_count", 1 << 30)
    engine.append(entries(100, 5_000))
    assert count(engine, 5_000) == 4_999
    engine.close()


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all " * 500)
    with pytest.raises(LogFailed) as failed:
        SqliteLog(tmp_path)
    assert failed.value.reason is LogGap.DAMAGED
    set_aside(tmp_path)
    assert (tmp_path / DAMAGED_FILE).read_bytes().startswith(b"no database")
    SqliteLog(tmp_path).close()


def test_another_programs_database_is_not_written_into(tmp_path: Path) -> None:
    other = apsw.Connection(str(tmp_path / FILE))
    other.execute("CREATE TABLE x (y); PRAGMA user_version = 1")
    other.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(LogFailed) as failed:
        SqliteLog(tmp_path)
    assert failed.value.reason is LogGap.DAMAGED
    assert "no event log" in failed.value.detail
    set_aside(tmp_path)
    assert (tmp_path / DAMAGED_FILE).stat().st_size == len(before)


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_are_damage_or_read_as_they_are_and_nothing_else_is_raised(
    tmp_path: Path, seed: int
) -> None:
    engine = SqliteLog(tmp_path)
    engine.append(entries(1, 2_000))
    engine.close()
    dice = Random(seed)
    raw = bytearray((tmp_path / FILE).read_bytes())
    for _ in range(200):
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    (tmp_path / FILE).write_bytes(raw)
    found: set[LogGap] = set()

    def tried(call: Callable[[], object]) -> object:
        try:
            return call()
        except LogFailed as failed:
            found.add(failed.reason)
            return None

    damaged = tried(lambda: SqliteLog(tmp_path))
    if isinstance(damaged, SqliteLog):
        end = max(damaged.next, 2_000)
        tried(lambda: count(damaged, 2_000))
        tried(lambda: damaged.append(entries(end, end + 50)))
        tried(lambda: damaged.trim(1 << 51, 1 << 40, 5_000))
        tried(lambda: damaged.find_time(1_000))
        tried(damaged.statistics)
        damaged.close()
    assert found <= {LogGap.DAMAGED, LogGap.IO_ERROR}


def test_a_folder_that_is_not_there_is_no_reason_to_raise_anything_else(tmp_path: Path) -> None:
    with pytest.raises(LogFailed) as failed:
        SqliteLog(tmp_path / "nowhere")
    assert failed.value.reason is LogGap.READ_ONLY


def test_a_cut_off_write_ahead_log_loses_whole_transactions_at_its_end_and_nothing_else(
    tmp_path: Path,
) -> None:
    engine = SqliteLog(tmp_path)
    for begin in range(1, 1_000, 50):
        engine.append(entries(begin, begin + 50))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (FILE, f"{FILE}-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    engine.close()
    size = os.path.getsize(copy / f"{FILE}-wal")
    os.truncate(copy / f"{FILE}-wal", size * 2 // 3 + 17)
    again = SqliteLog(copy)
    kept = count(again, 2_000)
    assert 0 < kept < 1_000
    assert kept % 50 == 0
    assert again.next == kept + 1
    assert again.statistics().events == kept
    again.close()


def test_a_closed_log_fails_and_does_not_crash(tmp_path: Path) -> None:
    engine = SqliteLog(tmp_path)
    engine.close()
    for call in (lambda: engine.append(entries(1, 2)), lambda: engine.read(("#",), 1, 2, 0)):
        with pytest.raises(LogFailed):
            call()


def test_only_what_must_outlive_the_machine_is_synced(tmp_path: Path) -> None:
    engine = SqliteLog(tmp_path)
    assert engine._writer is not None
    assert engine._writer.pragma("journal_mode") == "wal"
    assert engine._writer.pragma("journal_size_limit") == 64 << 20
    modes = []
    for begin, synced in ((1, False), (10, True), (20, True), (30, False)):
        engine.append(entries(begin, begin + 5), synced=synced)
        modes.append(engine._writer.pragma("synchronous"))
    assert modes == [1, 2, 2, 1], "NORMAL, FULL"
    engine.close()
