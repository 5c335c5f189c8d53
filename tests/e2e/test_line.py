"""A line of four regions, each configured with its neighbour's address only: what nobody configured is learned."""

from __future__ import annotations

from pathlib import Path

import trio
from processes import Subscriber, bridge, http, publish_many, running, sees_regions, until


async def test_a_thousand_events_cross_four_regions_in_order_and_unsubscribing_withdraws_the_interest(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        b = await mesh.start("b-1", "b", *bridge(a))
        c = await mesh.start("c-1", "c", *bridge(b))
        d = await mesh.start("d-1", "d", *bridge(c))
        await sees_regions(d, "a", "b", "c")
        orders, other = Subscriber(), Subscriber()
        async with trio.open_nursery() as nursery:
            await nursery.start(orders.run, d.events, "filter=orders/%23&wait=mesh&regions=a")
            await nursery.start(other.run, d.events, "filter=invoices/%23&wait=mesh&regions=a")
            assert orders.receipt == {"installed": ["a", "d"], "missing": [], "complete": True}
            events = [(f"orders/{('eu', 'us', 'ap')[n % 3]}", f"key-{n % 7}") for n in range(1_000)]
            answers = await publish_many(a, events)
            assert {tuple(answer["regions"]) for answer in answers} == {("d",)}
            await orders.wait(1_000)
            assert orders.ids == [answer["mesh_id"] for answer in answers]
            for key in range(7):
                mine = [
                    e["event"]["data"]["n"]
                    for e in orders.events
                    if e["event"]["partitionkey"] == f"key-{key}"
                ]
                assert mine == list(range(key, 1_000, 7))
            assert {tuple(event["path"]) for event in orders.events} == {("a", "b", "c")}
            assert other.events == []
            nursery.cancel_scope.cancel()

        async def withdrawn() -> bool:
            answer = await http(a.events, "POST", "/v1/events/orders/eu?require=interest", body=b"x")
            return answer.status == 404

        took_s = await until(withdrawn, 10.0, "the interest is withdrawn in a")
        assert took_s > 1.0, "interest is removed slowly, once"
        assert len(orders.events) == 1_000
