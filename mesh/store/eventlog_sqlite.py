"""The event log in one SQLite file of the node's data folder, through apsw.

Decides how events are laid out, and what an error of SQLite means for the log. Never decides what is kept.
A damaged file is moved to `events.damaged` beside it, where one such file is kept for whoever wants to look, and a new log is
begun. Space that a trim frees is used again by later events: the file does not shrink, and does not grow beyond the bound either.
Invariant: as of `mesh.store.eventlog`. A transaction that was committed outlives the process; when the whole machine stops, the
last ones may be missing (synchronous = NORMAL), and nothing is torn.
Source: sqlite.org: wal.html, pragma.html (synchronous, freelist_count), rescode.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import apsw
import msgspec

from mesh.core.replay import CHUNK_BYTES, CHUNK_EVENTS, Chunk, Gap
from mesh.model.event import Event, Logged, queue_bytes
from mesh.model.ids import MeshId
from mesh.model.reasons import LogGap
from mesh.model.topic import matches
from mesh.store.eventlog import Kept, LogFailed, LogStatistics, bounded_gaps

FILE: Final = "events.sqlite"
DAMAGED_FILE: Final = "events.damaged"
APPLICATION_ID: Final = 0x484F504D
SCHEMA_VERSION: Final = 1
SCAN_EVENTS: Final = 20_000
"""Positions that one read looks at, at most, for those that match: what bounds the time of one."""
BUSY_MS: Final = 5_000
_REMEMBERED: Final = 8_192

_SCHEMA: Final = """
CREATE TABLE event (
  position INTEGER PRIMARY KEY, received_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
  origin INTEGER NOT NULL, seq INTEGER NOT NULL, topic TEXT NOT NULL, key TEXT NOT NULL, path TEXT NOT NULL,
  attributes BLOB, data BLOB NOT NULL);
CREATE INDEX event_by_id ON event (origin, seq);
CREATE TABLE origin (
  id INTEGER PRIMARY KEY, region TEXT NOT NULL, node TEXT NOT NULL, epoch INTEGER NOT NULL, UNIQUE (region, node, epoch));
CREATE TABLE gap (
  position INTEGER NOT NULL, since_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL, events INTEGER, reason TEXT NOT NULL);
