"""The journal's thread: one that stays, one piece of work at a time, waited for whatever happens."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mesh.store.writer import Writer


@asynccontextmanager
async def writing() -> AsyncIterator[Writer]:
    writer = Writer()
    try:
        yield writer
    finally:
        writer.close()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "journal"]


async def test_all_work_is_done_by_one_thread_that_is_not_the_loops() -> None:
    ran: list[int] = []
    async with writing() as writer:
        for _ in range(3):
            await writer.run(lambda: ran.append(threading.get_ident()))
    assert len(set(ran)) == 1
    assert len(ran) == 3
    assert threading.get_ident() not in ran


async def test_what_the_work_raises_is_raised_where_it_is_waited_for_and_the_thread_stays() -> None:
    def fail() -> None:
        raise OSError(28, "full")

    done: list[bool] = []
    async with writing() as writer:
        with pytest.raises(OSError, match="full"):
            await writer.run(fail)
        await writer.run(lambda: done.append(True))
    assert done == [True]


async def test_work_under_way_is_waited_for_when_its_task_is_cancelled() -> None:
    begun, may_end = threading.Event(), threading.Event()
    done: list[bool] = []

    def work() -> None:
        begun.set()
        assert may_end.wait(10)
        done.append(True)

    async with writing() as writer:

        async def run() -> None:
            await writer.run(work)
            assert done == [True]
            await trio.lowlevel.checkpoint()
            done.append(False)  # the cancellation is noticed before

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                while not begun.is_set():
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
                threading.Timer(0.05, may_end.set).start()
    assert done == [True]


async def test_closing_leaves_neither_thread_nor_descriptor() -> None:
    before = len(threads()), len(os.listdir("/proc/self/fd"))
    writer = Writer()
    writer.close()
    await writer.run(lambda: None)
    assert len(threads()) == before[0] + 1
    writer.close()
    writer.close()
    assert (len(threads()), len(os.listdir("/proc/self/fd"))) == before


async def test_work_that_has_ended_is_let_go_of(tmp_path: Path) -> None:
    """A commit's records must not stay in memory until the next one."""

    class Work:
        gone = threading.Event()

        def __call__(self) -> None:
            (tmp_path / "x").write_bytes(b"")

        def __del__(self) -> None:
            self.gone.set()

    async with writing() as writer:
        await writer.run(Work())
        with trio.fail_after(10):
            while not Work.gone.is_set():
                await trio.sleep(0.001)
