"""Crashes end where they happened, cancellation passes, and restarts are paced."""

from __future__ import annotations

import itertools
import random

import pytest
import trio
from structlog.testing import capture_logs

from mesh.net.supervise import Backoff, Crashes, forgiven, keep_running, run_child, start_child, unwrapped


async def boom(text: str) -> None:
    raise ValueError(text)


async def test_a_crash_is_logged_once_with_its_cause_and_counted() -> None:
    seen: list[tuple[str, str, BaseException]] = []
    crashes = Crashes(lambda kind, name, error: seen.append((kind, name, error)))
    with capture_logs() as logs:
        assert not await run_child(crashes, "link", "eu-2", boom, "bad frame")
    assert crashes.counts == {"link": 1}
    assert len(logs) == 1
    assert logs[0]["task"] == "eu-2"
    assert isinstance(logs[0]["exc_info"], ValueError)
    assert [(kind, name, str(error)) for kind, name, error in seen] == [("link", "eu-2", "bad frame")]


async def test_a_child_that_ends_well_counts_nothing() -> None:
    crashes = Crashes()
    assert await run_child(crashes, "link", "x", trio.lowlevel.checkpoint)
    assert crashes.counts == {}


async def test_the_crash_of_one_child_leaves_its_siblings_running() -> None:
    crashes = Crashes()
    done: list[str] = []

    async def works() -> None:
        await trio.testing.wait_all_tasks_blocked()
        done.append("sibling")

    with capture_logs():
        async with trio.open_nursery() as nursery:
            start_child(nursery, crashes, "client", "bad", boom, "x")
            start_child(nursery, crashes, "client", "good", works)
    assert done == ["sibling"]
    assert crashes.counts == {"client": 1}


async def test_a_group_that_holds_a_cancellation_still_cancels() -> None:
    crashes = Crashes()

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(boom, "one")
            await trio.sleep_forever()

    with capture_logs(), trio.CancelScope() as scope:
        scope.cancel()
        await run_child(crashes, "link", "x", trio.sleep_forever)
    assert scope.cancelled_caught
    with capture_logs() as logs:
        await run_child(crashes, "link", "x", both)
    assert isinstance(logs[0]["exc_info"], ValueError)


async def test_a_nursery_that_is_a_detail_raises_the_exception_itself() -> None:
    async def inner() -> None:
        with unwrapped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(boom, "inside")
                await trio.sleep_forever()

    with pytest.raises(ValueError, match="inside"):
        await inner()


async def test_unwrapping_leaves_cancellation_alone() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with unwrapped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
    assert scope.cancelled_caught


def test_forgiven_kinds_are_swallowed_alone_and_in_groups() -> None:
    with forgiven(ValueError, KeyError):
        raise ValueError("x")
    with forgiven(ValueError, KeyError):
        raise ExceptionGroup("g", [ValueError("x"), KeyError("y")])
    with pytest.raises(ExceptionGroup) as caught, forgiven(ValueError):
        raise ExceptionGroup("g", [ValueError("x"), KeyError("y")])
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


def test_pauses_double_up_to_the_top_with_jitter_and_begin_again() -> None:
    backoff = Backoff(0.2, 2.0, dice=random.Random(1))
    tops = [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    for top in tops:
        assert top / 2 <= backoff.next() <= top
    backoff.reset()
    assert backoff.next() <= 0.2


async def test_what_ends_is_run_again_after_a_growing_pause(autojump_clock: trio.testing.MockClock) -> None:
    starts: list[float] = []
    crashes = Crashes()

    async def body() -> None:
        starts.append(trio.current_time())
        if len(starts) == 4:
            await trio.sleep(10)
        raise OSError("again")

    with capture_logs(), trio.move_on_after(60):
        await keep_running(crashes, "dial", "us", body, Backoff(1.0, 4.0, dice=random.Random(2)))
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert 0.5 <= gaps[0] <= 1
    assert 1 <= gaps[1] <= 2
    assert 2 <= gaps[2] <= 4
    assert 10.5 <= gaps[3] <= 11, "a run that lasted begins the pauses again"
    assert crashes.counts["dial"] == len(starts)
