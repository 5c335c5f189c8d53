"""How tasks of a node live and fall: each has a name, and the crash of one never takes the node down.

Decides what happens when a child task raises: an exception of a link, a client or a loop is logged once with its
traceback and counted; cancellation passes on. Decides the pace at which something that ended is started again.
Never decides what a task does. The only place of the mesh with `except*`.
Invariant: every crash is in the log once and in `Crashes.counts` once.
Source: design page "Architecture", Sans-IO machines (drivers).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog
import trio

from mesh.model.dice import Dice

log = structlog.get_logger("mesh.net")


class Crashes:
    """Counts of crashed children by kind ("link", "client", ...), read at scrape time.

    when_crashed: called with kind, name and exception after each one was logged; must not raise.
    """

    def __init__(self, when_crashed: Callable[[str, str, BaseException], object] | None = None) -> None:
        self.counts: dict[str, int] = {}
        self._when_crashed = when_crashed

    def record(self, kind: str, name: str, error: BaseException) -> None:
        """Log with the traceback, and count. Cost: O(depth of the traceback). Never raises."""
        error = _single(error)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        log.error("task_crashed", kind=kind, task=name, error=repr(error), exc_info=error)
        if self._when_crashed is not None:
            self._when_crashed(kind, name, error)


async def run_child(
    crashes: Crashes, kind: str, name: str, body: Callable[..., Awaitable[object]], *args: object
) -> bool:
    """Run `body(*args)` so that its exceptions end here.

    Returns: whether it ended without a crash. Effects: a crash is recorded once. Raises: only what is no Exception
    (cancellation, KeyboardInterrupt).
    """
    crashed = False
    try:
        await body(*args)
    except* Exception as group:
        crashed = True
        crashes.record(kind, name, group)
    return not crashed


def start_child(
    nursery: trio.Nursery,
    crashes: Crashes,
    kind: str,
    name: str,
    body: Callable[..., Awaitable[object]],
    *args: object,
) -> None:
    """Start `body(*args)` as a named task whose crash is recorded and goes no further."""
    nursery.start_soon(run_child, crashes, kind, name, body, *args, name=f"{kind} {name}")


@contextmanager
def forgiven(*kinds: type[Exception]) -> Iterator[None]:
    """Swallow these exceptions, alone or in groups; everything else passes on."""
    try:
        yield
    except* kinds:
        pass


@contextmanager
def unwrapped() -> Iterator[None]:
    """Turn the group that a nursery raises into the first exception in it that is no cancellation.

    For a nursery that is an implementation detail (a connection's own reader task): its owner sees the exception its
    own code raised. A group of nothing but cancellations passes on as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = _single(group)
        if isinstance(error, BaseExceptionGroup | trio.Cancelled):
            raise
        raise error from error.__cause__


def _single(error: BaseException) -> BaseException:
    """The first leaf that is no cancellation, or `error` itself if there is none."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    _, rest = error.split(trio.Cancelled)
    while isinstance(rest, BaseExceptionGroup):
        rest = rest.exceptions[0]
    return error if rest is None else rest


class Backoff:
    """How long to wait before the next try: doubling from `first` to `top` seconds, each with jitter.

    The jitter takes away up to half, so that many nodes which lost the same peer do not dial it together.
    """

    def __init__(self, first: float = 0.2, top: float = 2.0, *, dice: Dice) -> None:
        assert 0 < first <= top
        self.first: Final = first
        self.top: Final = top
        self._dice = dice
        self._next = first

    def next(self) -> float:
        """The next wait in seconds: between half the current step and the whole of it. Cost: O(1)."""
        step = self._next
        self._next = min(self.top, step * 2)
        return self._dice.uniform(step / 2, step)

    def reset(self) -> None:
        """Begin again at `first`: the last try went well."""
        self._next = self.first


async def keep_running(
    crashes: Crashes,
    kind: str,
    name: str,
    body: Callable[[], Awaitable[object]],
    backoff: Backoff,
    *,
    good_after_s: float = 5.0,
) -> None:
    """Run `body` again and again, forever, with a pause after each end.

    A run that lasted `good_after_s` was good and resets the pause; one that ended sooner, by returning or by crashing,
    was not. Effects: crashes are recorded. Raises: only cancellation.
    """
    while True:
        begun = trio.current_time()
        await run_child(crashes, kind, name, body)
        if trio.current_time() - begun >= good_after_s:
            backoff.reset()
        await trio.sleep(backoff.next())
