"""A journal in virtual time: what was not synced when its node crashed is gone, but for as much of it as chance leaves.

Decides what a crash leaves: everything of finished commits, and a prefix of the one under way (a torn write). Never touches a disk.
Invariant: `synced` only covers what every crash leaves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from mesh.core.custody.store import Entry, StoreRefusedError
from mesh.model.reasons import Refuse


class _Record(NamedTuple):
    parts: frozenset[str]
    head: bytes
    body: bytes
    stored_ms: int


class SimStore:
    """Args: wall_ms: the node's wall clock. It lives as long as its disk: nodes that start again open it anew with `open`."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._disk: dict[int, _Record] = {}
        self._disk_notes: dict[str, bytes] = {}
        self._memory: dict[int, _Record] = {}
        self.notes: dict[str, bytes] = {}
        self._pending: list[Callable[[], None]] = []
        """What a commit does to the disk, in order."""
        self._under_way = 0
        self._last = 0
        self.synced = 0
        self._disk_last = 0
        self.notes_made = self.notes_synced = 0
        self._urgent = 0
        """Appends among what is pending."""
        self.fault: Refuse | None = None
        """What an append is refused with, and why no commit ends well: a full or broken disk."""
        self.torn: float | None = None
        """How much of a commit under way a crash leaves: a fraction; None: chance says."""
        self.step: Callable[[str], None] = lambda what: None
        """Told before and after each thing that is done to the journal: where a process may die."""
        self.settled_twice: list[tuple[int, str]] = []
        """Parts that were settled when they were not open: each is to end once."""

    # -- as custody sees it ------------------------------------------------------------------------------------------

    def refusal(self, size_bytes: int) -> Refuse | None:
        return self.fault

    def append(self, parts: Sequence[str], head: bytes, body: bytes) -> int:
        if self.fault is not None:
            raise StoreRefusedError(self.fault)
        assert parts
        self.step("before append")
        self._last += 1
        record = _Record(frozenset(parts), head, body, self._wall_ms())
        self._memory[self._last] = record
        lsn = self._last
        self._pending.append(lambda: self._appended(lsn, record))
        self._urgent += 1
        self.step("after append")
        return lsn

    def _appended(self, lsn: int, record: _Record) -> None:
        self._disk[lsn] = record
        self._disk_last = lsn
        self.synced = max(self.synced, lsn)

    def settle(self, lsn: int, part: str) -> bool:
        record = self._memory.get(lsn)
        if record is None or part not in record.parts:
            self.settled_twice.append((lsn, part))
            return False
        self.step("before settle")
        self._pending.append(lambda: self._settled(lsn, part))
        last = self._settle(self._memory, lsn, part)
        self.step("after settle")
        return last

    def _settled(self, lsn: int, part: str) -> None:
        self._settle(self._disk, lsn, part)

    @staticmethod
    def _settle(records: dict[int, _Record], lsn: int, part: str) -> bool:
        record = records.get(lsn)
        if record is None:
            return False
        rest = record.parts - {part}
        if rest:
            records[lsn] = record._replace(parts=rest)
            return False
        del records[lsn]
        return True

    def note(self, key: str, value: bytes | None) -> None:
        self.notes_made += 1
        self._pending.append(partial(self._sync_note, key, value, self.notes_made))
        self._note(self.notes, key, value)

    def _sync_note(self, key: str, value: bytes | None, made: int) -> None:
        self._note(self._disk_notes, key, value)
        self.notes_synced = made

    @staticmethod
    def _note(notes: dict[str, bytes], key: str, value: bytes | None) -> None:
        if value is None:
            notes.pop(key, None)
        else:
            notes[key] = value

    def outstanding(self) -> Iterable[Entry]:
        for lsn, record in sorted(self._memory.items()):
            yield Entry(
                lsn, tuple(sorted(record.parts)), record.stored_ms, len(record.head), len(record.body)
            )

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        record = self._memory[lsn]
        return record.head, record.body

    def read_ahead(self, lsns: Sequence[int]) -> None:
        return None

    # -- as its node drives it ---------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether a commit would have something to do, and none is under way."""
        return bool(self._pending) and not self._under_way

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for that: settles and notes can ride with a later one."""
        return bool(self._urgent) and not self._under_way

    def begin(self) -> None:
        """A commit of everything appended so far begins."""
        assert not self._under_way
        self.step("before commit")
        self._under_way = len(self._pending)
        self._urgent = 0
        self.step("during commit")

    def finish(self) -> None:
        """It ended: all of it is on disk. With a fault it failed: it is tried again."""
        self.step("before commit ends")
        count, self._under_way = self._under_way, 0
        if self.fault is not None:
            self._urgent = count
            return
        self._write(count)
        self.step("after commit")

    def _write(self, count: int) -> None:
        for write in self._pending[:count]:
            write()
        del self._pending[:count]

    def crash(self, dice: random.Random) -> None:
        """The node died: a prefix of the commit under way may have reached the disk, the rest is gone."""
        if self._under_way and self.fault is None:
            torn = self.torn
            self._write(dice.randint(0, self._under_way) if torn is None else int(torn * self._under_way))
        self._pending.clear()
        self._under_way = self._urgent = 0
        self._memory = dict(self._disk)
        self.notes = dict(self._disk_notes)
        self.notes_synced = self.notes_made
        self._last = self.synced = self._disk_last

    def wipe(self) -> None:
        """The disk is gone with all that was on it: the next process begins with an empty one."""
        self._disk.clear()
        self._disk_notes.clear()
        self._disk_last = 0
        self._under_way = 0
        self.crash(random.Random(0))

    def close(self) -> None:
        """The node ended in order: everything is written."""
        if self.fault is None:
            self._write(len(self._pending))
        self.crash(random.Random(0))

    def __len__(self) -> int:
        return len(self._memory)
