"""A journal's folder in tests: what a crash leaves of it, a disk that fails where told, and a plain model of what must be there."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from mesh.model.journal import JournalDamaged
from mesh.store.disk import Disk
from mesh.store.journal import Journal


def commit(journal: Journal) -> None:
    """One commit, on this thread."""
    job = journal.take_job()
    if job is None:
        return
    try:
        job.run()
    except OSError as error:
        journal.failed(job, error)
    else:
        journal.done(job)


def commit_all(journal: Journal) -> None:
    """Commits until nothing is left to do; bounded, so that endless cleaning fails."""
    for _ in range(10_000):
        if journal.idle:
            return
        commit(journal)
    raise AssertionError("it never comes to rest")


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*")} if folder.exists() else {}


def crash(before: Path, after: Path, target: Path, dice: random.Random, synced: dict[str, int]) -> None:
    """What may be on a disk when the machine dies during the commit that leads from folder `before` to folder `after`.

    Args: synced: of files that have more than was synced, how much was.
    Bytes that are in both and synced stay. Of what was written any beginning may be there, with a stretch of it still zero; a new file may
    be missing; of the deleted files the last ones may be back.
    """
    target.mkdir()
    old, new = sizes(before), sizes(after)
    gone = sorted(name for name in old if name not in new)
    for name in gone[dice.randint(0, len(gone)) :]:
        shutil.copy(before / name, target / name)
    for name, size in new.items():
        kept = min(synced.get(name, old.get(name, 0)), size)
        if name not in old and dice.random() < 0.2:
            continue
        data = bytearray((after / name).read_bytes()[: dice.randint(kept, size)])
        if len(data) > kept and dice.random() < 0.3:
            start = dice.randint(kept, len(data))
            end = dice.randint(start, len(data))
            data[start:end] = bytes(end - start)
        (target / name).write_bytes(data)


UPTO = "upto"
"""A note whose value is the number of the last record before it."""


class Model:
    """What a journal must give back: records with their open parts, notes, and what was on the disk when."""

    def __init__(self) -> None:
        self.records: dict[int, tuple[tuple[str, ...], bytes, bytes, int]] = {}
        self.open: dict[int, set[str]] = {}
        self.notes: dict[str, bytes | None] = {}
        self.synced_notes: dict[str, bytes | None] = {}
        self.note_values: dict[str, list[bytes | None]] = {}

    def append(self, lsn: int, parts: tuple[str, ...], head: bytes, body: bytes, ms: int) -> None:
        assert lsn not in self.records
        self.records[lsn] = (parts, head, body, ms)
        self.open[lsn] = set(parts)

    def settle(self, lsn: int, part: str) -> bool:
        parts = self.open.get(lsn)
        if parts is None or part not in parts:
            return False
        parts.discard(part)
        if not parts:
            del self.open[lsn]
        return not parts

    def note(self, key: str, value: bytes | None) -> None:
        self.notes[key] = value
        self.note_values.setdefault(key, []).append(value)

    def committed(self) -> None:
        """Every note of now is on the disk."""
        self.synced_notes = dict(self.notes)
        self.note_values = {key: [value] for key, value in self.notes.items()}

    def check_running(self, journal: Journal) -> None:
        """The running journal says exactly what the model says."""
        found = {entry.lsn: entry for entry in journal.outstanding()}
        assert list(found) == sorted(self.open)
        for lsn, parts in self.open.items():
            assert set(found[lsn].parts) == parts
            assert journal.read(lsn) == self.records[lsn][1:3]
        assert journal.notes == {key: value for key, value in self.notes.items() if value is not None}

    def check_recovered(self, journal: Journal, synced: int) -> None:
        """After a crash: nothing synced and open is missing; what is there is as it was written; notes are not older than synced,
        and none is there without the records that were taken in before it (UPTO names the last one)."""
        synced = max(synced, int(journal.notes.get(UPTO, b"0")))
        found = {entry.lsn: entry for entry in journal.outstanding()}
        assert list(found) == sorted(found)
        for lsn, parts in self.open.items():
            if lsn <= synced:
                assert lsn in found, f"record {lsn} is lost"
                assert set(found[lsn].parts) >= parts
        for lsn, entry in found.items():
            parts_then, head, body, ms = self.records[lsn]
            assert set(entry.parts) <= set(parts_then)
            assert (entry.stored_ms, entry.head_bytes, entry.body_bytes) == (ms, len(head), len(body))
            assert journal.read(lsn) == (head, body)
        for key, values in self.note_values.items():
            allowed = [*values, None] if key not in self.synced_notes else values
            assert journal.notes.get(key) in allowed, key
        assert set(journal.notes) <= set(self.note_values)


class FailingDisk(Disk):
    """The real disk, which asks before each call that changes something whether it fails. refuse: returns the error, or None.

    syncs: False where a crash is played by cutting files, so that waiting for the real disk would show nothing.
    """

    def __init__(
        self, refuse: Callable[[str], OSError | None] = lambda call: None, *, syncs: bool = True
    ) -> None:
        self.refuse = refuse
        self.syncs = syncs
        self.calls: list[str] = []
        self.short_bytes = 0
        """Above 0: no write takes more at once."""

    def _ask(self, call: str) -> None:
        self.calls.append(call)
        error = self.refuse(call)
        if error is not None:
            raise error

    def make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._ask("make_folder")
        super().make_folder(folder)

    def create(self, path: Path) -> int:
        self._ask("create")
        return super().create(path)

    def write_some(self, file: int, chunks: Sequence[bytes | memoryview], at: int) -> int:
        if self.short_bytes:
            first = memoryview(chunks[0])[: self.short_bytes]
            written = super().write_some(file, [first], at)
            self._ask("write")
            return written
        self._ask("write")
        return super().write_some(file, chunks, at)

    def sync(self, file: int) -> None:
        self._ask("sync")
        if self.syncs:
            super().sync(file)

    def sync_folder(self, folder: Path) -> None:
        self._ask("sync_folder")
        if self.syncs:
            super().sync_folder(folder)

    def truncate(self, file: int, length: int) -> None:
        self._ask("truncate")
        super().truncate(file, length)

    def delete(self, path: Path) -> None:
        self._ask("delete")
        super().delete(path)


def readable(journal: Journal) -> tuple[dict[int, tuple[bytes, bytes]], list[JournalDamaged]]:
    """Everything that can be read, and what is damaged."""
    found: dict[int, tuple[bytes, bytes]] = {}
    damaged: list[JournalDamaged] = []
    for entry in journal.outstanding():
        try:
            found[entry.lsn] = journal.read(entry.lsn)
        except JournalDamaged as error:
            damaged.append(error)
    return found, damaged
