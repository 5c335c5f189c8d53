"""One connection to one Nacos server: its channel, and the stream that makes the server know it.

Decides when a connection counts as made, answers every request of the server, and tells when the connection is of no use any
more. Never reconnects: what a server held for a connection ends with it.
Invariant: a request of the server that is not understood is acknowledged all the same; nothing that it sends raises here.
Source: Nacos, `GrpcClient` and `ConnectionManager` (a connection silent for 20 s is asked, and dropped 5 s later).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Final, TypeVar

import grpc
import trio

from registry.nacos.payload import REQUEST, STREAM, BadPayload, Payload, decode, encode
from registry.nacos.requests import (
    OK,
    UNREGISTERED,
    Acknowledgement,
    Answer,
    ConnectionSetupRequest,
    ConnectResetRequest,
    HealthCheckRequest,
    NotifySubscriberRequest,
    Request,
    ServerCheckAnswer,
    ServerCheckRequest,
    ServerRequest,
    ServiceInfo,
    from_body,
    to_body,
)
from registry.nacos.settings import NacosSettings
from registry.rpc import RpcChannel, RpcError

VERSION: Final = "Hopmesh:v1"
RECEIVE_BYTES: Final = 16 * 1024 * 1024
"""About 20,000 instances of one service."""
KEEPALIVE_S: Final = 400.0
"""gRPC's own pings: a Nacos server takes one in five minutes, and gives up who asks more often. `check` is for the rest."""
REGISTERED_POLL_S: Final = 0.05
TLS_WORDS: Final = ("handshake", "Handshake", "SSL", "Ssl", "certificate", "CERTIFICATE")
"""gRPC has no code for a certificate that is not taken."""

A = TypeVar("A", bound=Answer)


class ConnectionBroken(Exception):
    """The connection is of no use any more. What was asked may or may not have been done. code: of mesh.model.errors."""

    def __init__(self, what: str, code: str = "MESH-R001") -> None:
        super().__init__(what)
        self.what = what
        self.code = code


