"""`mesh token`: tokens for the file that [auth] tokens_file names.

Decides nothing: makes a token, and prints it beside the line with its hash. The token itself is kept nowhere.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from mesh.access.token_file import check_name, digest, new_token, read_date, token_line
from mesh.cli.options import Parser, common, options_of, subcommands, subparser
from mesh.cli.render import Column, emit, field
from mesh.model.errors import MeshError

EXAMPLES: Final = (
    "mesh token new billing --role shop,billing >> tokens    # the token itself is on standard error",
    "mesh token new alice --expires 2027-01-31 --claim tenant=acme -o json",
    "mesh token hash alice < token",
)
_COLUMNS: Final = (
    Column("NAME", field("name")),
    Column("TOKEN", field("token")),
    Column("LINE", field("line")),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    for name, about, run in (
        ("new", "make a token; print its line for the tokens file", _new),
        ("hash", "print the line of a token that is read from standard input", _hash),
    ):
        command = subparser(commands, name, about, EXAMPLES)
        command.add_argument(
            "name", metavar="NAME", help="whose it is: the name in access rules and in the audit"
        )
        command.add_argument(
            "--role", metavar="ROLE,ROLE", default="", help="roles, for rules that name role:ROLE"
        )
        command.add_argument(
            "--expires", metavar="DATE", default="", help="its last day (2027-01-31), or a time"
        )
        command.add_argument(
            "--claim", metavar="CLAIM=VALUE", action="append", default=[], help="for {CLAIM} in filters"
        )
        common(command)
        command.set_defaults(run=run)


def _more(args: argparse.Namespace) -> list[str]:
    """The fields behind the hash. Raises: MeshError MESH-A001."""
    try:
        check_name(args.name)
        if args.expires:
            read_date(args.expires)
    except ValueError as error:
        raise MeshError("MESH-A001", "mesh token", str(error)) from None
    words = [f"role={args.role}"] if args.role else []
    words += [f"expires={args.expires}"] if args.expires else []
    for claim in args.claim:
        if claim.partition("=")[2] == "" or len(claim.split()) != 1:
            raise MeshError("MESH-A001", "--claim", f"{claim!r} is not CLAIM=VALUE")
        words.append(claim)
    return words


def _new(args: argparse.Namespace) -> int:
    more = _more(args)
    token = new_token()
    line = token_line(args.name, token, more)
    options = options_of(args)
    if options.output != "table":
        item = {"name": args.name, "token": token, "hash": f"sha256:{digest(token).hex()}", "line": line}
        emit({"apiVersion": "mesh/v1", "items": [item]}, _COLUMNS, options, name="name")
        return 0
    # The line goes where `>> tokens` takes it; the token is shown once, to the person.
    print(token, file=sys.stderr)
    print(line)
    return 0


def _hash(args: argparse.Namespace) -> int:
    token = sys.stdin.readline().strip()
    if len(token) < 32:
        raise MeshError(
            "MESH-A001",
            "mesh token hash",
            f"{len(token)} characters are too few: a token that can be guessed is not protected by its hash",
            "Let 'mesh token new' make one.",
        )
    print(token_line(args.name, token, _more(args)))
    return 0
