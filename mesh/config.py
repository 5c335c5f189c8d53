"""The configuration of one node: one frozen value, made from flags, environment, file and defaults, in that order.

Decides which source wins, and whether the settings make sense together (loopback rules, bridges, registry).
Never decides how one value is written (`mesh.keys`), and opens nothing but the one file: no port, no folder.
Invariant: a `Config` that exists can be started with; everything else was a MeshError with its place and remedy.
Source: design page "What a person sees", section Configuration; "Routing", section Security (loopback).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from mesh.access.terms import AccessTerms, access_terms, terms_problems
from mesh.backends import Backend, backend_problems, backend_warnings, file_problems
from mesh.keys import KEYS, LISTS
from mesh.model.errors import MeshError
from mesh.model.limits import CALL_COPIES, Limits
from mesh.model.quantity import Address
from mesh.model.topic_rules import Level, SpoolPolicy, TopicRule
from mesh.policies import read_policy
from mesh.sources import Entry, Source, from_environ, from_file, from_flags, indexes

INSECURE_LINKS, INSECURE_CLIENTS = "MESH_INSECURE_LINKS", "MESH_INSECURE_CLIENTS"


class Setting(NamedTuple):
    """One row of `mesh config show`. value: as TOML. origin: flag | env | file | default. where: its place, for errors."""

    key: str
    value: str
    origin: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """id None: made from the host name and kept in the data folder. data None: `data_folder` decides."""

    id: str | None
    region: str
    data: Path | None
    location: tuple[float, float] | None
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """None: turned off."""

    events: Address | None
    link: Address | None
    admin: Address | None


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Where the node registers, and where it reads and writes the directory of regions (None: in the same place)."""

    backend: Backend
    directory: Backend | None
    lease_s: float
    seeds: tuple[Address, ...]

    @property
    def kind(self) -> str:
        return self.backend.kind

    @property
    def path(self) -> Path | None:
        return self.backend.path


@dataclass(frozen=True, slots=True)
class FederationConfig:
    """accept: which regions may dial in, resolved: never None."""

    accept: Literal["any", "listed"]
    hop_limit: int
    export_merge_budget: int


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    probe_interval_s: float
    probe_timeout_s: float
    suspicion_mult: float


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """One [[bridge]]. Without seeds it only accepts."""

    to: str
    seeds: tuple[Address, ...]
    links: int
    role: Literal["transit", "peer", "stub", "dmz"]
    transport: Literal["tcp", "ws"]
    cost: int


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """file None: in the data folder, where [auth] is set; else none is written."""

    file: Path | None = None
    size: int = 16 << 20
    files: int = 8


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Links inside TLS."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TlsClientsConfig:
    """The events and admin ports inside TLS. ca: of clients' certificates, and of other nodes' ports; None only where
    none are asked for."""

    ca: Path | None
    cert: Path
    key: Path
    certificates: Literal["none", "optional", "required"]


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a node is started with. insecure_*: the operator said that open ports on a network are meant."""

    node: NodeConfig
    listen: ListenConfig
    registry: RegistryConfig
    federation: FederationConfig
    membership: MembershipConfig
    bridges: tuple[BridgeConfig, ...]
    policy: Path | None
    topics: tuple[TopicRule, ...]
    limits: Limits
    telemetry: TelemetryConfig
    access: AccessTerms | None = None
    audit: AuditConfig = AuditConfig()
    tls: TlsConfig | None = None
    tls_clients: TlsClientsConfig | None = None
    insecure_links: bool = False
    insecure_clients: bool = False
    settings: tuple[Setting, ...] = ()

    def warnings(self) -> tuple[str, ...]:
        """What to log at the start: ports that are open to a network because the operator said so."""
        found = []
        if self.links_exposed:
            found.append("links are in clear text and peers are not authenticated (--insecure-links)")
        if self.insecure_clients and self.access is None:
            found.append("anybody who reaches the events port may publish and subscribe (--insecure-clients)")
        elif self.clients_exposed:
            found.append("tokens cross the network in clear text (--insecure-clients)")
        for table, backend in self.registry_backends():
            found += backend_warnings(table, backend)
        return tuple(found)

    @property
    def links_exposed(self) -> bool:
        """Whether links may cross a network in clear text, because the operator said so."""
        return self.insecure_links and self.tls is None

    @property
    def clients_exposed(self) -> bool:
        """Whether the events port may be reached over a network in clear text, because the operator said so."""
        return self.insecure_clients and self.tls_clients is None

    def registry_backends(self) -> tuple[tuple[str, Backend], ...]:
        """The registry and, where it is elsewhere, the directory, each with its table's name."""
        directory = self.registry.directory
        elsewhere = (("registry.directory", directory),) if directory is not None else ()
        return (("registry", self.registry.backend), *elsewhere)