class Refused(Exception):
    """The server answered that it will not. code: of the protocol."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what


class Connection:
    """Args: pushed: called with each service that the server tells of. Made by `open`; `aclose` ends it."""

    def __init__(self, settings: NacosSettings, server: str, pushed: Callable[[ServiceInfo], None]) -> None:
        self.server = server
        self.id = ""
        """As the server's own lists name it."""
        self.next_server = ""
        """Where the server wants its client to go."""
        self.answered_s = trio.current_time()
        self.broken = trio.Event()
        self.end = ConnectionBroken(f"{server} was not asked yet")
        """Why it is of no use any more, once `broken` is set."""
        self._settings = settings
        self._pushed = pushed
        self._channel = RpcChannel(
            settings.grpc_target(server),
            credentials=credentials(settings),
            receive_bytes=RECEIVE_BYTES,
            keepalive_s=KEEPALIVE_S,
        )
        self._stream = self._channel.stream(STREAM)

    async def aclose(self) -> None:
        self.breaks("is not needed any more")
        await self._channel.aclose()

    def breaks(self, what: str, error: RpcError | None = None) -> ConnectionBroken:
        """It is of no use any more. Returns the first reason for that."""
        if not self.broken.is_set():
            self.end = (
                ConnectionBroken(f"{self.server} {what}")
                if error is None
                else reason(self.server, what, error)
            )
            self.broken.set()
        return ConnectionBroken(self.end.what, self.end.code)

    async def greet(self) -> None:
        """Find out whether a server is there that answers; it costs it nothing. Raises: ConnectionBroken, Refused."""
        self.id = (await self.ask(ServerCheckRequest(), ServerCheckAnswer, "")).connection_id

    async def set_up(self, token: str) -> None:
        """Make the server know this connection. `read` must be running. Raises: ConnectionBroken, Refused."""
        setup = ConnectionSetupRequest(
            client_version=VERSION,
            tenant=self._settings.namespace,
            labels={"source": "sdk", "module": "naming", "AppName": "hopmesh"},
        )
        self._send(
            Payload("ConnectionSetupRequest", to_body(setup), {}, own_address(self._settings, self.server))
        )
        while True:  # older servers do not acknowledge the setup: they know the connection, or not yet
            try:
                await self._ask(HealthCheckRequest(), Answer, token)
            except Refused as refused:
                if refused.code != UNREGISTERED:
                    raise
                await trio.sleep(REGISTERED_POLL_S)
            else:
                return

    async def ask(self, request: Request, kind: type[A], token: str) -> A:
        """One request. Raises: ConnectionBroken, Refused (the connection is as good as before)."""
        try:
            return await self._ask(request, kind, token)
        except Refused as refused:
            if refused.code != UNREGISTERED:
                raise
            raise self.breaks("does not know this connection any more") from refused

    async def check(self, token: str) -> None:
        """Whether the server still answers. Raises: ConnectionBroken, Refused."""
        await self.ask(HealthCheckRequest(), Answer, token)

    async def read(self) -> None:
        """Answer the server's requests until the connection ends."""
        while not self.broken.is_set():
            try:
                raw = await self._stream.receive()
            except RpcError as error:
                self.breaks("ended the connection", error)
                return
            try:
                self._take(decode(raw))
            except BadPayload:
                continue

    def _take(self, payload: Payload) -> None:
        """Acknowledge first: a server waits 3 s, then sends a push again."""
        asked = from_body(payload.body, ServerRequest)
        kind = payload.type.removesuffix("Request") + "Response"
        try:
            self._send(Payload(kind, to_body(Acknowledgement(request_id=asked.request_id))))
        except ConnectionBroken:
            return
        if payload.type == "NotifySubscriberRequest":
            told = from_body(payload.body, NotifySubscriberRequest)
            if told.service_info is not None:
                self._pushed(told.service_info)
        elif payload.type == "ConnectResetRequest":
            reset = from_body(payload.body, ConnectResetRequest)
            if reset.server_ip and reset.server_port:
                self.next_server = f"{reset.server_ip}:{reset.server_port}"
            self.breaks("asks its clients to connect again")

    def _send(self, payload: Payload) -> None:
        try:
            self._stream.send(encode(payload))
        except RpcError as error:
            raise self.breaks("takes no answers", error) from error

    async def _ask(self, request: Request, kind: type[A], token: str) -> A:
        headers = {"accessToken": token} if token else {}
        raw = encode(Payload(type(request).__name__, to_body(request), headers))
        if self.broken.is_set():
            raise ConnectionBroken(self.end.what, self.end.code)
        try:
            answer = await self._channel.unary(REQUEST, raw, timeout_s=self._settings.call_timeout_s)
        except RpcError as error:
            if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Refused(0, f"{self.server}: the answer is too large ({error.details})") from error
            raise self.breaks("does not answer", error) from error
        try:
            payload = decode(answer)
            head = from_body(payload.body, Answer)
            if head.result_code != OK and head.error_code not in request.accepts:
                raise Refused(head.error_code, f"{self.server}: {head.message or 'it gives no reason'}"[:500])
            found = from_body(payload.body, kind)
        except BadPayload as error:
            raise self.breaks(
                f"answers what Nacos does not ({error}): is that the port of its clients?"
            ) from error
        self.answered_s = trio.current_time()
        return found


def reason(server: str, what: str, error: RpcError) -> ConnectionBroken:
    """What a person should read of gRPC's reason."""
    details = error.details.rpartition("last error: ")[2] or error.code.name
    if any(word in details for word in TLS_WORDS):
        return ConnectionBroken(f"{server}: TLS failed ({details})"[:500], "MESH-R011")
    if "failed to connect" in error.details:
        return ConnectionBroken(f"{server} cannot be reached ({details})"[:500])
    return ConnectionBroken(f"{server} {what} ({error.code.name}: {details})"[:500])


def credentials(settings: NacosSettings) -> grpc.ChannelCredentials | None:
    """Read anew for each connection, so that renewed certificates are used. Raises: OSError."""
    if not settings.secure:
        return None
    ca, key, cert = (
        None if path is None else path.read_bytes() for path in (settings.ca, settings.key, settings.cert)
    )
    return grpc.ssl_channel_credentials(ca, key, cert)


def own_address(settings: NacosSettings, server: str) -> str:
    """The address of this machine that the server sees, for the console; "" where it has a name. No packet is sent."""
    host, port = settings.split(server)
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return ""
