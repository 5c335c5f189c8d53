"""What the commands that list things share: ask the region, print, tell who did not answer, and repeat for --watch.

Decides the exit code of a list (0, or 4 when a node is missing). Never decides the columns.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from mesh.cli.ask import Node, partial_line
from mesh.cli.main import OK, PARTIAL
from mesh.cli.options import Options, Parser, options_of
from mesh.cli.render import Column, as_json, as_yaml, emit, field, write_lines
from mesh.model.errors import MeshError

WATCH_S: Final = 2.0
CLEAR: Final = "\x1b[H\x1b[2J"
NODE_COLUMN: Final = Column("NODE", field("node"))

Answer = dict[str, Any]


def on_nodes(parser: Parser) -> None:
    """Add the options that narrow an answer to one node of the region."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--on", metavar="ID", help="only what this node of the region says")
    which.add_argument("--here", action="store_true", help="only what the node says that is asked")


def parameters(args: argparse.Namespace, options: Options, *names: str) -> list[tuple[str, str]]:
    """Query parameters of a list: the filters that were given, and how long members may take."""
    found = [(name, str(getattr(args, name))) for name in names if getattr(args, name, None)]
    if getattr(args, "on", None):
        found.append(("node", args.on))
    if getattr(args, "here", False):
        found.append(("here", "true"))
    # The node must answer before this command gives up, so that a slow member is named and not waited for.
    found.append(("timeout", f"{options.timeout_s * 0.6:g}s"))
    return found


def show_list(
    args: argparse.Namespace,
    path: str,
    columns: Sequence[Column],
    *,
    name: str,
    filters: Sequence[str] = (),
    nodes: bool = False,
    before: Sequence[str] = (),
    arrange: Callable[[Answer], None] | None = None,
) -> int:
    """Ask for a list and print it; with --watch until Ctrl-C.

    Args: filters: options passed on as parameters. nodes: a NODE column comes first when more than one node speaks.
    before: lines above the table. arrange: changes the answer before it is printed (order, added fields).
    Returns: the exit code. Raises: MeshError.
    """
    options = options_of(args)
    with Node(options.admin, options.timeout_s, options.token) as node:
        while True:
            answer = node.list(path, parameters(args, options, *filters))
            if arrange is not None:
                arrange(answer)
            if options.watch and sys.stdout.isatty():
                sys.stdout.write(CLEAR)
            _print(answer, columns, options, name=name, nodes=nodes, before=before)
            if not options.watch:
                return tell_missing(answer)
            tell_missing(answer)
            try:
                time.sleep(WATCH_S)
            except KeyboardInterrupt:
                return OK


def _print(
    answer: Answer,
    columns: Sequence[Column],
    options: Options,
    *,
    name: str,
    nodes: bool,
    before: Sequence[str],
) -> None:
    is_table = options.output in ("table", "wide")
    if is_table:
        write_lines(before)
    speakers = {item.get("node") for item in answer["items"]}
    if nodes and is_table and len(speakers) > 1:
        marks = [column for column in columns if not column.title]
        columns = [*marks, NODE_COLUMN, *columns[len(marks) :]]
    emit(answer, columns, options, name=name)


def tell_missing(answer: Answer) -> int:
    """Say on standard error who did not answer. Returns: the exit code."""
    line = partial_line(answer)
    if line:
        sys.stdout.flush()
        sys.stderr.write(f"{line}\n")
    return PARTIAL if line else OK


def show_details(
    args: argparse.Namespace,
    path: str,
    lines_of: Callable[[Any, bool], list[str]],
    *,
    name: str,
) -> int:
    """Ask for one thing (every node's view of it) and print all its fields, views apart by an empty line.

    Returns: the exit code. Raises: MeshError (MESH-A005 when there is no such thing).
    """
    options = options_of(args)
    with Node(options.admin, options.timeout_s, options.token) as node:
        answer = node.list(path, parameters(args, options))
    if not answer["items"]:
        raise MeshError("MESH-A005", path, "nothing is known of it")
    match options.output:
        case "json":
            lines = [as_json(answer)]
        case "yaml":
            lines = as_yaml(answer)
        case "name":
            lines = [str(item.get(name)) for item in answer["items"]]
        case _:
            lines = []
            for item in answer["items"]:
                lines += [""] if lines else []
                lines += lines_of(item, options.color)
    write_lines(lines)
    return tell_missing(answer)