def load(
    path: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    insecure_links: bool = False,
    insecure_clients: bool = False,
) -> Config:
    """The configuration from all sources.

    Args: path: the TOML file, None for none. flags: dotted key to text or TOML value. environ: default os.environ.
    Raises: MeshError, the first problem found; the node must not start.
    """
    config, problems = check(
        path, flags=flags, environ=environ, insecure_links=insecure_links, insecure_clients=insecure_clients
    )
    if problems:
        raise problems[0]
    assert config is not None
    return config


def check(
    path: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    insecure_links: bool = False,
    insecure_clients: bool = False,
) -> tuple[Config | None, list[MeshError]]:
    """As `load`, but tells every problem at once; the Config is None if there is any."""
    env = os.environ if environ is None else environ
    sources = [from_file(path)] if path is not None else []
    sources += [from_environ(env), from_flags(flags or {})]
    problems = [problem for source in sources for problem in source.problems]
    merged = _Merged(sources)
    problems += merged.missing()
    problems += (
        MeshError("MESH-C002", name, f"{env[name]!r} is not 1 or 0")
        for name in (INSECURE_LINKS, INSECURE_CLIENTS)
        if env.get(name, "") not in ("", "0", "1")
    )
    if problems:
        return None, problems
    config = _build(
        merged,
        insecure_links=insecure_links or env.get(INSECURE_LINKS) == "1",
        insecure_clients=insecure_clients or env.get(INSECURE_CLIENTS) == "1",
    )
    problems = list(_contradictions(config, merged))
    return (None, problems) if problems else (config, [])


def check_files(config: Config) -> list[MeshError]:
    """Whether the files that the configuration names can be used. Opens them: not part of `check`, which a test or a tool
    may call anywhere. Problems: MESH-C026 for each, and what the policy's file
    has."""
    origins = {setting.key: setting.where for setting in config.settings if setting.where}
    found: list[MeshError] = []
    for table, backend in config.registry_backends():
        found += file_problems(table, backend, lambda name: origins.get(name, name))
    if config.policy is not None:
        try:
            read_policy(config.policy)
        except MeshError as error:
            found.append(error)
    return found


class _Merged:
    """The entries that won: later sources over earlier ones; a list of tables is taken whole from the last that has it."""

    def __init__(self, sources: list[Source]) -> None:
        self.entries: dict[str, tuple[Entry, str]] = {}
        for source in sources:
            for name in LISTS:
                if indexes(source.entries, name):
                    self.entries = {k: v for k, v in self.entries.items() if not k.startswith(f"{name}.")}
            for entry in source.entries:
                self.entries[entry.name] = (entry, source.origin)
        self.lists = {
            name: indexes((entry for entry, _ in self.entries.values()), name) for name in sorted(LISTS)
        }

    def missing(self) -> Iterator[MeshError]:
        for table, numbers in self.lists.items():
            for index in numbers:
                for key in KEYS:
                    name = f"{table}.{index}.{key.last}"
                    if key.table == table and key.needed and name not in self.entries:
                        yield MeshError(
                            "MESH-C011", name, "it is missing", f"Add {key.last} to that [[{table}]]."
                        )

    def where(self, name: str) -> str:
        return self.entries[name][0].where if name in self.entries else name

    def table(self, schema: str, index: int | None = None) -> dict[str, Any]:
        """Values of one table by the last part of their key."""
        prefix = schema if index is None else f"{schema}.{index}"
        return {
            key.last: self.entries[name][0].value if name in self.entries else key.default
            for key in KEYS
            if key.built and key.table == schema
            for name in (f"{prefix}.{key.last}",)
        }

    def settings(self, resolved: Mapping[str, Any]) -> Iterator[Setting]:
        """Every built key with its value and origin, in the order of the table."""
        for key in KEYS:
            if not key.built:
                continue
            numbers = self.lists.get(key.table)
            prefixes = [key.table] if numbers is None else [f"{key.table}.{index}" for index in numbers]
            for prefix in prefixes:
                name = f"{prefix}.{key.last}"
                entry, origin = self.entries.get(name, (None, "default"))
                value = entry.value if entry is not None else resolved.get(name, key.default)
                shown = "-" if value is None and key.table != "listen" else key.form.write(value)
                yield Setting(name, shown, origin, entry.where if entry is not None else "")


