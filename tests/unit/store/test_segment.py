"""Footers, and the open files for reading."""

from __future__ import annotations

from pathlib import Path

from unit.store.journal_folder import commit_all

from mesh.model.journal import JournalLimits
from mesh.store.disk import Disk
from mesh.store.journal import Journal
from mesh.store.recovery import recover
from mesh.store.segment import Footer, Readers, Segment, Stored, read_footer, stored_of

LIMITS = JournalLimits(segment_bytes=4_000, commit_bytes=1_000)


def test_a_footer_says_what_the_records_say(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, LIMITS)
    for number in range(40):
        journal.append(("r/us", f"n/{number % 3}"), b"head", bytes(300), number)
        journal.note(f"k{number % 4}", str(number).encode() if number % 7 else None)
        commit_all(journal)
        journal.settle(number // 2 + 1, "r/us" if number % 2 else f"n/{number // 2 % 3}")
        if number > 8:
            journal.settle(number - 7, "r/us")
    commit_all(journal)
    journal.close()
    Journal.open(tmp_path, LIMITS)
    by_footer, by_record = (recover(tmp_path, Disk(), write=False, every_byte=each) for each in (False, True))
    assert (by_footer.scanned, by_record.scanned) == (0, len(by_record.ledger.segments))
    assert by_footer.damage == by_record.damage == []
    entries = [
        sorted(stored.entry() for stored in found.ledger.records.values()) for found in (by_footer, by_record)
    ]
    assert entries[0] == entries[1] != []
    assert by_footer.ledger.notes == by_record.ledger.notes == dict(journal.notes)
    assert by_footer.ledger.next_lsn == by_record.ledger.next_lsn == 41
    assert by_footer.ledger.live_bytes == by_record.ledger.live_bytes
    assert by_footer.ledger.total_bytes == by_record.ledger.total_bytes


def test_a_footer_is_only_read_from_where_the_trailer_says(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, LIMITS)
    journal.append(("r/us",), b"head", b"body", 1)
    commit_all(journal)
    journal.close()
    segment = Journal.open(tmp_path, LIMITS)._ledger.segments[0]
    assert segment.opening is not None
    disk = Disk()
    file = disk.open_read(segment.path)
    found = read_footer(disk, file, segment.opening, segment.size)
    assert found is not None
    assert [stored.entry().lsn for stored in stored_of(found[0])] == [1]
    for size in (0, 100, segment.size - 1, segment.size + 1):
        assert read_footer(disk, file, segment.opening, size) is None
    disk.close(file)


def test_an_empty_footer_has_no_records() -> None:
    assert list(stored_of(Footer(1, [], b"", {}, {}))) == []


def test_the_size_of_a_record_is_that_of_its_bytes() -> None:
    assert Stored(1, ("r/us",), 4, 10, 20, 0).size == 44 + 4 + 10 + 20


def test_the_file_not_used_for_longest_is_closed(tmp_path: Path) -> None:
    class Counting(Disk):
        opened = 0

        def open_read(self, path: Path) -> int:
            self.opened += 1
            return super().open_read(path)

        def close(self, file: int) -> None:
            self.opened -= 1
            super().close(file)

    disk = Counting()
    segments = [Segment(tmp_path / str(number), number, None, 0) for number in range(4)]
    for segment in segments:
        segment.path.touch()
    readers = Readers(disk, 2)
    first = readers.file(segments[0])
    readers.file(segments[1])
    assert readers.file(segments[0]) == first
    readers.file(segments[2])
    assert disk.opened == 2
    assert list(readers._files) == [segments[0], segments[2]]
    readers.forget(segments[0])
    readers.forget(segments[3])
    assert disk.opened == 1
    readers.close()
    assert disk.opened == 0
