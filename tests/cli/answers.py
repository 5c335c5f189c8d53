"""Fixed answers of a node, with the field names of the admin API: the outputs in golden/ and in the docs are made from them."""

from __future__ import annotations

from typing import Any

Item = dict[str, Any]


def listing(
    *items: Item, answered: tuple[str, ...] = ("eu-1",), missing: tuple[tuple[str, str], ...] = ()
) -> Item:
    return {
        "apiVersion": "mesh/v1",
        "answered": list(answered),
        "missing": [{"node": node, "why": why} for node, why in missing],
        "next": None,
        "items": list(items),
    }


def route(
    region: str, next_hop: str | None, via: str, metric: int | None, seqno: int | None, path: list[str], age_s: float,
    state: str, reason: str, detail: str = "", node: str = "eu-1",
) -> Item:  # fmt: skip
    return {
        "region": region, "next_hop": next_hop, "via": via, "metric": metric, "seqno": seqno, "path": path,
        "age_s": age_s, "state": state, "reason": reason, "detail": detail, "node": node,
    }  # fmt: skip


DESIGN_ROUTES = (
    route("us", "us-1", "bridge#3", 84, 118, ["us"], 121.0, "selected", "lowest_metric"),
    route("us", "ap-1", "bridge#5", 255, 118, ["ap", "us"], 125.5, "feasible", "higher_metric", "+171"),
    route("us", "eu-9", "bridge#7", 90, 117, ["af", "us"], 40.2, "infeasible", "stale_seqno", "117 < 118"),
    route(
        "hr", None, "bridge#3", None, None, ["us", "hr"], 11_000.0, "withheld", "import_denied",
        'rule "no-hr" (mesh.toml:44)',
    ),
)  # fmt: skip
"""The table of the design page, in the order in which it is shown there but for `hr`, which is sorted by its region."""


def member(name: str, state: str, role: str, port: int, age_s: float, reason: str, **more: Any) -> Item:
    return {
        "id": name, "region": "eu", "state": state, "role": role, "version": "hopmesh/0.1.0", "incarnation": 0,
        "addresses": [f"127.0.0.1:{port}"], "age_s": age_s, "reason": reason, "detail": "", "node": name,
    } | more  # fmt: skip


NODES = listing(
    member("eu-1", "alive", "bridge", 7946, 7_300.0, "joined"),
    member(
        "eu-2", "suspect", "node", 7947, 4.2, "probe_failed", incarnation=3, detail="by eu-1", node="eu-1"
    ),
    member("eu-3", "alive", "bridge", 7948, 7_290.0, "joined"),
    member("eu-4", "alive", "node", 7949, 60.0, "new_epoch"),
    answered=("eu-1", "eu-3", "eu-4"),
    missing=(("eu-2", "suspect 4s"),),
)

LINKS = listing(
    {
        "id": "bridge#3", "peer": "us-1", "region": "us", "kind": "bridge", "role": "transit", "state": "open",
        "rtt_ms": 85.44, "rate_in": 1203.4, "rate_out": 17.5, "queued": 0, "credit": 4_194_304, "age_s": 7_200.0,
        "reason": "", "node": "eu-1",
    },
    {
        "id": "peer#1", "peer": "eu-2", "region": "eu", "kind": "peer", "role": None, "state": "open",
        "rtt_ms": 0.31, "rate_in": 0.0, "rate_out": 17.5, "queued": 3, "credit": 4_000_000, "age_s": 65.0,
        "reason": "", "node": "eu-1",
    },
    {
        "id": "dial 127.0.0.1:7950", "peer": None, "region": "ap", "kind": "bridge", "role": "peer", "state": "dialling",
        "rtt_ms": None, "rate_in": None, "rate_out": None, "queued": None, "credit": None, "age_s": None,
        "reason": "connection refused", "node": "eu-2",
    },
    answered=("eu-1", "eu-2"),
)  # fmt: skip

SUBSCRIPTIONS = listing(
    {
        "filter": "orders/#", "group": "", "client": "sse#4", "region": "eu", "node": "eu-1",
        "since": "2026-01-05T09:00:00Z", "age_s": 65.0, "durable": "",
    },
    {
        "filter": "orders/+/created", "group": "billing", "client": "ws#9 shop", "region": "eu", "node": "eu-2",
        "since": "2026-01-05T09:00:30Z", "age_s": 35.0, "durable": "",
    },
    {
        "filter": "orders/#", "group": "", "client": "invoices", "region": "eu", "node": "eu-2",
        "since": None, "age_s": None, "durable": "away",
    },
    answered=("eu-1", "eu-2"),
)  # fmt: skip


