"""What an operator does: look at the region, learn who did not answer, drain a node."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import trio
from processes import MESH, NodeProcess, Subscriber, bridge, http, items, running, sees_regions, until


async def command(node: NodeProcess, *arguments: str) -> tuple[int, str]:
    """Run a `mesh` command against a node; (exit code, standard output and error)."""
    with trio.fail_after(20):
        done = await trio.run_process(
            [MESH, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={
                **os.environ,
                "MESH_ADMIN": f"http://{node.admin}",
                "MESH_EVENTS": f"http://{node.events}",
                "NO_COLOR": "1",
            },
        )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode() + done.stderr.decode()


async def test_every_list_covers_the_region_and_says_who_did_not_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a")
        a2 = await mesh.start("a-2", "a", f"--seed={a1.link}")
        a3 = await mesh.start("a-3", "a", f"--seed={a1.link}")
        b = await mesh.start("b-1", "b", *bridge(a1))
        await sees_regions(a3, "b")
        subscriber = Subscriber()
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run, a2.events, "filter=orders/%23&wait=region")
            assert subscriber.receipt["complete"]
            for what, words in {
                "node list": ("a-1", "a-2", "a-3", "bridge", "alive"),
                "links list": ("bridge#", "peer#", "b-1"),
                "routes list": ("b", "only-route"),
                "subs list": ("orders/#", "a-2", "sse#"),
            }.items():
                code, text = await command(a3, *what.split())
                assert code == 0, text
                for word in words:
                    assert word in text, (what, text)
            code, text = await command(a3, "node", "list", "-o", "json")
            assert sorted(json.loads(text)["answered"]) == ["a-1", "a-2", "a-3"]

            a2.signal(signal.SIGSTOP)
            code, text = await command(a3, "subs", "list", "--timeout", "2s")
            assert code == 4, text
            assert "2 of 3 nodes answered, missing: a-2" in text
            a2.signal(signal.SIGCONT)

            code, text = await command(b, "version")
            assert code == 0
            assert (await http(b.admin, "GET", "/livez")).status == 200
            assert (await http(b.admin, "GET", "/readyz")).status == 200
            nursery.cancel_scope.cancel()
        code, text = await command(b, "node", "list", "--node", "http://127.0.0.1:9")
        assert code == 3, text


async def test_a_node_that_drains_tells_the_region_its_clients_and_the_other_regions(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a")
        a2 = await mesh.start("a-2", "a", f"--seed={a1.link}")
        b = await mesh.start("b-1", "b", *bridge(a2))
        await sees_regions(a1, "b")
        subscriber = Subscriber()
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run, a2.events, "filter=orders/%23")
            begun = trio.current_time()
            a2.signal(signal.SIGTERM)

            async def known() -> bool:
                nodes = await items(a1, "nodes")
                return any(node["id"] == "a-2" and node["state"] == "left" for node in nodes)

            await until(known, 5.0, "a-1 knows that a-2 left")

            async def withdrawn() -> bool:
                used = [
                    r
                    for r in await items(b, "routes")
                    if r["region"] == "a" and r["state"] in ("selected", "in_use")
                ]
                return not used

            await until(withdrawn, 5.0, "b withdrew the route")
            assert a2.process is not None
            with trio.fail_after(10):
                assert await a2.process.wait() == 0
            assert trio.current_time() - begun < 10.0
            with trio.fail_after(5):
                while not subscriber.closed:
                    await trio.sleep(0.02)
        assert "Traceback" not in a2.log.read_text()


async def test_an_idle_node_is_small_and_quiet(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a")
        a2 = await mesh.start("a-2", "a", f"--seed={a1.link}")
        b = await mesh.start("b-1", "b", *bridge(a1))
        await sees_regions(a2, "b")
        await trio.sleep(1.0)
        before, begun = a1.cpu_s(), trio.current_time()
        await trio.sleep(4.0)
        share = (a1.cpu_s() - before) / (trio.current_time() - begun)
        assert a1.rss_bytes() < 80e6
        assert share < 0.01, f"{share:.2%} of a core"
        assert b.rss_bytes() < 80e6


async def test_a_node_without_a_file_ends_with_its_terminal(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a")
        a1.signal(signal.SIGHUP)
        assert a1.process is not None
        with trio.fail_after(10):
            assert await a1.process.wait() == 0
        assert "draining" in a1.log.read_text()
