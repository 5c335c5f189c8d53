"""One node's state as plain items, with the field names of `mesh.node.inspect`.

Reads snapshots made for the caller; never hands out a hot table and never works a reason out again.
"""

from __future__ import annotations

import platform
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from mesh.core.session import LinkSession
from mesh.model.reasons import RouteReason
from mesh.node.custody_views import CustodyViews, under_way_of
from mesh.node.inspect import Counters, Item, PolicyReading, What
from mesh.wire.frames import PROTOCOL, LinkKind

if TYPE_CHECKING:
    from mesh.node.runner import Node

RATE_WINDOW_S: Final = 1.0
"""Rates are averages since a reading at least so long ago."""


class Views:
    """Items of one node. Cost: O(items of the view)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._custody = CustodyViews(node)
        self._readings: dict[int, tuple[float, int, int]] = {}
        self._rates: dict[int, tuple[float, float]] = {}

    def of(self, what: What) -> list[Item]:
        """All items of a view."""
        match what:
            case What.NODES:
                return self._nodes()
            case What.SELF:
                return [item for item in self._nodes() if item["id"] == self._node.key.node]
            case What.LINKS:
                return self._links()
            case What.ROUTES:
                return self._routes()
            case What.SUBSCRIPTIONS:
                return self._subscriptions()
            case What.VERSION:
                return [self._version()]
            case What.LOG:
                kept = self._node.clients.log
                return [{"node": self._node.key.node, **kept.item()}] if kept is not None else []
            case What.SPOOLS:
                return self._custody.spools()
            case What.DEAD_LETTERS:
                raise ValueError("dead letters are asked for in pages")
            case What.CONFIG:
                raise ValueError("the configuration is kept by mesh.app")
            case What.POLICY | What.POLICY_WITHHELD | What.POLICY_DENIALS:
                raise ValueError("the policy has views of its own")
            case What.REGISTRY | What.REGISTRY_ENTRIES | What.REGISTRY_DIFF:
                raise ValueError("registries have views of their own")

    def _nodes(self) -> list[Item]:
        machine = self._node.machine
        now = trio.current_time()
        bridges = set(machine.control.bridges_of_region())
        place = machine.settings.location
        own = {"location": list(place) if place else None, "labels": dict(machine.settings.labels)}
        return [
            {
                "node": machine.key.node,
                "id": name,
                "region": machine.key.region,
                "state": member.state.name.lower(),
                "incarnation": max(0, member.incarnation),
                "addresses": list(member.addresses),
                "version": member.software,
                "age_s": round(max(0.0, now - member.since), 3),
                "role": "bridge" if name in bridges else "node",
                "reason": member.reason.value,
                "detail": f"by {member.by}" if member.by else "",
                "spooled": self._custody.node_queue(name, now),
                **(own if name == machine.key.node else {}),
            }
            for name, member in sorted(machine.control.membership.members().items())
        ]

    def _links(self) -> list[Item]:
        machine = self._node.machine
        now = trio.current_time()
        items = [
            self._link(session, now) for session in sorted(machine.sessions.values(), key=lambda s: s.link)
        ]
        for target in self._node.dialler.targets:
            if target.state == "dialling":
                items.append(
                    {
                        "node": machine.key.node,
                        "id": f"dial {target.address}",
                        "peer": str(target.key) if target.key else None,
                        "region": target.terms.expect_region or None,
                        "kind": "peer" if target.terms.expect_region == machine.key.region else "bridge",
                        "role": target.terms.role,
                        "state": "dialling",
                        "rtt_ms": None,
                        "rate_in": None,
                        "rate_out": None,
                        "queued": None,
                        "credit": None,
                        "age_s": None,
                        "reason": target.problem,
                    }
                )
        return items

    def _link(self, session: LinkSession, now: float) -> Item:
        peer = session.peer
        kind = session.kind if peer is not None else None
        rate_in, rate_out = self._rate(session, now)
        custody_bytes, custody_batches = under_way_of(session)
        return {
            "node": self._node.key.node,
            "id": f"{'bridge' if kind is LinkKind.BRIDGE else 'peer'}#{session.link}",
            "peer": peer.node if peer is not None else None,
            "region": peer.region if peer is not None else None,
            "kind": kind.name.lower() if kind is not None else None,
            "role": session.terms.role if kind is LinkKind.BRIDGE else None,
            "state": session.state.value,
            "rtt_ms": None if session.rtt_ms is None else round(session.rtt_ms, 2),
            "rate_in": rate_in,
            "rate_out": rate_out,
            "queued": sum(item.header.count for item in session.queue),
            "credit": session.credit_left,
            "age_s": round(now - session.opened_at, 3),
            "reason": "",
            "certificate": str(session.certified) if session.certified is not None else None,
            "batches_in": session.flow.batches_in,
            "batches_out": session.flow.batches_out,
            "events_in": session.flow.events_in,
            "events_out": session.flow.events_out,
            "dropped": session.flow.dropped_no_credit,
            "custody_bytes": custody_bytes,
            "custody_batches": custody_batches,
        }

    def _rate(self, session: LinkSession, now: float) -> tuple[float, float]:
        flow = session.flow
        at, events_in, events_out = self._readings.get(session.link, (session.opened_at, 0, 0))
        if now - at >= RATE_WINDOW_S:
            self._rates[session.link] = (
                round((flow.events_in - events_in) / (now - at), 1),
                round((flow.events_out - events_out) / (now - at), 1),
            )
            self._readings[session.link] = (now, flow.events_in, flow.events_out)
            for gone in self._readings.keys() - self._node.machine.sessions.keys():
                del self._readings[gone]
                self._rates.pop(gone, None)
        return self._rates.get(session.link, (0.0, 0.0))

    def _routes(self) -> list[Item]:
        machine = self._node.machine
        routes = machine.control.routes
        now = trio.current_time()
        items: list[Item] = [
            {
                "node": machine.key.node,
                "region": view.region,
                "next_hop": view.next_hop,
                "via": view.via,
                "metric": view.metric,
                "seqno": view.seqno,
                "path": list(view.path),
                "age_s": round(view.age_s, 3),
                "state": view.state.value,
                "reason": view.reason.value,
                "detail": view.detail,
                "bridge": view.bridge,
                "epoch": view.epoch,
                "spooled": self._custody.region_queue(view.region, now),
            }
            for view in routes.rib(now)
        ]
        for held in routes.withheld():
            if held.reason is RouteReason.SPLIT_HORIZON:
                continue  # every route has it towards where it came from: no news to an operator
            items.append(
                {
                    "node": machine.key.node,
                    "region": held.region,
                    "next_hop": f"to {held.to_region}/{held.to_node}",
                    "via": f"bridge#{held.link}",
                    "metric": None,
                    "seqno": None,
                    "path": [],
                    "age_s": None,
                    "state": "withheld",
                    "reason": held.reason.value,
                    "detail": held.detail,
                    "bridge": held.bridge,
                    "epoch": None,
                }
            )
        for region in sorted(machine.control.reach.kept - set(routes.fib)):
            if any(item["region"] == region and item["state"] != "withheld" for item in items):
                continue
            items.append(
                {
                    "node": machine.key.node,
                    "region": region,
                    "next_hop": None,
                    "via": None,
                    "metric": None,
                    "seqno": None,
                    "path": [],
                    "age_s": None,
                    "state": "infeasible",
                    "reason": "unreachable",
                    "detail": "interest kept",
                    "bridge": None,
                    "epoch": None,
                    "spooled": self._custody.region_queue(region, now),
                }
            )
        return items

    def _subscriptions(self) -> list[Item]:
        node = self._node
        index = node.machine.subscriptions
        now = trio.current_time()
        items: list[Item] = []
        receivers = node.clients.receivers
        for number, session in sorted(node.clients.sessions.items()):
            held_under = receivers.number_of(number)
            if held_under != number:
                continue  # durable: below
            for sid, held in index.of_session(number).items():
                group, filter = held if isinstance(held, tuple) else ("", held)
                items.append(
                    {
                        "node": node.key.node,
                        "filter": filter,
                        "group": group,
                        "client": f"{session.protocol}#{number} {session.name}".strip(),
                        "region": node.key.region,
                        "sid": sid,
                        "since": session.since,
                        "age_s": round(now - session.opened, 3),
                        "durable": "",
                    }
                )
        for client in sorted(node.machine.consumers.durable, key=lambda one: one.name):
            connection = node.clients.sessions.get(receivers.connection_of(client.number))
            for sid, held in index.of_session(client.number).items():
                group, filter = held if isinstance(held, tuple) else ("", held)
                items.append(
                    {
                        "node": node.key.node,
                        "filter": filter,
                        "group": group,
                        "client": client.name,
                        "region": node.key.region,
                        "sid": sid,
                        "since": connection.since if connection is not None else None,
                        "age_s": round(now - connection.opened, 3) if connection is not None else None,
                        "durable": "away" if connection is None else "connected",
                    }
                )
        return items

    def _version(self) -> Item:
        settings = self._node.settings
        return {
            "node": settings.node,
            "version": settings.software,
            "protocol": PROTOCOL,
            "python": platform.python_version(),
            "instance": settings.instance,
            "epoch": settings.epoch,
        }

    def counters(self, *, watch_lost: int) -> Counters:
        """A reading of every plain counter and gauge."""
        node = self._node
        machine = node.machine
        counts = machine.counters
        links: dict[tuple[str, str], int] = {}
        queued = 0
        for session in machine.sessions.values():
            kind = session.kind.name.lower() if session.peer is not None else "unknown"
            links[kind, session.state.value] = links.get((kind, session.state.value), 0) + 1
            queued += session.queued_bytes
        batches_in = machine.totals.batches_in + sum(s.flow.batches_in for s in machine.sessions.values())
        batches_out = machine.totals.batches_out + sum(s.flow.batches_out for s in machine.sessions.values())
        sessions: dict[str, int] = {}
        for client in node.clients.sessions.values():
            sessions[client.protocol] = sessions.get(client.protocol, 0) + 1
        return Counters(
            published=counts.published,
            delivered=counts.delivered,
            forwarded=machine.totals.events_out + sum(s.flow.events_out for s in machine.sessions.values()),
            drops={reason.value: count for reason, count in counts.drops.items()},
            refusals=dict(node.refusals),
            links=links,
            members=Counter(m.state.name.lower() for m in machine.control.membership.members().values()),
            routes=Counter(view.state.value for view in machine.control.routes.rib(trio.current_time())),
            sessions=sessions,
            subscriptions=machine.subscriptions.statistics().subscriptions,
            remote_filters=machine.control.reach.filters,
            queued_bytes=queued,
            bytes_in=node.bytes_in,
            bytes_out=node.bytes_out,
            batches_in=batches_in,
            batches_out=batches_out,
            watch_lost=watch_lost,
            policy=PolicyReading(
                machine.boundary.audit.total,
                machine.boundary.audit.lost,
                machine.boundary.requests.forgotten,
                machine.control.frontier.refused,
            ),
            custody=self._custody.reading(),
        )
