"""How a node finds the others of its region: it puts itself into a registry and dials whom it finds there.

Decides whom to announce this node to: whoever is leased and not linked, at once as the registry tells of it, and again every
30 to 60 s while gossip does not know it (the rejoin reconciler). A member that is missing in the registry is shown, never
killed. Entries are hints: membership checks for itself, and the mesh runs on without the registry.
Decides how another registry takes the place of the first without leaving the mesh: the node registers there, and only then
lets go of the former one, whose entry ends with its lease (both may be one service under two addresses).
Invariant: while a registry is being replaced, the former one is kept until the new one has the entry.
Source: design page "Routing", The registry.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog
import trio

from mesh.node.comparison import Compared, Evidence, compare
from mesh.node.registrar import Registrar
from mesh.node.tenancy import Tenancy
from registry.base import NodeEntry, RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from mesh.node.runner import Node

log = structlog.get_logger("registry")

RECONCILE_S: Final = (30.0, 60.0)
"""Leased members missing from the roster are announced to, so often; with jitter."""
LEAVE_S: Final = 1.0


class Rendezvous:
    """Args: registrar: where to. address: how others reach the link port, "" when they cannot. lease_s: of the entry."""

    def __init__(self, node: Node, registrar: Registrar, address: str, lease_s: float) -> None:
        self._node = node
        self._address = address
        self.tenancy = self._tenancy(registrar, lease_s)
        self.former: Tenancy | None = None
        """The registry that is being replaced, until the new one has the entry."""
        self._replaced = trio.Event()
        self._leaving = False

    def _tenancy(self, registrar: Registrar, lease_s: float) -> Tenancy:
        retract = self._node.machine.control.membership.retract
        return Tenancy(self._node, registrar, self._entry, lease_s, found=self._introduce, gone=retract)

    async def run(self) -> None:
        """Register, watch and reconcile until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reconcile, name="registry reconciler")
            while True:
                self._replaced = trio.Event()
                nursery.start_soon(self._reside, self.tenancy, nursery, name=f"registry {self.tenancy.kind}")
                await self._replaced.wait()

    def replace(self, registrar: Registrar, lease_s: float) -> None:
        """Use another registry from now on. The present one is kept until this node is registered in the new one; a change
        before that takes the new one's place, not the present one's. Effects: a task of `run`."""
        waiting = self.tenancy
        if self.former is None:
            self.former = waiting
        else:
            waiting.stop()
        self.tenancy = self._tenancy(registrar, lease_s)
        self._replaced.set()

    def registrars(self) -> list[Registrar]:
        """The registry in use and, while it is being replaced, the former one."""
        both = (self.tenancy, self.former)
        return [tenancy.registrar for tenancy in both if tenancy is not None]

    async def _reside(self, tenancy: Tenancy, links: trio.Nursery) -> None:
        """Run one tenancy until it is stopped, and let go of the former one when this one is registered."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._let_go_of_former, tenancy, name="registry change")
            await tenancy.run(links)
            nursery.cancel_scope.cancel()
        if not self._leaving:
            await tenancy.registrar.close()

    async def _let_go_of_former(self, tenancy: Tenancy) -> None:
        await tenancy.registered.wait()
        former = self.former
        if former is not None and tenancy is self.tenancy:
            self.former = None
            former.stop()
            log.info(
                "the registry was changed",
                kind=tenancy.kind,
                endpoint=tenancy.registrar.statistics().endpoint,
            )

    async def leave(self) -> None:
        """Take the entry out and register no more, within LEAVE_S. The registry is left open."""
        self._leaving = True
        for tenancy in (self.tenancy, self.former):
            if tenancy is not None:
                tenancy.stop()
        with trio.move_on_after(LEAVE_S):
            for tenancy in (self.tenancy, self.former):
                try:
                    if tenancy is not None:
                        await tenancy.leave()
                except RegistryError as error:
                    log.info("entry left behind", error=error.what)

    # -- the reconciler ------------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        membership = self._node.machine.control.membership
        while True:
            await trio.sleep(self._node.dice.uniform(*RECONCILE_S))
            try:
                listing = await self.tenancy.look()
            except RegistryUnavailable:
                continue
            missing = [
                e for e in listing.entries if not membership.is_live(e.node) and e.node != self._node.key.node
            ]
            for entry in missing:
                log.debug("leased and not a member: announced to", node=entry.node, addresses=entry.addresses)
                self._introduce(entry)

    def _introduce(self, entry: NodeEntry) -> None:
        now = trio.current_time()
        self._node.machine.control.membership.introduce(entry.node, entry.epoch, entry.addresses, now)
        self._node.after_call()

    # -- what is told --------------------------------------------------------------------------------------------

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

    @property
    def seen(self) -> Tenancy:
        """The tenancy whose listing counts: the former one while the new one has none."""
        if self.former is not None and self.tenancy.listed_at is None:
            return self.former
        return self.tenancy

    def compare(self) -> list[Compared]:
        """What the registry and gossip say of every node of the region. Cost: O(entries + members), no I/O."""
        machine, tenancy = self._node.machine, self.seen
        listed_at = tenancy.listed_at
        if listed_at is not None and tenancy.registrar.last_success is not None:
            listed_at = max(listed_at, tenancy.registrar.last_success)
        instances = {self._node.key.node: self._node.settings.instance}
        for session in machine.sessions.values():
            if session.is_open and session.peer is not None and session.peer.region == self._node.key.region:
                instances[session.peer.node] = session.peer.instance
        return compare(
            Evidence(
                leased=tenancy.leased,
                listed_at=listed_at,
                available=tenancy.registrar.available is True,
                members=machine.control.membership.members(),
                instances=instances,
                tried=self._node.dialler.tried,
                lease_s=tenancy.lease_s,
                now=trio.current_time(),
            )
        )
