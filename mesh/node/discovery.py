"""The registries of one node: where it registers, and where it finds the other regions; one service or two.

Decides how the two share a client, how both are replaced while the node runs, and the order of leaving and closing. Never
decides which kind a registry is: `mesh.app` opens them.
Invariant: each registry that was handed over is closed once, when nothing uses it any more.
Source: design page "Routing", The registry.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import structlog
import trio

from mesh.node.directory import RegionDirectory
from mesh.node.registrar import Registrar
from mesh.node.registry_views import RegistryViews
from mesh.node.rendezvous import Rendezvous
from registry.base import Registry, RegistryError

if TYPE_CHECKING:
    from mesh.node.runner import Node

log = structlog.get_logger("registry")

LEAVE_S: Final = 1.0


class Discovery:
    """Args: address: this node's link address as others reach it, "" when it only dials out. nodes, directory: None where there
    is none; the same client where both are one service. lease_s: of the node's entry. directory_address: where the readers of
    the directory reach it by another address."""

    def __init__(
        self,
        node: Node,
        address: str,
        nodes: Registry | None,
        directory: Registry | None,
        lease_s: float,
        *,
        directory_address: str | None = None,
    ) -> None:
        of_nodes, of_directory = _registrars(nodes, directory)
        self.rendezvous = Rendezvous(node, of_nodes, address, lease_s) if of_nodes is not None else None
        listed_as = address if directory_address is None else directory_address
        self.directory = (
            RegionDirectory(node, of_directory, listed_as, leased=self._leased, former=self._former)
            if of_directory is not None
            else None
        )
        node.inspection.registry = RegistryViews(node.key, self.rendezvous, self.directory)
        self._retired: list[Registrar] = []
        self._changed = trio.Event()

    async def run(self) -> None:
        """Register, find and keep listed until cancelled."""
        async with trio.open_nursery() as nursery:
            if self.rendezvous is not None:
                nursery.start_soon(self.rendezvous.run, name="rendezvous")
            if self.directory is not None:
                nursery.start_soon(self.directory.run, name="region directory")
            while True:
                self._changed = trio.Event()
                while self._retired:
                    await self._retired.pop().close()
                await self._changed.wait()

    def replace(self, nodes: Registry | None, directory: Registry | None, lease_s: float) -> None:
        """Use other registries from now on; each where there was one. The node stays registered in the former one until it is
        in the new one; the directory is read from and written to the new one at once."""
        of_nodes, of_directory = _registrars(nodes, directory)
        assert (of_nodes is None) == (self.rendezvous is None)
        assert (of_directory is None) == (self.directory is None)
        still = self.rendezvous.registrars() if self.rendezvous is not None else []
        if self.rendezvous is not None and of_nodes is not None:
            self.rendezvous.replace(of_nodes, lease_s)
        if self.directory is not None and of_directory is not None:
            former = self.directory.registrar
            self.directory.use(of_directory)
            if former not in still:
                self._retired.append(former)
        self._changed.set()

    async def leave(self) -> None:
        """Take the node's entry and its place in the directory out, within LEAVE_S, and write no more."""
        with trio.move_on_after(LEAVE_S):
            async with trio.open_nursery() as nursery:
                if self.rendezvous is not None:
                    nursery.start_soon(self.rendezvous.leave)
                if self.directory is not None:
                    nursery.start_soon(self._leave_directory, self.directory)

    async def _leave_directory(self, directory: RegionDirectory) -> None:
        try:
            await directory.leave()
        except RegistryError as error:
            log.info("directory entry left behind", error=error.what)

    async def close(self) -> None:
        """Let go of every registry. After `run` ended."""
        registrars = self.rendezvous.registrars() if self.rendezvous is not None else []
        if self.directory is not None and self.directory.registrar not in registrars:
            registrars.append(self.directory.registrar)
        for registrar in [*registrars, *self._retired]:
            await registrar.close()

    def _leased(self) -> Collection[str] | None:
        """Addresses registered in the own region; None while the registry cannot say. Without one, nobody is registered."""
        if self.rendezvous is None:
            return ()
        tenancy = self.rendezvous.seen
        if tenancy.listed_at is None or tenancy.registrar.available is not True:
            return None
        return {address for leased in tenancy.leased.values() for address in leased.entry.addresses}

    def _former(self) -> Collection[str]:
        return self.rendezvous.tenancy.former if self.rendezvous is not None else ()


def _registrars(
    nodes: Registry | None, directory: Registry | None
) -> tuple[Registrar | None, Registrar | None]:
    """One registrar for each client."""
    if nodes is not None and nodes is directory:
        shared = Registrar(nodes, "all")
        return shared, shared
    of_nodes = Registrar(nodes, "nodes") if nodes is not None else None
    return of_nodes, Registrar(directory, "directory") if directory is not None else None
