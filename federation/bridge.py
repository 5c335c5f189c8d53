"""The driver of bridges: keeps the links to other regions that the configuration asks for.

Decides which addresses of a region are dialled: every seed of a `[[bridge]]`, or, where it has none, up to `links` addresses
from the region directory. Never decides routes or what may cross.
Source: design page "Routing", Between regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from mesh.core.session import Terms
from mesh.node.dialler import Target
from mesh.node.runner import Node
from registry.base import Registry, RegistryUnavailable

log = structlog.get_logger("bridge")

DIRECTORY_S: Final = 5.0
"""How often the directory is looked through for a region that has no seeds."""


@dataclass(frozen=True, slots=True)
class BridgePlan:
    """One `[[bridge]]`. where: its place in the configuration, for errors. seeds: "HOST:PORT"."""

    region: str
    seeds: tuple[str, ...]
    links: int
    transport: str
    terms: Terms
    where: str


async def keep_bridges(node: Node, plans: Sequence[BridgePlan], registry: Registry | None) -> None:
    """Keep every configured bridge up. One task a link; ends only when cancelled or when there is nothing to keep."""
    async with trio.open_nursery() as nursery:
        for plan in plans:
            for seed in plan.seeds:
                target = Target(seed, plan.terms, plan.transport, plan.where)
                nursery.start_soon(node.dialler.keep, target, name=f"bridge {plan.region} {seed}")
            if not plan.seeds and registry is not None:
                nursery.start_soon(
                    _from_directory, node, plan, registry, nursery, name=f"directory {plan.region}"
                )


async def _from_directory(node: Node, plan: BridgePlan, registry: Registry, nursery: trio.Nursery) -> None:
    """Dial the bridges that the directory names for a region, at most `links` of them, as they become known.

    One that it no longer names is given up unless it is linked: entries are hints, and a link is proof.
    """
    dialled: dict[str, tuple[Target, trio.CancelScope]] = {}
    while True:
        try:
            found = await registry.get_region(plan.region)
        except RegistryUnavailable as error:
            log.warning("registry unavailable", region=plan.region, error=error.what)
        else:
            endpoints = found.entry.endpoints if found is not None else ()
            for address, (target, scope) in list(dialled.items()):
                if address not in endpoints and target.state != "linked":
                    scope.cancel()
                    del dialled[address]
            for address in endpoints:
                if address not in dialled and len(dialled) < plan.links:
                    target = Target(address, plan.terms, plan.transport, plan.where, configured=False)
                    scope = trio.CancelScope()
                    dialled[address] = (target, scope)
                    nursery.start_soon(_keep, node, target, scope, name=f"bridge {plan.region} {address}")
        await trio.sleep(DIRECTORY_S)


async def _keep(node: Node, target: Target, scope: trio.CancelScope) -> None:
    with scope:
        await node.dialler.keep(target)
    if scope.cancelled_caught:
        node.dialler.targets.remove(target)
