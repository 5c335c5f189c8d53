"""`mesh node`: the members of the region, one of them in full, and leaving.

Decides the columns. Who is alive is the node's word, not ours.
"""

from __future__ import annotations

import argparse
from typing import Final

from mesh.cli.ask import Node, segment
from mesh.cli.listing import show_details, show_list
from mesh.cli.options import Parser, common, options_of, subcommands, subparser
from mesh.cli.render import Column, Item, age, as_json, as_yaml, details, field, hyphens, write_lines
from mesh.cli.spools import queue

EXAMPLES: Final = (
    "mesh node list",
    "mesh node show eu-2 -o yaml",
    "mesh node leave --node http://127.0.0.1:8223",
)
COLUMNS: Final = (
    Column("ID", field("id")),
    Column("REGION", field("region")),
    Column("STATE", field("state")),
    Column("ROLE", field("role")),
    Column("VERSION", field("version")),
    Column("ADDRESSES", field("addresses")),
    Column("AGE", lambda item: age(item.get("age_s"))),
    Column("INCARNATION", field("incarnation"), wide=True),
    Column("REASON", lambda item: hyphens(item.get("reason")), wide=True),
    Column("SAYS", field("node"), wide=True),
)
FIELDS: Final = (
    ("id", field("id")),
    ("region", field("region")),
    ("state", field("state")),
    ("since", lambda item: age(item.get("age_s"))),
    ("reason", lambda item: hyphens(item.get("reason"))),
    ("detail", field("detail")),
    ("role", field("role")),
    ("version", field("version")),
    ("incarnation", field("incarnation")),
    ("addresses", field("addresses")),
    ("location", field("location")),
    ("labels", field("labels")),
    ("links", lambda item: _security(item, "links")),
    ("clients", lambda item: _security(item, "clients")),
    ("spooled", lambda item: queue(item.get("spooled"))),
    ("says", field("node")),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    listing = subparser(
        commands,
        "list",
        "show the members of the region",
        (
            "mesh node list",
            "mesh node list --state suspect",
            "mesh node list -o json --node http://127.0.0.1:8223",
        ),
    )
    listing.add_argument(
        "--state", metavar="STATE", help="only members in this state: alive, suspect, dead, left"
    )
    common(listing, watch=True)
    listing.set_defaults(run=_list)
    show = subparser(
        commands,
        "show",
        "show everything about one member",
        ("mesh node show eu-1", "mesh node show eu-1 -o yaml", "mesh node show eu-2 --context eu"),
    )
    show.add_argument("id", metavar="ID", help="the node's id")
    common(show)
    show.set_defaults(run=_show)
    leave = subparser(
        commands,
        "leave",
        "let the node drain, leave its region and stop",
        ("mesh node leave", "mesh node leave --context eu", "mesh node leave --node http://127.0.0.1:8223"),
    )
    common(leave)
    leave.set_defaults(run=_leave)


def _security(item: Item, use: str) -> str | None:
    """How links or clients' ports of a node are protected; only the node itself tells."""
    told = item.get("security")
    if not isinstance(told, dict):
        return None
    certificate, left_s = told.get(f"{use}_certificate"), told.get(f"{use}_expires_in_s")
    if certificate is None or left_s is None:
        return str(told.get(use))
    expires = "has expired" if left_s <= 0 else f"expires in {age(left_s)}"
    return f"{told.get(use)}, {certificate}, {expires}"


def _list(args: argparse.Namespace) -> int:
    return show_list(args, "/v1/nodes", COLUMNS, name="id", filters=("state",))


def _show(args: argparse.Namespace) -> int:
    def lines_of(item: Item, color: bool) -> list[str]:
        return details(item, FIELDS, color=color)

    return show_details(args, f"/v1/nodes/{segment(args.id)}", lines_of, name="id")


def _leave(args: argparse.Namespace) -> int:
    options = options_of(args)
    with Node(options.admin, options.timeout_s, options.token) as node:
        answer = node.call("POST", "/v1/node/leave")
    match options.output:
        case "json":
            write_lines([as_json(answer)])
        case "yaml":
            write_lines(as_yaml(answer))
        case "name":
            write_lines([str(answer.get("node"))])
        case _:
            write_lines([f"{answer.get('node')} drains and leaves"])
    return 0
