"""The way to etcd: one of several endpoints, a token when it asks for one, and one channel at a time.

Decides which endpoint is used and when it is left: at the first call that it does not answer in time, refuses, or answers with
"no leader" (every call and stream demands a leader, so that a member that is cut off from the others says so). The endpoints
take turns; a new connection reads the TLS files anew. A token that etcd no longer takes is replaced once a call.
Never decides what is asked, and never repeats a call that must not be made twice.
Invariant: a call ends within `call_timeout_s` for each endpoint; at most one channel is open besides those being closed.
Source: etcd's client design page (balancer, require-leader metadata), and its authentication page.
"""

from __future__ import annotations

import random
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from registry.base import RegistryUnavailable
from registry.etcd import etcd_pb2 as pb
from registry.etcd.settings import EtcdSettings, target
from registry.etcd.verdict import Verdict, judge, unavailable
from registry.rpc import RpcChannel, RpcError, RpcStream, StatusCode, tls_credentials

RECEIVE_BYTES: Final = 8 << 20
"""A message with a watch's event and what was there before: etcd's own limit is 1.5 MiB a request."""
PEM_BYTES: Final = 1 << 20
LEADER: Final = ("hasleader", "true")
AUTHENTICATE: Final = "/etcdserverpb.Auth/Authenticate"


if TYPE_CHECKING:
    import grpc

T = TypeVar("T", bound=Message)


