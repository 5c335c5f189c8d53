"""Durable clients with real processes: the command subscribes, its name is found from any node, a stopped home is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import trio
from processes import MESH, NodeProcess, http, running, until

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
