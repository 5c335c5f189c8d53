"""A region is cut off from all others and healed: no route leads through the dead, and everything equals the truth again."""

from __future__ import annotations

from pathlib import Path

import trio
from processes import (
    NodeProcess,
    Relay,
    Subscriber,
    bridge,
    http,
    items,
    publish_many,
    running,
    sees_regions,
    until,
)

LINKS = {frozenset(pair) for pair in ("ab", "bc", "ac", "bd")}


async def used(node: NodeProcess) -> dict[str, list[str]]:
    """Region -> path of the route in use."""
    routes = await items(node, "routes")
    return {r["region"]: r["path"] for r in routes if r["state"] == "selected"}


async def test_a_region_cut_off_from_all_is_unreachable_and_back_within_five_seconds_of_its_links(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        # b lies between a and c, and d hangs on b: cutting b's two links to a and c leaves b and d alone.
        b = await mesh.start("b-1", "b")
        to_b1, to_b2 = Relay(b.link), Relay(b.link)
        await nursery.start(to_b1.run)
        await nursery.start(to_b2.run)
        a = await mesh.start("a-1", "a", f"--bridge=b={to_b1.link}")
        c = await mesh.start("c-1", "c", f"--bridge=b={to_b2.link}", f"--bridge=a={a.link}")
        d = await mesh.start("d-1", "d", *bridge(b))
        await sees_regions(a, "b", "c", "d")
        await sees_regions(d, "a", "b", "c")
        subscriber = Subscriber()
        await nursery.start(subscriber.run, d.events, "filter=orders/%23&wait=mesh")
        assert subscriber.receipt["installed"] == ["a", "b", "c", "d"]
        before = {node.name: await used(node) for node in (a, b, c, d)}

        to_b1.cut()
        to_b2.cut()

        async def alone() -> bool:
            return set(await used(a)) == {"c"} and set(await used(c)) == {"a"} and set(await used(d)) == {"b"}

        await until(alone, 10.0, "nobody has a route through the dead")
        answer = (await http(a.events, "POST", "/v1/events/orders/1", body=b"x")).json["events"][0]
        assert answer["regions"] == []
        assert [(r["region"], r["reason"]) for r in answer["reasons"]] == [("d", "no_route")]
        kept = [r for r in await items(a, "routes") if r["region"] == "d" and r["node"] == "a-1"]
        assert kept
        assert all(r["state"] != "selected" for r in kept)

        to_b1.heal()
        to_b2.heal()

        async def linked() -> bool:
            links = await items(b, "links")
            return len([x for x in links if x["state"] == "open" and x["kind"] == "bridge"]) == 3

        await until(linked, 10.0, "b's bridges are back")

        async def equal() -> bool:
            for node in (a, b, c, d):
                now = await used(node)
                if now.keys() != before[node.name].keys():
                    return False
                # Which of two ways is shorter depends on round trips of microseconds: any that exists will do.
                for region, path in now.items():
                    hops = [node.region, *path]
                    assert path[-1] == region
                    assert all(frozenset(hop) in LINKS for hop in zip(hops, hops[1:], strict=False)), hops
            return True

        assert await until(equal, 5.0, "the route tables are as before") < 5.0
        answers = await publish_many(a, [("orders/2", "k")] * 20)
        await subscriber.wait(20)
        assert subscriber.ids == [one["mesh_id"] for one in answers]
        nursery.cancel_scope.cancel()
