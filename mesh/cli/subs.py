"""`mesh subs`: every subscription of the region's clients.

Decides the columns.
"""

from __future__ import annotations

import argparse
from typing import Final

from mesh.cli.listing import on_nodes, show_list
from mesh.cli.options import Parser, common, subcommands, subparser
from mesh.cli.render import Column, age, field

EXAMPLES: Final = ("mesh subs list", "mesh subs list --filter 'orders/#'", "mesh subs list --on eu-1 -o json")
COLUMNS: Final = (
    Column("FILTER", field("filter")),
    Column("GROUP", field("group")),
    Column("CLIENT", field("client")),
    Column("NODE", field("node")),
    Column("REGION", field("region")),
    Column("DURABLE", field("durable")),
    Column("AGE", lambda item: age(item.get("age_s"))),
    Column("SINCE", field("since"), wide=True),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    listing = subparser(commands, "list", "show the subscriptions of the region's clients", EXAMPLES)
    listing.add_argument("--filter", metavar="FILTER", help="only subscriptions to exactly this filter")
    listing.add_argument("--group", metavar="GROUP", help="only members of this queue group")
    listing.add_argument("--client", metavar="NAME", help="only this client's")
    on_nodes(listing)
    common(listing, watch=True)
    listing.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> int:
    return show_list(args, "/v1/subscriptions", COLUMNS, name="filter", filters=("filter", "group", "client"))
