"""WebSockets of clients on a real socket: how they open and end; trio-websocket as the independent peer, raw frames for the hostile ones."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from node.events_port import binary, events_port, masked, upgrade_request
from node.fake_service import FakeService
from node.websocket_clients import raw_socket

from mesh.model.reasons import Drop


class TestOpening:
    async def test_the_answer_proves_that_the_key_was_read(self) -> None:
        async with events_port() as port:
            client = await port.connect()
            async with client.stream:
                await client.send(
                    upgrade_request("/v1/ws", "x, mesh.v1.json", key="dGhlIHNhbXBsZSBub25jZQ==")
                )
                status, headers, _ = await client.answer()
                # the worked example of RFC 6455 section 1.3
                assert (status, headers["sec-websocket-accept"]) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")

    @pytest.mark.parametrize(
        ("request_bytes", "status", "code"),
        [
            (b"GET /v1/ws HTTP/1.1\r\nHost: t\r\n\r\n", 426, "MESH-E026"),
            (upgrade_request("/v1/ws", "mesh.v1.json", version="8"), 426, "MESH-E026"),
            (upgrade_request("/v1/ws", "mesh.v1.json", key="short"), 400, "MESH-E026"),
            (upgrade_request("/v1/ws", "mesh.v1.json", key="not base64 at all!!!"), 400, "MESH-E026"),
            (upgrade_request("/v1/ws", "cloudevents.json"), 400, "MESH-E027"),
            (upgrade_request("/v1/events", "mesh.v1.json"), 400, "MESH-E027"),
            (upgrade_request("/v1/ws?filter=a", "mesh.v1.json"), 400, "MESH-E010"),
            (upgrade_request("/v1/events?filter=%23/a", "cloudevents.json"), 400, "MESH-E002"),
            (
                upgrade_request("/v1/events?filter=a&client=x&durable=true", "cloudevents.json"),
                501,
                "MESH-E009",
            ),
            (upgrade_request("/v1/events?filter=a&from=10m", "cloudevents.json"), 501, "MESH-E009"),
            (upgrade_request("/v1/events/t", "cloudevents.json"), 405, "MESH-E024"),
        ],
    )
    async def test_an_opening_that_cannot_be_accepted_is_answered_in_http(
        self, request_bytes: bytes, status: int, code: str
    ) -> None:
        async with events_port() as port:
            client = await port.connect()
            async with client.stream:
                await client.send(request_bytes)
                found, headers, body = await client.answer()
                assert (found, json.loads(body)["code"]) == (status, code)
                if status == 426:
                    assert headers.get("sec-websocket-version") == "13" or headers["upgrade"] == "websocket"

    async def test_too_many_connections_and_a_leaving_node_are_503(self) -> None:
        async with events_port(FakeService(most_sessions=0)) as port:
            for leaving, code in ((False, "MESH-E017"), (True, "MESH-E016")):
                port.service.draining = leaving
                client = await port.connect()
                async with client.stream:
                    status, _, body = await client.upgrade()
                    assert (status, json.loads(body)["code"]) == (503, code)

    async def test_frames_that_come_with_the_opening_are_read(self) -> None:
        async with events_port() as port:
            client = await port.connect()
            async with client.stream:
                await client.send(
                    upgrade_request("/v1/ws", "mesh.v1.json") + masked(1, b'{"op":"ping","id":1}')
                )
                assert (await client.answer())[0] == 101
                assert await client.frame() == (1, b'{"op":"ok","id":1}')


class TestEnds:
    async def test_a_close_is_answered(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            await client.send(masked(8, (1000).to_bytes(2, "big") + b"bye"))
            assert (await client.close_frame())[0] == 1000
            assert await client.rest() == b""

    async def test_a_node_that_leaves_says_so_behind_the_events_that_wait(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            await client.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
            await client.frame()
            port.service.publish([binary("t", b"1")])
            port.service.drain("the node is leaving")
            assert b'"data":"1"' in (await client.frame())[1]
            assert await client.close_frame() == (1001, "the node is leaving")
            await client.send(masked(1, b'{"op":"ping"}') + masked(8, (1001).to_bytes(2, "big")))
            assert await client.rest() == b""

    async def test_a_client_that_does_not_answer_the_close_is_cut_off(self) -> None:
        async with events_port(close_timeout_s=0.02) as port, raw_socket(port) as client:
            port.service.drain()
            assert (await client.close_frame())[0] == 1001
            await port.service.until(lambda: not port.service.sinks)

    async def test_pings_are_answered_with_their_payload(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            await client.send(masked(9, b"are you there"))
            assert await client.frame() == (10, b"are you there")

    async def test_a_silent_client_is_pinged_and_given_up(self) -> None:
        async with events_port(idle_timeout_s=0.05) as port, raw_socket(port) as client:
            assert await client.frame() == (9, b"")
            await client.send(masked(10, b""))
            assert await client.frame() == (9, b"")
            assert (await client.close_frame())[0] == 1008
            await port.refused("ws_idle")

    @pytest.mark.parametrize(
        ("frames", "code", "counted"),
        [
            (b"\x81\x05hello", 1002, "ws_protocol_error"),
            (b"\xff\xff\xff\xff\xff\xff", 1002, "ws_protocol_error"),
            (b"GET / HTTP/1.1\r\n\r\n", 1002, "ws_protocol_error"),
            (masked(1, b"\xff\xfe"), 1007, "ws_invalid_payload"),
            (masked(1, b"\xe2", fin=False) + masked(0, b"\x28\xa1"), 1007, "ws_invalid_payload"),
            (masked(2, b"binary"), 1003, "ws_binary_frame"),
            (b"\x81\xff" + (1 << 40).to_bytes(8, "big"), 1009, "ws_too_big"),
            (masked(1, b"x" * 900, fin=False) + masked(0, b"x" * 900), 1009, "ws_too_big"),
        ],
    )
    async def test_what_is_no_websocket_is_told_why_and_counted(
        self, frames: bytes, code: int, counted: str
    ) -> None:
        async with events_port(body_bytes=1_000) as port:
            async with raw_socket(port) as client, raw_socket(port) as other:
                await client.send(frames)
                assert (await client.close_frame())[0] == code
                assert await client.rest() == b""
                await port.refused(counted)
                await other.send(masked(1, b'{"op":"ping"}'))
                assert await other.frame() == (1, b'{"op":"ok"}')

    async def test_a_client_that_resets_inside_a_frame_harms_nobody(self) -> None:
        async with events_port() as port:
            for cut in range(1, 12):
                async with raw_socket(port) as client:
                    await client.send(masked(1, b'{"op":"ping"}')[:cut])
            await port.service.until(lambda: not port.service.sinks)

    async def test_fragmented_texts_are_put_together_around_pings(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            text = b'{"op":"ping","id":"\xc3\xbc"}'
            pieces = [text[:20], text[20:21], text[21:]]
            frames = [masked(1 if n == 0 else 0, piece, fin=n == 2) for n, piece in enumerate(pieces)]
            for frame in (frames[0], masked(9, b"p"), frames[1], frames[2]):
                for byte in frame:
                    await client.send(bytes((byte,)))
            assert await client.frame() == (10, b"p")
            assert await client.frame() == (1, b'{"op":"ok","id":"\xc3\xbc"}')

    async def test_a_client_that_does_not_read_loses_its_oldest_and_nobody_else_loses_any(self) -> None:
        total, size = 300, 100_000
        async with (
            events_port(session_queue_events=50) as port,
            raw_socket(port) as slow,
            raw_socket(port) as quick,
        ):
            for client in (slow, quick):
                await client.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
                await client.frame()
            for number in range(total):
                port.service.publish([binary("t", b"%06d" % number + b"x" * size)])
                assert b'"mesh_id":"eu/eu-1/7/%d"' % (number + 1) in (await quick.frame())[1]
            dropped = port.service.drops[Drop.SLOW_CONSUMER]
            assert 0 < dropped < total
            got = [json.loads((await slow.frame())[1])["event"]["data"][:6] for _ in range(total - dropped)]
            assert got == sorted(got)
            assert got[-1] == f"{total - 1:06d}"
            assert port.service.drops == {Drop.SLOW_CONSUMER: dropped}

    async def test_a_client_that_never_reads_is_cut_off_when_the_node_leaves(self) -> None:
        async with events_port(close_timeout_s=0.05) as port, raw_socket(port) as client:
            await client.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
            await client.frame()
            port.service.publish([binary("t", b"x" * 900_000)] * 12)
            await trio.testing.wait_all_tasks_blocked()
            port.service.drain()
            await port.refused("client_does_not_read")
            await port.service.until(lambda: not port.service.sinks)

    async def test_a_client_that_leaves_its_answers_unread_is_not_read_on(self) -> None:
        ping = masked(1, b'{"op":"ping","id":"' + b"x" * 100 + b'"}')
        async with events_port() as port, raw_socket(port) as client:
            with trio.move_on_after(0.3) as blocked:
                while True:
                    await client.send(ping * 1_000)
            assert blocked.cancelled_caught  # the node stopped reading, and the sockets between are full
            assert (await client.frame())[0] == 1
