"""`mesh log`: what the region's nodes keep for replays, and where their logs have gaps.

Decides the columns.
"""

from __future__ import annotations

import argparse
from typing import Final

from mesh.cli.listing import on_nodes, show_list
from mesh.cli.options import Parser, common, subcommands, subparser
from mesh.cli.render import Column, Item, field, hyphens

EXAMPLES: Final = ("mesh log list", "mesh log list --state no-space", "mesh log list --on eu-1 -o json")


def _filters(item: Item) -> str:
    filters = item.get("filters")
    return ", ".join(map(str, filters)) if isinstance(filters, list) else "-"


COLUMNS: Final = (
    Column("NODE", field("node")),
    Column("FILTERS", _filters),
    Column("EVENTS", field("events")),
    Column("BYTES", field("bytes")),
    Column("OLDEST", field("oldest_at")),
    Column("NEWEST", field("newest_at")),
    Column("OLDEST-ID", field("oldest"), wide=True),
    Column("NEWEST-ID", field("newest"), wide=True),
    Column("WAITING", field("waiting")),
    Column("REPLAYS", field("replays")),
    Column("STATE", lambda item: hyphens(item.get("state"))),
    Column("GAP", field("gap")),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    listing = subparser(commands, "list", "show the event logs of the region's nodes", EXAMPLES)
    listing.add_argument(
        "--state", metavar="STATE", help="only logs in this state: ok, no-space, io-error, ..."
    )
    on_nodes(listing)
    common(listing, watch=True)
    listing.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> int:
    if args.state:
        args.state = args.state.replace("-", "_")
    return show_list(args, "/v1/log", COLUMNS, name="node", filters=("state",))
