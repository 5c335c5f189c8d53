"""The audit stream over a file: what is joined, what is lost and counted, and what a disk that fails does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from mesh.access import audit as module
from mesh.access.audit import Audit, Result
from mesh.access.audit_file import AuditFile


class FailingFile(AuditFile):
    """A disk that is full while `full`."""

    full = False

    def write(self, lines: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(lines)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def until(condition: object) -> None:
    with trio.fail_after(10):
        while not condition():  # type: ignore[operator]
            await trio.sleep(0.01)


async def test_equal_records_are_one_with_a_count_and_nothing_is_lost(tmp_path: Path) -> None:
    told: list[bytes] = []

    def publish(records: Sequence[bytes]) -> None:
        told.extend(records)

    audit = Audit("a/a-1", lambda: 1_800_000_000.25, AuditFile(tmp_path / "audit", 1 << 20, 2), publish)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        for _ in range(1_000):
            audit.tell(
                "publish", "hr/1", Result.DENIED, who="ann", kind="token", remote="1.2.3.4:5", rule="r"
            )
        audit.tell("publish", "hr/2", Result.DENIED, who="ann", kind="token", rule="r")
        await until(lambda: audit.written == 1_001)
        nursery.cancel_scope.cancel()
    first, second = lines(tmp_path / "audit")
    assert (first["count"], second["count"]) == (1_000, 1)
    assert (first["time"], first["result"], first["who"]) == ("2027-01-15T08:00:00.250Z", "denied", "ann")
    assert [json.loads(one) for one in told] == [first, second]


async def test_a_full_disk_makes_records_wait_and_a_full_queue_loses_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE", 50)
    monkeypatch.setattr(module, "_RETRY_S", (0.01, 0.02))
    file = FailingFile(tmp_path / "audit", 1 << 20, 2)
    file.full = True
    audit = Audit("a/a-1", lambda: 0.0, file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        for number in range(40):
            audit.tell("publish", f"t/{number}", Result.DENIED)
        await until(lambda: audit.problem)
        for number in range(40, 90):
            audit.tell("publish", f"t/{number}", Result.DENIED)
        assert audit.waiting <= 50
        await until(lambda: audit.lost.get("queue_full", 0) == 40)
        file.full = False
        await until(lambda: audit.written == 50)
        assert audit.reading().writes
        nursery.cancel_scope.cancel()
    assert [line["where"] for line in lines(tmp_path / "audit")] == [f"t/{number}" for number in range(50)]


async def test_what_waits_is_written_when_the_node_stops(tmp_path: Path) -> None:
    audit = Audit("a/a-1", lambda: 0.0, AuditFile(tmp_path / "audit", 1 << 20, 2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        await trio.testing.wait_all_tasks_blocked()
        audit.tell("drain", "node", Result.DONE, who="SIGTERM")
        nursery.cancel_scope.cancel()
    assert [line["what"] for line in lines(tmp_path / "audit")] == ["drain"]
