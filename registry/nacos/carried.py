"""What this client's connection carries in Nacos: the instances of its leases.

Decides when a server has to be told of them: when a lease changed, on each new connection, and when it does not show them.
All of a region's go in one request, which replaces those before: a connection has one set a service.
Invariant: what a server was told last is what the leases said then; `publish` tells it what they say now.
Source: Nacos, `NamingGrpcClientProxy` and `NamingGrpcRedoService`.
"""

from __future__ import annotations

from typing import Final, TypedDict

import trio

from registry.nacos.instance import Claim, service_name, write
from registry.nacos.leases import Leases
from registry.nacos.requests import (
    Answer,
    BatchInstanceRequest,
    InstanceRequest,
    ServiceQueryRequest,
    SubscribeServiceRequest,
)
from registry.nacos.session import Session
from registry.nacos.settings import NacosSettings

PUBLIC: Final = "public"


class _Place(TypedDict):
    namespace: str
    group_name: str
    service_name: str


class Carried:
    """Args: session: what carries it. leases: what is to be carried."""

    def __init__(self, settings: NacosSettings, session: Session, leases: Leases) -> None:
        self._namespace = settings.namespace or PUBLIC
        self._group = settings.group
        self._session = session
        self._leases = leases
        self._told: dict[str, tuple[int, tuple[Claim, ...]]] = {}
        self._telling = trio.Lock()

    async def publish(self, region: str) -> None:
        """Have the server know what the leases say of a region. Raises: RegistryUnavailable."""
        session = self._session
        async with self._telling:
            claims, before = self._leases.claims(region), self._told.get(region)
            if before == (session.generation, claims):
                return
            if claims:
                await session.ask(self._batch(region, claims), Answer)
            elif before is not None and before[1] and before[0] == session.generation:
                instance = write(before[1][0])
                await session.ask(InstanceRequest(**self.place(region), instance=instance), Answer)
            else:
                await session.ready()  # what a connection before this one carried ended with it
            self._told[region] = (session.generation, claims)

    def doubt(self, region: str) -> None:
        """Whatever the server was told: it does not show it."""
        self._told.pop(region, None)

    async def redo(self) -> None:
        """A new connection carries nothing. Raises: ConnectionBroken, RegistryUnavailable."""
        self._told.clear()
        for region in sorted(self._leases.regions()):
            claims = self._leases.claims(region)
            if claims:
                await self._session.ask_now(self._batch(region, claims), Answer)
                self._told[region] = (self._session.generation, claims)

    # -- requests ------------------------------------------------------------------------------------------------

    def place(self, region: str) -> _Place:
        """Of a region's service."""
        return {
            "namespace": self._namespace,
            "group_name": self._group,
            "service_name": service_name(region) if region else "",
        }

    def query(self, region: str) -> ServiceQueryRequest:
        return ServiceQueryRequest(**self.place(region))

    def subscription(self, region: str) -> SubscribeServiceRequest:
        return SubscribeServiceRequest(**self.place(region))

    def _batch(self, region: str, claims: tuple[Claim, ...]) -> BatchInstanceRequest:
        return BatchInstanceRequest(**self.place(region), instances=[write(claim) for claim in claims])
