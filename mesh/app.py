"""The program: from a configuration to a running node and back to an exit code.

The only room that sees all others: it alone picks a registry kind, binds ports, opens the data folder and ties ports to
the node. Decides the order of starting and stopping.
Invariant: whatever was started is stopped when `run` returns, also after an error.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias, assert_never

import structlog
import trio

import mesh
from federation.bridge import BridgePlan, keep_bridges
from federation.core.policy.boundary import Boundary
from federation.core.policy.sealing import NONCE_BYTES
from federation.core.routes import RouteSettings
from mesh.admin.guarded import GuardedAdminPort
from mesh.admin.port import AdminPort
from mesh.admitted import Admitted
from mesh.backends import Backend, read_password
from mesh.config import BridgeConfig, Config, RegistryConfig, check_files, data_folder
from mesh.core.membership import MembershipSettings
from mesh.core.opening import Terms
from mesh.identity.credentials import HomeCredentials
from mesh.model.errors import ERRORS, MeshError
from mesh.model.ids import NodeKey
from mesh.model.journal import JournalLimits, JournalState
from mesh.model.limits import Limits
from mesh.model.topic_rules import TopicRules
from mesh.net.http import HttpServer
from mesh.net.link_listener import LinkListener, Pending
from mesh.net.listener import Listener, open_listener
from mesh.net.own_address import told_address
from mesh.net.supervise import Crashes
from mesh.net.tls_port import Handshakes
from mesh.net.transport import Transport
from mesh.node.dialler import Target
from mesh.node.discovery import Discovery
from mesh.node.event_log import EventLog
from mesh.node.inspect import JournalReading
from mesh.node.runner import Node
from mesh.node.settings import NodeSettings
from mesh.policies import Policy, read_policy
from mesh.policy_watch import PolicyWatch
from mesh.protocols.guarded import GuardedPort
from mesh.protocols.serve import EventsPort
from mesh.reload import changes_of
from mesh.secured import Secured
from mesh.store.epoch import DataFolder, claim, next_epoch, node_id
from mesh.store.eventlog import EventLogEngine
from mesh.store.flusher import Flusher
from mesh.store.journal import Journal
from mesh.store.kept import JournalStore
from registry.base import Registry
from registry.file import FileRegistry

log = structlog.get_logger("app")

JOURNAL: Final = "journal"
"""The journal's folder in the data folder."""

Again: TypeAlias = Callable[[], tuple[Config | None, list[MeshError]]]
"""Reads the configuration as `mesh.config.check` does, from the sources that the process was started with."""


def run(config: Config, again: Again | None = None) -> int:
    """Run a node until it is told to leave. Returns the exit code; errors for a person are printed to standard error.

    Args: again: reads the configuration once more, for SIGHUP; None: there is no file, and SIGHUP drains as SIGTERM does, so
    that a node started in a terminal ends with it.
    """
    try:
        _run(config, again)
    except MeshError as error:
        return _told(error)
    except BaseExceptionGroup as group:
        told, others = group.split(MeshError)
        if told is None or others is not None:
            raise
        return _told(told)
    return 0


def _run(config: Config, again: Again | None) -> None:
    for problem in check_files(config):
        raise problem
    configure_logging(config)
    with DataFolder(data_folder(config)) as folder:
        name = config.node.id or node_id(folder.path, socket.gethostname())
        key = NodeKey(config.node.region, name)
        secured = Secured(config, key)
        claim(folder.path, key)
        epoch = next_epoch(folder.path, time.time())
        with closing(_open_journal(folder.path, config.limits)) as journal:
            trio.run(_main, config, name, epoch, again, journal, secured, strict_exception_groups=True)


def _open_journal(folder: Path, limits: Limits) -> Journal:
    """The journal of a data folder. What could not be used of it is told, and never stops the start."""
    journal = Journal.open(folder / JOURNAL, JournalLimits.of(limits))
    found = journal.recovery
    for damage in found.damage:
        log.warning("journal damaged", **damage._asdict())
    if found.records:
        log.info(
            "journal recovered", records=found.records, bytes=found.bytes, seconds=round(found.seconds, 3)
        )
    return journal


def _journal_state(node: Node, state: JournalState) -> None:
    """The journal cannot write any more, or again."""
    if state is JournalState.OK:
        log.info("journal writes again")
    else:
        log.error("journal cannot write: at-least-once events are refused until it can", reason=state.value)
    node.stored()


