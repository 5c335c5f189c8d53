"""Requests that are answered over two bridges, and the news that nobody can."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import trio
from processes import MESH, bridge, http, running, sees_regions, until


async def test_a_request_in_ap_is_answered_from_eu_and_without_responders_it_says_so_in_a_round_trip(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh:
        eu = await mesh.start("eu-1", "eu")
        us = await mesh.start("us-1", "us", *bridge(eu))
        ap = await mesh.start("ap-1", "ap", *bridge(us))
        await sees_regions(ap, "eu", "us")
        begun = trio.current_time()
        nobody = await http(ap.events, "POST", "/v1/request/prices/tea?timeout=5s", body=b"?")
        assert trio.current_time() - begun < 1.0
        assert nobody.status in (404, 503)
        assert nobody.json["code"] == "MESH-E013"
        assert "no_interest" in json.dumps(nobody.json)

        command = [MESH, "reply", "prices/#", "--text", "42"]
        environment = {"MESH_EVENTS": f"http://{eu.events}", "PATH": "/usr/bin:/bin"}
        responder = await trio.lowlevel.open_process(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:

            async def interested() -> bool:
                answer = await http(ap.events, "POST", "/v1/events/prices/x?require=interest", body=b"x")
                return answer.status == 202

            await until(interested, 10.0, "the responder's interest reaches ap")
            answer = await http(ap.events, "POST", "/v1/request/prices/tea?timeout=5s", body=b"?")
            assert (answer.status, answer.body) == (200, b"42"), answer
            assert answer.headers["ce-specversion"] == "1.0"
            printed = await trio.run_process(
                [MESH, "request", "prices/tea", "?", "--timeout", "5s"],
                env={"MESH_EVENTS": f"http://{ap.events}", "PATH": "/usr/bin:/bin"},
                capture_stdout=True,
            )
            assert b"42" in printed.stdout
        finally:
            responder.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await responder.wait()
