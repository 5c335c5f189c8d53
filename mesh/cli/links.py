"""`mesh links`: what connects the nodes of the region with each other and with other regions.

Decides the columns. States, rates and reasons are the nodes' own.
"""

from __future__ import annotations

import argparse
from typing import Final

from mesh.cli.ask import segment
from mesh.cli.listing import on_nodes, show_details, show_list
from mesh.cli.options import Parser, common, subcommands, subparser
from mesh.cli.render import Column, Item, age, details, field, hyphens

EXAMPLES: Final = ("mesh links list", "mesh links list --kind bridge --watch", "mesh links show 'bridge#3'")


def _rtt(item: Item) -> str:
    rtt = item.get("rtt_ms")
    return f"{rtt:.1f}ms" if isinstance(rtt, (int, float)) else "-"


def _under_way(item: Item) -> str:
    """At-least-once batches that the other end has not stored yet, as far as it said."""
    batches = item.get("custody_batches")
    return f"{batches} batches, {item.get('custody_bytes')} bytes" if batches else "-"


COLUMNS: Final = (
    Column("ID", field("id")),
    Column("PEER", field("peer")),
    Column("REGION", field("region")),
    Column("KIND", field("kind")),
    Column("ROLE", field("role")),
    Column("STATE", field("state")),
    Column("RTT", _rtt),
    Column("IN/S", field("rate_in")),
    Column("OUT/S", field("rate_out")),
    Column("QUEUED", field("queued")),
    Column("CREDIT", field("credit"), wide=True),
    Column("AGE", lambda item: age(item.get("age_s"))),
    Column("REASON", lambda item: hyphens(item.get("reason"))),
)
FIELDS: Final = (
    ("id", field("id")),
    ("node", field("node")),
    ("peer", field("peer")),
    ("region", field("region")),
    ("kind", field("kind")),
    ("role", field("role")),
    ("state", field("state")),
    ("since", lambda item: age(item.get("age_s"))),
    ("reason", lambda item: hyphens(item.get("reason"))),
    ("detail", field("detail")),
    ("certificate", field("certificate")),
    ("rtt", _rtt),
    ("events in/s", field("rate_in")),
    ("events out/s", field("rate_out")),
    ("queued events", field("queued")),
    ("credit bytes", field("credit")),
    ("kept, under way", _under_way),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    listing = subparser(
        commands,
        "list",
        "show the links of every node of the region",
        ("mesh links list", "mesh links list --kind bridge --watch", "mesh links list --region us -o json"),
    )
    listing.add_argument("--region", metavar="REGION", help="only links to this region")
    listing.add_argument("--kind", metavar="KIND", help="only this kind: peer, bridge")
    listing.add_argument("--state", metavar="STATE", help="only links in this state")
    on_nodes(listing)
    common(listing, watch=True)
    listing.set_defaults(run=_list)
    show = subparser(
        commands,
        "show",
        "show everything about one link",
        (
            "mesh links show 'bridge#3'",
            "mesh links show 'bridge#3' --on eu-1",
            "mesh links show 'peer#1' -o json",
        ),
    )
    show.add_argument(
        "id", metavar="ID", help="the link as 'mesh links list' names it; each node has its own numbers"
    )
    on_nodes(show)
    common(show)
    show.set_defaults(run=_show)


def _list(args: argparse.Namespace) -> int:
    return show_list(args, "/v1/links", COLUMNS, name="id", filters=("region", "kind", "state"), nodes=True)


def _show(args: argparse.Namespace) -> int:
    def lines_of(item: Item, color: bool) -> list[str]:
        return details(item, FIELDS, color=color)

    return show_details(args, f"/v1/links/{segment(args.id)}", lines_of, name="id")
