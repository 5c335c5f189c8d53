from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.model.errors import MeshError
from mesh.node.feed import Feed


async def test_every_watcher_gets_every_change_in_order() -> None:
    feed = Feed()
    async with feed.watch() as one, feed.watch() as two:
        feed.publish({"n": 1})
        feed.publish({"n": 2})
        assert await one.receive() == await two.receive() == [{"n": 1}, {"n": 2}]


async def test_a_watcher_waits_for_the_next_change(autojump_clock: trio.testing.MockClock) -> None:
    feed = Feed()

    async def publish_later() -> None:
        await trio.sleep(3)
        feed.publish({"n": 1})

    async with feed.watch() as watch, trio.open_nursery() as nursery:
        nursery.start_soon(publish_later)
        assert await watch.receive() == [{"n": 1}]
        assert trio.current_time() >= 3


async def test_a_slow_watcher_loses_its_oldest_changes_and_they_are_counted() -> None:
    feed = Feed(bound=3)
    async with feed.watch() as slow, feed.watch() as quick:
        for n in range(5):
            feed.publish({"n": n})
            await quick.receive()
        assert [change["n"] for change in await slow.receive()] == [2, 3, 4]
        assert (slow.lost, quick.lost, feed.lost) == (2, 0, 2)


async def test_nobody_watching_costs_nothing_and_a_watcher_that_left_gets_nothing() -> None:
    feed = Feed()
    assert not feed
    async with feed.watch() as watch:
        assert feed
    feed.publish({"n": 1})
    feed.close()
    assert await watch.receive() == []


async def test_one_watcher_too_many_is_refused() -> None:
    feed = Feed(watchers=1)
    async with feed.watch():
        with pytest.raises(MeshError, match="MESH-A019"):
            async with feed.watch():
                pass
    async with feed.watch():
        pass


async def test_closing_the_feed_ends_every_watch_behind_what_is_queued() -> None:
    feed = Feed()
    async with feed.watch() as watch:
        feed.publish({"n": 1})
        feed.close()
        assert await watch.receive() == [{"n": 1}]
        assert await watch.receive() == []
    async with feed.watch() as late:
        assert await late.receive() == []


async def test_a_cancelled_wait_loses_no_change() -> None:
    feed = Feed()
    async with feed.watch() as watch:
        with trio.CancelScope() as scope:
            feed.publish({"n": 1})
            scope.cancel()
            await watch.receive()
        assert await watch.receive() == [{"n": 1}]
