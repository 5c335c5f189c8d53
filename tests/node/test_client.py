"""The Python client against a served events port: real sockets, real frames."""

from __future__ import annotations

import builtins
import json
from typing import Any

import pytest
import trio
import trio.testing
from cloudevents.core.v1.event import CloudEvent
from node.events_port import binary
from node.fake_service import FakeService
from node.python_client import connected

from mesh.client import QUEUED_EVENTS, CallRefused, Client, PlainEvent, Structured


class TestPublish:
    async def test_what_became_of_an_event_is_told(self) -> None:
        service = FakeService()
        service.regions["us"] = ["orders/#"]
        async with connected(service) as (port, client):
            published = await client.publish("orders/eu", b"\x00\xff", key="k", deadline_s=2)
            assert published.mesh_id == "eu/eu-1/7/1"
            assert (published.regions, published.local, published.reasons) == (("us",), 0, ())
            (event,) = port.service.published
            assert (event.topic, event.key, event.ttl_ms) == ("orders/eu", "k", 2_000)
            written = json.loads(event.data)
            assert (written["id"], written["source"], written["type"]) == (
                published.id,
                "mesh://client/shop",
                "mesh.raw",
            )
            assert written["data_base64"] == "AP8="
            nobody = await client.publish("unheard", "text")
            assert nobody.reasons == ({"region": "", "reason": "no_interest"},)

    async def test_structured_json_is_sent_as_it_is(self) -> None:
        raw = b'{ "specversion":"1.0", "id":"1","source":"/","type":"t", "n": 7 , "data": 1.50}'
        async with connected() as (port, client):
            await client.publish("t", Structured(raw))
            assert port.service.published[0].data == raw

    @pytest.mark.parametrize(
        "event",
        [
            CloudEvent({"id": "1", "source": "/", "type": "t"}, {"total": 1.5}),
            CloudEvent({"id": "1", "source": "/", "type": "t", "datacontenttype": "image/png"}, b"\x89\xff"),
            PlainEvent({"id": "1", "source": "/", "type": "t"}, b"\x89\xff"),
            PlainEvent({"id": "1", "source": "/", "type": "t"}, ["a", 1]),
            {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "data": {"a": None}},
            "grüße",
            b"bytes",
        ],
        ids=lambda event: type(event).__name__,
    )
    async def test_every_kind_of_event_arrives_with_its_data(self, event: Any) -> None:
        async with connected() as (_, client), await client.subscribe("t") as subscription:
            await client.publish("t", event)
            delivery = await anext(subscription)
            expected = event if isinstance(event, bytes | str) else None
            if isinstance(event, CloudEvent | PlainEvent):
                expected = event.get_data()
            elif isinstance(event, dict):
                expected = event["data"]
            assert delivery.data == expected
            assert delivery.event.get_data() == expected
            assert isinstance(delivery.event, CloudEvent)

    async def test_a_batch_is_one_call_and_keeps_its_order(self) -> None:
        async with connected() as (port, client):
            published = await client.publish_all("t", [b"%d" % n for n in range(20)])
            assert [one.mesh_id for one in published] == [f"eu/eu-1/7/{n}" for n in range(1, 21)]
            own = {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "topic": "own/topic"}
            await client.publish_all("", [own])
            assert port.service.published[-1].topic == "own/topic"

    async def test_a_refusal_carries_its_code_and_what_to_do(self) -> None:
        async with connected() as (_, client):
            with pytest.raises(CallRefused) as refused:
                await client.publish("a/#", b"x")
            assert refused.value.code == "MESH-E001"
            assert refused.value.remedy
            assert refused.value.problem["status"] == 400
            with pytest.raises(TypeError, match="is no event"):
                await client.publish("a", 7)
            assert (await client.publish("a", b"x")).local == 0

    async def test_calls_at_the_same_time_do_not_mix_their_answers(self) -> None:
        async with connected() as (port, client):
            answers: dict[int, str] = {}

            async def publish(number: int) -> None:
                answers[number] = (await client.publish(f"t/{number}", b"x")).mesh_id

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(publish, number)
            for number, mesh_id in answers.items():
                assert port.service.published[int(mesh_id.rpartition("/")[2]) - 1].topic == f"t/{number}"


