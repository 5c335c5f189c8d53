"""What a node tells of its registries, as plain items with the field names of `mesh.node.inspect`.

Reads what the tenancy, the directory and their registrars hold; makes no request, so that asking never waits for a registry.
Verdicts are those of `mesh.node.comparison` and `mesh.node.directory`; nothing is judged here.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from mesh.model.ids import NodeKey
from mesh.node.comparison import Compared
from mesh.node.directory import RegionDirectory
from mesh.node.inspect import Item, RegistryCounters
from mesh.node.registrar import Registrar
from mesh.node.rendezvous import Rendezvous
from mesh.node.tenancy import Tenancy

OFF: Item = {
    "id": "all",
    "kind": "none",
    "endpoint": "",
    "state": "off",
    "age_s": None,
    "registered": False,
    "lease_s": None,
    "lease_age_s": None,
    "last_success_s": None,
    "calls": 0,
    "failures": 0,
    "per_minute": 0,
    "ignored": {},
    "entries": 0,
    "regions": 0,
    "detail": "seeds only",
}
"""`registry.kind = "none"`."""


@dataclass(frozen=True, slots=True)
class RegistryViews:
    """The registries of one node. Both None: there is none."""

    key: NodeKey
    rendezvous: Rendezvous | None = None
    directory: RegionDirectory | None = None

    def registrars(self) -> list[Registrar]:
        """Each once: nodes and directory may share one."""
        found = []
        if self.rendezvous is not None:
            found.append(self.rendezvous.tenancy.registrar)
            if self.rendezvous.former is not None:
                found.append(self.rendezvous.former.registrar)
        if self.directory is not None and self.directory.registrar not in found:
            found.append(self.directory.registrar)
        return found

    # -- status --------------------------------------------------------------------------------------------------

    def status(self) -> list[Item]:
        """One item for each registry in use."""
        if self.rendezvous is None and self.directory is None:
            return [dict(OFF)]
        return [self._status(registrar) for registrar in self.registrars()]

    def _status(self, registrar: Registrar) -> Item:
        now = trio.current_time()
        statistics = registrar.statistics()
        tenancy = self._tenancy_of(registrar)
        former = self.rendezvous is not None and tenancy is not None and tenancy is self.rendezvous.former
        state = {None: "waiting", True: "reachable", False: "unavailable"}[registrar.available]
        detail = registrar.problem or (registrar.watch_problem and f"watch: {registrar.watch_problem}")
        return {
            "id": "former" if former else registrar.role,
            "kind": statistics.kind,
            "endpoint": statistics.endpoint,
            "state": state,
            "age_s": round(now - registrar.since, 3),
            "registered": tenancy is not None and tenancy.holds,
            "lease_s": tenancy.lease_s if tenancy is not None else None,
            "lease_age_s": _ago(tenancy.renewed_at if tenancy is not None else None, now),
            "last_success_s": _ago(registrar.last_success, now),
            "calls": statistics.calls,
            "failures": max(statistics.failures, registrar.failures),
            "per_minute": registrar.per_minute(),
            "ignored": dict(statistics.ignored),
            "entries": statistics.entries,
            "regions": statistics.regions,
            "detail": "until the new one has the entry" if former else detail,
        }

    def _tenancy_of(self, registrar: Registrar) -> Tenancy | None:
        if self.rendezvous is None:
            return None
        both = (self.rendezvous.tenancy, self.rendezvous.former)
        return next((one for one in both if one is not None and one.registrar is registrar), None)

    # -- entries -------------------------------------------------------------------------------------------------

    def entries(self) -> list[Item]:
        """The region's nodes as the registry holds them, the regions of the directory, and what is no entry."""
        now = trio.current_time()
        found: list[Item] = []
        if self.rendezvous is not None:
            for node, leased in sorted(self.rendezvous.seen.leased.items()):
                entry = leased.entry
                found.append(
                    {
                        "id": node,
                        "kind": "node",
                        "region": entry.region,
                        "addresses": list(entry.addresses),
                        "epoch": entry.epoch,
                        "instance": entry.instance,
                        "role": "bridge" if entry.bridge else "node",
                        "version": entry.software,
                        "since": entry.since.isoformat(),
                        "age_s": round(now - leased.since, 3),
                        "reason": "",
                        "detail": "",
                    }
                )
        if self.directory is not None:
            age_s = _ago(self.directory.read_at, now)
            for name, region in sorted(self.directory.regions.items()):
                detail = f"fingerprint {region.fingerprint}" if region.fingerprint else ""
                item = _bare(name, "region", list(region.endpoints), age_s, "", detail)
                found.append({**item, "region": name, "labels": dict(region.labels)})
        for registrar in self.registrars():
            for one in registrar.registry.ignored():
                found.append(_bare(one.key, "ignored", [], None, one.reason, one.value))
        return found

    # -- the difference ------------------------------------------------------------------------------------------

    def diff(self) -> list[Item]:
        """What the registry and gossip say of each node, and what is to be said of the directory's entry of this region."""
        now = trio.current_time()
        found: list[Item] = []
        if self.rendezvous is not None:
            away = self.rendezvous.seen.listed_at is None
            found = [self._compared(one, now, away) for one in self.rendezvous.compare()]
        if self.directory is not None:
            age_s = _ago(self.directory.read_at, now)
            for remark in self.directory.remarks():
                found.append(
                    {
                        "id": self.key.region,
                        "kind": "region",
                        "region": self.key.region,
                        "registry": "listed" if self.key.region in self.directory.regions else "absent",
                        "registry_age_s": age_s,
                        "registry_epoch": None,
                        "gossip": "-",
                        "gossip_age_s": None,
                        "gossip_epoch": None,
                        "verdict": remark.verdict.value,
                        "right": remark.right.value,
                        "detail": remark.detail,
                    }
                )
        return found

    def _compared(self, one: Compared, now: float, away: bool) -> Item:
        absent = "unknown" if away else "absent"
        return {
            "id": one.node,
            "kind": "node",
            "region": self.key.region,
            "registry": "leased" if one.leased is not None else absent,
            "registry_age_s": _ago(one.leased.since if one.leased is not None else None, now),
            "registry_epoch": one.leased.entry.epoch if one.leased is not None else None,
            "gossip": one.member.state.name.lower() if one.member is not None else "unknown",
            "gossip_age_s": _ago(one.member.since if one.member is not None else None, now),
            "gossip_epoch": one.member.epoch if one.member is not None else None,
            "verdict": one.verdict.value,
            "right": one.right.value,
            "detail": one.detail,
        }

    def counters(self) -> dict[str, RegistryCounters]:
        """For metrics, by role."""
        return {
            registrar.role: RegistryCounters(
                registrar.available is True, registrar.statistics().calls, registrar.failures
            )
            for registrar in reversed(self.registrars())  # of two with one role the one in use counts
        }


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else round(max(0.0, now - at), 3)


def _bare(id: str, kind: str, addresses: list[str], age_s: float | None, reason: str, detail: str) -> Item:
    """An entry that is no node's."""
    item: Item = {
        "id": id,
        "kind": kind,
        "region": None,
        "addresses": addresses,
        "epoch": None,
        "instance": None,
    }
    more: Item = {
        "role": None,
        "version": None,
        "since": None,
        "age_s": age_s,
        "reason": reason,
        "detail": detail,
    }
    return {**item, **more}
