"""The journal's thread: one that stays, runs one commit at a time, and wakes the loop when it is done.

Decides nothing about a commit. The hand-over is a queue in one direction and an eventfd in the other: a third of the processor
time of a thread borrowed for each call, which is given a name, a context and a place among the loop's callbacks each time.
Invariant: at most one piece of work is out, and `run` returns only when it has ended, cancelled or not.
Source: eventfd(2); design page "Routing", Delivery (off the event loop without a thread hop per event).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import trio


class Writer:
    """One thread for one task. It begins with the first piece of work and ends with `close`.

    Cost: about 35 us of processor time a piece of work; one thread and one descriptor.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._done = -1
        """The eventfd that says that a piece of work has ended."""
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[], None]) -> None:
        """Have `work` done by the thread, and wait for its end whatever happens. Raises: what `work` raises; never Cancelled."""
        if self._thread is None:
            self._begin()
        self._work.put(work)
        try:
            await trio.lowlevel.wait_readable(self._done)
        except trio.Cancelled:
            # It is noticed again at the next checkpoint. A shield around each wait would cost as much as the wait.
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._done)
        os.eventfd_read(self._done)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _begin(self) -> None:
        self._done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException as error:
                self._failure = error
            # Not to outlive its commit: the records of the last one would stay in memory until the next.
            del work
            os.eventfd_write(self._done, 1)

    def close(self) -> None:
        """End the thread. Nothing may be out. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._work.put(None)
        thread.join()
        os.close(self._done)
