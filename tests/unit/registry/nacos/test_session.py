"""A connection that is kept, on servers in this process that break it in every way."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
from unit.registry.nacos.fake_nacos import FakeNacos

from registry.base import RegistryUnavailable
from registry.nacos.connection import VERSION
from registry.nacos.login import Login
from registry.nacos.requests import (
    Answer,
    HealthCheckRequest,
    ServiceAnswer,
    ServiceInfo,
    ServiceQueryRequest,
)
from registry.nacos.session import Session
from registry.nacos.settings import NacosSettings

QUERY = ServiceQueryRequest(namespace="public", group_name="HOPMESH", service_name="hopmesh.eu")


@pytest.fixture
def nacos() -> Iterator[FakeNacos]:
    fake = FakeNacos()
    yield fake
    fake.close()


class Kept:
    """A session with what it told."""

    def __init__(self, settings: NacosSettings, login: Login | None = None) -> None:
        self.pushed: list[ServiceInfo] = []
        self.redone = 0
        self.session = Session(settings, self._redo, self.pushed.append, lambda: None, login)

    async def _redo(self) -> None:
        self.redone += 1
        await self.session.ask_now(HealthCheckRequest(), Answer)


@pytest.fixture
async def keep() -> AsyncIterator[Callable[..., Kept]]:
    async with trio.open_nursery() as nursery:

        def start(*ports: int, **more: Any) -> Kept:
            login = more.pop("login", None)
            servers = tuple(f"127.0.0.1:{port}" for port in ports)
            timeouts = {"connect_timeout_s": 0.5, "call_timeout_s": 0.5}
            kept = Kept(NacosSettings(servers=servers, grpc_offset=0, **{**timeouts, **more}), login)
            nursery.start_soon(kept.session.run)
            return kept

        yield start
        nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.01)


async def test_a_connection_is_set_up_as_the_protocol_says(
    nacos: FakeNacos, keep: Callable[..., Kept]
) -> None:
    kept = keep(nacos.port, namespace="n")
    await kept.session.ask(QUERY, ServiceAnswer)
    (setup,) = nacos.setups
    assert (setup["clientVersion"], setup["tenant"], setup["labels"]["module"]) == (VERSION, "n", "naming")
    assert nacos.asked[0] == "ServerCheckRequest"
    assert nacos.asked[-1] == "ServiceQueryRequest"
    assert (kept.redone, kept.session.generation) == (1, 1)
    assert kept.session.server == f"127.0.0.1:{nacos.port}"


async def test_every_request_of_the_server_is_answered_with_its_id(
    nacos: FakeNacos, keep: Callable[..., Kept]
) -> None:
    kept = keep(nacos.port)
    await kept.session.ready()
    nacos.tell("SetupAckRequest", abilityTable={"x": True})
    nacos.tell("ClientDetectionRequest", requestId="7")
    nacos.tell(
        "NotifySubscriberRequest", requestId="8", serviceInfo={"name": "hopmesh.eu", "hosts": [], "more": 1}
    )
    nacos.tell("ConfigChangeNotifyRequest", requestId="9", dataId="x")
    nacos.tell("SomethingNewRequest", requestId="10")
    nacos.tell("NotifySubscriberRequest", requestId="11", serviceInfo=7)
    await eventually(lambda: len(nacos.answers) == 6)
    assert [(kind, body["requestId"]) for kind, body in nacos.answers] == [
        ("SetupAckResponse", None), ("ClientDetectionResponse", "7"), ("NotifySubscriberResponse", "8"),
        ("ConfigChangeNotifyResponse", "9"), ("SomethingNewResponse", "10"), ("NotifySubscriberResponse", "11"),
    ]  # fmt: skip
    assert all(body["resultCode"] == 200 for _, body in nacos.answers)
    assert [info.name for info in kept.pushed] == ["hopmesh.eu"]


async def test_a_lost_connection_is_made_again_with_what_it_carried(
    nacos: FakeNacos, keep: Callable[..., Kept]
) -> None:
    kept = keep(nacos.port)
    await kept.session.ready()
    nacos.forget()
    await eventually(lambda: kept.session.generation == 2)
    await kept.session.ask(QUERY, ServiceAnswer)
    assert kept.redone == 2
    assert kept.session.failures == 0


async def test_a_server_that_forgot_the_connection_gets_a_new_one(
    nacos: FakeNacos, keep: Callable[..., Kept]
) -> None:
    kept = keep(nacos.port)
    await kept.session.ready()
    with nacos.lock:
        nacos.streams.clear()  # without ending any
    await kept.session.ask(QUERY, ServiceAnswer)
    assert kept.session.generation == 2


async def test_a_server_that_sends_its_clients_away_is_obeyed(keep: Callable[..., Kept]) -> None:
    fakes = [FakeNacos(), FakeNacos()]
    try:
        kept = keep(*(fake.port for fake in fakes))
        await kept.session.ready()
        first = next(fake for fake in fakes if kept.session.server.endswith(f":{fake.port}"))
        other = fakes[1 - fakes.index(first)]
        first.tell("ConnectResetRequest", requestId="1", serverIp="127.0.0.1", serverPort=str(other.port))
        await eventually(lambda: kept.session.server.endswith(f":{other.port}"))
    finally:
        for fake in fakes:
            fake.close()


async def test_a_server_that_hangs_or_refuses_is_passed_over(
    nacos: FakeNacos, keep: Callable[..., Kept]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ports = (silent.getsockname()[1], closed.getsockname()[1], nacos.port)
        for _ in range(3):
            kept = keep(*ports)
            with trio.fail_after(4.0):
                await kept.session.ask(QUERY, ServiceAnswer)
            assert kept.session.server.endswith(f":{nacos.port}")


async def test_a_server_that_begins_to_hang_is_left_for_another(keep: Callable[..., Kept]) -> None:
    fakes = [FakeNacos(), FakeNacos()]
    try:
        kept = keep(*(fake.port for fake in fakes))
        await kept.session.ready()
        first = next(fake for fake in fakes if kept.session.server.endswith(f":{fake.port}"))
        first.hangs = True
        with trio.fail_after(4.0):
            await kept.session.ask(QUERY, ServiceAnswer)
        assert not kept.session.server.endswith(f":{first.port}")
        assert kept.session.generation == 2
    finally:
        for fake in fakes:
            fake.close()


async def test_a_registry_that_is_away_is_said_to_be_away_and_found_again_at_once(
    keep: Callable[..., Kept],
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        kept = keep(closed.getsockname()[1])
        for _ in range(2):
            with (
                trio.fail_after(3.0),
                pytest.raises(RegistryUnavailable, match=r"cannot be reached.*refused") as error,
            ):
                await kept.session.ready()
            assert error.value.code == "MESH-R001"


async def test_what_is_no_nacos_is_said_to_be_none(nacos: FakeNacos, keep: Callable[..., Kept]) -> None:
    nacos.garbage = True
    with pytest.raises(RegistryUnavailable, match="port of its clients"):
        await keep(nacos.port).session.ready()


async def test_a_token_that_ran_out_is_replaced_in_the_middle_of_a_call(
    nacos: FakeNacos, keep: Callable[..., Kept]
) -> None:
    given = 0

    async def post(server: str, path: str, form: str) -> tuple[int, bytes]:
        nonlocal given
        await trio.lowlevel.checkpoint()
        given += 1
        return 200, f'{{"accessToken":"t{given}","tokenTtl":1000}}'.encode()

    nacos.tokens = {"t1"}
    settings = NacosSettings(servers=("a:1",), user="u", password="p")
    kept = keep(nacos.port, user="u", password="p", login=Login(settings, post))
    await kept.session.ask(QUERY, ServiceAnswer)
    nacos.tokens = {"t2"}
    await kept.session.ask(QUERY, ServiceAnswer)
    assert (given, kept.session.generation) == (2, 1)
    nacos.tokens = set()
    with pytest.raises(RegistryUnavailable, match="permission for namespace 'public'") as error:
        await kept.session.ask(QUERY, ServiceAnswer)
    assert error.value.code == "MESH-R010"


async def test_a_server_that_asks_for_a_user_where_none_is_set_says_so(
    nacos: FakeNacos, keep: Callable[..., Kept]
) -> None:
    nacos.tokens = {"t"}
    with pytest.raises(RegistryUnavailable, match="none is set") as error:
        await keep(nacos.port).session.ask(QUERY, ServiceAnswer)
    assert error.value.code == "MESH-R009"


async def test_a_certificate_file_that_is_missing_is_named(keep: Callable[..., Kept], tmp_path: Any) -> None:
    with pytest.raises(RegistryUnavailable, match=r"ca\.pem") as error:
        await keep(1, ca=tmp_path / "ca.pem").session.ready()
    assert error.value.code == "MESH-R012"
