"""Garbage, floods and silence on both ports: the node stays up, others notice nothing, every refusal is counted."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from processes import NodeProcess, Subscriber, bridge, http, metrics, publish_many, running, sees_regions

HALF_OPEN = 1_000
CORPUS = Path(__file__).parents[1] / "corpus"
MUTANTS, NOISE = 60, 15


async def throw(address: str, data: bytes, *, reset: bool = False, wait_s: float = 2.0) -> bytes:
    """Connect, send, read until the node hangs up or nothing more comes."""
    host, _, port = address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    got = b""
    async with stream:
        try:
            await stream.send_all(data)
            if reset:
                stream.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: close sends RST
                return b""
            with trio.move_on_after(wait_s):
                while more := await stream.receive_some(65536):
                    got += more
        except trio.BrokenResourceError:
            pass
    return got


def corpus(kind: str) -> dict[str, bytes]:
    """What was once, or may be, sent to a port by something that is no client of it: tests/corpus, one case a file."""
    return {path.stem: path.read_bytes() for path in sorted((CORPUS / kind).glob("*.bin"))}


@st.composite
def mutants(draw: st.DrawFn, cases: list[bytes]) -> bytes:
    """A case of the corpus, cut, joined to another, or with bytes changed, left out or put in."""
    data = bytearray(draw(st.sampled_from(cases)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("cut", "set", "remove", "insert", "join"))):
            case "cut":
                del data[at:]
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "remove":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case "join":
                data[at:] = draw(st.sampled_from(cases))
    return bytes(data)


def made(strategy: st.SearchStrategy[bytes], count: int) -> list[bytes]:
    """Examples that Hypothesis makes of a strategy: always the same ones."""
    found: list[bytes] = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(example: bytes) -> None:
        found.append(example)

    collect()
    return found


def garbage(kind: str) -> list[bytes]:
    """The corpus, what Hypothesis makes of it, and plain noise."""
    cases = list(corpus(kind).values())
    assert len(cases) >= 25
    short = [case for case in cases if len(case) < 8_000]
    return [*cases, *made(mutants(short), MUTANTS), *made(st.binary(max_size=3_000), NOISE)]


async def flood(node: NodeProcess, dice: random.Random) -> None:
    async with trio.open_nursery() as nursery:
        limit = trio.CapacityLimiter(40)

        async def one(address: str, data: bytes, reset: bool) -> None:
            async with limit:
                await throw(address, data, reset=reset)

        for data in garbage("link"):
            nursery.start_soon(one, node.link, data, False)
            cut = dice.randint(0, len(data))
            nursery.start_soon(one, node.link, data[:cut], True)
        for data in garbage("http"):
            nursery.start_soon(one, node.events, data, False)
            cut = dice.randint(0, len(data))
            nursery.start_soon(one, node.events, data[:cut], True)
            nursery.start_soon(one, node.admin, data, False)


async def test_garbage_on_every_port_disturbs_nobody_and_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        b = await mesh.start("b-1", "b", *bridge(a))
        await sees_regions(b, "a")
        subscriber = Subscriber()
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run, b.events, "filter=load/%23&wait=mesh")
            rss = a.rss_bytes()
            dice = random.Random(20)
            published: list[str] = []

            async def keep_publishing() -> None:
                for _ in range(40):
                    answers = await publish_many(a, [("load/x", "k")] * 10)
                    published.extend(answer["mesh_id"] for answer in answers)
                    await trio.sleep(0.05)

            async with trio.open_nursery() as flooding:
                flooding.start_soon(keep_publishing)
                flooding.start_soon(flood, a, dice)
                flooding.start_soon(flood, b, dice)
            await subscriber.wait(len(published))
            assert subscriber.ids == published, "other clients notice nothing"
            refusals = {
                name: value
                for name, value in (await metrics(a)).items()
                if name.startswith("mesh_refusals_total")
            }
            for port in ("link", "events", "admin"):
                assert sum(value for name, value in refusals.items() if f'port="{port}"' in name) > 5, (
                    refusals
                )
            assert not [name for name in refusals if "task_crashed" in name], a.log.read_text()[-3000:]
            assert "Traceback" not in a.log.read_text()
            assert a.rss_bytes() - rss < 60e6
            nursery.cancel_scope.cancel()


async def test_a_thousand_half_open_connections_keep_nobody_out(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        host, _, port = a.link.rpartition(":")
        events_host, _, events_port = a.events.rpartition(":")
        streams: list[trio.SocketStream] = []
        try:
            for _ in range(HALF_OPEN):
                streams.append(await trio.open_tcp_stream(host, int(port)))
            for _ in range(200):
                slow = await trio.open_tcp_stream(events_host, int(events_port))
                await slow.send_all(b"POST /v1/events/a HTTP/1.1\r\nHost: x\r\nContent-Le")
                streams.append(slow)
            b = await mesh.start("b-1", "b", *bridge(a))
            assert await sees_regions(b, "a", timeout_s=6.0) < 6.0
            answer = await http(a.events, "POST", "/v1/events/t", body=b"x")
            assert answer.status == 202
            counted = await metrics(a)
            evicted = [v for name, v in counted.items() if 'reason="half_open_evicted"' in name]
            assert sum(evicted) >= HALF_OPEN - 256 - 10, counted
        finally:
            for stream in streams:
                with trio.CancelScope(shield=True):
                    await stream.aclose()


async def test_a_web_page_of_another_site_can_neither_publish_nor_read_nor_stop_the_node(
    tmp_path: Path,
) -> None:
    websocket = (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %b\r\n"
    )
    page, rebound = (
        b"Host: localhost\r\nOrigin: https://evil.example\r\n",
        b"Host: evil.example:7222\r\n",
    )
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        for port, request in (
            (a.events, b"POST /v1/events/t HTTP/1.1\r\nContent-Length: 0\r\n"),
            (a.events, b"GET /v1/events?filter=%23 HTTP/1.1\r\nAccept: text/event-stream\r\n"),
            (a.events, b"GET /v1/ws HTTP/1.1\r\n" + websocket % b"mesh.v1.json"),
            (a.events, b"GET /v1/events HTTP/1.1\r\n" + websocket % b"cloudevents.json"),
            (a.admin, b"GET /v1/config HTTP/1.1\r\n"),
            (a.admin, b"GET /v1/routes/watch HTTP/1.1\r\n"),
            (a.admin, b"POST /v1/node/leave HTTP/1.1\r\nContent-Length: 0\r\n"),
        ):
            for who in (page, rebound):
                answered = await throw(port, request + who + b"\r\n")
                assert answered.startswith(b"HTTP/1.1 403 Forbidden\r\n"), (request, who, answered)
                assert b"MESH-A021" in answered
        link = await throw(a.link, b"GET /v1/link HTTP/1.1\r\n" + websocket % b"mesh.link.1" + page + b"\r\n")
        assert link.startswith(b"HTTP/1.1 403")
        counted = await metrics(a)
        assert counted['mesh_refusals_total{port="events",reason="foreign_origin"}'] == 4, counted
        assert counted['mesh_refusals_total{port="admin",reason="foreign_host"}'] == 3, counted
