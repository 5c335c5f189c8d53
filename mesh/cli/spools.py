"""`mesh spools`: what the nodes of the region keep for others, and why it waits.

Decides the columns. Reasons are those of the nodes' own decisions.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from mesh.cli.listing import on_nodes, show_list
from mesh.cli.options import Parser, common, subcommands, subparser
from mesh.cli.render import Column, Item, age, field, hyphens

EXAMPLES: Final = (
    "mesh spools list",
    "mesh spools list --destination us --watch",
    "mesh spools list --why no-route -o json",
)


def _why(item: Item) -> str:
    why, detail = hyphens(item.get("why")), item.get("detail")
    return f"{why} ({hyphens(detail)})" if why == "retry" and detail else why


def queue(item: Any) -> str:
    """A queue in short, as other lists show it: "17 records, oldest 40s, no-route"; "" for none."""
    if not isinstance(item, dict) or not item.get("records"):
        return ""
    count = item["records"]
    records = f"{count} record{'' if count == 1 else 's'}"
    return f"{records}, oldest {age(item.get('oldest_s'))}, {hyphens(item.get('why'))}"


COLUMNS: Final = (
    Column("FOR", lambda item: f"{item.get('kind')} {item.get('destination')}"),
    Column("RECORDS", field("records")),
    Column("EVENTS", field("events")),
    Column("BYTES", field("bytes")),
    Column("OLDEST", lambda item: age(item.get("oldest_s"))),
    Column("WHY", _why),
    Column("UNDER-WAY", field("under_way_records")),
    Column("UNDER-WAY-BYTES", field("under_way_bytes"), wide=True),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    listing = subparser(commands, "list", "show what waits for each destination, at every node", EXAMPLES)
    listing.add_argument("--destination", metavar="NAME", help="only what waits for this region or node")
    listing.add_argument(
        "--why", metavar="WHY", help="only what waits so: no-route, no-credit, retry, rate, order"
    )
    on_nodes(listing)
    common(listing, watch=True)
    listing.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> int:
    if args.why:
        args.why = args.why.replace("-", "_")
    return show_list(args, "/v1/spools", COLUMNS, name="id", filters=("destination", "why"), nodes=True)
