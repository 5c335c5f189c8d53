"""Events whose deadline passes while their region is away: listed, told, kept over a restart, and delivered by a replay."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import trio
from e2e.processes import (
    MESH,
    NodeProcess,
    Relay,
    Subscriber,
    bridge,
    http,
    items,
    metrics,
    running,
    sees_regions,
    until,
)


async def keep(node: NodeProcess, topic: str, id: str, deadline: str) -> dict[str, Any]:
    body = {"specversion": "1.0", "id": id, "source": "/test", "type": "order.created", "data": {"order": id}}
    with trio.fail_after(20):
        while True:
            answer = await http(
                node.events,
                "POST",
                f"/v1/events/{topic}?level=at-least-once&deadline={deadline}",
                headers=[("Content-Type", "application/cloudevents+json")],
                body=json.dumps(body).encode(),
            )
            if answer.status != 503:  # a node that has just started does not know yet who wants what
                break
            await trio.sleep(0.05)
    assert answer.status == 202, answer.body
    found: dict[str, Any] = answer.json["events"][0]
    return found


async def mesh(node: NodeProcess, *words: str) -> tuple[int, str, str]:
    done = await trio.run_process(
        [MESH, *words, "--node", f"http://{node.admin}"],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def letters(node: NodeProcess) -> list[dict[str, Any]]:
    return await items(node, "dlq")


async def test_what_died_while_a_region_was_away_is_told_kept_and_delivered_by_a_replay(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as nodes, trio.open_nursery() as nursery:
        eu = await nodes.start("eu-1", "eu")
        eu2 = await nodes.start("eu-2", "eu", f"--seed={eu.link}")
        relay = Relay(eu.link)
        await nursery.start(relay.run)
        us = await nodes.start("us-1", "us", f"--bridge=eu={relay.link}")
        await sees_regions(eu, "us")
        await sees_regions(us, "eu")
        news, far, there = Subscriber(), Subscriber(), Subscriber()
        await nursery.start(news.run, eu2.events, "filter=%24mesh/dlq/%23&wait=region")
        await nursery.start(far.run, us.events, "filter=%24mesh/dlq/%23&wait=region")
        await nursery.start(there.run, us.events, "filter=orders/%23&wait=mesh")

        relay.cut()

        async def away() -> bool:
            return all(route["region"] != "us" or route["state"] == "infeasible" for route in await items(eu, "routes"))  # fmt: skip

        await until(away, 20.0, "eu has no route to us")
        published = [await keep(eu, "orders/new", str(n), "1s") for n in range(3)]
        await keep(eu, "orders/late", "late", "1h")

        async def waits() -> bool:
            spools = await items(eu2, "spools")
            return any(s["id"] == "r/us" and s["node"] == "eu-1" and s["why"] == "no_route" for s in spools)

        await until(waits, 10.0, "a spool says why it waits")

        async def died() -> bool:
            return len(await letters(eu2)) == 3

        await until(died, 15.0, "three dead letters, seen from the other node")
        found = await letters(eu2)
        assert [one["mesh_id"] for one in found] == [one["mesh_id"] for one in published]
        assert {(one["reason"], one["part"], one["node"], one["region"]) for one in found} == {
            ("expired", "r/us", "eu-1", "us")
        }
        assert all(one["path"] == [] and one["first_seen"] < one["died_at"] for one in found)
        await news.wait(3)
        told = [one["event"] for one in news.events]
        assert [one["subject"] for one in told] == [one["mesh_id"] for one in published]
        assert {one["type"] for one in told} == {"mesh.deadletter"}
        assert {one["topic"] for one in news.events} == {"$mesh/dlq/expired/orders/new"}
        assert told[0]["data"]["event"]["data"] == {"order": "0"}
        code, out, _ = await mesh(eu2, "spools", "list")
        assert (code, "region us" in out, "no-route" in out) == (0, True, True)

        eu.signal(signal.SIGKILL)
        await nodes.restart(eu)

        async def back() -> bool:
            return len(await letters(eu)) == 3

        await until(back, 15.0, "a restart keeps dead letters")
        assert [one["mesh_id"] for one in await letters(eu)] == [one["mesh_id"] for one in published]

        relay.heal()
        await sees_regions(eu, "us", timeout_s=30.0)
        await there.wait(1, 30.0)
        assert there.events[0]["event"]["id"] == "late"

        async def linked() -> bool:
            return any(
                link["peer"] == "eu-1" and link["state"] == "open" for link in await items(eu2, "links")
            )

        await until(linked, 15.0, "eu-2 has a link to eu-1")
        code, out, err = await mesh(eu2, "dlq", "replay", "--all", "--topic", "orders/#")
        assert (code, err) == (1, "3 dead letters would be published again; add --yes to do it\n")
        code, out, err = await mesh(eu2, "dlq", "replay", "--all", "--topic", "orders/#", "--yes")
        assert (code, out, err) == (0, "3 dead letters published again\n", "")
        await there.wait(4, 30.0)
        assert [one["event"]["id"] for one in there.events] == ["late", "0", "1", "2"]
        assert not set(there.ids[1:]) & {one["mesh_id"] for one in published}
        assert await letters(eu2) == []
        assert far.events == []
        assert (await metrics(eu))["mesh_dead_letters_kept"] == 0
        nursery.cancel_scope.cancel()


async def test_a_dead_letter_that_nobody_wants_stays_until_it_is_dropped(tmp_path: Path) -> None:
    async with running(tmp_path) as nodes, trio.open_nursery() as nursery:
        eu = await nodes.start("eu-1", "eu")
        us = await nodes.start("us-1", "us", *bridge(eu))
        await sees_regions(eu, "us")
        there = Subscriber()
        gone = await nursery.start(_cancellable, there, us.events, "filter=orders/%23&wait=mesh")
        us.signal(signal.SIGSTOP)
        await keep(eu, "orders/new", "1", "300ms")

        async def died() -> bool:
            return len(await letters(eu)) == 1

        await until(died, 30.0, "a dead letter")
        us.signal(signal.SIGCONT)
        gone.cancel()
        await sees_regions(eu, "us", timeout_s=30.0)
        [one] = await letters(eu)

        async def unwanted() -> bool:
            answer = await http(eu.events, "POST", "/v1/events/orders/probe", body=b"x")
            return answer.json["events"][0]["regions"] == []

        await until(unwanted, 15.0, "the subscription is gone")
        answer = await http(eu.admin, "POST", f"/v1/dlq/{one['id']}/replay")
        assert (answer.status, answer.json["code"]) == (409, "MESH-A022")
        assert "nobody" in answer.json["detail"]
        assert len(await letters(eu)) == 1
        code, out, _ = await mesh(eu, "dlq", "show", one["id"])
        assert (code, '"order": "1"' in out) == (0, True)
        code, out, _ = await mesh(eu, "dlq", "drop", one["id"])
        assert (code, out) == (0, f"{one['id']}  dropped\n1 dead letter dropped\n")
        assert await letters(eu) == []
        code, _, err = await mesh(eu, "dlq", "drop", one["id"])
        assert (code, err.startswith("MESH-A005")) == (1, True)
        nursery.cancel_scope.cancel()


async def _cancellable(
    subscriber: Subscriber,
    address: str,
    query: str,
    *,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run, address, query)
            task_status.started(scope)