def _build(merged: _Merged, *, insecure_links: bool, insecure_clients: bool) -> Config:
    registry, federation = merged.table("registry"), merged.table("federation")
    directory = merged.table("registry.directory")
    membership, listen = merged.table("membership"), ListenConfig(**merged.table("listen"))
    lease_s, seeds = registry.pop("lease"), registry.pop("seeds")
    del directory["lease"], directory["seeds"]
    for name in ("probe_interval", "probe_timeout"):
        membership[f"{name}_s"] = membership.pop(name)
    tls = _tls(merged)
    if federation["accept"] is None:
        on_loopback = listen.link is not None and listen.link.is_loopback
        federation["accept"] = "any" if on_loopback and tls is None else "listed"
    return Config(
        node=NodeConfig(**merged.table("node")),
        listen=listen,
        registry=RegistryConfig(
            backend=Backend(**registry),
            directory=Backend(**directory) if directory["kind"] is not None else None,
            lease_s=lease_s,
            seeds=seeds,
        ),
        federation=FederationConfig(**federation),
        membership=MembershipConfig(**membership),
        bridges=tuple(BridgeConfig(**merged.table("bridge", index)) for index in merged.lists["bridge"]),
        policy=merged.table("policy")["file"],
        topics=tuple(_topic_rule(merged.table("topic", index)) for index in merged.lists["topic"]),
        limits=Limits(hop_limit=federation["hop_limit"], **merged.table("limits")),
        telemetry=TelemetryConfig(**merged.table("telemetry")),
        access=access_terms(merged.table("auth")),
        audit=AuditConfig(**merged.table("audit")),
        tls=tls,
        tls_clients=_tls_clients(merged, tls),
        insecure_links=insecure_links,
        insecure_clients=insecure_clients,
        settings=tuple(merged.settings({"federation.accept": federation["accept"]})),
    )


def _tls(merged: _Merged) -> TlsConfig | None:
    """None where a key is missing, too: that is a contradiction, which stops the start."""
    table = merged.table("tls")
    return TlsConfig(**table) if all(table.values()) else None


def _tls_clients(merged: _Merged, tls: TlsConfig | None) -> TlsClientsConfig | None:
    """As `_tls`; what is not given comes from [tls]."""
    table = merged.table("tls.clients")
    if not any(name.startswith("tls.clients.") for name in merged.entries):
        return None
    asked: Literal["none", "optional", "required"] = table["certificates"] or (
        "optional" if table["ca"] else "none"
    )
    own = table["cert"], table["key"]
    if not any(own) and tls is not None:
        own = tls.cert, tls.key
    ca = table["ca"] or (tls.ca if tls is not None else None)
    if not all(own) or (asked != "none" and ca is None):
        return None
    return TlsClientsConfig(ca=ca, cert=own[0], key=own[1], certificates=asked)


def _topic_rule(table: Mapping[str, Any]) -> TopicRule:
    return TopicRule(
        filter=table["filter"],
        level=Level(table["level"]),
        ordered=table["ordered"],
        deadline_s=table["deadline"] or 0.0,
        copies=table["copies"],
        spool_bytes=table["spool"] or 0,
        spool_policy=SpoolPolicy(table["spool_policy"]),
        retain_s=table["retain"] or 0.0,
    )


# -- what must hold across keys -----------------------------------------------------------------------------------

