"""At-least-once with real processes: crashes on the way, acknowledgements of publishers, subscribers that go away or die."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from processes import NodeProcess, Subscriber, bridge, http, running, sees_regions, until

from mesh.client import CallRefused, Client, Delivery
from mesh.model.limits import Limits

TEXT = [("content-type", "text/plain")]


def events_port(node: NodeProcess) -> str:
    return f"http://{node.events}"


async def published(node: NodeProcess, topic: str, data: str, query: str = "") -> dict[str, Any]:
    """Publish one event at least once; a node that has just started is asked again."""
    target = f"/v1/events/{topic}?level=at-least-once{query}"
    with trio.fail_after(20):
        while True:
            answer = await http(node.events, "POST", target, headers=TEXT, body=data.encode())
            if answer.status != 503:
                assert answer.status == 202, answer.body
                return dict(answer.json["events"][0])
            await trio.sleep(0.05)


async def knows(node: NodeProcess, topic: str, region: str) -> None:
    """Until a node has the interest of a region."""

    async def has() -> bool:
        answer = await http(node.events, "POST", f"/v1/events/{topic}", headers=TEXT, body=b"?")
        return region in answer.json["events"][0]["regions"]

    await until(has, 15, f"{node.name} knows what {region} wants")


async def test_events_that_were_accepted_outlive_their_nodes(tmp_path: Path) -> None:
    """a and c are joined by b alone. b is killed while events flow, a is killed with events in its journal, c with its client away."""
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        b = await mesh.start("b-1", "b", *bridge(a))
        c = await mesh.start("c-1", "c", *bridge(b))
        await sees_regions(a, "b", "c")
        async with Client(events_port(c), durable="shop") as shop:
            await shop.subscribe("orders/#")
            await knows(a, "orders/x", "c")
        accepted = [(await published(a, "orders/x", f"{n}", "&key=k"))["mesh_id"] for n in range(20)]
        b.kill()
        accepted += [(await published(a, "orders/x", f"{n}", "&key=k"))["mesh_id"] for n in range(20, 40)]
        a.kill()
        c.kill()
        await mesh.restart(a)
        await mesh.restart(c)
        await mesh.restart(b)
        found: list[Delivery] = []
        async with Client(events_port(c), durable="shop") as shop:
            orders = await shop.subscribe("orders/#")
            with trio.fail_after(30):
                while len({one.mesh_id for one in found}) < 40:
                    one = await anext(orders)
                    found.append(one)
                    await shop.ack(one)
        fresh = [one.mesh_id for one in found if not one.redelivered]
        assert len(fresh) == len(set(fresh))
        assert list(dict.fromkeys(one.mesh_id for one in found)) == accepted, "in the order of their key"

        async def empty() -> bool:
            return not any(
                [(await http(node.admin, "GET", "/v1/spools")).json["items"] for node in (a, b, c)]
            )

        await until(empty, 15, "nobody owes anything")


async def test_delivered_is_said_after_the_last_acknowledgement_and_never_before(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        b = await mesh.start("b-1", "b", *bridge(a))
        await sees_regions(a, "b")
        answered: list[float] = []
        acked: list[float] = []

        async def publish() -> None:
            await published(a, "orders/x", "1", "&ack=delivered&deadline=20s")
            answered.append(trio.current_time())

        async with (
            Client(events_port(b), durable="one") as one,
            Client(events_port(b), acks="explicit") as two,
            Client(events_port(b)) as plain,
        ):
            subscriptions = [await client.subscribe("orders/#") for client in (one, two, plain)]
            await knows(a, "orders/x", "b")
            for subscription in subscriptions:
                with trio.fail_after(10):
                    while (await anext(subscription)).data != "?":
                        pass
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                deliveries = [await anext(subscription) for subscription in subscriptions]
                assert [one.data for one in deliveries] == ["1"] * 3
                await one.ack(deliveries[0])
                with trio.move_on_after(0.5):
                    await trio.sleep_forever()
                assert not answered, "one of two acknowledgements is missing"
                acked.append(trio.current_time())
                await two.ack(deliveries[1])
        assert 0 < answered[0] - acked[0] < 5


async def test_a_region_that_stays_away_is_named_at_the_deadline(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        b = await mesh.start("b-1", "b", *bridge(a))
        await sees_regions(a, "b")
        async with Client(events_port(b), durable="shop") as shop:
            await shop.subscribe("orders/#")
            await knows(a, "orders/x", "b")
        b.kill()
        code = "MESH-E050"  # while the node has just started
        async with Client(events_port(a)) as client:
            with trio.fail_after(20):
                while code == "MESH-E050":
                    with pytest.raises(CallRefused) as refused:
                        await client.publish(
                            "orders/x", "1", level="at-least-once", ack="delivered", deadline_s=1.0
                        )
                    code = refused.value.code
        assert code == "MESH-E051"
        assert "b: no_route" in str(refused.value) or "b: not_acknowledged" in str(refused.value)


async def test_a_member_that_dies_hands_what_it_did_not_acknowledge_to_another(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        b = await mesh.start("b-1", "b", *bridge(a))
        await sees_regions(a, "b")
        async with Client(events_port(b), acks="explicit") as second:
            async with Client(events_port(b), acks="explicit") as first:
                mine = await first.subscribe("jobs/#", group="workers")
                other = await second.subscribe("jobs/#", group="workers", wait="mesh", regions=["a"])
                ids = [(await published(a, "jobs/1", f"{n}"))["mesh_id"] for n in range(10)]
                held = [(await anext(mine)).mesh_id for _ in range(5)]
                done = []
                for _ in range(5):
                    delivery = await anext(other)
                    done.append(delivery.mesh_id)
                    await second.ack(delivery)
            taken = []
            with trio.fail_after(15):
                while len(taken) < 5:
                    delivery = await anext(other)
                    assert delivery.redelivered
                    taken.append(delivery.mesh_id)
                    await second.ack(delivery)
        assert sorted(held) == sorted(taken)
        assert sorted(held + done) == sorted(ids)


def batch_of(count: int, size_bytes: int) -> bytes:
    """A batch of so many events that is so long, to the byte."""
    events = [
        {"specversion": "1.0", "id": f"{n}", "source": "/s", "type": "t", "topic": "big/x", "data": ""}
        for n in range(count)
    ]
    each, rest = divmod(size_bytes - len(json.dumps(events)), count)
    for event in events:
        event["data"] = "x" * each
    events[0]["data"] += "x" * rest
    return json.dumps(events).encode()


async def test_the_largest_calls_that_are_allowed_are_taken_and_delivered_everywhere(tmp_path: Path) -> None:
    """To this node, another one of its region and another region; with the limits as they are shipped."""
    limits = Limits()
    calls = [9, 300, limits.batch_request_events]
    async with running(tmp_path) as mesh:
        near = await mesh.start("a-1", "a")
        other = await mesh.start("a-2", "a", f"--seed={near.link}")
        far = await mesh.start("b-1", "b", *bridge(near))
        await sees_regions(near, "b")
        subscribers = [Subscriber() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for node, subscriber in zip((near, other, far), subscribers, strict=True):
                await nursery.start(subscriber.run, node.events, "filter=big/%23&wait=mesh")
            await knows(near, "big/probe", "b")
            expected = 1
            for count in calls:
                body = batch_of(count, limits.body_bytes)
                assert len(body) == limits.body_bytes
                answer = await http(
                    near.events,
                    "POST",
                    "/v1/events?level=at-least-once",
                    headers=[("content-type", "application/cloudevents-batch+json")],
                    body=body,
                )
                assert answer.status == 202, answer.body
                expected += count
                for subscriber in subscribers:
                    await subscriber.wait(expected, 30.0)
            answer = await http(
                near.events,
                "POST",
                "/v1/events/big/one?level=at-least-once",
                headers=TEXT,
                body=b"x" * limits.event_bytes,
            )
            assert answer.status == 202, answer.body
            for subscriber in subscribers:
                await subscriber.wait(expected + 1, 30.0)
                assert len(set(subscriber.ids)) == len(subscriber.ids) == expected + 1
                assert len(subscriber.events[-1]["event"]["data"]) == limits.event_bytes
            nursery.cancel_scope.cancel()
