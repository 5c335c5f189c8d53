"""Carries a journal's commits to a worker thread: the next one begins when the last one returned.

Decides when to commit: at once for records, notes and cleaning; within a second for settles alone, without a sync; after a
failure every second, until it succeeds. Never decides what a commit holds.
Keeps: at most one commit is under way, and it is waited for even when the flusher is cancelled.
Source: design page "Routing", Delivery (natural batching).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio

from mesh.model.journal import JournalState
from mesh.store.commit import Job
from mesh.store.journal import Journal

RETRY_S: Final = 1.0
"""Between two tries while the journal cannot write."""
SETTLE_S: Final = 1.0
"""Settles wait at most so long for a commit to ride with."""


class Flusher:
    """One task for one journal. on_synced: told `journal.synced` after each commit, on the loop's thread.
    on_state: told each new state."""

    def __init__(
        self,
        journal: Journal,
        on_synced: Callable[[int], None],
        on_state: Callable[[JournalState], None] | None = None,
    ) -> None:
        self._journal = journal
        self._on_synced = on_synced
        self._on_state = on_state
        self._state = journal.state
        self._work = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        journal.wake = self._wake

    def _wake(self) -> None:
        if not self._work.is_set():
            self._work.set()

    async def run(self) -> None:
        """Commit until cancelled. What waits then is left to `Journal.close`."""
        journal = self._journal
        while True:
            await self._wait()
            # The commit itself cannot be cancelled; between two of them the node may stop.
            await trio.lowlevel.checkpoint()
            self._work = trio.Event()
            job = journal.take_job()
            if job is None:
                # Freed before it was written, or nothing that can be done now.
                self._on_synced(journal.synced)
                with trio.move_on_after(SETTLE_S):
                    await self._work.wait()
                continue
            await self._commit(job)

    async def _wait(self) -> None:
        """Until a commit is due."""
        journal = self._journal
        if journal.state is not JournalState.OK:
            await trio.sleep(RETRY_S)
        deadline = math.inf
        while not journal.urgent and journal.state is JournalState.OK:
            if not journal.idle:
                deadline = min(deadline, trio.current_time() + SETTLE_S)
                if trio.current_time() >= deadline:
                    return
            with trio.move_on_at(deadline):
                await self._work.wait()
            self._work = trio.Event()

    async def _commit(self, job: Job) -> None:
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(job.run, limiter=self._limiter)
        except OSError as error:
            self._journal.failed(job, error)
        else:
            self._journal.done(job)
            self._on_synced(self._journal.synced)
        if self._on_state is not None and self._journal.state is not self._state:
            self._state = self._journal.state
            self._on_state(self._state)