LEASE_S: Final = (1.0, 3_600.0)
"""What every kind of registry can keep (`registry.base`)."""

_ORDERED: Final = (
    ("batch_target_bytes", "frame_bytes"),
    ("batch_events", "credit_events"),
    ("event_bytes", "frame_bytes"),
    ("event_bytes", "body_bytes"),
    ("event_bytes", "credit_bytes"),
    ("event_bytes", "data_queue_bytes"),
    ("event_bytes", "session_queue_bytes"),
    ("body_bytes", "bodies_bytes"),
    ("hop_limit", "path_regions"),
    ("frame_bytes", "segment_bytes"),
    ("journal_commit_bytes", "segment_bytes"),
    ("journal_commit_bytes", "journal_pending_bytes"),
    ("frame_bytes", "journal_pending_bytes"),
)
"""Limits of which the first may not be above the second: the largest event must fit what carries it."""


def _contradictions(config: Config, merged: _Merged) -> Iterator[MeshError]:
    yield from _open_ports(config, merged)
    yield from _access_problems(config, merged)
    yield from _tls_problems(config, merged)
    yield from _bridge_problems(config, merged)
    yield from backend_problems("registry", config.registry.backend, merged.entries, merged.where)
    yield from _directory_problems(config, merged)
    yield from _topic_problems(config, merged)
    if config.membership.probe_timeout_s >= config.membership.probe_interval_s:
        yield MeshError(
            "MESH-C006",
            merged.where("membership.probe_timeout"),
            "it is not shorter than membership.probe_interval",
        )
    for smaller, larger in _ORDERED:
        if getattr(config.limits, smaller) > getattr(config.limits, larger):
            key = "federation.hop_limit" if smaller == "hop_limit" else f"limits.{smaller}"
            yield MeshError("MESH-C006", merged.where(key), f"it is more than limits.{larger}")
    if CALL_COPIES * config.limits.body_bytes > config.limits.journal_pending_bytes:
        what = f"it is less than {CALL_COPIES} times limits.body_bytes: the largest call at least once would never be taken"
        yield MeshError("MESH-C006", merged.where("limits.journal_pending_bytes"), what)


def _directory_problems(config: Config, merged: _Merged) -> Iterator[MeshError]:
    directory = config.registry.directory
    low, high = LEASE_S
    if not low <= config.registry.lease_s <= high:
        what = f"it is not between {low:g}s and {high:g}s"
        yield MeshError("MESH-C006", merged.where("registry.lease"), what)
    given = [name for name in merged.entries if name.startswith("registry.directory.")]
    for name in ("registry.directory.lease", "registry.directory.seeds"):
        if name in given:
            yield MeshError("MESH-C020", merged.where(name), "a directory has none", "Remove it.")
    if directory is not None:
        yield from backend_problems("registry.directory", directory, merged.entries, merged.where)
    elif given:
        where = merged.where(given[0])
        yield MeshError(
            "MESH-C011", where, "registry.directory.kind is missing", "Add kind to [registry.directory]."
        )


def _topic_problems(config: Config, merged: _Merged) -> Iterator[MeshError]:
    for index, rule in zip(merged.lists["topic"], config.topics, strict=True):
        if rule.level is Level.AT_LEAST_ONCE:
            continue
        for key, given in (
            ("ordered", rule.ordered),
            ("copies", rule.copies > 1),
            ("spool", rule.spool_bytes),
        ):
            if given:
                yield MeshError(
                    "MESH-C006",
                    merged.where(f"topic.{index}.{key}"),
                    f"{key} is for at-least-once only",
                    'Add level = "at-least-once" to that [[topic]], or remove it.',
                )


def _access_problems(config: Config, merged: _Merged) -> Iterator[MeshError]:
    """[auth] is whole or not there: half of it would keep everybody out, or nobody."""
    given = [name for name in merged.entries if name.startswith("auth.")]
    for key, what in terms_problems(merged.table("auth")) if given else ():
        yield MeshError("MESH-C054", merged.where(f"auth.{key}" if key else given[0]), what)
    asked = config.tls_clients is not None and config.tls_clients.certificates != "none"
    if config.access is not None and config.access.certificates and not asked:
        what = "clients are not asked for certificates"
        remedy = 'Set [tls.clients] certificates to "optional" or "required".'
        yield MeshError("MESH-C054", merged.where("auth.certificates"), what, remedy)