class Connection:
    """One client's connection. era: one more each time etcd is seen to have lost its history."""

    def __init__(self, settings: EtcdSettings) -> None:
        self.settings = settings
        self.targets = tuple(target(endpoint) for endpoint in settings.endpoints)
        # Clients spread over the members by themselves.
        self._index = random.randrange(len(self.targets))
        self._channel: RpcChannel | None = None
        self._token = ""
        self._authenticating = trio.Lock()
        self._closed = False
        self.calls = 0
        self.failures = 0
        self.era = 0
        self._revision = 0
        self._cluster = 0

    @property
    def endpoint(self) -> str:
        """The one in use, or to be tried next."""
        return self.targets[self._index]

    async def call(self, method: str, request: Message, answer: type[T], *, again: bool = True) -> T:
        """Call a method, at another endpoint too if `again` (the call may be made twice).

        Raises: RpcError where the verdict is the caller's to act on (LEASE, COMPACTED, TOO_LARGE); RegistryUnavailable, RegistryFull.
        """
        request_bytes = request.SerializeToString()
        renewed, reconnected = False, not again
        tries = len(self.targets) if again else 1
        while True:
            endpoint, channel, floor = self.endpoint, None, self._revision
            used, token = self._channel is not None, ""
            self.calls += 1
            try:
                channel = self._open()
                metadata = await self._metadata(channel)
                token = self._token
                raw = await channel.unary(
                    method, request_bytes, timeout_s=self.settings.call_timeout_s, metadata=metadata
                )
                found = _decoded(raw, answer)
                if isinstance(found, pb.RangeResponse | pb.TxnResponse):
                    self._saw(found.header, floor)
                return found
            except RpcError as error:
                verdict = judge(error)
                if verdict in (Verdict.LEASE, Verdict.COMPACTED, Verdict.TOO_LARGE):
                    raise
                self.failures += 1
                if verdict is Verdict.TOKEN and not renewed and self.settings.user:
                    # Another call may have replaced it meanwhile.
                    self._token, renewed = "" if self._token == token else self._token, True
                    continue
                if verdict in (Verdict.ENDPOINT, Verdict.TLS):
                    left = channel is not self._channel
                    await self.leave(channel)
                    if used and not reconnected and (left or error.code is StatusCode.UNAVAILABLE):
                        reconnected = True  # an old connection that broke says nothing about the next
                        continue
                    tries -= 1
                    if tries > 0:
                        continue
                raise unavailable(verdict, endpoint, error) from None

    async def stream(self, method: str) -> tuple[RpcChannel, RpcStream]:
        """Open a stream at the endpoint in use. Raises: RegistryUnavailable."""
        endpoint, channel = self.endpoint, None
        self.calls += 1
        try:
            channel = self._open()
            return channel, channel.stream(method, metadata=await self._metadata(channel))
        except RpcError as error:
            raise await self.stream_failed(channel, endpoint, error) from None

    async def stream_failed(
        self, channel: RpcChannel | None, endpoint: str, error: RpcError
    ) -> RegistryUnavailable:
        """A stream of this channel ended so: draw the consequences, and return the error for who reads it."""
        self.failures += 1
        verdict = judge(error)
        if verdict in (Verdict.TOKEN, Verdict.DENIED):
            self._token = ""
        if verdict in (Verdict.ENDPOINT, Verdict.TLS):
            await self.leave(channel)
        found = unavailable(verdict, endpoint, error)
        return (
            found if isinstance(found, RegistryUnavailable) else RegistryUnavailable(found.where, found.what)
        )

    async def leave(self, channel: RpcChannel | None) -> None:
        """Turn to the next endpoint, unless somebody did already."""
        if channel is not self._channel:
            return
        self._channel = None
        self._index = (self._index + 1) % len(self.targets)
        if channel is not None:
            await channel.aclose()

    def history_is_lost(self) -> None:
        """What watches know may not be so any more: they list again."""
        self.era += 1
        self._revision = 0

    def _saw(self, header: pb.ResponseHeader, floor: int) -> None:
        """Notice an etcd that was emptied: it is another one, or is behind what was seen before the call was made."""
        if header.revision < floor or self._cluster not in (0, header.cluster_id):
            self.history_is_lost()
        self._cluster = header.cluster_id
        self._revision = max(self._revision, header.revision)

    async def aclose(self) -> None:
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.aclose()

    def _open(self) -> RpcChannel:
        """The channel in use, or a new one. Raises: RpcError, RegistryUnavailable (a TLS file)."""
        if self._closed:
            raise RegistryUnavailable(f"registry etcd {self.endpoint}", "this client is closed")
        if self._channel is None:
            settings = self.settings
            try:
                found = credentials(settings) if settings.secure else None
            except RegistryUnavailable:
                self.failures += 1
                raise
            self._channel = RpcChannel(
                self.endpoint,
                credentials=found,
                receive_bytes=RECEIVE_BYTES,
                keepalive_s=settings.keepalive_s,
                keepalive_timeout_s=settings.keepalive_timeout_s,
            )
        return self._channel

    async def _metadata(self, channel: RpcChannel) -> list[tuple[str, str]]:
        """Demand a leader, and say who we are. Raises: RpcError."""
        if not self.settings.user:
            return [LEADER]
        async with self._authenticating:
            if not self._token:
                self.calls += 1
                request = pb.AuthenticateRequest(name=self.settings.user, password=self.settings.password)
                raw = await channel.unary(
                    AUTHENTICATE,
                    request.SerializeToString(),
                    timeout_s=self.settings.call_timeout_s,
                    metadata=[LEADER],
                )
                self._token = _decoded(raw, pb.AuthenticateResponse).token
            return [LEADER, ("token", self._token)]


def credentials(settings: EtcdSettings) -> grpc.ChannelCredentials:
    """Read the TLS files, and see that they can be used. Cost: a few small reads. Raises: RegistryUnavailable MESH-R012."""

    def read(name: str, path: Path | None) -> bytes | None:
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                return file.read(PEM_BYTES)
        except OSError as error:
            raise _bad_file(name, path, error.strerror or str(error)) from None

    ca, cert, key = read("ca", settings.ca), read("cert", settings.cert), read("key", settings.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is not None:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise _bad_file("ca", settings.ca, f"not a PEM file of certificates ({error})") from None
    try:
        if settings.cert is not None and settings.key is not None:
            context.load_cert_chain(settings.cert, settings.key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        what = f"not a PEM certificate with the key of {settings.key} ({error})"
        raise _bad_file("cert", settings.cert, what) from None
    return tls_credentials(ca, cert, key)


def _bad_file(name: str, path: Path | None, what: str) -> RegistryUnavailable:
    return RegistryUnavailable(f"registry.{name}", f"{path}: {what}", "MESH-R012")


def _decoded(raw: bytes, answer: type[T]) -> T:
    try:
        return answer.FromString(raw)
    except DecodeError:
        raise RpcError(StatusCode.INTERNAL, "an answer that is not etcd's") from None
