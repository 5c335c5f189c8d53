"""What a journal tells: states, refusals, entries, damage. Values shared by the machines, the store and the simulator.

Decides nothing. The journal of a disk is `mesh.store.journal`; the simulator has a twin with the same answers.
Source: design page "Routing", Delivery; docs/decisions/0014.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from mesh.model.limits import Limits


class JournalState(StrEnum):
    """Whether the journal can write. Everything but OK refuses appends, and only them, until a write succeeds again."""

    OK = "ok"
    NO_SPACE = "no_space"
    READ_ONLY = "read_only"
    IO_ERROR = "io_error"


class Refusal(StrEnum):
    """Why something was not taken. The journal is unchanged."""

    FULL = "full"
    """Its bound in bytes or in records is reached."""
    NO_SPACE = "no_space"
    READ_ONLY = "read_only"
    IO_ERROR = "io_error"
    PENDING_FULL = "pending_full"
    """The disk does not keep up: too much waits to be written."""
    NOTES_FULL = "notes_full"
    TOO_LARGE = "too_large"
    """It would not fit a segment."""


class JournalRefused(Exception):
    """Not taken, state unaffected. Carries the reason."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


class DamageReason(StrEnum):
    """What was wrong with bytes that could not be used."""

    TORN_TAIL = "torn_tail"
    """Nothing valid follows to the end of the file: a write that a crash cut short, or damage to the last record."""
    BAD_RECORD = "bad_record"
    BAD_HEADER = "bad_header"
    """Both copies of a segment's header: none of its records can be read. The file is left for a person to look at."""
    BAD_FOOTER = "bad_footer"
    """The records were read one by one instead."""
    UNREADABLE = "unreadable"
    """The system refused to read it. The file is left for a person to look at."""


class Damage(NamedTuple):
    """Bytes of a segment that could not be used. offset, bytes: where, and how many."""

    segment: int
    offset: int
    reason: DamageReason
    bytes: int


class JournalDamaged(Exception):
    """A record's bytes are not what was written. Its parts stay open until they are settled."""

    def __init__(self, lsn: int, damage: Damage) -> None:
        super().__init__(
            f"record {lsn}: {damage.reason.value} at {damage.offset} of segment {damage.segment}"
        )
        self.lsn = lsn
        self.damage = damage


class Entry(NamedTuple):
    """A record with open parts. parts: those still open. stored_ms: as it was given to `append`."""

    lsn: int
    parts: tuple[str, ...]
    stored_ms: int
    head_bytes: int
    body_bytes: int


_DEFAULTS: Final = Limits()


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """The journal's share of `Limits`, where each is explained. All positive."""

    total_bytes: int = _DEFAULTS.journal_bytes
    records: int = _DEFAULTS.journal_records
    pending_bytes: int = _DEFAULTS.journal_pending_bytes
    commit_bytes: int = _DEFAULTS.journal_commit_bytes
    notes_bytes: int = _DEFAULTS.journal_notes_bytes
    segment_bytes: int = _DEFAULTS.segment_bytes
    segment_files: int = _DEFAULTS.segment_files

    @classmethod
    def of(cls, limits: Limits) -> JournalLimits:
        return cls(
            total_bytes=limits.journal_bytes,
            records=limits.journal_records,
            pending_bytes=limits.journal_pending_bytes,
            commit_bytes=limits.journal_commit_bytes,
            notes_bytes=limits.journal_notes_bytes,
            segment_bytes=limits.segment_bytes,
            segment_files=limits.segment_files,
        )


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening found. records, bytes: open ones, and the size of all segments. scanned: segments read record by record."""

    records: int = 0
    bytes: int = 0
    seconds: float = 0.0
    segments: int = 0
    scanned: int = 0
    damage: tuple[Damage, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """Counters since opening, and sizes now. live_bytes: what open records and current notes take of `bytes`."""

    state: JournalState
    records: int
    segments: int
    bytes: int
    live_bytes: int
    pending_bytes: int
    appended: int
    settled: int
    refused: dict[str, int]
    commits: int
    committed_bytes: int
    failures: int
    copied: int
    damaged: int
    deleted_segments: int
    unsealed: int
