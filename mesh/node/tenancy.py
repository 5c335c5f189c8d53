"""One process's entry in one registry, and what that registry says of the other nodes of the region.

Decides when to register, renew and look at the holder of the name. The entry goes in when the registry answers, is renewed
every third of its lease, and goes in again when the lease was lost or the registry came back empty.
A newcomer that finds its name held by another process knocks at the holder's address first: one that answers there keeps the
name, and this process ends (MESH-L005); one that does not is replaced at once. A process that is told that a newer one holds
its name knocks there, too. The holder of the greater (epoch, instance) never knocks, so two cannot refuse each other.
Invariant: at most one lease in this registry.
Source: design page "Routing", Identity and restart; The registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog
import trio

from mesh.net.supervise import Backoff
from mesh.node.comparison import Leased
from mesh.node.registrar import RETRY_S, Registrar
from registry.base import (
    Gone,
    Lease,
    LeaseLost,
    Listing,
    NodeEntry,
    Put,
    RegistryError,
    RegistryUnavailable,
    Relist,
    Superseded,
)

if TYPE_CHECKING:
    from mesh.node.runner import Node

log = structlog.get_logger("registry")

ADDRESSES_ASKED: Final = 4
"""Addresses of the name's holder that are knocked at."""
SUPERSEDED_S: Final = 5.0
"""How often a process whose name a newer entry holds looks again: that entry may be a dead process's, which ends."""
LOOK_S: Final = 1.0
"""How often the own entry is compared with what was told; no request."""
FLAPPING_S: Final = 1.0
"""A lease that is lost sooner than this is not registered again at once."""


