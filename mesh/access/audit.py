"""The audit stream: who did what where, by which rule, with which result, one JSON object a line.

Decides what a record holds, which ones are told as one, and which are lost when more come than can be written. Never decides whether
something is allowed, and never makes anybody wait: a full queue or a full disk is counted, and everything else goes on.
Invariant: told = written + joined + lost + waiting. A record waits in memory at most until the disk took it or the queue was full.
Bounds: QUEUE records wait; `mesh.access.audit_file` bounds the files.
Source: docs/access.md; design page "Architecture" (bounded queues with a stated policy).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import msgspec
import structlog
import trio

from mesh.access.audit_file import AuditFile
from mesh.net.supervise import Backoff
from mesh.node.inspect import AuditReading

log = structlog.get_logger("audit")

TOPIC: Final = "$mesh/audit"
QUEUE: Final = 10_000
BATCH: Final = 1_000
GATHER_S: Final = 0.05
"""Records that come this close together share a write; equal ones are one with a count."""
_RETRY_S: Final = (0.5, 15.0)
_TEXT_CHARS: Final = 512
LAST_WORDS_S: Final = 2.0


class Result(StrEnum):
    """How it ended."""

    ALLOWED = "allowed"
    DENIED = "denied"
    """By a rule, or because none allows it."""
    REFUSED = "refused"
    """For another reason: no proof, a limit, a mistake."""
    DONE = "done"
    FAILED = "failed"
    ENDED = "ended"
    """An open session that may not go on."""


class Record(msgspec.Struct, gc=False):
    """One line. where: a topic, filter, path or file. rule: the rule that decided, with its place. count: how often within a moment."""

    time: str
    node: str
    who: str
    kind: str
    remote: str
    port: str
    what: str
    where: str
    rule: str
    result: Result
    code: str = ""
    detail: str = ""
    count: int = 1


def stamp(wall_s: float) -> str:
    """RFC 3339 with milliseconds."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Audit:
    """One node's stream. Args:
    node: REGION/NODE. file: where lines go. publish: given records (JSON) for `$mesh/audit`; None: they go nowhere else.
    """

    def __init__(
        self,
        node: str,
        wall_s: Callable[[], float],
        file: AuditFile,
        publish: Callable[[Sequence[bytes]], object] | None = None,
    ) -> None:
        self._node = node
        self._wall_s = wall_s
        self._file = file
        self._publish = publish
        self._waiting: dict[tuple[str, ...], Record] = {}
        self._work = trio.Event()
        self.written = 0
        self.lost: dict[str, int] = {}
        """Records that no file has, by reason: `queue_full`, `stopped`."""
        self.problem = ""
        """Why the disk does not take lines now; "" while it does."""

    def tell(
        self,
        what: str,
        where: str,
        result: Result,
        *,
        who: str = "",
        kind: str = "",
        remote: str = "",
        port: str = "",
        rule: str = "",
        code: str = "",
        detail: str = "",
    ) -> None:
        """Queue one record. Never blocks, never raises. Cost: 3 us."""
        host = remote if who == "" else ""
        key = (who, kind, host.rpartition(":")[0], port, what, where, rule, result.value, code)
        known = self._waiting.get(key)
        if known is not None:
            known.count += 1
            return
        if len(self._waiting) >= QUEUE:
            self._lose("queue_full", 1)
            return
        self._waiting[key] = Record(
            stamp(self._wall_s()),
            self._node,
            who[:_TEXT_CHARS],
            kind,
            remote,
            port,
            what,
            where[:_TEXT_CHARS],
            rule[:_TEXT_CHARS],
            result,
            code,
            detail[:_TEXT_CHARS],
        )
        self._work.set()

    @property
    def waiting(self) -> int:
        """Records that no file has yet."""
        return len(self._waiting)

    def reading(self) -> AuditReading:
        """For a scrape."""
        return AuditReading(self.written, self.waiting, dict(self.lost), not self.problem)

    def _lose(self, reason: str, count: int) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + count

    async def run(self) -> None:
        """Write what comes until cancelled; then what waits, within LAST_WORDS_S."""
        backoff = Backoff(*_RETRY_S, dice=random.Random())
        try:
            while True:
                await self._work.wait()
                await trio.sleep(GATHER_S)
                if not await self._write(self._take()):
                    await trio.sleep(backoff.next())
                else:
                    backoff.reset()
        finally:
            with trio.move_on_after(LAST_WORDS_S, shield=True):
                while self._waiting and await self._write(self._take()):
                    pass
            if self._waiting:
                self._lose("stopped", sum(record.count for record in self._waiting.values()))
            await trio.to_thread.run_sync(self._file.close, abandon_on_cancel=True)

    def _take(self) -> dict[tuple[str, ...], Record]:
        """The oldest BATCH records."""
        taken = dict(list(self._waiting.items())[:BATCH])
        for key in taken:
            del self._waiting[key]
        if not self._waiting:
            self._work = trio.Event()
        return taken

    async def _write(self, taken: dict[tuple[str, ...], Record]) -> bool:
        if not taken:
            return True
        lines = [msgspec.json.encode(record) for record in taken.values()]
        try:
            await trio.to_thread.run_sync(self._file.write, b"\n".join(lines) + b"\n")
        except OSError as error:
            problem = error.strerror or str(error)
            if problem != self.problem:
                log.error(
                    "the audit file cannot be written",
                    code="MESH-C053",
                    file=str(self._file.path),
                    problem=problem,
                )
            self.problem = problem
            self._put_back(taken)
            return False
        if self.problem:
            log.info("the audit file is written again", file=str(self._file.path), lost=dict(self.lost))
        self.problem = ""
        self.written += sum(record.count for record in taken.values())
        if self._publish is not None:
            self._publish(lines)
        return True

    def _put_back(self, taken: dict[tuple[str, ...], Record]) -> None:
        """Before those that came meanwhile, as far as there is room."""
        for key, record in self._waiting.items():
            known = taken.get(key)
            if known is not None:
                known.count += record.count
            elif len(taken) < QUEUE:
                taken[key] = record
            else:
                self._lose("queue_full", record.count)
        self._waiting = taken
        self._work.set()
