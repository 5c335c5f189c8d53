"""The event log of the installed command under kill -9: what was accepted at least once is in it exactly once."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
import trio
from processes import Mesh, NodeProcess, Subscriber, bridge, http, items, running, sees_regions, until

KILLS = 6
BATCH = 10
JSON = [("Content-Type", "application/json")]


class Publisher:
    """Publishes at least once, a batch at a time, and remembers what was accepted. What was not answered may be in the log or not."""

    def __init__(self, node: NodeProcess, name: str, topic: str) -> None:
        self.node = node
        self.name = name
        self.topic = topic
        self.accepted: list[str] = []
        self.refused = 0
        self._next = 0

    async def run(self) -> None:
        while True:
            if not await self._publish():
                self.refused += 1
            await trio.sleep(0.01)

    async def _publish(self) -> bool:
        names = [f"{self.name}-{self._next + at}" for at in range(BATCH)]
        self._next += BATCH
        body = [
            {
                "specversion": "1.0",
                "id": name,
                "source": "/test",
                "type": "test.event",
                "topic": self.topic,
                "partitionkey": self.name,
                "data": {"name": name},
            }
            for name in names
        ]
        headers = [("Content-Type", "application/cloudevents-batch+json")]
        target = "/v1/events?level=at-least-once"
        try:
            with trio.fail_after(10):
                answer = await http(
                    self.node.events, "POST", target, headers=headers, body=json.dumps(body).encode()
                )
        except (OSError, AssertionError, trio.BrokenResourceError, trio.TooSlowError):
            return False  # the node died under it
        if answer.status != 202:
            assert answer.status == 503, answer.body
            return False
        self.accepted += names
        return True


async def names_in_log(node: NodeProcess) -> list[str]:
    """What a replay from the beginning brings, in order."""
    subscriber = Subscriber()
    async with trio.open_nursery() as nursery:
        await nursery.start(subscriber.run, node.events, f"filter=orders/%23&from={quote('1h', safe='')}")

        async def live() -> bool:
            return any(name == "live" for name, _, _ in subscriber.told)

        await until(live, 20, "the replay is over")
        nursery.cancel_scope.cancel()
    return [event["event"]["data"]["name"] for event in subscriber.events]


async def keeper_of(mesh: Mesh, folder: Path, *others: NodeProcess) -> NodeProcess:
    configuration = folder / "keeper.toml"
    configuration.write_text('[[topic]]\nfilter = "orders/#"\nretain = "24h"\n')
    seeds = [f"--seed={other.link}" for other in others if other.region == "b"]
    far = [other for other in others if other.region != "b"]
    return await mesh.start("b-9", "b", f"--config={configuration}", *seeds, *bridge(*far))


async def kill_now_and_then(mesh: Mesh, keeper: NodeProcess, dice: Random) -> None:
    for _ in range(KILLS):
        await trio.sleep(0.3 + dice.random())
        keeper.kill()
        await trio.sleep(dice.random() * 0.5)
        await mesh.restart(keeper)


async def all_arrived(keeper: NodeProcess, publishers: list[Publisher]) -> list[str]:
    """The log, once every accepted event is in it, or nothing came for a while."""
    found: list[str] = []
    accepted = {name for publisher in publishers for name in publisher.accepted}

    async def whole() -> bool:
        nonlocal found
        found = await names_in_log(keeper)
        return accepted <= set(found)

    with trio.move_on_after(40):
        await until(whole, math.inf, "every accepted event is in the log", 0.5)
    return found


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_each_accepted_event_is_in_the_log_of_a_node_that_is_killed_exactly_once(
    tmp_path: Path, seed: int
) -> None:
    """b-9 keeps the log and is killed; events come from region a over a bridge, from another node of b, and from b-9 itself."""
    dice = Random(seed)
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        near = await mesh.start("b-1", "b", *bridge(a))
        keeper = await keeper_of(mesh, tmp_path, near, a)
        await sees_regions(a, "b")
        await sees_regions(keeper, "a")

        async def wanted() -> bool:
            found = [
                await http(
                    one.events, "POST", "/v1/events/orders/probe", headers=JSON, body=b'{"name":"probe"}'
                )
                for one in (a, near)
            ]
            far, here = (answer.json["events"][0] for answer in found)
            return far["regions"] == ["b"] and here["local"] > 0

        await until(wanted, 15, "the interest of the log is known")
        publishers = [Publisher(node, node.name, f"orders/{node.name}") for node in (a, near, keeper)]
        async with trio.open_nursery() as nursery:
            for publisher in publishers:
                nursery.start_soon(publisher.run)
            await kill_now_and_then(mesh, keeper, dice)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        found = await all_arrived(keeper, publishers)
        counts = Counter(found)
        for publisher in publishers:
            assert len(publisher.accepted) > 100, (publisher.name, len(publisher.accepted))
            missing = [name for name in publisher.accepted if not counts[name]]
            assert not missing, (publisher.name, len(missing), missing[:5], len(publisher.accepted))
        twice = {name: count for name, count in counts.items() if count > 1 and name != "probe"}
        assert not twice, (len(twice), list(twice.items())[:5])

        async def settled() -> bool:
            return not await items(keeper, "spools")

        await until(settled, 10, "nothing is owed")
        print(
            "accepted",
            [len(one.accepted) for one in publishers],
            "refused",
            [one.refused for one in publishers],
        )