def _told(error: BaseException) -> int:
    """Print the (first) error for a person; its exit code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MeshError)
    print(str(error), file=sys.stderr)
    return ERRORS[error.code].exit


def configure_logging(config: Config) -> None:
    """Logs go to standard error, as text for people or as JSON lines."""
    level = getattr(logging, config.telemetry.log_level.upper())
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if config.telemetry.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def settings_of(
    config: Config, name: str, epoch: int, address: str, events_address: str = ""
) -> NodeSettings:
    """What the machines are told, from what the operator wrote."""
    return NodeSettings(
        region=config.node.region,
        node=name,
        instance=secrets.token_hex(8),
        epoch=epoch,
        software=f"hopmesh/{mesh.__version__}",
        address=address,
        events_address=events_address,
        location=config.node.location,
        labels=dict(config.node.labels),
        accept=config.federation.accept,
        bridges={bridge.to: _terms(bridge) for bridge in config.bridges},
        merge_budget=config.federation.export_merge_budget,
        alone=_is_alone(config),
        limits=config.limits,
        membership=MembershipSettings(
            probe_interval_s=config.membership.probe_interval_s,
            probe_timeout_s=config.membership.probe_timeout_s,
            suspicion_mult=config.membership.suspicion_mult,
        ),
        routes=RouteSettings(),
    )


def _is_alone(config: Config) -> bool:
    """Whether no other node will ever be there: none is named, and none can find this one."""
    nobody = not config.bridges and not config.registry.seeds and config.registry.kind == "none"
    return nobody and config.listen.link is None


def _terms(bridge: BridgeConfig) -> Terms:
    return Terms(expect_region=bridge.to, role=bridge.role, cost=bridge.cost)


async def _main(
    config: Config, name: str, epoch: int, again: Again | None, journal: Journal, secured: Secured
) -> None:
    """Bind every port first, so that a start that cannot succeed changes nothing for anybody."""
    listeners: dict[str, Listener] = {}
    try:
        for what, address in (
            ("events", config.listen.events),
            ("link", config.listen.link),
            ("admin", config.listen.admin),
        ):
            if address is not None:
                listeners[what] = await open_listener(f"listen.{what}", str(address))
        policy = None if config.policy is None else read_policy(config.policy)
        link_address = await _told_address(config, listeners, None)
        events_address = await _told_address(config, listeners, None, "events")
        node = Node(
            settings_of(config, name, epoch, link_address, events_address),
            store=JournalStore(journal),
            rules=TopicRules(config.topics),
            secure=secured.links,
            boundary=_boundary(config, policy),
        )
        if secured.ports is not None:
            node.clients.home_secure = partial(HomeCredentials, secured.ports)
        _show_settings(node, config)
        node.inspection.security = secured
        node.inspection.journal = lambda: _journal_reading(journal)
        for warning in config.warnings():
            log.warning("insecure", detail=warning)
        await _serve(config, node, listeners, again, journal, secured, policy, Admitted.of(config, node))
    finally:
        for listener in listeners.values():
            listener.close()


def _journal_reading(journal: Journal) -> JournalReading:
    found = journal.statistics()
    return JournalReading(found.state.value, found.records, found.bytes, found.commits, found.committed_bytes)


def open_registry(backend: Backend) -> Registry | None:
    """A client of the registry that the configuration names; None for kind "none". Opens no connection yet.

    Kinds are imported here and only when they are used: a node without etcd or Nacos needs none of their libraries.
    """
    match backend.kind:
        case "none":
            return None
        case "file":
            assert backend.path is not None
            return FileRegistry(backend.path)
        case "etcd":
            return _open_etcd(backend)
        case "nacos" | "nacos-v1":
            return _open_nacos(backend)
        case _:
            assert_never(backend.kind)


def _open_etcd(backend: Backend) -> Registry:
    from registry.etcd.client import EtcdRegistry
    from registry.etcd.settings import EtcdSettings

    try:
        settings = EtcdSettings(
            endpoints=backend.endpoints,
            prefix=backend.prefix,
            user=backend.user,
            password=read_password(backend),
            ca=backend.ca,
            cert=backend.cert,
            key=backend.key,
            tls=backend.is_secure,
        )
    except ValueError as error:
        raise MeshError("MESH-C020", "registry", str(error)) from None
    return EtcdRegistry(settings)


def _open_nacos(backend: Backend) -> Registry:
    from registry.nacos.settings import NacosSettings

    try:
        settings = NacosSettings(
            servers=tuple(endpoint.partition("://")[2] for endpoint in backend.endpoints),
            namespace=backend.namespace,
            group=backend.group,
            user=backend.user,
            password=read_password(backend),
            tls=backend.is_secure,
            ca=backend.ca,
            cert=backend.cert,
            key=backend.key,
        )
    except ValueError as error:
        raise MeshError("MESH-C020", "registry", str(error)) from None
    if backend.kind == "nacos-v1":
        from registry.nacos_v1 import NacosV1Registry

        return NacosV1Registry(settings)
    from registry.nacos.registry import NacosRegistry

    return NacosRegistry(settings)


def open_registries(config: RegistryConfig) -> tuple[Registry | None, Registry | None]:
    """The registry of nodes and that of regions: one client where they are one service."""
    nodes = open_registry(config.backend)
    return nodes, nodes if config.directory is None else open_registry(config.directory)


async def _told_address(
    config: Config, listeners: dict[str, Listener], backend: Backend | None, port: str = "link"
) -> str:
    """How others reach a port, "" when they cannot. backend: whose readers count first, beside the registry's."""
    if port not in listeners:
        return ""
    backends = [backend or config.registry.backend, *(each for _, each in config.registry_backends())]
    towards = [endpoint.partition("://")[2] for each in backends for endpoint in each.endpoints]
    return await told_address(listeners[port].address, towards)


