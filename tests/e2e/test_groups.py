"""A queue group with members in three regions: each event to exactly one, near before far."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import trio
from processes import Subscriber, bridge, items, publish_many, running, sees_regions, until


async def test_local_members_come_first_and_the_nearest_region_takes_over_when_they_stop(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        a2 = await mesh.start("a-2", "a", f"--seed={a.link}")
        b = await mesh.start("b-1", "b", *bridge(a))
        c = await mesh.start("c-1", "c", *bridge(b))
        await sees_regions(c, "a", "b")
        await sees_regions(a2, "b", "c")
        query = "filter=jobs/%23&group=workers&wait=mesh"
        near, other, far, farther = Subscriber(), Subscriber(), Subscriber(), Subscriber()
        async with trio.open_nursery() as outer:
            await outer.start(far.run, b.events, query)
            await outer.start(farther.run, c.events, query)
            async with trio.open_nursery() as locals_:
                await locals_.start(near.run, a.events, query)
                await locals_.start(other.run, a2.events, query)
                first = await publish_many(a2, [(f"jobs/{n}", "") for n in range(200)])
                with trio.fail_after(10):
                    while len(near.events) + len(other.events) < 200:
                        await trio.sleep(0.02)
                assert Counter(near.ids + other.ids) == Counter(answer["mesh_id"] for answer in first)
                assert min(len(near.ids), len(other.ids)) > 40, "both members of the region work"
                assert far.ids == farther.ids == []
                locals_.cancel_scope.cancel()

            async def gone() -> bool:
                return not await items(a2, "subscriptions")

            # What is written to a connection that the client has closed is lost; the nodes must have seen it close.
            await until(gone, 10.0, "the local members' connections are closed")
            second = await publish_many(a2, [(f"jobs/{n}", "") for n in range(100)])
            await far.wait(100)
            assert Counter(far.ids) == Counter(answer["mesh_id"] for answer in second)
            assert farther.ids == []
            outer.cancel_scope.cancel()
