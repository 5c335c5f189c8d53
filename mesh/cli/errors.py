"""`mesh errors`: the table of errors, whole or one row. docs/errors.md is printed from here too.

Decides the form. The rows are `mesh.model.errors`.
"""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Final

from mesh.cli.options import Parser, common, options_of
from mesh.cli.render import Column, details, emit, field, write_lines
from mesh.model.errors import ERRORS, ErrorCode, MeshError

EXAMPLES: Final = ("mesh errors", "mesh errors C012", "mesh errors MESH-L002 -o json")
LETTERS: Final = {
    "C": "Configuration",
    "A": "Admin port and command line",
    "E": "Events port",
    "L": "Links",
    "M": "Membership",
    "F": "Between regions",
    "R": "The registry",
}
COLUMNS: Final = (
    Column("CODE", field("code")),
    Column("WHAT", field("title")),
    Column("WHAT TO DO", field("remedy"), wide=True),
    Column("HTTP", field("status"), wide=True),
    Column("EXIT", field("exit"), wide=True),
)


def build(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("code", nargs="?", metavar="CODE", help='such as "C012" or "MESH-C012"')
    parser.add_argument("--page", action="store_true", help=argparse.SUPPRESS)
    common(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.page:
        write_lines(errors_page().splitlines())
        return 0
    rows = [find(args.code)] if args.code else [ERRORS[code] for code in ERRORS]
    items = [_item(row) for row in rows]
    options = options_of(args)
    if args.code and options.output in ("table", "wide"):
        fields = [(name, field(key)) for name, key in (("code", "code"), ("what", "title"), ("do", "remedy"))]
        write_lines(details(items[0], fields, color=options.color))
    else:
        emit({"apiVersion": "mesh/v1", "items": items}, COLUMNS, options, name="code")
    return 0


def _item(row: ErrorCode) -> dict[str, object]:
    return {
        "code": row.code,
        "title": row.title,
        "remedy": row.remedy,
        "status": row.status or None,
        "exit": row.exit,
    }


def find(code: str) -> ErrorCode:
    """The row of "MESH-C012", "c012" or "C12". Raises: MeshError MESH-A015 with the nearest code."""
    found = re.fullmatch(r"(?:MESH-)?([A-Z])(\d{1,3})", code.strip().upper())
    full = f"MESH-{found[1]}{int(found[2]):03d}" if found else code.upper()
    if full in ERRORS:
        return ERRORS[full]
    near = difflib.get_close_matches(full, ERRORS, n=1, cutoff=0.8)
    raise MeshError(
        "MESH-A015",
        "mesh errors",
        f"no code {code!r}",
        f"Did you mean {near[0]}? 'mesh errors' lists all." if near else "",
    )


def errors_page() -> str:
    """docs/errors.md, word for word."""
    lines = [
        "# Errors",
        "",
        "Every error has one code, wherever it is met: in a command's last line, in a log line, in the `code` of a problem",
        "object (RFC 9457) and in the close reason of a connection. `mesh errors CODE` prints one row of these tables. This page",
        "is made from the same table: `mesh errors --page > docs/errors.md`.",
        "",
        "HTTP is the status of an answer that carries the code, exit the exit code of a command that ends with it; `-` where the",
        "code is met in logs and in the output of commands only.",
    ]
    for letter, title in LETTERS.items():
        rows = [row for code, row in ERRORS.items() if code.startswith(f"MESH-{letter}")]
        if rows:
            lines += [
                "",
                f"## {title}",
                "",
                "| code | what | what to do | HTTP | exit |",
                "|---|---|---|---|---|",
            ]
            lines += [
                f"| {row.code} | {_cell(row.title)} | {_cell(row.remedy)} | {row.status or '-'} | {_exit(row)} |"
                for row in rows
            ]
    return "\n".join(lines) + "\n"


def _exit(row: ErrorCode) -> str:
    return str(row.exit) if row.code[5] in "CAER" else "-"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