def letter(node: str, lsn: int, topic: str, reason: str, part: str, **more: Any) -> Item:
    return {
        "id": f"{node}/{lsn}", "lsn": lsn, "topic": topic, "reason": reason, "part": part,
        "region": part[2:] if part.startswith("r/") else None, "attempts": 0, "path": [], "mesh_id": f"eu/{node}/1764/{lsn + 900}",
        "first_seen": "2026-01-05T09:00:00.000Z", "died_at": "2026-01-05T09:01:00.250Z", "age_s": 65.0, "bytes": 412,
        "replaying": False, "node": node,
    } | more  # fmt: skip


DLQ = listing(
    letter("eu-1", 17, "orders/eu/created", "expired", "r/us"),
    letter("eu-1", 18, "orders/eu/paid", "expired", "r/us,r/ap", attempts=3, path=["af"]),
    letter("eu-2", 4, "mail/out", "max_deliveries", "c/mailer", attempts=5, age_s=7_300.0, first_seen=None),
    answered=("eu-1", "eu-2"),
    missing=(("eu-3", "suspect 4s"),),
)
DLQ_ONE = listing(
    letter("eu-1", 17, "orders/eu/created", "expired", "r/us", key="17")
    | {"event": {"specversion": "1.0", "id": "17", "source": "/shop", "type": "order.created", "data": {"total": 12.5}}}
)  # fmt: skip


def done(node: str, lsn: int, **more: Any) -> Item:
    return {"id": f"{node}/{lsn}", "lsn": lsn, "node": node, "why": ""} | more


DLQ_REPLAYED = listing(
    done("eu-1", 17, mesh_id="eu/eu-1/1770/3", again=False),
    done(
        "eu-1", 18, why="nobody", code="MESH-A022", detail="nobody in the mesh wants its topic any more; it stays"
    ),
)  # fmt: skip


def spool(id: str, **more: Any) -> Item:
    return {
        "id": id, "kind": "region" if id.startswith("r/") else "node", "destination": id[2:], "records": 17, "events": 230,
        "bytes": 96_512, "oldest_s": 40.3, "under_way_records": 0, "under_way_bytes": 0, "why": "no_route", "detail": "",
        "node": "eu-1",
    } | more  # fmt: skip


SPOOLS = listing(
    spool("r/us"),
    spool("n/eu-2", why="retry", detail="no_space", records=1, events=1, bytes=412, oldest_s=3.0, node="eu-3"),
    spool("r/ap", why="", records=0, events=0, bytes=0, oldest_s=None, under_way_records=3, under_way_bytes=9_000,
          node="eu-3"),
    answered=("eu-1", "eu-3"),
)  # fmt: skip

CONFIG = listing(
    {"key": "node.id", "value": '"eu-1"', "origin": "flag", "node": "eu-1"},
    {"key": "listen.events", "value": '"127.0.0.1:7222"', "origin": "default", "node": "eu-1"},
    {"key": "registry.lease", "value": '"10s"', "origin": "file", "node": "eu-1"},
)


def registry(node: str, state: str, **more: Any) -> Item:
    return {
        "id": "all", "kind": "etcd", "endpoint": "http://127.0.0.1:2379", "state": state, "age_s": 7_300.0,
        "registered": True, "lease_s": 10.0, "lease_age_s": 2.1, "last_success_s": 2.1, "calls": 2_310, "failures": 0,
        "per_minute": 21, "ignored": {}, "entries": 3, "regions": 2, "detail": "", "node": node,
    } | more  # fmt: skip


REGISTRY_STATUS = listing(
    registry("eu-1", "reachable", ignored={"no_entry": 2, "too_large": 1}),
    registry(
        "eu-2", "unavailable", age_s=12.0, lease_age_s=15.0, last_success_s=15.0, failures=9,
        detail="registry etcd: connection refused",
    ),
    answered=("eu-1", "eu-2"),
)  # fmt: skip


