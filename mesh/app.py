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

import structlog
import trio

import mesh
from federation.bridge import BridgePlan, keep_bridges
from federation.core.routes import RouteSettings
from mesh.admin.port import AdminPort
from mesh.config import BridgeConfig, Config, data_folder
from mesh.core.membership import MembershipSettings
from mesh.core.session import Terms
from mesh.model.errors import ERRORS, MeshError
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.net.http import HttpServer
from mesh.net.link_listener import LinkListener, Pending
from mesh.net.listener import Listener, open_listener
from mesh.net.supervise import Crashes
from mesh.net.transport import Transport
from mesh.node.dialler import Target
from mesh.node.rendezvous import Rendezvous
from mesh.node.runner import Node
from mesh.node.settings import NodeSettings
from mesh.protocols.serve import EventsPort
from mesh.store.epoch import DataFolder, claim, next_epoch, node_id
from registry.file import FileRegistry

log = structlog.get_logger("app")


def run(config: Config) -> int:
    """Run a node until it is told to leave. Returns the exit code; errors for a person are printed to standard error."""
    try:
        _run(config)
    except MeshError as error:
        return _told(error)
    except BaseExceptionGroup as group:
        told, others = group.split(MeshError)
        if told is None or others is not None:
            raise
        return _told(told)
    return 0


def _run(config: Config) -> None:
    configure_logging(config)
    with DataFolder(data_folder(config)) as folder:
        name = config.node.id or node_id(folder.path, socket.gethostname())
        claim(folder.path, NodeKey(config.node.region, name))
        epoch = next_epoch(folder.path, time.time())
        trio.run(_main, config, name, epoch, strict_exception_groups=True)


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


def settings_of(config: Config, name: str, epoch: int, address: str) -> NodeSettings:
    """What the machines are told, from what the operator wrote."""
    return NodeSettings(
        region=config.node.region,
        node=name,
        instance=secrets.token_hex(8),
        epoch=epoch,
        software=f"hopmesh/{mesh.__version__}",
        address=address,
        location=config.node.location,
        labels=dict(config.node.labels),
        accept=config.federation.accept,
        bridges={bridge.to: _terms(bridge) for bridge in config.bridges},
        merge_budget=config.federation.export_merge_budget,
        limits=config.limits,
        membership=MembershipSettings(
            probe_interval_s=config.membership.probe_interval_s,
            probe_timeout_s=config.membership.probe_timeout_s,
            suspicion_mult=config.membership.suspicion_mult,
        ),
        routes=RouteSettings(),
    )


def _terms(bridge: BridgeConfig) -> Terms:
    return Terms(expect_region=bridge.to, role=bridge.role, cost=bridge.cost)


async def _main(config: Config, name: str, epoch: int) -> None:
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
        link = listeners.get("link")
        node = Node(settings_of(config, name, epoch, link.address if link is not None else ""))
        node.inspection.config_items = lambda: [
            {"key": s.key, "value": s.value, "origin": s.origin} for s in config.settings
        ]
        for warning in config.warnings():
            log.warning("insecure", detail=warning)
        await _serve(config, node, listeners)
    finally:
        for listener in listeners.values():
            listener.close()


async def _serve(config: Config, node: Node, listeners: dict[str, Listener]) -> None:
    registry = FileRegistry(config.registry.path) if config.registry.path is not None else None
    rendezvous: Rendezvous | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_on_signals, node, name="signals")
        nursery.start_soon(node.dialler.keep_members, name="member links")
        for seed in config.registry.seeds:
            target = Target(str(seed), Terms(expect_region=node.key.region), where="registry.seeds")
            nursery.start_soon(node.dialler.keep, target, name=f"seed {seed}")
        nursery.start_soon(keep_bridges, node, _plans(config), registry, name="bridges")
        if registry is not None:
            address = listeners["link"].address if "link" in listeners else ""
            rendezvous = Rendezvous(node, registry, address, config.registry.lease_s)
            nursery.start_soon(rendezvous.run, name="registry")
        await _open_ports(config, node, listeners, nursery)
        _tell_ready(node, listeners)
        try:
            await node.run()
        finally:
            if rendezvous is not None:
                with trio.CancelScope(shield=True):
                    await rendezvous.leave()
            node.inspection.close()
        nursery.cancel_scope.cancel()


async def _open_ports(
    config: Config, node: Node, listeners: dict[str, Listener], nursery: trio.Nursery
) -> None:
    crashes = Crashes(lambda kind, name, error: node.count_refusal(kind, "task_crashed"))
    limits: Limits = config.limits
    if "link" in listeners:

        async def accept(transport: Transport, pending: Pending) -> None:
            await node.attach(transport, dialled=False, terms=Terms(), when_open=pending.opened)

        links = LinkListener(
            listeners["link"],
            accept,
            limits,
            crashes=crashes,
            count_refusal=lambda reason: node.count_refusal("link", reason),
        )
        await nursery.start(links.serve)
    if "events" in listeners:
        port = EventsPort(node.clients, limits)
        events = HttpServer(
            listeners["events"],
            port.handle,
            limits,
            crashes=crashes,
            count_refusal=lambda reason: node.count_refusal("events", reason),
            on_loopback=listeners["events"].on_loopback,
        )
        node.on_drain.append(events.drain)
        await nursery.start(events.serve)
    if "admin" in listeners:
        admin = HttpServer(
            listeners["admin"],
            AdminPort(node.inspection).handle,
            limits,
            crashes=crashes,
            count_refusal=lambda reason: node.count_refusal("admin", reason),
            on_loopback=listeners["admin"].on_loopback,
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


async def _on_signals(node: Node) -> None:
    """The first SIGTERM or SIGINT drains, the second stops at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if node.draining:
                log.warning("stopped at once", signal=signal.Signals(number).name)
                node.stop_now()
            else:
                node.leave()
