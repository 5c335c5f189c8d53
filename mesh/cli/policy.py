"""`mesh policy`: the rules of a boundary, what they would do to an event, and what other rules would change.

Decides the columns and sentences. Decisions are the node's own, with the file and line of their rule.
Source: design page "What a person sees", section The command.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import Any, Final

from mesh.cli.ask import Node
from mesh.cli.listing import on_nodes, show_list
from mesh.cli.main import FAILED, OK
from mesh.cli.options import Parser, common, options_of, subcommands, subparser
from mesh.cli.render import Column, Item, age, as_json, as_yaml, field, hyphens, table, text, write_lines
from mesh.model.errors import MeshError

EXAMPLES: Final = (
    "mesh policy show",
    "mesh policy test orders/created --to dmz --type com.acme.order",
    "mesh policy preview policy.rules",
)
COLUMNS: Final = (
    Column("DIRECTION", field("direction")),
    Column("PEER", field("peer")),
    Column("ROLE", field("role")),
    Column("PLACE", lambda item: item.get("place") or "default"),
    Column("ALLOWED", field("allowed")),
    Column("DENIED", field("denied")),
    Column("RULE", lambda item: item.get("rule") or "no rule matched"),
)
DENIALS: Final = (
    Column("AGE", lambda item: age(item.get("age_s"))),
    Column("DIRECTION", field("direction")),
    Column("PEER", field("peer")),
    Column("TOPIC", field("topic")),
    Column("REASON", lambda item: hyphens(item.get("reason"))),
    Column("PLACE", lambda item: item.get("place") or "-"),
    Column("REGIONS", field("regions"), wide=True),
    Column("MESH-ID", field("mesh_id"), wide=True),
    Column("RULE", field("rule"), wide=True),
)
_ROUTES: Final = (
    Column("", lambda item: "+" if item.get("change") == "opened" else "-"),
    Column("ROUTE-TO", field("region")),
    Column("LINK", field("peer")),
    Column("DIRECTION", field("direction")),
    Column("BECAUSE", field("detail")),
)
_INTEREST: Final = (
    Column("", lambda item: "+" if item.get("change") == "opened" else "-"),
    Column("EVENTS", field("direction")),
    Column("PEER", field("peer")),
    Column("FILTER", field("filter")),
    Column("GROUP", field("group")),
    Column("WANTED-BY", field("region")),
)
_EVENTS: Final = (
    Column("TOPIC", field("topic")),
    Column("DIRECTION", field("direction")),
    Column("PEER", field("peer")),
    Column("NOW", lambda item: f"{item.get('before')} ({item.get('place_before') or 'default'})"),
    Column("THEN", lambda item: f"{item.get('after')} ({item.get('place_after') or 'default'})"),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    show = subparser(
        commands,
        "show",
        "show the rules of each link to another region, and how many events each allowed and denied",
        ("mesh policy show", "mesh policy show --peer dmz", "mesh policy show -o json"),
    )
    show.add_argument("--peer", metavar="REGION", help="only links to this region")
    show.add_argument("--direction", metavar="DIRECTION", help="only export or import")
    on_nodes(show)
    common(show, watch=True)
    show.set_defaults(run=_show)
    _build_test(commands)
    preview = subparser(
        commands,
        "preview",
        "tell what a policy file would change on the running node, without putting it into force",
        (
            "mesh policy preview policy.rules",
            "mesh policy preview new.rules -o json",
            "mesh policy preview new.rules --node http://127.0.0.1:8223",
        ),
    )
    preview.add_argument("file", metavar="FILE", help="the policy file")
    common(preview)
    preview.set_defaults(run=_preview)
    denials = subparser(
        commands,
        "denials",
        "show the last events that did not cross, and why",
        ("mesh policy denials", "mesh policy denials --peer dmz/dmz-1", "mesh policy denials -o json"),
    )
    denials.add_argument("--peer", metavar="NODE", help="only on links to REGION/NODE")
    denials.add_argument("--topic", metavar="TOPIC", help="only events of exactly this topic")
    on_nodes(denials)
    common(denials, watch=True)
    denials.set_defaults(run=_denials)


def _build_test(commands: Any) -> None:
    test = subparser(
        commands,
        "test",
        "tell what the rules do to one event: exit code 0 if it crosses, 1 if not",
        (
            "mesh policy test orders/created --to dmz",
            "mesh policy test tickets/7 --from dmz --type com.acme.ticket --data ticket.json",
            "mesh policy test hr/pay --to cloud --rules new.rules",
        ),
    )
    test.add_argument("topic", metavar="TOPIC")
    which = test.add_mutually_exclusive_group(required=True)
    which.add_argument("--to", metavar="REGION", help="it is published here, for this region")
    which.add_argument("--from", metavar="REGION", dest="from_", help="it comes from this region")
    test.add_argument("--origin", metavar="REGION", help="where it was published, if elsewhere")
    test.add_argument("--type", metavar="TYPE", help="its CloudEvents type")
    test.add_argument("--source", metavar="SOURCE", help="its CloudEvents source")
    test.add_argument(
        "--attribute", metavar="NAME=VALUE", action="append", default=[], help="one more attribute"
    )
    test.add_argument("--data", metavar="FILE", help="its data; - for standard input")
    test.add_argument("--rules", metavar="FILE", help="by the rules of this file, not by those in force")
    common(test)
    test.set_defaults(run=_test)


def _show(args: argparse.Namespace) -> int:
    return show_list(args, "/v1/policy", COLUMNS, name="place", filters=("peer", "direction"), nodes=True)


def _denials(args: argparse.Namespace) -> int:
    return show_list(args, "/v1/policy/denials", DENIALS, name="topic", filters=("peer", "topic"), nodes=True)


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise MeshError("MESH-A001", name, (error.strerror or str(error)).lower()) from None


def _test(args: argparse.Namespace) -> int:
    options = options_of(args)
    question: dict[str, Any] = {"topic": args.topic, "to": args.to or "", "from": args.from_ or ""}
    question.update(
        {name: getattr(args, name) for name in ("origin", "type", "source") if getattr(args, name)}
    )
    attributes = [part.partition("=") for part in args.attribute]
    if any(not equals for _, equals, _ in attributes):
        raise MeshError("MESH-A001", "--attribute", "it is not NAME=VALUE")
    question["attributes"] = {name: value for name, _, value in attributes}
    if args.data:
        question["data_base64"] = base64.b64encode(_read(args.data)).decode()
    if args.rules:
        question["rules"] = _read(args.rules).decode("utf-8", "replace")
        question["name"] = args.rules
    with Node(options.admin, options.timeout_s) as node:
        answer = node.call("POST", "/v1/policy/test", body=json.dumps(question).encode())
    match options.output:
        case "json":
            lines = [as_json(answer)]
        case "yaml":
            lines = as_yaml(answer)
        case "name":
            lines = [text(answer.get("place"))]
        case _:
            lines = verdict(answer)
    write_lines(lines)
    return OK if answer.get("allowed") else FAILED


def verdict(answer: Item) -> list[str]:
    """What became of the event, in sentences."""
    way = f"{answer.get('origin')} -> {answer.get('destination')}, {answer.get('direction')} on the link to {answer.get('peer')}"
    lines = [f"{answer.get('topic')}  ({way}, role {answer.get('role')})"]
    word = "allowed" if answer.get("allowed") else "denied"
    if answer.get("rule"):
        lines.append(f"{word}: {hyphens(answer.get('reason'))}, {answer.get('place')}: {answer.get('rule')}")
    else:
        lines.append(f"{word}: {hyphens(answer.get('reason'))}")
    if answer.get("topic_after") not in (None, answer.get("topic")):
        lines.append(f"topic after: {answer.get('topic_after')}")
    if answer.get("changed"):
        lines.append(f"event after: {answer.get('event_after')}")
    return lines


def _preview(args: argparse.Namespace) -> int:
    options = options_of(args)
    body = _read(args.file)
    with Node(options.admin, options.timeout_s) as node:
        answer = node.call("POST", "/v1/policy/preview", [("name", args.file)], body=body)
    match options.output:
        case "json":
            lines = [as_json(answer)]
        case "yaml":
            lines = as_yaml(answer)
        case _:
            lines = changes(answer, color=options.color)
    write_lines(lines)
    return OK


def changes(answer: Item, *, color: bool) -> list[str]:
    """What would change, table by table."""
    lines = [f"{answer.get('rules')} rules, {answer.get('rules_now')} in force on {answer.get('node')}"]
    if not answer.get("in_force"):
        lines.append("this node has no policy file: set [policy] file and start it again")
    for title, name, columns in (("routes", "routes", _ROUTES), ("interest", "interest", _INTEREST)):
        items = answer.get(name) or []
        lines += ["", f"{title}: {len(items) or 'no'} changes"]
        if items:
            lines += table(items, columns, wide=False, color=color)
    events = answer.get("events") or []
    seen, changed = answer.get("events_seen"), answer.get("events_changed")
    lines += ["", f"events: {changed} of the last {seen} that came to links with rules"]
    if events:
        lines += table(events, _EVENTS, wide=False, color=color)
    return lines
