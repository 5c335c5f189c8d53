"""Options that every command understands, and where they point: which node, which form, how long.

Decides the address of the node a command talks to: --node, else --context, else MESH_ADMIN, else the context in use, else
this machine's default ports. Never talks to it.
Source: design page "What a person sees", section The command.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from mesh.model.errors import MeshError
from mesh.model.quantity import parse_duration

DEFAULT_ADMIN: Final = "http://127.0.0.1:8222"
DEFAULT_EVENTS: Final = "http://127.0.0.1:7222"
FORMATS: Final = ("table", "wide", "json", "yaml", "name")


class Parser(argparse.ArgumentParser):
    """argparse with this command's errors: one line with a code instead of the usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise MeshError("MESH-A001", self.prog, message, f"See '{self.prog} --help'.")


class _Format(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines; a fixed width, so that help is the same in a pipe and on every terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def new_parser(prog: str, about: str, examples: Sequence[str]) -> Parser:
    """A parser whose help ends with the examples."""
    lines = "\n".join(f"  {example}" for example in examples)
    return Parser(
        prog=prog,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"Examples:\n{lines}" if examples else None,
        formatter_class=_Format,
        allow_abbrev=False,
    )


def subparser(subparsers: Any, name: str, about: str, examples: Sequence[str]) -> Parser:
    """A subcommand of a group, made like `new_parser`; `subparsers` comes from add_subparsers."""
    lines = "\n".join(f"  {example}" for example in examples)
    parser: Parser = subparsers.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"Examples:\n{lines}",
        formatter_class=_Format,
        allow_abbrev=False,
    )
    return parser


def subcommands(parser: Parser) -> Any:
    """The place where a group's subcommands are added."""
    return parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a group's subcommands; {} for a plain command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def words_of(parser: argparse.ArgumentParser) -> list[str]:
    """Its long options, and the choices of its positional arguments."""
    words = []
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            words += [option for option in action.option_strings if option.startswith("--")]
        if not action.option_strings and action.choices is not None:
            words += [str(choice) for choice in action.choices]
    return words


def parse(parser: Parser, words: Sequence[str], subcommand: str) -> argparse.Namespace:
    """Parse a command line. Raises: MeshError MESH-A001; for an unknown option with the nearest spelling."""
    args, unknown = parser.parse_known_args(words)
    if not unknown:
        return args
    inner = subparsers_of(parser).get(subcommand, parser)
    option = unknown[0].partition("=")[0]
    near = difflib.get_close_matches(option, words_of(inner), n=1) if option.startswith("-") else []
    what = f"no option {option}" if option.startswith("-") else f"{option!r} is one argument too many"
    remedy = f"Did you mean {near[0]}?" if near else f"See '{inner.prog} --help'."
    raise MeshError("MESH-A001", inner.prog, what, remedy)


def common(parser: Parser, *, timeout: str = "5s", output: bool = True, watch: bool = False) -> None:
    """Add the options of every command. timeout: its default as text. watch: whether --watch makes sense here."""
    group = parser.add_argument_group("options of every command")
    formats = "|".join(FORMATS)
    if output:
        group.add_argument("-o", "--output", choices=FORMATS, default="table", metavar="FORMAT", help=formats)
    if watch:
        group.add_argument("--watch", action="store_true", help="ask again every 2 s until Ctrl-C")
    group.add_argument(
        "--timeout", type=duration, default=duration(timeout), metavar="DURATION", help=f"default {timeout}"
    )
    group.add_argument("--no-color", action="store_true", help="plain text (also NO_COLOR, and in pipes)")
    group.add_argument("--context", metavar="NAME", help="a node by its name ('mesh context list')")
    group.add_argument(
        "--node", metavar="URL", help=f"admin port of the node (MESH_ADMIN; default {DEFAULT_ADMIN})"
    )
    group.add_argument(
        "--events", metavar="URL", help=f"events port of the node (MESH_EVENTS; default {DEFAULT_EVENTS})"
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token to show, one line (MESH_TOKEN_FILE, or the token itself in MESH_TOKEN)",
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")


def duration(text: str) -> float:
    """Seconds of an option's "5s" or "200ms", above 0; argparse tells what is wrong."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{error}: write "5s" or "200ms"') from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError("it must be above 0")
    return seconds


@dataclass(frozen=True, slots=True)
class Options:
    """The common options of one command line. admin, events: base URLs without a trailing slash. token: to show, "" for none."""

    output: str
    watch: bool
    timeout_s: float
    color: bool
    admin: str
    events: str
    token: str = field(default="", repr=False)


def options_of(args: argparse.Namespace) -> Options:
    """Resolve the common options. Raises: MeshError MESH-A013 for a context that does not exist."""
    named = args.context or ""
    if not named and not args.node and "MESH_ADMIN" not in os.environ:
        named = os.environ.get("MESH_CONTEXT", "")
    context = _context(named)
    explicit = bool(named)
    return Options(
        output=getattr(args, "output", "table"),
        watch=getattr(args, "watch", False),
        timeout_s=args.timeout,
        color=not args.no_color and "NO_COLOR" not in os.environ and sys.stdout.isatty(),
        admin=_pick(args.node, "MESH_ADMIN", context.get("node"), explicit, DEFAULT_ADMIN),
        events=_pick(args.events, "MESH_EVENTS", context.get("events"), explicit, DEFAULT_EVENTS),
        token=_token(getattr(args, "token_file", None), context.get("token_file", ""), explicit),
    )


def _token(flag: str | None, context: str, explicit: bool) -> str:
    """The token to show: of --token-file, else of the named context, MESH_TOKEN_FILE, MESH_TOKEN, or the context in use.

    Raises: MeshError MESH-A017."""
    by_variable = os.environ.get("MESH_TOKEN_FILE", "")
    named = flag or (context if explicit else "") or by_variable
    if not named and "MESH_TOKEN" in os.environ:
        return os.environ["MESH_TOKEN"].strip()
    named = named or context
    if not named:
        return ""
    try:
        with open(os.path.expanduser(named), encoding="utf-8") as file:
            token = file.readline().strip()
    except (OSError, ValueError) as error:
        raise MeshError("MESH-A017", named, getattr(error, "strerror", None) or "it is no text") from None
    if not token or not token.isascii() or not token.isprintable():
        raise MeshError("MESH-A017", named, "its first line is no token")
    return token


def _pick(flag: str | None, variable: str, context: str | None, explicit: bool, default: str) -> str:
    """An address by precedence. explicit: a context was named on this command line or in MESH_CONTEXT."""
    by_variable = os.environ.get(variable)
    order = (flag, context, by_variable) if explicit else (flag, by_variable, context)
    address = next((url for url in order if url), default).rstrip("/")
    if "://" not in address and ":" in address:
        return f"http://{address}"  # as the ready line of `mesh run` writes it
    return address


def _context(name: str) -> dict[str, str]:
    """The named context, or the one in use; {} when there is none."""
    from mesh.cli.context import Contexts

    contexts = Contexts.read()
    if not name:
        return contexts.known.get(contexts.current, {})
    if name not in contexts.known:
        raise MeshError("MESH-A013", "--context", f"no context {name!r}")
    return contexts.known[name]