def _boundary(config: Config, policy: Policy | None) -> Boundary:
    """What may cross to other regions."""
    nonce = partial(secrets.token_bytes, NONCE_BYTES)
    if policy is None:
        return Boundary(config.node.region, config.limits, nonce=nonce)
    return Boundary(config.node.region, config.limits, policy.rule_file, policy.keys, nonce)


def _event_log(config: Config, node: Node) -> EventLog | None:
    """The node's event log; None where nothing is kept. The engine is imported only where it is used."""
    rules = TopicRules(config.topics)
    if not rules.retained:
        return None
    from mesh.store.eventlog_sqlite import SqliteLog, set_aside

    folder = data_folder(config)

    def open_engine(aside: bool) -> EventLogEngine:
        if aside:
            set_aside(folder)
        return SqliteLog(folder)

    node.clients.log = event_log = EventLog(node, rules, open_engine)
    event_log.attach()
    return event_log


async def _serve(
    config: Config,
    node: Node,
    listeners: dict[str, Listener],
    again: Again | None,
    journal: Journal,
    secured: Secured,
    policy: Policy | None,
    admitted: Admitted,
) -> None:
    nodes, directory = open_registries(config.registry)
    at_directory = await _told_address(config, listeners, config.registry.directory)
    discovery = Discovery(
        node, node.settings.address, nodes, directory, config.registry.lease_s, directory_address=at_directory
    )
    event_log = _event_log(config, node)
    async with _closing(discovery), trio.open_nursery() as nursery:
        reloading = (
            Reloading(config, node, discovery, secured, admitted, again) if again is not None else None
        )
        rules = None
        if policy is not None and config.policy is not None:
            rules = PolicyWatch(config.policy, policy, node, admitted.audit)
        nursery.start_soon(_on_signals, node, reloading, admitted, rules, name="signals")
        nursery.start_soon(secured.run, name="certificates")
        nursery.start_soon(admitted.run, name="access")
        if rules is not None:
            nursery.start_soon(rules.run, name="policy")
        nursery.start_soon(node.dialler.keep_members, name="member links")
        for seed in config.registry.seeds:
            target = Target(str(seed), Terms(expect_region=node.key.region), where="registry.seeds")
            nursery.start_soon(node.dialler.keep, target, name=f"seed {seed}")
        nursery.start_soon(keep_bridges, node, _plans(config), discovery.directory, name="bridges")
        nursery.start_soon(discovery.run, name="discovery")
        if event_log is not None:
            await nursery.start(event_log.run)
        flusher = Flusher(journal, lambda _: node.stored(), lambda state: _journal_state(node, state))
        nursery.start_soon(flusher.run, name="journal")
        await _open_ports(config, node, listeners, nursery, secured, admitted)
        _tell_ready(node, listeners)
        try:
            await node.run()
        finally:
            with trio.CancelScope(shield=True):
                await discovery.leave()
                if event_log is not None:
                    await event_log.stop()
            node.inspection.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _closing(discovery: Discovery) -> AsyncIterator[None]:
    """Registries are let go of whatever happened."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await discovery.close()


async def _open_ports(
    config: Config,
    node: Node,
    listeners: dict[str, Listener],
    nursery: trio.Nursery,
    secured: Secured,
    admitted: Admitted,
) -> None:
    crashes = Crashes(lambda kind, name, error: node.count_refusal(kind, "task_crashed"))
    limits: Limits = config.limits

    def handshakes(what: str) -> Handshakes | None:
        if secured.ports is None:
            return None
        return Handshakes(
            secured.ports, limits, partial(node.count_refusal, what), partial(secured.refused, what)
        )

    if "link" in listeners:

        async def accept(transport: Transport, pending: Pending) -> None:
            await node.attach(transport, dialled=False, terms=Terms(), when_open=pending.opened)

        links = LinkListener(
            listeners["link"],
            accept,
            limits,
            crashes=crashes,
            count_refusal=lambda reason: node.count_refusal("link", reason),
            secure=secured.links,
            when_refused=partial(secured.refused, "link"),
        )
        await nursery.start(links.serve)
    if "events" in listeners:
        access = admitted.access
        port = (
            EventsPort(node.clients, limits) if access is None else GuardedPort(node.clients, access, limits)
        )
        events = HttpServer(
            listeners["events"],
            port.handle,
            limits,
            crashes=crashes,
            count_refusal=lambda reason: node.count_refusal("events", reason),
            on_loopback=listeners["events"].on_loopback,
            handshakes=handshakes("events"),
        )
        node.on_drain.append(events.drain)
        await nursery.start(events.serve)
    if "admin" in listeners:
        operators = (
            AdminPort(node.inspection)
            if admitted.audit is None
            else GuardedAdminPort(node.inspection, admitted.access, admitted.audit)
        )
        admin = HttpServer(
            listeners["admin"],
            operators.handle,
            limits,
            crashes=crashes,
            count_refusal=lambda reason: node.count_refusal("admin", reason),
            on_loopback=listeners["admin"].on_loopback,
            handshakes=handshakes("admin"),
        )
        await nursery.start(admin.serve)


def _plans(config: Config) -> list[BridgePlan]:
    return [
        BridgePlan(
            region=bridge.to,
            seeds=tuple(str(seed) for seed in bridge.seeds),
            links=bridge.links,
            transport=bridge.transport,
            terms=_terms(bridge),
            where=f"bridge {bridge.to}",
        )
        for bridge in config.bridges
    ]


def _tell_ready(node: Node, listeners: dict[str, Listener]) -> None:
    ports = " ".join(
        f"{what}={listeners[what].address if what in listeners else 'none'}"
        for what in ("events", "link", "admin")
    )
    print(f"ready id={node.key.node} region={node.key.region} {ports}", flush=True)


class Reloading:
    """What SIGHUP does: read the configuration again and take over what can be changed while the node runs."""

    def __init__(
        self,
        config: Config,
        node: Node,
        discovery: Discovery,
        secured: Secured,
        admitted: Admitted,
        again: Again,
    ) -> None:
        self._config = config
        self._secured = secured
        self._node = node
        self._admitted = admitted
        self._discovery = discovery
        self._again = again

    def reload(self) -> None:
        """Change what can be changed; a configuration with a problem changes nothing. Never raises for what is written there.

        Certificates and the files of [auth] are read again whatever the configuration says."""
        self._secured.reload()
        self._admitted.reload("SIGHUP")
        new, problems = self._again()
        if new is not None:
            problems = check_files(new)
        if new is None or problems:
            for problem in problems:
                log.error("not reloaded: nothing was changed", code=problem.code, problem=str(problem))
            return
        changes = changes_of(self._config, new)
        for key in changes.refused:
            refused = MeshError("MESH-C027", key, "a reload cannot change it")
            log.error("not reloaded: a key needs a restart", code=refused.code, key=key, problem=str(refused))
        if changes.registry:
            try:
                nodes, directory = open_registries(changes.config.registry)
            except MeshError as error:
                log.error("not reloaded: nothing was changed", code=error.code, problem=str(error))
                return
            self._discovery.replace(nodes, directory, changes.config.registry.lease_s)
        self._config = changes.config
        _show_settings(self._node, changes.config)
        log.info("configuration reloaded", changed=list(changes.taken), registry=changes.registry)


def _show_settings(node: Node, config: Config) -> None:
    """What `mesh config show` tells of a running node."""
    node.inspection.config_items = lambda: [
        {"key": s.key, "value": s.value, "origin": s.origin} for s in config.settings
    ]


async def _on_signals(
    node: Node, reloading: Reloading | None, admitted: Admitted, rules: PolicyWatch | None = None
) -> None:
    """The first SIGTERM or SIGINT drains, the second stops at once; SIGHUP reads the file again, if there is one."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP and reloading is not None:
                reloading.reload()
                if rules is not None:
                    rules.reload()
            elif node.draining:
                log.warning("stopped at once", signal=signal.Signals(number).name)
                node.stop_now()
            else:
                admitted.tell("drain", signal.Signals(number).name)
                node.leave()
