"""How a node finds the others of its region: it puts itself into the registry and dials whom it finds there.

Decides when to register, renew and look; entries are hints that membership checks for itself. The mesh runs on without the
registry: what it cannot tell is tried again later and said once.
Invariant: at most one lease of this process; it is given back on leaving.
Source: design page "Routing", The registry.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog
import trio

from registry.base import (
    Gone,
    Lease,
    LeaseLost,
    NodeEntry,
    Put,
    RegionEntry,
    Registry,
    RegistryError,
    RegistryUnavailable,
    Relist,
    edit_region,
)

if TYPE_CHECKING:
    from mesh.node.runner import Node

log = structlog.get_logger("registry")

RETRY_S: Final = 1.0
RECONCILE_S: Final = 45.0
"""Leased members missing from the roster are announced to, every 30 to 60 s."""


class Rendezvous:
    """Args: registry: where to. address: how others reach the link port, "" when they cannot. lease_s: of the entry."""

    def __init__(self, node: Node, registry: Registry, address: str, lease_s: float) -> None:
        self._node = node
        self._registry = registry
        self._address = address
        self._lease_s = lease_s
        self._lease: Lease | None = None
        self._problem = ""

    async def run(self) -> None:
        """Register and watch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_lease, name="registry lease")
            nursery.start_soon(self._watch, name="registry watch")
            nursery.start_soon(self._reconcile, name="registry reconciler")

    async def leave(self) -> None:
        """Take the entry out, within a second."""
        with trio.move_on_after(1.0):
            try:
                if self._lease is not None:
                    await self._registry.unregister(self._lease)
                await self._list_endpoint(present=False)
            except RegistryError as error:
                log.info("entry left behind", error=error.what)

    def _entry(self) -> NodeEntry:
        settings = self._node.settings
        return NodeEntry(
            region=settings.region,
            node=settings.node,
            instance=settings.instance,
            epoch=settings.epoch,
            addresses=(self._address,) if self._address else (),
            bridge=self._node.machine.control.is_bridge,
            software=settings.software,
            since=datetime.fromtimestamp(self._node.started_wall_s, UTC),
        )

    async def _keep_lease(self) -> None:
        listed = False
        while True:
            try:
                if self._lease is None:
                    self._lease = await self._registry.register(self._entry(), self._lease_s)
                else:
                    await self._registry.renew(self._lease)
                if self._node.machine.control.is_bridge and not listed:
                    self._lease = await self._registry.register(self._entry(), self._lease_s)
                    await self._list_endpoint(present=True)
                    listed = True
                self._well()
                await trio.sleep(self._lease_s / 3)
            except LeaseLost:
                self._lease = None
            except RegistryError as error:
                self._ill(error)
                await trio.sleep(RETRY_S)

    async def _list_endpoint(self, *, present: bool) -> None:
        """Put the link address into, or take it out of, the directory entry of the own region."""
        address, region = self._address, self._node.key.region
        if not address:
            return

        def change(entry: RegionEntry | None) -> RegionEntry | None:
            others = tuple(a for a in (entry.endpoints if entry else ()) if a != address)
            endpoints = (*others, address) if present else others
            if not endpoints:
                return None
            if entry is None:
                return RegionEntry(region=region, endpoints=endpoints)
            return RegionEntry(
                region=region, endpoints=endpoints, fingerprint=entry.fingerprint, labels=entry.labels
            )

        await edit_region(self._registry, region, change)

    async def _watch(self) -> None:
        watch = self._registry.watch(self._node.key.region)
        while True:
            try:
                for event in await watch.next():
                    match event:
                        case Put():
                            self._introduce(event.entry)
                        case Relist():
                            for entry in event.listing.entries:
                                self._introduce(entry)
                        case Gone():
                            pass  # membership finds out by itself whether the node is gone
            except RegistryUnavailable as error:
                self._ill(error)
                await trio.sleep(RETRY_S)

    async def _reconcile(self) -> None:
        while True:
            await trio.sleep(RECONCILE_S * self._node.dice.uniform(0.67, 1.33))
            try:
                for entry in (await self._registry.list(self._node.key.region)).entries:
                    if not self._node.machine.control.membership.is_live(entry.node):
                        self._introduce(entry)
            except RegistryUnavailable as error:
                self._ill(error)

    def _introduce(self, entry: NodeEntry) -> None:
        if entry.node != self._node.key.node:
            now = trio.current_time()
            self._node.machine.control.membership.introduce(entry.node, entry.epoch, entry.addresses, now)
            self._node.after_call()

    def _ill(self, error: RegistryError) -> None:
        if self._problem != error.what:
            self._problem = error.what
            log.warning("registry unavailable", error=error.what, remedy=error.remedy)

    def _well(self) -> None:
        if self._problem:
            self._problem = ""
            log.info("registry is back")
