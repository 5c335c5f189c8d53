"""A node's data folder with a journal of two segments: what 'mesh journal' is shown in tests and in the documentation."""

from __future__ import annotations

from pathlib import Path

from mesh.model.journal import JournalLimits
from mesh.store.journal import Journal

STORED_MS = 1_767_225_600_000  # 2026-01-01
LIMITS = JournalLimits(segment_bytes=2_000, commit_bytes=1_000)


def make_journal(data: Path) -> None:
    """Five records, one of them delivered, one to one of its two regions, and a note."""
    journal = Journal.open(data / "journal", LIMITS)
    for number, parts in enumerate(
        [("r/us",), ("r/us", "r/ap"), ("n/eu-2", "c/billing"), ("r/ap",), ("r/us",)]
    ):
        journal.append(parts, b"h" * 120, bytes([65 + number]) * 400, STORED_MS + 1_500 * number)
        _commit(journal)
    journal.note("durable/billing", b"orders/#")
    journal.settle(2, "r/ap")
    journal.settle(4, "r/ap")
    _commit(journal)
    journal.close()


def damage_journal(data: Path) -> None:
    """Turn one bit of the first record's body, and leave half a record at the end."""
    first, last = sorted((data / "journal").iterdir())
    found = bytearray(first.read_bytes())
    found[400] ^= 1
    first.write_bytes(found)
    last.write_bytes(last.read_bytes()[:-20])


def _commit(journal: Journal) -> None:
    job = journal.take_job()
    assert job is not None
    job.run()
    journal.done(job)
