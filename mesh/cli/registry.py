"""`mesh registry`: what the registry is, what it holds, and where it and gossip disagree.

Decides the columns. Verdicts and reasons are the node's; asking costs the registry nothing.
"""

from __future__ import annotations

import argparse
from typing import Final

from mesh.cli.listing import on_nodes, show_list
from mesh.cli.options import Parser, common, subcommands, subparser
from mesh.cli.render import Column, Item, age, field, hyphens, text

EXAMPLES: Final = (
    "mesh registry status",
    "mesh registry list --kind region",
    "mesh registry diff --everywhere",
)


def _ignored(item: Item) -> str:
    counts = item.get("ignored")
    if not isinstance(counts, dict) or not counts:
        return "0"
    return ", ".join(f"{hyphens(reason)} {count}" for reason, count in counts.items())


STATUS: Final = (
    Column("ID", field("id")),
    Column("KIND", field("kind")),
    Column("STATE", field("state")),
    Column("AGE", lambda item: age(item.get("age_s"))),
    Column("ENDPOINT", field("endpoint")),
    Column("REGISTERED", lambda item: "yes" if item.get("registered") else "no"),
    Column("RENEWED", lambda item: age(item.get("lease_age_s"))),
    Column("LAST-OK", lambda item: age(item.get("last_success_s"))),
    Column("CALLS", field("calls")),
    Column("FAILED", field("failures")),
    Column("PER-MIN", field("per_minute")),
    Column("IGNORED", _ignored),
    Column("LEASE", lambda item: age(item.get("lease_s")), wide=True),
    Column("ENTRIES", field("entries"), wide=True),
    Column("REGIONS", field("regions"), wide=True),
    Column("DETAIL", field("detail")),
)
ENTRIES: Final = (
    Column("KIND", field("kind")),
    Column("ID", field("id")),
    Column("REGION", field("region")),
    Column("ADDRESSES", field("addresses")),
    Column("ROLE", field("role")),
    Column("VERSION", field("version")),
    Column("AGE", lambda item: age(item.get("age_s"))),
    Column("EPOCH", field("epoch"), wide=True),
    Column("INSTANCE", field("instance"), wide=True),
    Column("SINCE", field("since"), wide=True),
    Column("REASON", lambda item: hyphens(item.get("reason"))),
    Column("DETAIL", field("detail")),
)


def _says(side: str) -> Column:
    def cell(item: Item) -> str:
        said = text(item.get(side))
        known = item.get(f"{side}_age_s")
        return f"{said} {age(known)}" if isinstance(known, (int, float)) else said

    return Column(side.upper(), cell)


DIFF: Final = (
    Column("KIND", field("kind")),
    Column("ID", field("id")),
    _says("registry"),
    _says("gossip"),
    Column(
        "EPOCHS",
        lambda item: f"{text(item.get('registry_epoch'))}/{text(item.get('gossip_epoch'))}",
        wide=True,
    ),
    Column("VERDICT", lambda item: hyphens(item.get("verdict"))),
    Column("RIGHT", field("right")),
    Column("DETAIL", field("detail")),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    status = subparser(
        commands,
        "status",
        "show whether the registry answers, for every node of the region, and what it costs",
        ("mesh registry status", "mesh registry status --here", "mesh registry status -o json"),
    )
    on_nodes(status)
    common(status, watch=True)
    status.set_defaults(run=_status)
    listing = subparser(
        commands,
        "list",
        "show what the registry holds, as one node sees it: nodes, regions, and what was passed over",
        ("mesh registry list", "mesh registry list --kind ignored", "mesh registry list --on eu-2 -o json"),
    )
    listing.add_argument("--kind", metavar="KIND", help="only this kind: node, region, ignored")
    _of_one_node(listing)
    common(listing, watch=True)
    listing.set_defaults(run=_list)
    diff = subparser(
        commands,
        "diff",
        "show what the registry and gossip say of each node, and who is right",
        ("mesh registry diff", "mesh registry diff --verdict stale-entry", "mesh registry diff --everywhere"),
    )
    diff.add_argument("--verdict", metavar="VERDICT", help="only this verdict")
    _of_one_node(diff)
    common(diff, watch=True)
    diff.set_defaults(run=_diff)


def _of_one_node(parser: Parser) -> None:
    """Every node has its own view of the same registry: one of them speaks unless all are asked."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--on", metavar="ID", help="what this node of the region sees")
    which.add_argument("--everywhere", action="store_true", help="what every node of the region sees")


def _status(args: argparse.Namespace) -> int:
    return show_list(args, "/v1/registry/status", STATUS, name="endpoint", nodes=True)


def _list(args: argparse.Namespace) -> int:
    args.here = not args.on and not args.everywhere
    return show_list(args, "/v1/registry/entries", ENTRIES, name="id", filters=("kind",), nodes=True)


def _diff(args: argparse.Namespace) -> int:
    args.here = not args.on and not args.everywhere
    if args.verdict:
        args.verdict = args.verdict.replace("-", "_")
    return show_list(args, "/v1/registry/diff", DIFF, name="id", filters=("verdict",), nodes=True)
