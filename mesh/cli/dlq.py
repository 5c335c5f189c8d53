"""`mesh dlq`: events that could not be delivered: what died and why, and what becomes of it.

Decides the columns, and that nothing happens to many at once without --yes. Reasons are the nodes' own; any node of the region can
be asked, it passes on what another one holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mesh.cli.ask import Node, segment
from mesh.cli.listing import on_nodes, parameters, show_list, tell_missing
from mesh.cli.main import FAILED, OK
from mesh.cli.options import Options, Parser, common, options_of, subcommands, subparser
from mesh.cli.render import (
    Column,
    Item,
    age,
    as_json,
    as_yaml,
    details,
    field,
    hyphens,
    versioned,
    write_lines,
)
from mesh.model.errors import MeshError

EXAMPLES: Final = (
    "mesh dlq list --reason expired",
    "mesh dlq show eu-1/17",
    "mesh dlq replay --all --topic 'orders/#' --yes",
)
AT_ONCE: Final = 200
"""Dead letters in one call."""
FILTERS: Final = ("topic", "reason", "region", "part")

COLUMNS: Final = (
    Column("ID", field("id")),
    Column("TOPIC", field("topic")),
    Column("REASON", lambda item: hyphens(item.get("reason"))),
    Column("FOR", lambda item: destination(item.get("part"))),
    Column("ATTEMPTS", field("attempts")),
    Column("AGE", lambda item: age(item.get("age_s"))),
    Column("PATH", field("path"), wide=True),
    Column("MESH-ID", field("mesh_id"), wide=True),
    Column("FIRST-SEEN", field("first_seen"), wide=True),
    Column("DIED-AT", field("died_at"), wide=True),
    Column("BYTES", field("bytes"), wide=True),
)
FIELDS: Final = (
    ("id", field("id")),
    ("topic", field("topic")),
    ("reason", lambda item: hyphens(item.get("reason"))),
    ("for", lambda item: destination(item.get("part"))),
    ("attempts", field("attempts")),
    ("path", field("path")),
    ("mesh id", field("mesh_id")),
    ("key", field("key")),
    ("first seen", field("first_seen")),
    ("died at", field("died_at")),
    ("age", lambda item: age(item.get("age_s"))),
    ("replaying", field("replaying")),
)
_KINDS: Final = {"r": "region", "n": "node", "c": "client", "s": "session", "g": "group"}


def destination(part: Any) -> str:
    """A part as people read it: "region eu", "client shop"; several with commas."""
    told = []
    for one in str(part or "").split(","):
        kind, found, rest = one.partition("/")
        told.append(f"{_KINDS[kind]} {rest}" if found and kind in _KINDS else one)
    return ", ".join(told)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    listing = subparser(
        commands,
        "list",
        "show the dead letters of every node of the region",
        (
            "mesh dlq list",
            "mesh dlq list --topic 'orders/#' --region us",
            "mesh dlq list --reason max-deliveries -o json",
        ),
    )
    _filters(listing)
    on_nodes(listing)
    common(listing, watch=True)
    listing.set_defaults(run=_list)
    show = subparser(
        commands,
        "show",
        "show everything about dead letters, and the event",
        ("mesh dlq show eu-1/17", "mesh dlq show eu-1/17 eu-2/4", "mesh dlq show eu-1/17 -o json"),
    )
    show.add_argument("id", metavar="ID", nargs="+", help="as 'mesh dlq list' names it: NODE/NUMBER")
    common(show)
    show.set_defaults(run=_show)
    for name, about, examples in (
        (
            "replay",
            "publish dead letters again, at least once; they are gone when that is on disk",
            (
                "mesh dlq replay eu-1/17",
                "mesh dlq replay --all --topic 'orders/#' --yes",
                "mesh dlq replay --all --region us --reason expired --yes",
            ),
        ),
        (
            "drop",
            "forget dead letters",
            (
                "mesh dlq drop eu-1/17",
                "mesh dlq drop --all --reason no-members --yes",
                "mesh dlq drop --all --topic 'debug/#'",
            ),
        ),
    ):
        doing = subparser(commands, name, about, examples)
        doing.add_argument("id", metavar="ID", nargs="*", help="as 'mesh dlq list' names it: NODE/NUMBER")
        doing.add_argument("--all", action="store_true", help="all that the filters leave; tells how many")
        doing.add_argument("--yes", action="store_true", help="with --all: do it")
        _filters(doing)
        on_nodes(doing)
        common(doing, timeout="10s")
        doing.set_defaults(run=_do, act=name)


def _filters(parser: Parser) -> None:
    parser.add_argument("--topic", metavar="FILTER", help="only these topics, as in 'orders/#'")
    parser.add_argument("--reason", metavar="REASON", help="only those that died of this")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--region", metavar="REGION", help="only those that did not reach this region")
    which.add_argument("--part", metavar="PART", help="only those of this part, as in c/shop or n/eu-2")


def _list(args: argparse.Namespace) -> int:
    return show_list(args, "/v1/dlq", COLUMNS, name="id", filters=FILTERS)


def _show(args: argparse.Namespace) -> int:
    options = options_of(args)
    items: list[Item] = []
    with Node(options.admin, options.timeout_s, options.token) as node:
        for name, numbers in _by_node(args.id).items():
            for some in _runs(numbers):
                answer = node.get(_path(name, some), _timeout(options))
                items += answer["items"]
    for item in items:
        if item.get("why"):
            raise MeshError("MESH-A005", str(item["id"]), "there is no such dead letter")
    answer = versioned({"items": items})
    match options.output:
        case "json":
            lines = [as_json(answer)]
        case "yaml":
            lines = as_yaml(answer)
        case "name":
            lines = [str(item["id"]) for item in items]
        case _:
            lines = []
            for item in items:
                lines += [""] if lines else []
                lines += details(item, FIELDS, color=options.color)
                lines += as_json(item.get("event")).splitlines()
    write_lines(lines)
    return OK


def _do(args: argparse.Namespace) -> int:
    options = options_of(args)
    if bool(args.id) == args.all:
        raise MeshError("MESH-A001", f"mesh dlq {args.act}", "give the IDs of dead letters, or --all")
    if args.id and any(getattr(args, name) for name in FILTERS):
        raise MeshError("MESH-A001", f"mesh dlq {args.act}", "filters go with --all")
    with Node(options.admin, options.timeout_s, options.token) as node:
        missed = OK
        ids = args.id
        if args.all:
            answer = node.list("/v1/dlq", parameters(args, options, *FILTERS))
            ids = [str(item["id"]) for item in answer["items"]]
            missed = tell_missing(answer)
            if not args.yes:
                sys.stderr.write(f"{_count(len(ids))} would be {_DONE[args.act]}; add --yes to do it\n")
                return missed if not ids else FAILED
        items = list(_act(node, args.act, ids, options, one=not args.all))
    done = [item for item in items if not item.get("code")]
    if options.output == "json":
        write_lines([as_json(versioned({"items": items}))])
    elif options.output == "yaml":
        write_lines(as_yaml(versioned({"items": items})))
    elif options.output == "name":
        write_lines([str(item["id"]) for item in done])
    else:
        write_lines([_line(args.act, item) for item in items] if not args.all else [])
        write_lines([f"{_count(len(done))} {_DONE[args.act]}"])
        _tell_left(items)
    return missed if len(done) == len(items) else FAILED


_DONE: Final = {"replay": "published again", "drop": "dropped"}


def _count(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"


def _line(act: str, item: Item) -> str:
    if item.get("code"):
        return f"{item['id']}  {item['code']} {item['detail']}"
    if act == "drop":
        return f"{item['id']}  dropped"
    again = "; it ended as a dead letter again at once (no-members)" if item.get("again") else ""
    return f"{item['id']}  published again as {item.get('mesh_id')}{again}"


def _tell_left(items: Sequence[Item]) -> None:
    """Why some are left, by reason, on standard error."""
    reasons: dict[str, int] = {}
    for item in items:
        if item.get("code"):
            said = f"{item['code']} {item['detail']}"
            reasons[said] = reasons.get(said, 0) + 1
    sys.stdout.flush()
    for said, count in sorted(reasons.items()):
        sys.stderr.write(f"{_count(count)} left: {said}\n")


def _act(node: Node, act: str, ids: Sequence[str], options: Options, *, one: bool) -> Iterator[Item]:
    """Do it, many at once. A single one that was named is refused with the node's own problem."""
    method, tail = ("POST", "/replay") if act == "replay" else ("DELETE", "")
    for name, numbers in _by_node(ids).items():
        for some in _runs(numbers):
            try:
                answer = node.call(method, _path(name, some) + tail, _timeout(options))
            except MeshError as error:
                if one and len(ids) == 1:
                    raise
                what = str(error).removeprefix(f"{error.code} ")
                yield from ({"id": f"{name}/{lsn}", "code": error.code, "detail": what} for lsn in some)
                continue
            yield from answer["items"]


def _timeout(options: Options) -> list[tuple[str, str]]:
    return [("timeout", f"{options.timeout_s * 0.6:g}s")]


def _path(node: str, numbers: Sequence[int]) -> str:
    return f"/v1/dlq/{segment(node)}/{','.join(map(str, numbers))}"


def _runs(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(numbers), AT_ONCE):
        yield numbers[at : at + AT_ONCE]


def _by_node(ids: Sequence[str]) -> Mapping[str, list[int]]:
    """Numbers by node, oldest first. Raises: MeshError MESH-A001."""
    found: dict[str, set[int]] = {}
    for id in ids:
        name, _, number = id.rpartition("/")
        if not name or not (number.isascii() and number.isdigit() and len(number) < 19):
            raise MeshError("MESH-A001", id, "it is not NODE/NUMBER, as 'mesh dlq list' names it")
        found.setdefault(name, set()).add(int(number))
    return {name: sorted(numbers) for name, numbers in found.items()}
