"""The journal against a plain model, through crashes at any byte, failing disks, settles, notes and cleaning. Seeded."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path

import pytest
from unit.store.journal_folder import UPTO, FailingDisk, Model, commit, crash

from mesh.model.journal import JournalLimits, JournalRefused, JournalState, Refusal
from mesh.store.journal import Journal

LIMITS = JournalLimits(
    total_bytes=96_000,
    records=400,
    pending_bytes=12_000,
    commit_bytes=3_000,
    notes_bytes=6_000,
    segment_bytes=8_000,
    segment_files=3,
)


class Life:
    """One folder's life: random calls, commits, crashes and restarts, each step checked."""

    def __init__(self, root: Path, seed: int, *, failures: float = 0.0) -> None:
        self.root, self.dice, self.failures = root, random.Random(seed), failures
        self.disk = FailingDisk(self.refuse, syncs=False)
        self.folder = root / "0"
        self.model = Model()
        self.journal = Journal.open(self.folder, LIMITS, self.disk)
        self.restarts = self.refused = self.failed = self.copied = self.deleted = 0

    def refuse(self, call: str) -> OSError | None:
        if self.dice.random() >= self.failures:
            return None
        self.failed += 1
        return OSError(self.dice.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]), call)

    def step(self) -> None:
        match self.dice.choices(("append", "settle", "note", "commit", "crash"), (30, 30, 5, 20, 0.7))[0]:
            case "append":
                self.append()
            case "settle":
                self.settle()
            case "note":
                key = f"k{self.dice.randint(0, 9)}"
                value = None if self.dice.random() < 0.2 else self.dice.randbytes(self.dice.randint(0, 300))
                if self.dice.random() < 0.5:
                    key, value = UPTO, b"%d" % max(self.model.records, default=0)
                self.journal.note(key, value)
                self.model.note(key, value)
            case "commit":
                self.commit()
            case "crash":
                self.crash()

    def append(self) -> None:
        dice = self.dice
        parts = tuple(f"s/{n}" for n in range(dice.choice((1, 1, 2, 3, 12))))
        head = dice.randbytes(dice.randint(0, 40))
        body = dice.randbytes(dice.choice((0, 10, 200, 1_000, 5_000)))
        ms = dice.randint(0, 1 << 40)
        state = self.journal.state
        reason: Refusal | None = None
        try:
            lsn = self.journal.append(parts, head, body, ms)
        except JournalRefused as error:
            reason = error.reason
        if reason is not None:
            self.refused += 1
            full = (Refusal.FULL, Refusal.PENDING_FULL)
            assert reason in full if state is JournalState.OK else reason.value == state.value
            return
        self.model.append(lsn, parts, head, body, ms)

    def settle(self) -> None:
        lsns = list(self.model.open)
        if not lsns:
            return
        # Mostly old ones, so that segments are freed; some stay, so that they must be cleaned.
        lsn = lsns[min(int(self.dice.expovariate(0.2)), len(lsns) - 1)]
        part = self.dice.choice([*self.model.records[lsn][0], "s/unknown"])
        assert self.journal.settle(lsn, part) == self.model.settle(lsn, part)

    def commit(self) -> None:
        made = self.journal.notes_made
        commit(self.journal)
        if self.journal.state is JournalState.OK and self.journal.notes_synced == made:
            self.model.committed()

    def crash(self) -> None:
        """Die during a commit, and start again from what may be left of it."""
        model, journal = self.model, self.journal
        synced = journal.synced
        before, after, left = (self.root / f"{self.restarts}-{name}" for name in ("before", "after", "left"))
        if self.folder.exists():
            shutil.copytree(self.folder, before)
        else:
            before.mkdir()
        active = journal._active
        floor = {} if active is None else {active.path.name: journal._synced_size}
        commit(journal)
        if self.folder.exists():
            shutil.copytree(self.folder, after)
        else:
            after.mkdir()
        journal._readers.close()
        told = journal.statistics()
        self.copied += told.copied
        self.deleted += told.deleted_segments
        crash(before, after, left, self.dice, floor)
        shutil.rmtree(before)
        shutil.rmtree(after)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder = left
        failures, self.failures = self.failures, 0.0
        self.restarts += 1
        self.journal = Journal.open(left, LIMITS, self.disk)
        model.check_recovered(self.journal, synced)
        assert self.journal._next_lsn > synced
        # From here on the model is what was recovered: all of it is on the disk.
        found = {entry.lsn: set(entry.parts) for entry in self.journal.outstanding()}
        model.open = found
        model.records = {lsn: model.records[lsn] for lsn in found}
        model.notes = dict(self.journal.notes)
        model.committed()
        self.failures = failures


@pytest.mark.parametrize("seed", range(8))
def test_what_was_synced_survives_crashes_at_any_byte(seed: int, tmp_path: Path) -> None:
    life = Life(tmp_path, seed)
    for _ in range(2_500):
        life.step()
    life.model.check_running(life.journal)
    life.crash()
    assert life.restarts > 5
    assert life.copied > 20
    assert life.deleted > 20
    assert life.journal._ledger.total_bytes <= LIMITS.total_bytes


@pytest.mark.parametrize("seed", range(8))
def test_a_disk_that_fails_now_and_then_loses_nothing(seed: int, tmp_path: Path) -> None:
    life = Life(tmp_path, 100 + seed, failures=0.04)
    for _ in range(2_500):
        life.step()
    life.failures = 0.0
    life.commit()
    assert life.journal.state is JournalState.OK
    life.model.check_running(life.journal)
    life.crash()
    assert life.failed > 10
    assert life.refused > 0