class TestSubscribe:
    async def test_deliveries_carry_topic_path_and_id(self) -> None:
        async with connected() as (port, client), await client.subscribe("a/#") as subscription:
            port.service.publish([binary("a/b", b"1"), binary("a/c", b"2")])
            first, second = await anext(subscription), await anext(subscription)
            assert (first.topic, first.mesh_id, first.path) == ("a/b", "eu/eu-1/7/1", ())
            assert (first.data, second.data) == ("1", "2")
            assert not first.redelivered

    async def test_the_iteration_ends_when_the_subscription_does(self) -> None:
        async with connected() as (port, client):
            subscription = await client.subscribe("t")
            port.service.publish([binary("t", b"1"), binary("t", b"2")])
            got = []
            async for delivery in subscription:
                got.append(delivery.data)
                if len(got) == 2:
                    await subscription.close()
            assert got == ["1", "2"]
            assert port.service.subscriptions == {}
            await subscription.close()

    async def test_a_receipt_is_awaited_where_it_is_asked_for(self) -> None:
        service = FakeService()
        service.regions["us"] = []
        service.install("us")
        async with connected(service) as (_, client):
            subscription = await client.subscribe("t", wait="mesh")
            assert subscription.receipt == {"installed": ["eu", "us"], "missing": [], "complete": True}
            late = await client.subscribe("t", regions=["ap"], wait_timeout_s=0.01)
            assert late.receipt["complete"] is False
            assert late.receipt["missing"] == [{"region": "ap", "why": "no_route"}]
            assert (await client.subscribe("t")).receipt == {}

    async def test_members_of_a_group_share_the_work(self) -> None:
        async with connected() as (port, client), Client(port.url) as other:
            one = await client.subscribe("work", group="g")
            two = await other.subscribe("work", group="g")
            port.service.publish([binary("work", b"x")] * 2)
            assert {(await anext(one)).mesh_id, (await anext(two)).mesh_id} == {"eu/eu-1/7/1", "eu/eu-1/7/2"}

    async def test_a_refused_subscription_leaves_nothing_behind(self) -> None:
        async with connected() as (port, client):
            for filter in ("#/a", ""):
                with pytest.raises(CallRefused) as refused:
                    await client.subscribe(filter, wait="mesh")
                assert refused.value.code == "MESH-E002"
            assert port.service.subscriptions == {}

    async def test_more_events_than_the_credit_of_the_beginning_all_arrive(self) -> None:
        total = 4 * QUEUED_EVENTS
        async with connected() as (port, client), await client.subscribe("t") as subscription:
            with trio.fail_after(10):
                for first in range(0, total, 500):
                    port.service.publish([binary("t", b"%d" % n) for n in range(first, first + 500)])
                    for number in range(first, first + 500):
                        assert (await anext(subscription)).data == str(number)
            assert subscription.lost == 0

    async def test_a_subscription_nobody_reads_loses_its_oldest_and_holds_nothing_up(self) -> None:
        total = 3 * QUEUED_EVENTS
        async with connected() as (port, client):
            unread, read = await client.subscribe("t"), await client.subscribe("t")
            with trio.fail_after(10):
                for first in range(0, total, 500):
                    port.service.publish([binary("t", b"%d" % n) for n in range(first, first + 500)])
                    for number in range(first, first + 500):
                        assert (await anext(read)).data == str(number)
                assert (await client.publish("other", b"x")).local == 0
            assert (unread.lost, read.lost) == (total - QUEUED_EVENTS, 0)
            assert (await anext(unread)).data == str(total - QUEUED_EVENTS)


class TestRequest:
    async def test_a_reply_comes_back(self) -> None:
        async with connected() as (port, client), Client(port.url) as server, trio.open_nursery() as nursery:
            subscription = await server.subscribe("svc/upper")

            @nursery.start_soon
            async def answer() -> None:
                async for request in subscription:
                    await server.reply(request, request.data.upper())

            reply = await client.request("svc/upper", "hello")
            assert (reply.data, reply.path) == ("HELLO", ("us",))
            nursery.cancel_scope.cancel()

    async def test_no_answer_is_an_error_that_says_why(self) -> None:
        async with connected() as (_, client):
            with pytest.raises(CallRefused) as refused:
                await client.request("svc/none", b"x")
            assert refused.value.code == "MESH-E013"
            assert refused.value.problem["reasons"] == [{"region": "", "reason": "no_interest"}]
            await client.subscribe("svc/silent")
            with pytest.raises(CallRefused) as refused:
                await client.request("svc/silent", b"x", timeout_s=0.01)
            assert refused.value.code == "MESH-E015"

    async def test_a_reply_to_nowhere_is_refused(self) -> None:
        async with connected() as (port, client), await client.subscribe("t") as subscription:
            port.service.publish([binary("t", b"no request")])
            with pytest.raises(CallRefused) as refused:
                await client.reply(await anext(subscription), b"x")
            assert refused.value.code == "MESH-E028"


async def test_without_the_sdk_events_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without_sdk(name: str, *rest: Any) -> Any:
        if name.startswith("cloudevents"):
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_sdk)
    async with connected() as (_, client), await client.subscribe("t") as subscription:
        await client.publish("t", b"\xff")
        event = (await anext(subscription)).event
        assert isinstance(event, PlainEvent)
        assert event.get_data() == b"\xff"
        assert event.get_attributes()["type"] == "mesh.raw"


class TestReplay:
    async def test_a_replay_is_marked_its_end_and_its_gaps_are_told(self) -> None:
        service = FakeService()
        service.kept = [("a", b'{"data":%d}' % n) for n in range(1_500)] + [("gap", b'{"data":-1}')]
        async with connected(service) as (port, client), await client.subscribe("#", since="1h") as events:
            got = [await anext(events) for _ in range(1_501)]
            assert [one.data for one in got] == [*range(1_500), -1]
            assert all(one.replayed for one in got)
            await events.live.wait()
            assert events.gaps == [{"reason": "stopped", "since": None, "until": None}]
            port.service.publish([binary("a", b"now")])
            now = await anext(events)
            assert (now.data, now.replayed, events.lost) == ("now", False, 0)

    async def test_a_replay_that_cannot_be_is_refused(self) -> None:
        async with connected() as (_, client):
            with pytest.raises(CallRefused) as refused:
                await client.subscribe("#", since="gone/1")
            assert refused.value.code == "MESH-E033"

    async def test_after_a_lost_connection_it_goes_on_behind_what_it_had(self) -> None:
        service = FakeService()
        service.kept = [("a", b'{"data":%d}' % n) for n in range(3)]
        async with connected(service) as (_, client), await client.subscribe("a", since="1h") as events:
            assert [(await anext(events)).mesh_id for _ in range(3)][-1] == "eu/eu-1/7/3"
            assert events.op["from"] == "eu/eu-1/7/3"
