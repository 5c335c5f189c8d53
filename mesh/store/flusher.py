"""Carries a journal's commits to the writer's thread: the next one begins when the last one returned.

Decides when to commit: at once for records, notes and cleaning; within a second for settles alone, without a sync; after a
failure every second, until it succeeds. Never decides what a commit holds.
Keeps: at most one commit is under way, and it is waited for even when the flusher is cancelled.
Source: design page "Routing", Delivery (natural batching).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from mesh.model.journal import JournalState
from mesh.store.commit import Job
from mesh.store.journal import Journal
from mesh.store.writer import Writer

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
        self._settles_wake = False
        self._writer = Writer()
        journal.wake = self._wake

    def _wake(self) -> None:
        if not self._work.is_set() and (self._settles_wake or self._journal.urgent):
            self._work.set()

    async def run(self) -> None:
        """Commit until cancelled. What waits then is left to `Journal.close`."""
        try:
            await self._commit_for_ever()
        finally:
            self._writer.close()

    async def _commit_for_ever(self) -> NoReturn:
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
                if journal.urgent:
                    with trio.move_on_after(SETTLE_S):
                        await self._work.wait()
                continue
            await self._commit(job)

    async def _wait(self) -> None:
        """Until a commit is due. While there was one lately, settles need not wake anybody: they are looked for a second later."""
        journal = self._journal
        if journal.state is not JournalState.OK:
            await trio.sleep(RETRY_S)
        look_at = trio.current_time() + SETTLE_S
        while not journal.urgent and journal.state is JournalState.OK:
            self._settles_wake = look_at == math.inf
            with trio.move_on_at(look_at):
                await self._work.wait()
            self._settles_wake = False
            self._work = trio.Event()
            if journal.idle:
                look_at = math.inf
            elif look_at == math.inf:
                look_at = trio.current_time() + SETTLE_S
            elif trio.current_time() >= look_at:
                return

    async def _commit(self, job: Job) -> None:
        try:
            await self._writer.run(job.run)
        except OSError as error:
            self._journal.failed(job, error)
        else:
            self._journal.done(job)
            self._on_synced(self._journal.synced)
        if self._on_state is not None and self._journal.state is not self._state:
            self._state = self._journal.state
            self._on_state(self._state)
