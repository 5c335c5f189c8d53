"""The region directory as one node uses it: which bridges each region has, and that the own region's are listed.

Decides what a bridge writes into its own region's entry, when it looks again, and which addresses there are stale:
- a node with a `[[bridge]]` or a link to another region lists its link address, and takes it out when it leaves;
- one that comes back at another address takes out the address of the process it follows;
- what no member and no registered node of the region has been at for STALE_S is taken out by the first bridge of the region
  by name, at its next look (30 to 60 s). With no bridge left the entry stays until one comes: entries are hints.
- an entry with the fingerprint of another key belongs to another trust root that claims the name: it is never written over.
Never decides which addresses are dialled: `federation.bridge` does.
Invariant: only the own region's entry is ever written, by compare and set.
Source: design page "Routing", The registry; Between regions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
import trio

from mesh.model.reasons import Right, Verdict
from mesh.node.registrar import Registrar
from registry.base import ADDRESSES, RegionEntry, RegistryError, edit_region

if TYPE_CHECKING:
    from mesh.node.runner import Node

log = structlog.get_logger("registry")

LOOK_S: Final = (30.0, 60.0)
"""How often the whole directory is read; with jitter."""
TURN_S: Final = 1.0
"""How often this node sees whether it became a bridge; no request."""
RETRY_S: Final = (2.0, 5.0)
STALE_S: Final = 60.0


class RegionRemark(NamedTuple):
    """Something about the directory's entry of the own region that a person should see."""

    verdict: Verdict
    right: Right
    detail: str


