"""The flusher: real files, real threads; the next commit begins when the last one returned."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from unit.store.journal_folder import FailingDisk

from mesh.model.journal import JournalLimits, JournalState
from mesh.store.flusher import Flusher
from mesh.store.journal import Journal


class SlowDisk(FailingDisk):
    """Syncs when it may. threads: where each sync ran."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        super().__init__(lambda call: OSError(errno.ENOSPC, call) if call in self.failing else None)
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.syncing = threading.Event()
        self.threads: list[int] = []

    def sync(self, file: int) -> None:
        self.threads.append(threading.get_ident())
        self.syncing.set()
        assert self.may_sync.wait(10)
        super().sync(file)


class Running:
    def __init__(self, folder: Path, limits: JournalLimits) -> None:
        self.disk = SlowDisk()
        self.journal = Journal.open(folder, limits, self.disk)
        self.synced: list[int] = []
        self.states: list[JournalState] = []
        self.flusher = Flusher(self.journal, self.synced.append, self.states.append)

    def put(self, count: int = 1, size: int = 100) -> list[int]:
        return [self.journal.append(("r/us",), b"head", bytes(size), 1) for _ in range(count)]


@asynccontextmanager
async def running(folder: Path, limits: JournalLimits = JournalLimits()) -> AsyncIterator[Running]:  # noqa: B008
    made = Running(folder, limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.flusher.run)
        yield made
        nursery.cancel_scope.cancel()
    made.journal.close()


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():
            await trio.sleep(0.005)


async def test_what_is_appended_is_synced_in_another_thread_and_told_on_this_one(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        (lsn,) = it.put()
        await until(lambda: it.synced[-1:] == [lsn])
        assert threading.get_ident() not in it.disk.threads
        (lsn,) = it.put()
        await until(lambda: it.synced[-1:] == [lsn])


async def test_what_arrives_during_a_commit_goes_together_with_the_next(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.put()
        await until(lambda: it.synced == [1])
        it.disk.may_sync.clear()
        it.disk.syncing.clear()
        it.put()
        await until(it.disk.syncing.is_set)
        it.put(50)
        it.disk.may_sync.set()
        await until(lambda: it.synced[-1] == 52)
        assert it.synced == [1, 2, 52]


async def test_settles_alone_wait_but_not_longer_than_a_second(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.put(2)
        await until(lambda: it.synced == [2])
        began = trio.current_time()
        syncs = it.disk.calls.count("sync")
        it.journal.settle(1, "r/us")
        assert not it.journal.idle
        await until(lambda: it.journal.idle)
        assert 0.9 < trio.current_time() - began < 5
        assert it.disk.calls.count("sync") == syncs


async def test_a_full_disk_is_tried_again_every_second_until_it_takes_it(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.put()
        await until(lambda: it.synced == [1])
        it.disk.failing = {"write"}
        began = trio.current_time()
        it.put()
        await until(lambda: it.journal.statistics().failures == 3)
        assert 1.9 < trio.current_time() - began < 8
        assert it.states == [JournalState.NO_SPACE]
        assert it.synced == [1]
        it.disk.failing = set()
        await until(lambda: it.synced == [1, 2])
        assert it.states == [JournalState.NO_SPACE, JournalState.OK]
        it.put()
        await until(lambda: it.synced == [1, 2, 3])


async def test_a_commit_under_way_is_waited_for_when_the_node_stops(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.disk.may_sync.clear()
        it.put()
        await until(it.disk.syncing.is_set)
        it.put()
        threading.Timer(0.05, it.disk.may_sync.set).start()
    assert it.synced == [1]
    assert it.journal.synced == 2  # the rest by close
    assert [entry.lsn for entry in Journal.open(tmp_path, JournalLimits()).outstanding()] == [1, 2]


async def test_a_segment_is_cleaned_and_deleted_without_anybody_asking(tmp_path: Path) -> None:
    limits = JournalLimits(segment_bytes=4_000, commit_bytes=2_000, total_bytes=32_000)
    async with running(tmp_path, limits) as it:
        for _ in range(30):
            lsn = it.put(1, 600)[0]
            await until(lambda lsn=lsn: it.synced[-1:] == [lsn])  # type: ignore[misc]
            if lsn % 10:
                it.journal.settle(lsn, "r/us")
        await until(lambda: it.journal.idle)
        told = it.journal.statistics()
        assert told.deleted_segments > 0
        assert told.copied > 0
        assert told.bytes < 24_000
        assert [entry.lsn for entry in it.journal.outstanding()] == [10, 20, 30]


async def test_nothing_to_do_wakes_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        it.put()
        it.journal.settle(1, "r/us")
        await until(lambda: it.journal.synced == 1)
        calls = len(it.disk.calls)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(it.disk.calls) == calls


async def test_settles_behind_a_commit_wake_nobody_until_it_is_time_for_them(tmp_path: Path) -> None:
    """They come with every acknowledgement of a next hop: a wake-up each would cost as much as the commits."""
    async with running(tmp_path) as it:
        it.put(10)
        await until(lambda: it.synced == [10])
        await trio.testing.wait_all_tasks_blocked()
        woken: list[str] = []

        class Steps(trio.abc.Instrument):
            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                woken.append(task.name)

        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for lsn in range(1, 10):
            it.journal.settle(lsn, "r/us")
            await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
        assert not any("Flusher" in name for name in woken)
        await until(lambda: it.journal.idle)
        assert it.journal.statistics().records == 1