def _tls_problems(config: Config, merged: _Merged) -> Iterator[MeshError]:
    """Half of a table, and clients' certificates of no CA."""
    for table, both in (("tls", ("ca", "cert", "key")), ("tls.clients", ("cert", "key"))):
        given = [name for name in both if f"{table}.{name}" in merged.entries]
        missing = [name for name in both if name not in given]
        if given and missing:
            where = merged.where(f"{table}.{given[0]}")
            yield MeshError(
                "MESH-C043", where, f"{table}.{missing[0]} is missing", f"Add {' and '.join(missing)}."
            )
            return
    given = [name for name in merged.entries if name.startswith("tls.clients.")]
    if given and config.tls_clients is None:
        has_own = config.tls is not None or "tls.clients.cert" in given
        what = "clients' certificates are asked for, and no CA for them is named"
        if not has_own:
            what = "there is no certificate: neither [tls.clients] nor [tls] has cert and key"
        yield MeshError("MESH-C043", merged.where(given[0]), what)


def _open_ports(config: Config, merged: _Merged) -> Iterator[MeshError]:
    """Ports in clear text, and the events port without a sign of who is there, are for this machine unless the operator says that
    the network is trusted."""
    listen = config.listen
    asks = config.access is not None
    inside_tls = config.tls_clients is not None
    shows = config.tls_clients is not None and config.tls_clients.certificates == "required"
    knows_clients = shows or (inside_tls and asks)
    taken: dict[Address, str] = {}
    for name, address in (("link", listen.link), ("events", listen.events), ("admin", listen.admin)):
        if address is None:
            continue
        where = merged.where(f"listen.{name}")
        if address.port and address in taken:
            yield MeshError(
                "MESH-C006", where, f"{address} is also listen.{taken[address]}", "Give each its own port."
            )
        taken[address] = name
        code = {"link": "MESH-C016", "events": "MESH-C017", "admin": "MESH-C018"}[name]
        allowed = {
            "link": config.insecure_links or config.tls is not None,
            "events": config.insecure_clients or knows_clients,
            "admin": asks and (config.insecure_clients or inside_tls),
        }[name]
        if not address.is_loopback and not allowed:
            yield MeshError(code, where, f"{address} is not on loopback")
    if not config.insecure_links and config.tls is None:
        seeds = {"registry.seeds": config.registry.seeds} | {
            f"bridge.{index}.seeds": bridge.seeds for index, bridge in enumerate(config.bridges)
        }
        for name, addresses in seeds.items():
            for address in addresses:
                if not address.is_loopback:
                    yield MeshError("MESH-C016", merged.where(name), f"{address} is not on loopback")


def _bridge_problems(config: Config, merged: _Merged) -> Iterator[MeshError]:
    regions: set[str] = set()
    for index, bridge in enumerate(config.bridges):
        where = merged.where(f"bridge.{index}.to")
        if bridge.to == config.node.region:
            yield MeshError(
                "MESH-C019",
                where,
                f"{bridge.to} is this node's own region",
                "Name another region; nodes of the own one are [registry] seeds.",
            )
        if bridge.to in regions:
            yield MeshError(
                "MESH-C019", where, f"{bridge.to} has a [[bridge]] already", "Put all its seeds into one."
            )
        regions.add(bridge.to)
        if not bridge.seeds and config.listen.link is None:
            yield MeshError(
                "MESH-C019",
                where,
                "it has no seeds to dial, and listen.link is none, so nothing can dial in",
                "Give it seeds, or turn listen.link on.",
            )


def data_folder(config: Config, environ: Mapping[str, str] | None = None) -> Path:
    """The node's folder: [node] data, else hopmesh/REGION/ID (or hopmesh/REGION/default) in the user's state folder."""
    if config.node.data is not None:
        return config.node.data
    env = os.environ if environ is None else environ
    state = Path(env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "hopmesh" / config.node.region / (config.node.id or "default")
