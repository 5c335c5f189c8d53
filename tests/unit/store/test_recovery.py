"""Recovery: what is whole is kept, the rest is told, nothing raises; sealed segments are not scanned."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from unit.store.journal_folder import FailingDisk, commit, commit_all, readable

from mesh.model.errors import MeshError
from mesh.model.journal import DamageReason, JournalLimits, JournalState
from mesh.store.disk import Disk
from mesh.store.journal import Journal
from mesh.store.record import START
from mesh.store.recovery import recover

LIMITS = JournalLimits(commit_bytes=4_000, segment_bytes=16_000, total_bytes=10_000_000)
Written = dict[int, tuple[bytes, bytes]]


def filled(
    folder: Path, seed: int = 1, records: int = 200
) -> tuple[Written, dict[int, tuple[int, int, int]]]:
    """A journal with open records in several segments. Returns: them, and where each stands: segment, offset, end."""
    dice = random.Random(seed)
    journal = Journal.open(folder, LIMITS)
    written: Written = {}
    for _ in range(records):
        head, body = dice.randbytes(dice.randint(1, 60)), dice.randbytes(dice.randint(0, 900))
        written[journal.append(("r/eu", "n/eu-2"), head, body, 17)] = (head, body)
        if dice.random() < 0.3:
            commit(journal)
    journal.note("window", b"before")
    journal.note("window", b"after")
    commit_all(journal)
    for lsn in range(1, records, 9):
        journal.settle(lsn, "r/eu")
    commit_all(journal)
    places = {
        lsn: (stored.segment.number, stored.offset, stored.offset + stored.size)
        for lsn, stored in journal._records.items()
        if stored.segment is not None
    }
    journal.close()
    return written, places


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written, dict[int, tuple[int, int, int]]]:
    folder = tmp_path_factory.mktemp("sample") / "journal"
    written, places = filled(folder)
    return folder, written, places


def test_all_is_there_again_and_only_the_last_segment_is_scanned(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    written, _ = filled(folder)
    journal = Journal.open(folder, LIMITS)
    assert journal.recovery.damage == ()
    assert journal.recovery.scanned == 1
    assert journal.recovery.segments == len(list(folder.glob("*.log"))) > 5
    assert readable(journal) == (written, [])
    assert journal.notes == {"window": b"after"}
    assert journal.synced == 200
    parts = {entry.lsn: entry.parts for entry in journal.outstanding()}
    assert parts[1] == parts[10] == ("n/eu-2",)
    assert parts[2] == ("r/eu", "n/eu-2")
    assert Journal.open(folder, LIMITS).recovery.scanned == 0


def test_an_empty_folder_and_none_are_empty_journals(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        journal = Journal.open(folder, LIMITS)
        assert journal.recovery.records == 0
        assert list(journal.outstanding()) == []
        assert journal.idle
    assert not (tmp_path / "none").exists()


class TestAFlippedBit:
    def test_at_each_of_a_thousand_places(
        self, sample: tuple[Path, Written, dict[int, tuple[int, int, int]]], tmp_path: Path
    ) -> None:
        """Every record but the one that was hit is kept, before and behind; the damage is told by recovery or by reading it."""
        folder, written, places = sample
        dice = random.Random(5)
        names = sorted(path.name for path in folder.iterdir())
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        # Half of them where there is no footer: the last segment.
        for trial in range(1_000):
            name = names[-1] if trial % 2 else dice.choice(names)
            clean = (folder / name).read_bytes()
            at = dice.randrange(len(clean))
            data = bytearray(clean)
            data[at] ^= 1 << dice.randrange(8)
            (copy / name).write_bytes(data)
            journal = Journal.open(copy, LIMITS, FailingDisk(syncs=False))
            found, damaged = readable(journal)
            number = int(name[:16], 16)
            hit = [
                lsn
                for lsn, (segment, start, end) in places.items()
                if segment == number and start <= at < end
            ]
            assert [lsn for lsn in written if lsn not in found] == hit, (name, at)
            assert all(found[lsn] == written[lsn] for lsn in found)
            if hit:
                assert damaged or journal.recovery.damage, (name, at)
            assert journal.notes.get("window") == b"after" or journal.recovery.damage
            journal._readers.close()
            (copy / name).write_bytes(clean)

    def test_in_both_headers_the_segment_is_left_for_a_person(self, tmp_path: Path) -> None:
        folder = tmp_path / "journal"
        written, places = filled(folder)
        path = folder / f"{2:016x}.log"
        data = bytearray(path.read_bytes())
        data[9] ^= 1
        data[START // 2 + 9] ^= 1
        path.write_bytes(data)
        journal = Journal.open(folder, LIMITS)
        assert [(damage.segment, damage.reason) for damage in journal.recovery.damage] == [
            (2, DamageReason.BAD_HEADER)
        ]
        assert set(readable(journal)[0]) == {lsn for lsn in written if places[lsn][0] != 2}
        for entry in list(journal.outstanding()):
            for part in entry.parts:
                journal.settle(entry.lsn, part)
        commit_all(journal)
        assert path.read_bytes() == bytes(data)

    def test_in_the_middle_is_told_again_at_every_start(self, tmp_path: Path) -> None:
        folder = tmp_path / "journal"
        _, places = filled(folder, records=12)
        path = folder / f"{1:016x}.log"
        data = bytearray(path.read_bytes())
        data[places[3][1] + 60] ^= 1
        path.write_bytes(data)
        for _ in range(2):
            journal = Journal.open(folder, LIMITS)
            assert [damage.reason for damage in journal.recovery.damage] == [DamageReason.BAD_RECORD]
            assert set(readable(journal)[0]) == set(range(1, 13)) - {3}


class TestATruncatedFile:
    def test_at_each_of_a_thousand_places(
        self, sample: tuple[Path, Written, dict[int, tuple[int, int, int]]], tmp_path: Path
    ) -> None:
        """What stood before the cut is kept, what was cut is told, and the next start finds nothing wrong."""
        folder, written, places = sample
        dice = random.Random(6)
        names = sorted(path.name for path in folder.iterdir())
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        for trial in range(1_000):
            name = names[-1] if trial % 2 else dice.choice(names)
            clean = (folder / name).read_bytes()
            at = dice.randrange(len(clean))
            os.truncate(copy / name, at)
            journal = Journal.open(copy, LIMITS, FailingDisk(syncs=False))
            found, damaged = readable(journal)
            number = int(name[:16], 16)
            kept = {lsn for lsn in written if places[lsn][0] != number or places[lsn][2] <= at}
            assert set(found) == kept, (name, at)
            assert all(found[lsn] == written[lsn] for lsn in found)
            assert damaged == []
            boundary = {START, *(places[lsn][2] for lsn in written if places[lsn][0] == number)}
            assert journal.recovery.damage or at in boundary or _ends_with_a_record(clean, at)
            journal._readers.close()
            if trial % 20 == 0:
                again = Journal.open(copy, LIMITS)
                assert again.recovery.damage == ()
                assert set(readable(again)[0]) == kept
                again._readers.close()
            (copy / name).write_bytes(clean)

    def test_what_is_written_next_goes_to_a_new_segment(self, tmp_path: Path) -> None:
        folder = tmp_path / "journal"
        filled(folder, records=5)
        path = folder / f"{1:016x}.log"
        os.truncate(path, path.stat().st_size - 1)
        journal = Journal.open(folder, LIMITS)
        assert [damage.reason for damage in journal.recovery.damage] == [DamageReason.TORN_TAIL]
        lsn = journal.append(("r/eu",), b"h", b"b", 1)
        commit_all(journal)
        assert {item.name for item in folder.iterdir()} == {path.name, f"{2:016x}.log"}
        journal.close()
        again = Journal.open(folder, LIMITS)
        assert again.recovery.damage == ()
        assert again.read(lsn) == (b"h", b"b")

    def test_a_segment_that_was_only_begun_is_removed(self, tmp_path: Path) -> None:
        filled(tmp_path, records=5)
        for size in (0, 1, START - 1):
            begun = tmp_path / f"{9:016x}.log"
            begun.write_bytes(bytes(size))
            journal = Journal.open(tmp_path, LIMITS)
            assert [(each.segment, each.bytes) for each in journal.recovery.damage] == [(9, size)]
            assert not begun.exists()
            assert journal.recovery.records == 5


def _ends_with_a_record(clean: bytes, at: int) -> bool:
    """Whether some record (a settle, a note, a footer) ends here: then nothing is torn."""
    from mesh.store.record import Gap, parse_opening, scan

    opening = parse_opening(clean, int.from_bytes(clean[20:28], "little"))
    assert opening is not None
    return any(not isinstance(each, Gap) and each.end == at for each in scan(opening, clean))


class TestABadFooter:
    def test_its_segment_is_scanned_and_sealed_again(self, tmp_path: Path) -> None:
        written, _ = filled(tmp_path)
        path = tmp_path / f"{1:016x}.log"
        data = bytearray(path.read_bytes())
        data[-40] ^= 1
        path.write_bytes(data)
        journal = Journal.open(tmp_path, LIMITS)
        assert [damage.reason for damage in journal.recovery.damage] == [DamageReason.BAD_FOOTER]
        assert journal.recovery.scanned == 2
        assert readable(journal) == (written, [])
        again = Journal.open(tmp_path, LIMITS)
        assert (again.recovery.scanned, again.recovery.damage) == (0, ())


class TestASystemThatRefuses:
    def test_a_file_that_cannot_be_read_is_told_and_left(self, tmp_path: Path) -> None:
        written, places = filled(tmp_path)
        path = tmp_path / f"{3:016x}.log"
        path.rename(tmp_path / "aside")
        path.mkdir()  # opens, but reads fail
        journal = Journal.open(tmp_path, LIMITS)
        assert [(each.segment, each.reason) for each in journal.recovery.damage] == [
            (3, DamageReason.UNREADABLE)
        ]
        assert set(readable(journal)[0]) == {lsn for lsn in written if places[lsn][0] != 3}

    def test_a_disk_that_takes_nothing_still_gives_what_it_has(self, tmp_path: Path) -> None:
        written, _ = filled(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        last = max(tmp_path.iterdir())
        with open(last, "ab") as file:
            file.write(b"torn")
        disk = FailingDisk(lambda call: OSError(30, call))
        journal = Journal.open(tmp_path, LIMITS, disk)
        assert journal.state is JournalState.READ_ONLY
        assert readable(journal) == (written, [])
        assert [damage.reason for damage in journal.recovery.damage] == [DamageReason.TORN_TAIL]
        after = {path.name: path.read_bytes().removesuffix(b"torn") for path in tmp_path.iterdir()}
        assert after == before

    def test_a_folder_that_cannot_be_listed_is_an_error_of_the_node(self, tmp_path: Path) -> None:
        (tmp_path / "journal").write_bytes(b"a file")
        with pytest.raises(MeshError, match="MESH-C014"):
            Journal.open(tmp_path / "journal", LIMITS)


def test_reading_for_a_person_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    last = max(tmp_path.iterdir())
    os.truncate(last, last.stat().st_size - 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = recover(tmp_path, Disk(), write=False, every_byte=True)
    assert found.scanned == len(before)
    assert [damage.reason for damage in found.damage] == [DamageReason.TORN_TAIL]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_every_byte_of_a_sealed_segment_can_be_verified(tmp_path: Path) -> None:
    _, places = filled(tmp_path)
    path = tmp_path / f"{1:016x}.log"
    data = bytearray(path.read_bytes())
    data[places[1][2] - 1] ^= 1
    path.write_bytes(data)
    assert recover(tmp_path, Disk(), write=False).damage == []
    found = recover(tmp_path, Disk(), write=False, every_byte=True)
    assert [(each.segment, each.reason) for each in found.damage] == [(1, DamageReason.BAD_RECORD)]


def _restart(folder: Path, total_bytes: int) -> float:
    """Seconds until a journal of `total_bytes` serves: opened, everything listed, the first record read."""
    limits = JournalLimits(pending_bytes=64 << 20, total_bytes=2 * total_bytes)
    journal = Journal.open(folder, limits)
    body = random.Random(1).randbytes(45 * 1024)
    count = total_bytes // len(body)
    for number in range(count):
        journal.append(("r/eu", f"n/eu-{number % 5}"), b"h" * 120, body, number)
        if number % 500 == 499:
            commit_all(journal)
    commit_all(journal)
    journal.close()
    began = time.perf_counter()
    again = Journal.open(folder, limits)
    assert sum(1 for _ in again.outstanding()) == count
    assert again.read(1) == (b"h" * 120, body)
    took_s = time.perf_counter() - began
    assert again.recovery.scanned == 1
    again.close()
    return took_s


def test_a_journal_of_64_mib_serves_at_once(tmp_path: Path) -> None:
    assert _restart(tmp_path, 64 << 20) < 2


@pytest.mark.long
def test_a_journal_of_1_gib_serves_within_5_s(tmp_path: Path) -> None:
    took_s = _restart(tmp_path, 1 << 30)
    print(f"recovered 1 GiB in {took_s:.2f} s")
    assert took_s < 5
