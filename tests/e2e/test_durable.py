"""Durable clients with real processes: the command subscribes, its name is found from any node, a stopped home is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
import trio_websocket
from processes import MESH, NodeProcess, http, metrics, running, until

DURABLE = ("orders/#", "--client", "billing", "--durable", "--ack-after-print", "-o", "json", "-n", "1")
TEXT = [("content-type", "text/plain")]


async def subscribed(node: NodeProcess, said: bytes) -> trio.Process:
    """`mesh subscribe` at a node, once it has said how much waited."""
    process = await trio.lowlevel.open_process(
        [MESH, "subscribe", *DURABLE, "--events", f"http://{node.events}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    told = b""
    with trio.fail_after(15):
        while said not in told:
            data = await process.stderr.receive_some()
            assert data, told
            told += data
    return process


async def printed(process: trio.Process) -> dict[str, Any]:
    assert process.stdout is not None
    text = b""
    with trio.fail_after(15):
        while data := await process.stdout.receive_some():
            text += data
        assert await process.wait() == 0
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        await stream.aclose()
    found: dict[str, Any] = json.loads(text)
    return found


async def clients_of(node: NodeProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await http(node.events, "GET", "/v1/clients")).json["clients"]
    return found


async def test_a_durable_subscriber_is_known_by_its_name_in_the_whole_region(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        home = await mesh.start("eu-1", "eu")
        other = await mesh.start("eu-2", "eu", f"--seed={home.link}")
        process = await subscribed(home, b"billing: 0 events waited")

        async def has_subscription() -> bool:
            return any(item["subscriptions"] for item in await clients_of(home))

        await until(has_subscription, 10, "the subscription")
        await http(home.events, "POST", "/v1/events/orders/1", headers=TEXT, body=b"one")
        told = await printed(process)
        assert (told["topic"], told["event"]["data"]) == ("orders/1", "one")
        (item,) = await clients_of(home)
        assert (item["client"], item["connected"], item["home"]) == ("billing", False, "eu-1")

        listed = await trio.run_process(
            [MESH, "subs", "list", "-o", "json"],
            capture_stdout=True,
            env={**os.environ, "MESH_ADMIN": f"http://{other.admin}"},
        )
        (row,) = [one for one in json.loads(listed.stdout)["items"] if one["client"] == "billing"]
        assert (row["node"], row["filter"], row["durable"]) == ("eu-1", "orders/#", "away")

        # Through the other node it is the same client, with the subscription it has.
        process = await subscribed(other, b"billing: 0 events waited")
        assert (await clients_of(home))[0]["connected"]
        await http(other.events, "POST", "/v1/events/orders/2", headers=TEXT, body=b"two")
        assert (await printed(process))["event"]["data"] == "two"
        assert await clients_of(other) == []

        home.signal(signal.SIGTERM)
        assert home.process is not None
        await home.process.wait()

        async def is_down() -> bool:
            answer = await http(other.events, "DELETE", "/v1/clients/billing")
            return answer.status == 503 and answer.json["home"] == "eu-1"

        await until(is_down, 20, "the answer that its home is down")


class RawOps:
    """A durable client on a WebSocket that does what it is told, and dies with its node without complaint."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket

    async def call(self, **op: object) -> dict[str, Any]:
        """Say an op, and wait for its answer."""
        await self._socket.send_message(json.dumps({"id": 1, **op}))
        while True:
            answer: dict[str, Any] = json.loads(await self._socket.get_message())
            if answer.get("id") == 1:
                return answer


async def test_what_a_durable_client_was_told_outlives_a_kill_right_behind_the_answer(tmp_path: Path) -> None:
    """Whatever was answered last is there again: a first connection, a subscription, the end of one."""
    async with running(tmp_path) as mesh:
        home = await mesh.start("eu-1", "eu")
        expected: dict[str, int] = {}

        async def kill_behind(client: str, *said: dict[str, object]) -> None:
            url = f"ws://{home.events}/v1/ws?client={client}&durable=true"
            with suppress(trio_websocket.ConnectionClosed):
                async with trio_websocket.open_websocket_url(url, subprotocols=["mesh.v1.json"]) as socket:
                    resumed = json.loads(await socket.get_message())
                    assert resumed["op"] == "resumed", resumed
                    ops = RawOps(socket)
                    for op in said:
                        answer = await ops.call(**op)
                        assert answer["op"] == "ok", answer
                    home.kill()
            await mesh.restart(home)
            found = {one["client"]: one["subscriptions"] for one in await clients_of(home)}
            assert found == expected

        for number in range(3):
            name = f"shop-{number}"
            expected[name] = 0
            await kill_behind(name)
            expected[name] = 2
            await kill_behind(
                name,
                {"op": "subscribe", "sid": 1, "filter": f"orders/{number}"},
                {"op": "subscribe", "sid": 2, "filter": "jobs/#", "group": "g"},
            )
            expected[name] = 1
            await kill_behind(name, {"op": "unsubscribe", "sid": 1})
        assert (await http(home.events, "DELETE", "/v1/clients/shop-0")).status == 204
        home.kill()
        await mesh.restart(home)
        del expected["shop-0"]
        assert {one["client"]: one["subscriptions"] for one in await clients_of(home)} == expected


async def test_a_journal_without_room_for_notes_refuses_a_new_client_and_serves_the_others(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh:
        configuration = tmp_path / "small.toml"
        configuration.write_text("[limits]\njournal_notes_bytes = 2000\n")
        home = await mesh.start("eu-1", "eu", f"--config={configuration}")
        process = await subscribed(home, b"billing: 0 events waited")
        url = f"ws://{home.events}/v1/ws?client=shop&durable=true"
        async with trio_websocket.open_websocket_url(url, subprotocols=["mesh.v1.json"]) as socket:
            ops = RawOps(socket)
            answers = [
                await ops.call(op="subscribe", sid=sid, filter=f"a/long/filter/of/number/{sid}")
                for sid in range(60)
            ]
        refused = [answer["problem"]["code"] for answer in answers if answer["op"] == "error"]
        assert len(refused) > 10
        assert set(refused) == {"MESH-E044"}
        run = await trio.run_process(
            [MESH, "subscribe", "x", "--client", "late", "--durable", "--events", f"http://{home.events}"],
            check=False,
            capture_stderr=True,
            capture_stdout=True,
        )
        assert run.returncode == 1
        assert b"MESH-E044" in run.stderr
        assert {one["client"]: one["subscriptions"] for one in await clients_of(home)} == {
            "billing": 1,
            "shop": 60 - len(refused),
        }
        target = "/v1/events/orders/1?level=at-least-once"
        with trio.fail_after(10):
            answer = await http(home.events, "POST", target, headers=TEXT, body=b"still")
            while answer.status == 503:  # it has just started, and says so
                await trio.sleep(0.1)
                answer = await http(home.events, "POST", target, headers=TEXT, body=b"still")
        assert answer.status == 202
        assert (await printed(process))["event"]["data"] == "still"
        found = await metrics(home)
        assert any("notes_full" in name and count >= len(refused) for name, count in found.items()), found
