"""`mesh routes`: every route that was learned, which one is in use, and why each other is not.

Decides the marks and the order of a table. The reasons are those of the comparison that chose; none is worked out here.
Source: design page "What a person sees", section The command.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from mesh.cli.ask import Node, segment
from mesh.cli.listing import Answer, on_nodes, parameters, show_details, show_list, tell_missing
from mesh.cli.options import Parser, common, options_of, subcommands, subparser
from mesh.cli.render import (
    Column,
    Item,
    age,
    details,
    emit,
    field,
    hyphens,
    json_line,
    paint,
    text,
    write_lines,
)
from mesh.cli.spools import queue
from mesh.model.errors import MeshError

EXAMPLES: Final = ("mesh routes list", "mesh routes show us", "mesh routes watch")
MARKS: Final = "Marks: > selected  * in use  ~ infeasible  x withheld by policy"
_DENIED: Final = frozenset({"import_denied", "export_denied"})
_STATES: Final = ("selected", "in_use", "feasible", "infeasible", "withheld")


def mark(item: Item) -> str:
    """Two signs: selected, and in use. The selected route is always in use; others of its metric are used beside it."""
    match item.get("state"):
        case "in_use":
            return " *"
        case "selected":
            return ">*"
        case "infeasible":
            return "~ "
        case "withheld":
            return "x "
        case _:
            return "  "


def reason(item: Item) -> str:
    """The reason with its figures: "higher-metric (+171)", "import-denied: rule ..."."""
    name, detail = item.get("reason"), item.get("detail")
    if not detail:
        return hyphens(name)
    return f"{hyphens(name)}: {detail}" if name in _DENIED else f"{hyphens(name)} ({detail})"


COLUMNS: Final = (
    Column("", mark),
    Column("REGION", field("region")),
    Column("NEXT-HOP", field("next_hop")),
    Column("VIA", field("via")),
    Column("METRIC", field("metric")),
    Column("SEQNO", field("seqno")),
    Column("PATH", field("path")),
    Column("AGE", lambda item: age(item.get("age_s"))),
    Column("STATE", field("state"), wide=True),
    Column("REASON", reason),
)
FIELDS: Final = (
    ("region", field("region")),
    ("node", field("node")),
    ("state", lambda item: hyphens(item.get("state"))),
    ("reason", reason),
    ("next hop", field("next_hop")),
    ("via", field("via")),
    ("metric", field("metric")),
    ("seqno", field("seqno")),
    ("path", field("path")),
    ("age", lambda item: age(item.get("age_s"))),
    ("spooled", lambda item: queue(item.get("spooled"))),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    listing = subparser(
        commands,
        "list",
        "show the routes of every node of the region",
        ("mesh routes list", "mesh routes list --here", "mesh routes list --region us -o json"),
    )
    listing.add_argument("--region", metavar="REGION", help="only routes to this region")
    listing.add_argument("--state", metavar="STATE", help="only routes in this state: " + ", ".join(_STATES))
    on_nodes(listing)
    common(listing, watch=True)
    listing.set_defaults(run=_list)
    show = subparser(
        commands,
        "show",
        "show every route to one region in full",
        ("mesh routes show us", "mesh routes show us --on eu-1", "mesh routes show us -o yaml"),
    )
    show.add_argument("region", metavar="REGION")
    on_nodes(show)
    common(show)
    show.set_defaults(run=_show)
    watch = subparser(
        commands,
        "watch",
        "print each change of the node's routes as it happens",
        ("mesh routes watch", "mesh routes watch -o json", "mesh routes watch --node http://127.0.0.1:8223"),
    )
    common(watch)
    watch.set_defaults(run=_watch)
    held = subparser(
        commands,
        "withheld",
        "show routes and interest that do not cross a link, and why",
        ("mesh routes withheld", "mesh routes withheld --here", "mesh routes withheld -o json"),
    )
    on_nodes(held)
    common(held)
    held.set_defaults(run=_withheld)


def _arrange(answer: Answer) -> None:
    """By node and region; the route in use first, then as good as they are."""

    def key(item: Item) -> tuple[str, str, int, float]:
        state = item.get("state")
        rank = _STATES.index(state) if state in _STATES else len(_STATES)
        metric = item.get("metric")
        return (
            str(item.get("node")),
            str(item.get("region")),
            rank,
            metric if metric is not None else float("inf"),
        )

    answer["items"].sort(key=key)


def _list(args: argparse.Namespace) -> int:
    return show_list(
        args,
        "/v1/routes",
        COLUMNS,
        name="region",
        filters=("region", "state"),
        nodes=True,
        before=(MARKS,),
        arrange=_arrange,
    )


WITHHELD: Final = (
    Column("", lambda _: "x "),
    Column("WHAT", field("what")),
    Column("REGION", field("region")),
    Column("LINK", field("peer")),
    Column("FILTER", lambda item: item.get("filter") or "-"),
    Column("GROUP", lambda item: item.get("group") or "-", wide=True),
    Column("TOLD-AS", lambda item: ", ".join(item.get("told") or []) or "-"),
    Column("REASON", reason),
)


def _withheld(args: argparse.Namespace) -> int:
    """Routes first, then interest, as one list."""
    options = options_of(args)
    with Node(options.admin, options.timeout_s) as node:
        answer = node.list("/v1/routes", [*parameters(args, options), ("state", "withheld")])
        interest = node.list("/v1/policy/withheld", parameters(args, options))
    routes = [
        {
            **item,
            "what": "route",
            "peer": str(item.get("next_hop") or item.get("via") or "-").removeprefix("to "),
        }
        for item in answer["items"]
    ]
    answer["items"] = [*routes, *({**item, "what": "interest"} for item in interest["items"])]
    if options.output in ("table", "wide"):
        write_lines([MARKS])
    emit(answer, WITHHELD, options, name="region")
    return tell_missing(answer)


def _show(args: argparse.Namespace) -> int:
    def lines_of(item: Item, color: bool) -> list[str]:
        return details(item, FIELDS, color=color)

    return show_details(args, f"/v1/routes/{segment(args.region)}", lines_of, name="region")


def change_line(change: Item, *, color: bool) -> str:
    """One change: "12:00:01 + us via us-1 (bridge#3) metric 84 path us: lowest-metric"."""
    sign, style = {"added": ("+", "good"), "removed": ("-", "bad")}.get(
        str(change.get("change")), ("~", "doubtful")
    )
    at = str(change.get("at", ""))
    clock = at[11:19] if "T" in at else at
    if sign == "-" and change.get("next_hop") is None:
        return f"{clock} {paint(sign, style, color)} {text(change.get('region'))}: {reason(change)}"
    return (
        f"{clock} {paint(sign, style, color)} {text(change.get('region'))} via {text(change.get('next_hop'))} "
        f"({text(change.get('via'))}) metric {text(change.get('metric'))} path {text(change.get('path'))}: "
        f"{hyphens(change.get('state'))}, {reason(change)}"
    )


def _watch(args: argparse.Namespace) -> int:
    options = options_of(args)
    try:
        with Node(options.admin, options.timeout_s, options.token) as node:
            for event in node.stream("/v1/routes/watch"):
                changed: Any = json.loads(event.data)
                if event.event == "watching":
                    sys.stderr.write(f"watching the routes of {changed.get('node')}; Ctrl-C ends\n")
                elif event.event == "lost":
                    sys.stderr.write(f"{changed.get('lost')} changes were lost: this reader is too slow\n")
                elif event.event == "closing":
                    sys.stderr.write(f"the node closes the stream: {changed.get('reason')}\n")
                elif options.output in ("json", "yaml"):
                    write_lines([json_line(changed)])
                else:
                    write_lines([change_line(changed, color=options.color)])
    except ValueError as error:
        raise MeshError("MESH-A010", options.admin, f"an event that is no JSON ({error})") from None
    except KeyboardInterrupt:
        pass
    return 0