def entry(kind: str, id: str, addresses: list[str], **more: Any) -> Item:
    return {
        "id": id, "kind": kind, "region": "eu", "addresses": addresses, "epoch": None, "instance": None, "role": None,
        "version": None, "since": None, "age_s": 65.0, "reason": "", "detail": "", "node": "eu-1",
    } | more  # fmt: skip


REGISTRY_ENTRIES = listing(
    entry(
        "node", "eu-1", ["127.0.0.1:7946"], epoch=1764, instance="9f3a", role="bridge", version="hopmesh/0.1.0",
        since="2026-01-05T09:00:00+00:00",
    ),
    entry(
        "node", "eu-2", ["127.0.0.1:7947"], epoch=1770, instance="02bc", role="node", version="hopmesh/0.1.0",
        since="2026-01-05T09:00:06+00:00",
    ),
    entry("region", "us", ["127.0.0.1:7956", "127.0.0.1:7957"], region="us", age_s=31.0),
    entry("ignored", "/hopmesh/nodes/eu/x", [], region=None, age_s=None, reason="no_entry", detail="hello world"),
)  # fmt: skip


def compared(
    id: str, registry: str, gossip: str, verdict: str, right: str, detail: str = "", **more: Any
) -> Item:
    return {
        "id": id, "kind": "node", "region": "eu", "registry": registry, "registry_age_s": 65.0, "registry_epoch": 1764,
        "gossip": gossip, "gossip_age_s": 64.0, "gossip_epoch": 1764, "verdict": verdict, "right": right,
        "detail": detail, "node": "eu-1",
    } | more  # fmt: skip


REGISTRY_DIFF = listing(
    compared("eu-1", "leased", "alive", "both", "both"),
    compared(
        "eu-2", "leased", "dead", "stale_entry", "gossip",
        "announced to again; last tried 1s ago: 127.0.0.1:7947: connection refused", gossip_age_s=4.0,
    ),
    compared("eu-3", "absent", "alive", "unregistered", "gossip", "no entry; a node that starts may not find it",
             registry_age_s=None, registry_epoch=None),
    compared("eu-4", "leased", "unknown", "joining", "registry", "announced to; not dialled yet", registry_age_s=1.0,
             gossip_age_s=None, gossip_epoch=None),
    compared("eu", "listed", "-", "listed_stale", "gossip", "127.0.0.1:7950 is nobody's since 40s", kind="region",
             registry_age_s=12.0, registry_epoch=None, gossip_age_s=None, gossip_epoch=None),
)  # fmt: skip

PUBLISHED = {
    "accepted": 2,
    "events": [
        {"id": "a", "mesh_id": "eu/eu-1/1764/17", "regions": ["us", "ap"], "local": 2},
        {
            "id": "b", "mesh_id": "eu/eu-1/1764/18", "regions": [], "local": 0,
            "reasons": [{"region": "", "reason": "no_interest"}, {"region": "af", "reason": "unreachable", "detail": "for 4m"}],
        },
    ],
}  # fmt: skip

WATCH = b"""event: watching
data: {"node":"eu-1","region":"eu"}

: alive

event: change
data: {"change":"removed","at":"2026-01-05T09:00:01.250Z","region":"us","next_hop":null,"state":"infeasible","reason":"no_route","detail":""}

event: lost
data: {"lost":3}

event: change
data: {"change":"added","at":"2026-01-05T09:00:02.500Z","region":"us","next_hop":"ap-1","via":"bridge#5","metric":255,"path":["ap","us"],"state":"selected","reason":"only_route","detail":""}

event: closing
data: {"reason":"the node stops"}

"""

EVENTS = b"""event: subscribed
data: {"installed":["eu","us"],"missing":[{"region":"af","why":"no_route"}],"complete":false}

event: event
id: ap/ap-1/1764/1
data: {"topic":"orders/eu/created","path":["ap","us"],"event":{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"order":17}}}

event: event
id: eu/eu-2/1764/9
data: {"topic":"orders/eu/paid","path":[],"event":{"specversion":"1.0","id":"2","source":"s","type":"t","data":"two\\u001b[2Jlines\\nhere"}}

event: event
id: eu/eu-2/1764/10
data: {"topic":"orders/eu/photo","path":["us"],"event":{"specversion":"1.0","id":"3","source":"s","type":"t","data_base64":"AAE="}}

"""