class Tenancy:
    """Args: registrar: where. entry: what to register now. found: told of every entry of another node, gone: of one that ended."""

    def __init__(
        self,
        node: Node,
        registrar: Registrar,
        entry: Callable[[], NodeEntry],
        lease_s: float,
        *,
        found: Callable[[NodeEntry], object],
        gone: Callable[[str], object],
    ) -> None:
        self._node = node
        self.registrar = registrar
        self._entry = entry
        self.lease_s = lease_s
        self._found = found
        self._gone = gone
        self._lease: Lease | None = None
        self._told: NodeEntry | None = None
        self._claimed = False
        self._superseded = ""
        self.registered = trio.Event()
        """Set once the entry was in."""
        self.renewed_at: float | None = None
        self.leased: dict[str, Leased] = {}
        """The region's entries as last listed or watched, the own one among them."""
        self.listed_at: float | None = None
        self.former: tuple[str, ...] = ()
        """Addresses of the process that held this name before, as its entry told them."""
        self._scope = trio.CancelScope()

    @property
    def kind(self) -> str:
        return self.registrar.registry.kind

    @property
    def holds(self) -> bool:
        """Whether the entry is in, as far as is known here."""
        return self._lease is not None

    async def run(self, links: trio.Nursery) -> None:
        """Keep the entry and look at the others until cancelled or stopped. links: for a link that knocking opened."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_lease, links, name="registry lease")
                nursery.start_soon(self._watch, name="registry watch")

    def stop(self) -> None:
        """End `run`. The entry is left to its lease."""
        self._scope.cancel()

    async def leave(self) -> None:
        """Take the entry out. Raises: RegistryError."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await self.registrar.ask(lambda registry: registry.unregister(lease))

    async def look(self) -> Listing:
        """List the region's entries now. Raises: RegistryUnavailable."""
        listing = await self.registrar.ask(lambda registry: registry.list(self._node.key.region))
        self._relist(listing)
        return listing

    # -- the lease -----------------------------------------------------------------------------------------------

    async def _keep_lease(self, links: trio.Nursery) -> None:
        backoff = Backoff(*RETRY_S, dice=self._node.dice)
        while True:
            registered_at = trio.current_time()
            try:
                await self._claim_or_renew(links)
            except LeaseLost as error:
                log.info("lease lost: registering again", code=error.code, error=error.what)
                self._lease = None
                if self.renewed_at is not None and registered_at - self.renewed_at < FLAPPING_S:
                    await trio.sleep(backoff.next())
            except Superseded as error:
                if self._superseded != error.what:
                    self._superseded = error.what
                    log.warning("a newer process holds this name", code=error.code, error=error.what)
                await self._knock_at_holder(links)
                await trio.sleep(self._node.dice.uniform(SUPERSEDED_S / 2, SUPERSEDED_S))
            except RegistryUnavailable:
                await trio.sleep(backoff.next())
            except RegistryError as error:
                log.warning("cannot register", code=error.code, error=error.what, remedy=error.remedy)
                await trio.sleep(self.lease_s / 3)
            else:
                backoff.reset()
                await self._until_due()

    async def _until_due(self) -> None:
        """A third of the lease, or until the entry changed or the watch broke off: then look at once."""
        self.registrar.doubted = doubted = trio.Event()
        due = trio.current_time() + self.lease_s / 3 * self._node.dice.uniform(0.9, 1.0)
        with trio.move_on_at(due):
            while self._entry() == self._told and not doubted.is_set():
                with trio.move_on_after(LOOK_S):
                    await doubted.wait()

    async def _claim_or_renew(self, links: trio.Nursery) -> None:
        entry = self._entry()
        lease = self._lease
        if lease is not None and entry == self._told:
            await self.registrar.ask(lambda registry: registry.renew(lease))
        else:
            if not self._claimed:
                await self.look()
                held = self.leased.get(self._node.key.node)
                await self._knock_at_holder(links)
                if held is not None:
                    self.former = held.entry.addresses
                self._claimed = True
            self._lease = await self.registrar.ask(lambda registry: registry.register(entry, self.lease_s))
            if not self.registered.is_set():
                log.info("registered", kind=self.registrar.registry.kind, lease_s=self.lease_s)
            self._told = entry
            self._superseded = ""
            self.registered.set()
        self.renewed_at = trio.current_time()

    async def _knock_at_holder(self, links: trio.Nursery) -> None:
        """Another process holds the name: if it answers at its address, this node ends. If none does, nobody is there."""
        if self._claimed:
            await self.look()
        mine, held = self._entry(), self.leased.get(self._node.key.node)
        if held is None or held.entry.instance == mine.instance:
            return
        for address in held.entry.addresses[:ADDRESSES_ASKED]:
            if address not in mine.addresses:
                log.info("another process is registered under this name: asking it", address=address)
                await self._node.dialler.knock(address, links)
        if self._node.failure is not None:
            await (
                trio.sleep_forever()
            )  # it answered: this node ends, and must not take the name on its way out

    # -- the others ----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        watch = self.registrar.registry.watch(self._node.key.region)
        backoff = Backoff(*RETRY_S, dice=self._node.dice)
        while True:
            try:
                events = await watch.next()
            except RegistryUnavailable as error:
                self.registrar.doubt(error)
                await trio.sleep(backoff.next())
                if self.registrar.available is False:
                    await self.registrar.back.wait()
                continue
            self.registrar.watch_problem = ""
            backoff.reset()
            self.listed_at = trio.current_time()
            for event in events:
                match event:
                    case Put():
                        self._put(event.entry)
                    case Relist():
                        self._relist(event.listing)
                    case Gone():
                        # Membership finds out by itself whether the node is gone; only the hint ends.
                        if self.leased.pop(event.key.node, None) is not None:
                            self._gone(event.key.node)

    def _relist(self, listing: Listing) -> None:
        self.listed_at = trio.current_time()
        names = {entry.node for entry in listing.entries}
        for node in [node for node in self.leased if node not in names]:
            del self.leased[node]
            self._gone(node)
        for entry in listing.entries:
            self._put(entry)

    def _put(self, entry: NodeEntry) -> None:
        before = self.leased.get(entry.node)
        same = before is not None and before.entry.rank == entry.rank
        self.leased[entry.node] = Leased(entry, before.since if same and before else trio.current_time())
        if entry.node != self._node.key.node:
            self._found(entry)