class RegionDirectory:
    """Args: address: this node's link address, "" when it only dials out. fingerprint: of the own region's key, "" without one.
    leased: addresses that are registered in the own region, None while nobody can say."""

    def __init__(
        self,
        node: Node,
        registrar: Registrar,
        address: str,
        *,
        fingerprint: str = "",
        leased: Callable[[], Collection[str] | None] = lambda: None,
        former: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._node = node
        self.registrar = registrar
        self._address = address
        self._fingerprint = fingerprint
        self._leased = leased
        self._former = former
        self._stale: dict[str, float] = {}
        self.regions: dict[str, RegionEntry] = {}
        """As last read."""
        self.read_at: float | None = None
        self.listed = False
        self._followed: set[str] = set()
        self._conflict = ""
        self._leaving = False
        self._look = trio.Event()

    async def run(self) -> None:
        """Read the directory and keep the own address in it until cancelled."""
        due, used = trio.current_time(), self.registrar
        while not self._leaving:
            if used is not self.registrar:
                due, used = trio.current_time(), self.registrar
            if trio.current_time() >= due or (self._should_list and not (self.listed and self._is_followed)):
                try:
                    await self._round()
                    due = trio.current_time() + self._node.dice.uniform(*LOOK_S)
                    if self._should_list and not self.listed:  # refused: not again before the next look
                        await self._pause(due)
                except RegistryError as error:
                    log.debug("directory not read", error=error.what)
                    await self._pause(trio.current_time() + self._node.dice.uniform(*RETRY_S))
            await self._pause(trio.current_time() + TURN_S)

    async def _pause(self, until: float) -> None:
        with trio.move_on_at(until):
            await self._look.wait()

    async def region(self, name: str) -> RegionEntry | None:
        """The entry of one region, read now. Raises: RegistryError."""
        found = await self.registrar.ask(lambda registry: registry.get_region(name))
        if found is None:
            self.regions.pop(name, None)
            return None
        self.regions[name] = found.entry
        return found.entry

    def use(self, registrar: Registrar) -> None:
        """Use another registry from now on. What is written in the present one stays: both may be one service."""
        self.registrar = registrar
        self.listed = False
        self._look.set()
        self._look = trio.Event()

    async def leave(self) -> None:
        """Take the own address out and write no more. Raises: RegistryError."""
        self._leaving = True
        if self.listed and self._address:
            await self._edit(lambda endpoints: [a for a in endpoints if a != self._address])
            self.listed = False

    # -- the own region's entry ----------------------------------------------------------------------------------

    @property
    def _should_list(self) -> bool:
        """Whether this node is, or by its configuration will be, a bridge that others can dial."""
        return bool(self._address) and (
            self._node.machine.control.is_bridge or bool(self._node.settings.bridges)
        )

    @property
    def _is_followed(self) -> bool:
        """Whether the addresses of the process that this one follows were taken out."""
        return set(self._former()) <= self._followed

    async def _round(self) -> None:
        former = set(self._former())
        found = await self.registrar.ask(lambda registry: registry.regions())
        self.regions = {one.entry.region: one.entry for one in found}
        self.read_at = trio.current_time()
        own = self.regions.get(self._node.key.region)
        self._note_stale(own.endpoints if own is not None else ())
        if self._should_list:
            endpoints = list(own.endpoints) if own is not None else []
            if self._conflict or self._listed(endpoints) != endpoints:
                await self._edit(self._listed)
            self.listed = not self._conflict
            self._followed |= former

    def _listed(self, endpoints: list[str]) -> list[str]:
        """Without what is stale, and with the own address, unless there are as many bridges as an entry holds."""
        gone = {a for a in self._former() if a != self._address} | self._to_clean()
        kept = [a for a in endpoints if a not in gone]
        return kept if self._address in kept or len(kept) >= ADDRESSES else [*kept, self._address]

    def _note_stale(self, endpoints: Collection[str]) -> None:
        """Remember since when each listed address belongs to nobody."""
        leased = self._leased()
        if leased is None:  # the registry of the nodes is away: nobody can say
            self._stale.clear()
            return
        now = trio.current_time()
        members = self._node.machine.control.membership.members().values()
        known = {a for member in members if member.live for a in member.addresses} | set(leased)
        unknown = [a for a in endpoints if a not in known and a != self._address]
        self._stale = {a: self._stale.get(a, now) for a in unknown}

    def _to_clean(self) -> set[str]:
        """Addresses that have been nobody's for long enough, if cleaning is this node's turn."""
        control = self._node.machine.control
        bridges = {name for name in control.bridges_of_region() if control.membership.is_live(name)}
        if min(bridges | {self._node.key.node}) != self._node.key.node:
            return set()
        now = trio.current_time()
        return {address for address, since in self._stale.items() if now - since >= STALE_S}

    async def _edit(self, change: Callable[[list[str]], list[str]]) -> None:
        region = self._node.key.region
        refused: list[str] = []

        def write(entry: RegionEntry | None) -> RegionEntry | None:
            refused.clear()
            if entry is not None and entry.fingerprint and entry.fingerprint != self._fingerprint:
                refused.append(entry.fingerprint)
                return entry
            endpoints = tuple(change(list(entry.endpoints if entry is not None else ())))
            if not endpoints:
                return None
            fingerprint = entry.fingerprint if entry is not None and entry.fingerprint else self._fingerprint
            labels = dict(entry.labels) if entry is not None else {}
            return RegionEntry(region=region, endpoints=endpoints, fingerprint=fingerprint, labels=labels)

        written = await self.registrar.ask(lambda registry: edit_region(registry, region, write))
        if written is None:
            self.regions.pop(region, None)
        else:
            self.regions[region] = written
        if refused and self._conflict != refused[0]:
            log.error(
                "another trust root claims this region: not listed", code="MESH-R008", fingerprint=refused[0]
            )
        self._conflict = refused[0] if refused else ""

    # -- what is told --------------------------------------------------------------------------------------------

    def remarks(self) -> list[RegionRemark]:
        """What a person should see of the own region's entry; nothing where all is well."""
        own = self.regions.get(self._node.key.region)
        now, found = trio.current_time(), []
        if own is not None and own.fingerprint and own.fingerprint != self._fingerprint:
            detail = f"fingerprint {own.fingerprint} is listed, {self._fingerprint or 'none'} is ours: not written over"
            found.append(RegionRemark(Verdict.FOREIGN_KEY, Right.NOBODY, detail))
        elif self._should_list and not self.listed:
            found.append(RegionRemark(Verdict.NOT_LISTED, Right.GOSSIP, f"this bridge, {self._address}"))
        for address, since in self._stale.items():
            detail = f"{address} is nobody's since {now - since:.0f}s"
            found.append(RegionRemark(Verdict.LISTED_STALE, Right.GOSSIP, detail))
        return found
