"""A bridge dies while events flow: the mesh goes round it, nothing comes twice, and what was lost is counted."""

from __future__ import annotations

import json
from pathlib import Path

import trio
from processes import NodeProcess, Subscriber, bridge, http, items, running, sees_regions, total

RATE = 2_000
BATCH = 20


class Publisher:
    """A steady stream of events over one keep-alive connection, spread over the given seconds."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.published: list[tuple[str, float]] = []
        self.stop = False

    async def run(self) -> None:
        host, _, port = self.node.events.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        begun, sent = trio.current_time(), 0
        async with stream:
            while not self.stop:
                batch = [
                    {
                        "specversion": "1.0",
                        "id": str(sent + n),
                        "source": "/t",
                        "type": "t",
                        "topic": "load/x",
                        "data": 1,
                    }
                    for n in range(BATCH)
                ]
                headers = [("Content-Type", "application/cloudevents-batch+json")]
                body = json.dumps(batch).encode()
                answer = await http(
                    self.node.events, "POST", "/v1/events", headers=headers, body=body, stream=stream
                )
                assert answer.status == 202, answer.body
                now = trio.current_time()
                self.published += [(event["mesh_id"], now) for event in answer.json["events"]]
                sent += BATCH
                await trio.sleep_until(begun + sent / RATE)


async def carrier(node: NodeProcess, region: str) -> str:
    """The next hop in use towards a region."""
    routes = await items(node, "routes")
    return next(
        str(r["next_hop"])
        for r in routes
        if r["node"] == node.name and r["region"] == region and r["state"] == "selected"
    )


async def test_kill_9_of_the_bridge_in_use_moves_traffic_within_three_seconds_and_accounts_for_every_event(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh:
        z = await mesh.start("z-1", "z")
        m1 = await mesh.start("m-1", "m", *bridge(z))
        m2 = await mesh.start("m-2", "m", f"--seed={m1.link}", *bridge(z))
        m3 = await mesh.start("m-3", "m", f"--seed={m1.link}", f"--seed={m2.link}")
        await sees_regions(m3, "z")
        await sees_regions(z, "m")
        subscriber = Subscriber()
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run, z.events, "filter=load/%23&wait=mesh&regions=m")
            assert subscriber.receipt["complete"]
            publisher = Publisher(m3)
            nursery.start_soon(publisher.run)
            await subscriber.wait(RATE // 2)
            used = {"m-1": m1, "m-2": m2}[await carrier(m3, "z")]
            before, killed_at = len(publisher.published), trio.current_time()
            used.kill()
            with trio.fail_after(3.0):  # an event published after the kill has arrived
                while not set(subscriber.ids[-2 * RATE :]) & {
                    i for i, at in publisher.published[before:] if at > killed_at
                }:
                    await trio.sleep(0.02)
            await mesh.restart(used)
            await sees_regions(used, "z")
            after_restart = len(publisher.published)
            while len(publisher.published) < after_restart + RATE:
                await trio.sleep(0.05)
            publisher.stop = True
            last = publisher.published[-1][0]
            with trio.fail_after(10.0):
                while subscriber.ids[-1] != last:
                    await trio.sleep(0.02)
            ids = [mesh_id for mesh_id, _ in publisher.published]
            assert len(set(subscriber.ids)) == len(subscriber.ids), "nothing is duplicated"
            assert set(subscriber.ids) <= set(ids)
            assert subscriber.ids == [i for i in ids if i in set(subscriber.ids)], "in order"
            lost = len(ids) - len(subscriber.ids)
            drops = await total([z, m1, m2, m3], "mesh_drops_total", but=("duplicate",))
            assert lost <= drops, f"{lost} lost, {drops} counted"
            assert lost < RATE * 3
            assert set(ids[after_restart:]) <= set(subscriber.ids), (
                "its return changes nothing for subscribers"
            )
            nursery.cancel_scope.cancel()
