"""The event log of the installed command: kept in the destination region, replayed from a time, a duration and an event."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio
from processes import (
    MESH,
    Mesh,
    NodeProcess,
    Subscriber,
    bridge,
    http,
    publish_many,
    running,
    sees_regions,
    until,
)

STORED = 2_000
LIVE_PER_S = 500
LIVE = 1_500


async def region_pair(mesh: Mesh, folder: Path) -> tuple[NodeProcess, NodeProcess]:
    """a-1, and b-1 in the region that keeps orders/#."""
    configuration = folder / "b.toml"
    configuration.write_text('[[topic]]\nfilter = "orders/#"\nretain = "24h"\n')
    a = await mesh.start("a-1", "a")
    b = await mesh.start("b-1", "b", f"--config={configuration}", *bridge(a))
    await sees_regions(b, "a")
    await sees_regions(a, "b")
    return a, b


async def publish_when_wanted(a: NodeProcess) -> None:
    """Until a's answers name region b: its log's interest has arrived."""

    async def wanted() -> bool:
        answer = await http(a.events, "POST", "/v1/events/orders/probe", body=b"x")
        return bool(answer.json["events"][0]["regions"] == ["b"])

    await until(wanted, 15, "the interest of b's log is known in a")


class Command:
    """A `mesh subscribe` and what it printed."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.process: trio.Process | None = None

    async def run(self, node: NodeProcess, *arguments: str) -> None:
        command = [
            MESH,
            "subscribe",
            "orders/#",
            *arguments,
            "-o",
            "json",
            "--events",
            f"http://{node.events}",
        ]
        self.process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        text = b""
        try:
            async for data in self.process.stdout:
                text += data
                *whole, text = text.split(b"\n")
                self.lines += [json.loads(line) for line in whole]
        finally:
            with trio.CancelScope(shield=True):
                self.process.kill()
                await self.process.wait()
                await self.process.stdout.aclose()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "mesh_id" in line]


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["event"]["data"]["n"] for event in events if event["topic"] != "orders/probe"]


async def test_a_replay_goes_on_live_without_gap_or_duplicate(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a, b = await region_pair(mesh, tmp_path)
        await publish_when_wanted(a)
        before = datetime.now(UTC)
        await publish_many(a, [("orders/eu", str(n % 7)) for n in range(STORED)])
        command = Command()
        async with trio.open_nursery() as nursery:

            async def keep_publishing() -> None:
                begun = trio.current_time()
                for begin in range(0, LIVE, 25):
                    await trio.sleep_until(begun + begin / LIVE_PER_S)
                    await publish_numbers(a, STORED + begin, 25)

            async with trio.open_nursery() as publishing:
                publishing.start_soon(keep_publishing)
                await trio.sleep(0.5)
                nursery.start_soon(command.run, b, "--from", "10m")

            async def has_all() -> bool:
                return len(numbers(command.events)) >= STORED + LIVE

            await until(has_all, 20, "the command printed all events")
            assert command.process is not None
            command.process.terminate()
        assert numbers(command.events) == list(range(STORED + LIVE)), "in order, none missing, none twice"
        live = [at for at, line in enumerate(command.lines) if "live" in line]
        assert len(live) == 1
        flags = [line.get("replayed", False) for line in command.lines if "mesh_id" in line]
        replayed = command.lines[live[0]]["live"]["replayed"]
        assert flags == [True] * replayed + [False] * (len(flags) - replayed)
        assert replayed >= STORED
        assert len(flags) > replayed, "some came live"

        ids = [event["mesh_id"] for event in command.events if event["topic"] != "orders/probe"]
        await check_restart(mesh, b, ids, before)


async def publish_numbers(node: NodeProcess, begin: int, count: int) -> None:
    body = [
        {
            "specversion": "1.0",
            "id": str(n),
            "source": "/test",
            "type": "test.event",
            "topic": "orders/eu",
            "data": {"n": n},
        }
        for n in range(begin, begin + count)
    ]
    headers = [("Content-Type", "application/cloudevents-batch+json")]
    answer = await http(node.events, "POST", "/v1/events", headers=headers, body=json.dumps(body).encode())
    assert answer.status == 202, answer.body


async def check_restart(mesh: Mesh, b: NodeProcess, ids: list[str], before: datetime) -> None:
    """The same again from the restarted node: whole, behind an event, and from a time."""
    total = STORED + LIVE
    await b.stop()
    await mesh.restart(b)
    whole = await replayed(b, "10m")
    assert numbers(whole.events) == list(range(total))
    assert [name for name, _, _ in whole.told] == ["gap", "live"]
    _, _, gap = whole.told[0]
    assert gap["reason"] == "stopped"
    assert whole.told[1][1] == len(whole.events), "live comes last"
    later = await replayed(b, ids[1_234])
    assert numbers(later.events) == list(range(1_235, total))
    assert numbers((await replayed(b, ids[-1])).events) == []
    since = (before - timedelta(milliseconds=1)).isoformat().replace("+00:00", "Z")
    assert numbers((await replayed(b, since)).events) == list(range(total))
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    assert numbers((await replayed(b, now)).events) == []
    gone = await http(
        b.events,
        "GET",
        f"/v1/events?filter=orders/%23&from={quote('a/a-1/1/5', safe='')}",
        headers=[("Accept", "text/event-stream")],
    )
    assert (gone.status, gone.json["code"]) == (410, "MESH-E033")
    assert "/a-1/" in gone.json["detail"], "it names the oldest one"


async def replayed(node: NodeProcess, since: str) -> Subscriber:
    """What a replay brings until it is live."""
    subscriber = Subscriber()
    async with trio.open_nursery() as nursery:
        query = f"filter=orders/%23&from={quote(since, safe='')}"
        await nursery.start(subscriber.run, node.events, query)

        async def live() -> bool:
            return any(name == "live" for name, _, _ in subscriber.told)

        await until(live, 20, f"the replay from {since} is over")
        nursery.cancel_scope.cancel()
    return subscriber


async def test_a_node_that_was_killed_has_what_was_written(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a, b = await region_pair(mesh, tmp_path)
        await publish_when_wanted(a)
        await publish_many(a, [("orders/eu", "")] * 500)
        assert numbers((await replayed(b, "10m")).events) == list(range(500))

        async def written() -> bool:
            answer = await http(b.admin, "GET", "/v1/log?here=true")
            return bool(answer.json["items"][0]["waiting"] == 0)

        await until(written, 10, "nothing waits for the disk")
        b.kill()
        await mesh.restart(b)
        again = await replayed(b, "10m")
        assert numbers(again.events) == list(range(500))
        assert [name for name, _, _ in again.told] == ["gap", "live"]
        shown = await trio.run_process(
            [MESH, "log", "list", "--node", f"http://{b.admin}"], capture_stdout=True
        )
        head, row = shown.stdout.decode().splitlines()
        assert head.split()[:3] == ["NODE", "FILTERS", "EVENTS"]
        assert row.split()[:2] == ["b-1", "orders/#"]
        assert " ok " in row
        assert " stopped " in row
        await sees_regions(a, "b")
        await publish_when_wanted(a)
        await publish_many(a, [("orders/eu", "")] * 10)

        async def more() -> bool:
            return len(numbers((await replayed(b, "10m")).events)) == 510

        await until(more, 10, "the log goes on")


async def test_the_python_client_replays_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a, b = await region_pair(mesh, tmp_path)
        await publish_when_wanted(a)
        await publish_many(a, [("orders/eu", "")] * 3_000)
        script = (
            "import sys, trio\n"
            "from mesh.client import Client\n"
            "async def main():\n"
            "    async with Client(sys.argv[1]) as client:\n"
            "        async with await client.subscribe('orders/eu', since='10m') as orders:\n"
            "            for n in range(3000):\n"
            "                got = await anext(orders)\n"
            "                assert got.data == {'n': n} and got.replayed, (n, got)\n"
            "            await orders.live.wait()\n"
            "            print('live', flush=True)\n"
            "            got = await anext(orders)\n"
            "            assert not got.replayed, got\n"
            "            print(got.data, orders.lost, flush=True)\n"
            "trio.run(main)\n"
        )
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", script, f"http://{b.events}"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        text = b""
        with trio.fail_after(20):
            while b"live" not in text:
                data = await process.stdout.receive_some()
                assert data, text
                text += data
            await publish_many(a, [("orders/eu", "")])
            async for data in process.stdout:
                text += data
            assert await process.wait() == 0
        assert text.split() == [b"live", b"{'n':", b"0}", b"0"]