CREATE TABLE state (events INTEGER NOT NULL, next INTEGER NOT NULL, closed_ms INTEGER);
INSERT INTO state VALUES (0, 1, NULL);
"""
_INSERT: Final = "INSERT INTO event VALUES (?,?,?,?,?,?,?,?,?,?)"
_READ: Final = (
    "SELECT position, received_ms, expires_ms, origin, seq, topic, key, path, attributes, data FROM event "
    "WHERE position >= ? AND position < ? AND expires_ms > ? AND wanted(topic) ORDER BY position LIMIT ?"
)
_pack: Final = msgspec.msgpack.encode
_unpack: Final = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_Row: TypeAlias = tuple[Any, ...]
_REASONS: Final[tuple[tuple[type[Exception], LogGap], ...]] = (
    (apsw.FullError, LogGap.NO_SPACE),
    (apsw.CorruptError, LogGap.DAMAGED),
    (apsw.NotADBError, LogGap.DAMAGED),
    (apsw.ReadOnlyError, LogGap.READ_ONLY),
    (apsw.CantOpenError, LogGap.READ_ONLY),
)


class SqliteLog:
    """An `EventLogEngine` in a folder. Cost: 5 us an event appended in groups of hundreds, 4 us an event read.

    Raises: LogFailed where the file cannot be opened; with DAMAGED, `set_aside` makes room for a new one.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._origins: dict[tuple[str, str, int], int] = {}
        self._origins_by_id: dict[int, tuple[str, str, int]] = {}
        self._filters: tuple[str, ...] = ()
        self._wanted: dict[str, bool] = {}
        self._sweep = 0
        self._syncs = False
        self._events, self._first, self._next = 0, 1, 1
        self._closed_ms: int | None = None
        self._gaps: tuple[Gap, ...] = ()
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        with self._told():
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def _open(self) -> None:
        write = self._writer = apsw.Connection(str(self._path))
        write.set_busy_timeout(BUSY_MS)
        # One by one: apsw stops at the first row of a statement, and the ones behind it are not run.
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "journal_size_limit = 67108864"):
            _rows(write, f"PRAGMA {pragma}")
        version = write.pragma("user_version")
        if version == 0 and not _rows(write, "SELECT 1 FROM sqlite_master"):
            with _transaction(write):
                write.execute(_SCHEMA)
                write.pragma("application_id", APPLICATION_ID)
                write.pragma("user_version", SCHEMA_VERSION)
        elif (version, write.pragma("application_id")) != (SCHEMA_VERSION, APPLICATION_ID):
            raise LogFailed(LogGap.DAMAGED, f"{self._path} is no event log of this release")
        with _transaction(write):
            write.execute(
                "DELETE FROM origin WHERE NOT EXISTS (SELECT 1 FROM event WHERE event.origin = origin.id)"
            )
        for id, *origin in _rows(write, "SELECT id, region, node, epoch FROM origin"):
            self._origins_by_id[id] = tuple(origin)
        self._origins = {origin: id for id, origin in self._origins_by_id.items()}
        ((self._events, self._next, self._closed_ms),) = _rows(write, "SELECT * FROM state")
        self._gaps = tuple(
            Gap(position, since_ms, until_ms, events, LogGap(reason))
            for position, since_ms, until_ms, events, reason in _rows(
                write, "SELECT * FROM gap ORDER BY position, since_ms"
            )
        )
        self._first = self._find_first()
        read = self._reader = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        read.set_busy_timeout(BUSY_MS)
        read.create_scalar_function(
            "wanted", lambda *given: self._is_wanted(str(given[0])), 1, deterministic=True
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of SQLite as what they mean for the log."""
        try:
            yield
        except (apsw.Error, OSError, ValueError, msgspec.DecodeError) as error:
            for kind, reason in _REASONS:
                if isinstance(error, kind):
                    raise LogFailed(reason, str(error)) from error
            if isinstance(error, ValueError | msgspec.DecodeError | apsw.SQLError):
                raise LogFailed(LogGap.DAMAGED, str(error)) from error
            raise LogFailed(LogGap.IO_ERROR, str(error)) from error

    @property
    def _write(self) -> apsw.Connection:
        if self._writer is None:
            raise LogFailed(LogGap.IO_ERROR, "the log is closed")
        return self._writer

    @property
    def _read(self) -> apsw.Connection:
        if self._reader is None:
            raise LogFailed(LogGap.IO_ERROR, "the log is closed")
        return self._reader

    # -- writing ---------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Logged], gaps: Sequence[Gap] = (), *, synced: bool = False) -> None:
        """See EventLogEngine."""
        assert not entries or entries[0].position >= self._next, "positions grow"
        new_origins: dict[tuple[str, str, int], int] = {}
        rows = [self._row(entry, new_origins) for entry in entries]
        for origin, id in new_origins.items():
            self._origins_by_id[id] = origin  # before the commit: a read beside it must know them
        try:
            if synced is not self._syncs:
                with self._told():
                    self._write.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                self._syncs = synced
            self._append(rows, gaps, new_origins)
        except BaseException:
            for id in new_origins.values():
                del self._origins_by_id[id]
            raise
        self._origins |= new_origins

    def _append(
        self, rows: Sequence[_Row], gaps: Sequence[Gap], new_origins: dict[tuple[str, str, int], int]
    ) -> None:
        all_gaps = bounded_gaps((*self._gaps, *gaps)) if gaps else self._gaps
        next, closed_ms = self._next, self._closed_ms
        if rows:
            next, closed_ms = rows[-1][0] + 1, rows[-1][1]
        with self._told(), _transaction(self._write) as write:
            if new_origins:
                write.executemany(
                    "INSERT INTO origin VALUES (?,?,?,?)",
                    [(id, *origin) for origin, id in new_origins.items()],
                )
            write.executemany(_INSERT, rows)
            if gaps:
                self._store_gaps(all_gaps)
            write.execute(
                "UPDATE state SET events = ?, next = ?, closed_ms = ?",
                (self._events + len(rows), next, closed_ms),
            )
        if self._first == self._next and rows:
            self._first = rows[0][0]
        self._events, self._next, self._closed_ms = self._events + len(rows), next, closed_ms
        self._gaps = all_gaps

    def _row(self, entry: Logged, new_origins: dict[tuple[str, str, int], int]) -> _Row:
        position, received_ms, expires_ms, origin, path, event = entry
        id = self._origins.get(origin) or new_origins.get(origin)
        if id is None:
            id = new_origins[origin] = 1 + max((*self._origins_by_id, *new_origins.values()), default=0)
        seq, topic, key, _, _, attributes, data = event
        packed = None if attributes is None else _pack(attributes)
        return (
            position,
            received_ms,
            expires_ms,
            id,
            seq,
            topic,
            key,
            "/".join(path),
            packed,
            data if isinstance(data, bytes) else bytes(data),
        )

    def _store_gaps(self, gaps: Sequence[Gap]) -> None:
        self._write.execute("DELETE FROM gap")
        self._write.executemany(
            "INSERT INTO gap VALUES (?,?,?,?,?)", [(*gap[:4], gap.reason.value) for gap in gaps]
        )

    def trim(self, now_ms: int, most_bytes: int, most_events: int) -> int:
        """See EventLogEngine. Events that expire before older ones do are found by walking the whole log, a step each call."""
        with self._told():
            removed = self._trim_front(now_ms, most_events)
            if removed < most_events:
                removed += self._trim_sweep(now_ms, most_events - removed)
            if removed < most_events and self._used_bytes() > most_bytes:
                removed += self._trim_oldest(most_events - removed)
            gaps = tuple(gap for gap in self._gaps if gap.position >= self._first)
            if len(gaps) < len(self._gaps):
                with _transaction(self._write):
                    self._store_gaps(gaps)
                self._gaps = gaps
        return removed

    def _trim_front(self, now_ms: int, most: int) -> int:
        """Expired events at the old end."""
        ends = _rows(self._write, "SELECT position, expires_ms FROM event ORDER BY position LIMIT ?", (most,))
        last = 0
        for position, expires_ms in ends:
            if expires_ms > now_ms:
                break
            last = position
        return self._delete("position <= ?", (last,)) if last else 0

    def _trim_sweep(self, now_ms: int, most: int) -> int:
        """Expired events behind such that are kept longer: the next `most` positions of a walk through the log."""
        if self._sweep < self._first or self._sweep >= self._next:
            self._sweep = self._first
        begin, self._sweep = self._sweep, self._sweep + most
        return self._delete(
            "position >= ? AND position < ? AND expires_ms <= ?", (begin, self._sweep, now_ms)
        )

    def _trim_oldest(self, most: int) -> int:
        last = _rows(
            self._write,
            "SELECT max(position) FROM (SELECT position FROM event ORDER BY position LIMIT ?)",
            (most,),
        )[0][0]
        return self._delete("position <= ?", (last,)) if last is not None else 0

    def _delete(self, where: str, values: tuple[int, ...]) -> int:
        with _transaction(self._write) as write:
            write.execute(f"DELETE FROM event WHERE {where}", values)
            removed = write.changes()
            if removed:
                write.execute("UPDATE state SET events = ?", (self._events - removed,))
        self._events -= removed
        if removed:
            self._first = self._find_first()
        return removed

    def _find_first(self) -> int:
        first = _rows(self._write, "SELECT min(position) FROM event")[0][0]
        return self._next if first is None else int(first)

    def _used_bytes(self) -> int:
        write = self._write
        pages, free, size = (
            int(str(write.pragma(name))) for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def note_closed(self, now_ms: int) -> None:
        """See EventLogEngine."""
        with self._told(), _transaction(self._write) as write:
            write.execute("UPDATE state SET closed_ms = ?", (now_ms,))
        self._closed_ms = now_ms

    def close(self) -> None:
        """See EventLogEngine."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                with suppress(apsw.Error):
                    connection.close(True)
        self._reader = self._writer = None

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, filters: Sequence[str], begin: int, end: int, now_ms: int) -> Chunk:
        """See EventLogEngine."""
        if tuple(filters) != self._filters:
            self._filters, self._wanted = tuple(filters), {}
        found: list[Logged] = []
        size = 0
        with (
            self._told(),
            _transaction(self._read) as read,
        ):  # one snapshot: what is trimmed meanwhile is still there
            ((first,),) = _rows(read, "SELECT min(position) FROM event")
            first = self._next if first is None else int(first)
            end = min(end, max(begin, first) + SCAN_EVENTS)
            for row in cast("Iterable[_Row]", read.execute(_READ, (begin, end, now_ms, CHUNK_EVENTS))):
                entry = self._entry(row)
                found.append(entry)
                size += queue_bytes((entry.event,))
                if size >= CHUNK_BYTES:
                    break
            else:
                if len(found) < CHUNK_EVENTS:
                    return Chunk(found, max(begin, end), first)
        return Chunk(found, found[-1].position + 1, first)

    def _is_wanted(self, topic: str) -> bool:
        wanted = self._wanted.get(topic)
        if wanted is None:
            if len(self._wanted) >= _REMEMBERED:
                self._wanted.clear()
            wanted = self._wanted[topic] = any(matches(filter, topic) for filter in self._filters)
        return wanted

    def _entry(self, row: _Row) -> Logged:
        position, received_ms, expires_ms, origin, seq, topic, key, path, packed, data = row
        attributes = None if packed is None else _unpack(packed)
        if origin not in self._origins_by_id:
            raise LogFailed(LogGap.DAMAGED, f"the origin of event {position} is missing")
        return Logged(
            position,
            received_ms,
            expires_ms,
            self._origins_by_id[origin],
            tuple(path.split("/")) if path else (),
            Event(seq, topic, key, 0, None, attributes, data),
        )

    def find(self, mesh_id: MeshId, now_ms: int) -> int | None:
        """See EventLogEngine."""
        origin = self._origins.get((mesh_id.region, mesh_id.node, mesh_id.epoch))
        if origin is None or mesh_id.seq > (1 << 63) - 1:
            return None
        with self._told():
            found = _rows(
                self._read,
                "SELECT position FROM event WHERE origin = ? AND seq = ? AND expires_ms > ? "
                "ORDER BY position DESC LIMIT 1",
                (origin, mesh_id.seq, now_ms),
            )
        return cast("int", found[0][0]) if found else None

    def known(self, mesh_ids: Sequence[MeshId]) -> set[MeshId]:
        """See EventLogEngine. Cost: 2 us an event."""
        seqs: dict[tuple[str, str, int], list[int]] = {}
        for mesh_id in mesh_ids:
            if mesh_id.seq < 1 << 63:
                seqs.setdefault(mesh_id[:3], []).append(mesh_id.seq)
        found: set[MeshId] = set()
        with self._told():
            for origin, some in seqs.items():
                id = self._origins.get(origin)
                if id is None:
                    continue
                statement = "SELECT seq FROM event WHERE origin = ? AND seq = ?"
                for seq in some:
                    if _rows(self._read, statement, (id, seq)):
                        found.add(MeshId(*origin, seq))
        return found

    def find_time(self, received_ms: int) -> int:
        """See EventLogEngine. Halves the positions: about 20 look-ups."""
        low, high = self._first, self._next
        with self._told():
            while low < high:
                middle = (low + high) // 2
                found = _rows(
                    self._read,
                    "SELECT position, received_ms FROM event WHERE position >= ? ORDER BY position LIMIT 1",
                    (middle,),
                )
                if not found or found[0][1] >= received_ms:
                    high = middle
                else:
                    low = found[0][0] + 1
            after = _rows(
                self._read, "SELECT position FROM event WHERE position >= ? ORDER BY position LIMIT 1", (low,)
            )
        return cast("int", after[0][0]) if after else self._next

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def closed_ms(self) -> int | None:
        return self._closed_ms

    @property
    def next(self) -> int:
        return self._next

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return self._gaps

    def statistics(self) -> LogStatistics:
        """See EventLogEngine."""
        with self._told():
            ends = [self._end("ASC"), self._end("DESC")]
            return LogStatistics(self._events, self._used_bytes(), self._first, self._next, *ends)

    def _end(self, order: str) -> Kept | None:
        found = _rows(
            self._write, f"SELECT origin, seq, received_ms FROM event ORDER BY position {order} LIMIT 1"
        )
        if not found:
            return None
        origin, seq, received_ms = found[0]
        return Kept(MeshId(*self._origins_by_id[origin], seq), received_ms)


@contextmanager
def _transaction(connection: apsw.Connection) -> Iterator[apsw.Connection]:
    """All or nothing. SQLite has ended the transaction by itself after some errors (a full disk, an I/O error): rolling back
    once more would hide them behind an error of its own, as the library's own context manager does."""
    connection.execute("BEGIN")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(apsw.Error):
                connection.execute("ROLLBACK")
        raise


def _rows(connection: apsw.Connection, statement: str, values: tuple[int, ...] = ()) -> list[_Row]:
    return cast("list[_Row]", connection.execute(statement, values).fetchall())


def set_aside(folder: Path) -> None:
    """Move a damaged log out of the way; an older one there goes. Raises: LogFailed."""
    try:
        for suffix in ("", "-wal", "-shm"):
            old = folder / f"{FILE}{suffix}"
            if suffix == "-shm":
                old.unlink(missing_ok=True)
            elif old.exists():
                old.replace(folder / f"{DAMAGED_FILE}{suffix}")
            else:
                (folder / f"{DAMAGED_FILE}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise LogFailed(LogGap.READ_ONLY, str(error)) from error
