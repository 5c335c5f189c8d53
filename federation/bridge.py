"""The driver of bridges: keeps the links to other regions that the configuration asks for.

Decides which addresses of a region are dialled: every seed of a `[[bridge]]`, or, where it has none, up to `links` addresses
from the region directory. One that does not answer makes room for the next that the directory names, so that the addresses of
crashed bridges hold up nobody. Never decides routes or what may cross.
Invariant: at most `links` addresses of a region are dialled or linked at one time.
Source: design page "Routing", Between regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from mesh.core.opening import Terms
from mesh.node.dialler import Target
from mesh.node.directory import RegionDirectory
from mesh.node.runner import Node
from registry.base import RegistryError

DIRECTORY_S: Final = 5.0
"""How often the directory is looked through for a region that has no seeds, while there is no link to it."""
LINKED_S: Final = 30.0
"""The same while there is one."""
PATIENCE_S: Final = 8.0
"""An address that did not lead to a link for so long makes room for another."""
TURN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class BridgePlan:
    """One `[[bridge]]`. where: its place in the configuration, for errors. seeds: "HOST:PORT"."""

    region: str
    seeds: tuple[str, ...]
    links: int
    transport: str
    terms: Terms
    where: str


async def keep_bridges(node: Node, plans: Sequence[BridgePlan], directory: RegionDirectory | None) -> None:
    """Keep every configured bridge up. One task a link; ends only when cancelled or when there is nothing to keep."""
    async with trio.open_nursery() as nursery:
        for plan in plans:
            for seed in plan.seeds:
                target = Target(seed, plan.terms, plan.transport, plan.where)
                nursery.start_soon(node.dialler.keep, target, name=f"bridge {plan.region} {seed}")
            if not plan.seeds and directory is not None:
                dialled = _Dialled(node, plan, directory)
                nursery.start_soon(dialled.keep, nursery, name=f"directory {plan.region}")


@dataclass(slots=True)
class _Slot:
    """One of a plan's links. idle_since: since when it is not linked."""

    target: Target
    scope: trio.CancelScope
    idle_since: float


class _Dialled:
    """The bridges of one region, as the directory names them.

    An address that the directory no longer names is given up unless it is linked: entries are hints, and a link is proof.
    """

    def __init__(self, node: Node, plan: BridgePlan, directory: RegionDirectory) -> None:
        self._node = node
        self._plan = plan
        self._directory = directory
        self._slots: dict[str, _Slot] = {}
        self._given_up: dict[str, float] = {}  # address -> when its turn ended without a link

    async def keep(self, nursery: trio.Nursery) -> None:
        """Look and dial until cancelled."""
        endpoints: tuple[str, ...] = ()
        due = trio.current_time()
        while True:
            now = trio.current_time()
            if now >= due:
                try:
                    entry = await self._directory.region(self._plan.region)
                    endpoints = entry.endpoints if entry is not None else ()
                except RegistryError:
                    pass  # the registrar told it; what is known stays
                due = now + self._node.dice.uniform(0.8, 1.0) * (LINKED_S if self._linked() else DIRECTORY_S)
            self._give_up(endpoints)
            self._fill(endpoints, nursery)
            await trio.sleep(TURN_S)

    def _linked(self) -> bool:
        return any(slot.target.state == "linked" for slot in self._slots.values())

    def _give_up(self, endpoints: Sequence[str]) -> None:
        now = trio.current_time()
        others = [address for address in endpoints if address not in self._slots]
        for address, slot in list(self._slots.items()):
            if slot.target.state == "linked":
                slot.idle_since = now
            elif address not in endpoints or (others and now - slot.idle_since >= PATIENCE_S):
                slot.scope.cancel()
                del self._slots[address]
                self._given_up[address] = now
        self._given_up = {address: at for address, at in self._given_up.items() if address in endpoints}

    def _fill(self, endpoints: Sequence[str], nursery: trio.Nursery) -> None:
        """Those never tried first, in the order of the directory, then those given up longest ago."""
        now, plan = trio.current_time(), self._plan
        for address in sorted(endpoints, key=lambda address: self._given_up.get(address, float("-inf"))):
            if len(self._slots) >= plan.links:
                return
            if address not in self._slots:
                target = Target(address, plan.terms, plan.transport, plan.where, configured=False)
                slot = self._slots[address] = _Slot(target, trio.CancelScope(), now)
                nursery.start_soon(_keep, self._node, slot, name=f"bridge {plan.region} {address}")


async def _keep(node: Node, slot: _Slot) -> None:
    with slot.scope:
        await node.dialler.keep(slot.target)
    if slot.scope.cancelled_caught:
        node.dialler.targets.remove(slot.target)
