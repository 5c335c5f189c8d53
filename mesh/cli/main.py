"""The entry of the command `mesh`: finds the command's module, runs it, and turns every failure into one line and a code.

Decides which words are commands and what the exit code is. Never does a command's work, and imports nothing of it before
it is asked for: `mesh --help` needs this file and the standard library.
Invariant: no traceback without --debug; exit codes are 0 ok, 1 failed, 2 usage, 3 unreachable, 4 partial answer, 10 unhealthy.
Source: design page "What a person sees", section The command.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FAILED, USAGE, UNREACHABLE, PARTIAL, UNHEALTHY = 0, 1, 2, 3, 4, 10


class Command(NamedTuple):
    """One word after `mesh`. subcommands: the words that follow it, if any. Its module is mesh.cli.NAME."""

    name: str
    about: str
    subcommands: tuple[str, ...] = ()


SECTIONS: Final[tuple[tuple[str, tuple[Command, ...]], ...]] = (
    (
        "Run",
        (
            Command("run", "start a node"),
            Command("demo", "three regions on this machine, with a fault on the way"),
            Command("bench", "measure a topology on this machine"),
        ),
    ),
    (
        "Events",
        (
            Command("publish", "publish an event"),
            Command("subscribe", "print the events of a filter as they arrive"),
            Command("request", "publish and wait for the first answer"),
            Command("reply", "answer requests"),
        ),
    ),
    (
        "See",
        (
            Command("node", "members of the region", ("list", "show", "leave")),
            Command("links", "links between nodes", ("list", "show")),
            Command("routes", "routes to other regions, and why", ("list", "show", "watch", "withheld")),
            Command("subs", "who is subscribed to what", ("list",)),
            Command("journal", "what a node on this machine keeps on its disk", ("list", "verify", "show")),
            Command("log", "what nodes keep for replays", ("list",)),
            Command("spools", "what is kept for others, and why it waits", ("list",)),
            Command("dlq", "what could not be delivered", ("list", "show", "replay", "drop")),
            Command("policy", "what may cross to other regions", ("show", "test", "preview", "denials")),
            Command("registry", "what the registry says, and what gossip says", ("status", "list", "diff")),
        ),
    ),
    (
        "Set up",
        (
            Command("ca", "certificates for nodes and clients", ("init", "issue", "list", "renew")),
            Command("config", "what a node was told, and from where", ("show", "check")),
            Command("context", "names for the nodes you talk to", ("add", "use", "list")),
            Command("token", "tokens of clients, and the hashes a node keeps of them", ("new", "hash")),
            Command("errors", "what an error code means and what to do"),
            Command("completion", "completion script for bash, zsh or fish"),
            Command("version", "what is installed here"),
        ),
    ),
)
COMMANDS: Final[dict[str, Command]] = {
    command.name: command for _, commands in SECTIONS for command in commands
}
VALUE_OPTIONS: Final = frozenset(
    {"-o", "--output", "--timeout", "--context", "--node", "--events", "--token-file"}
)
"""Options of every command that take a value: they may also stand before the command."""

HELP_END: Final = """\
Options of every command: -o table|wide|json|yaml|name, --watch, --timeout, --no-color,
--context NAME, --node URL, --events URL, --token-file FILE, --debug. 'mesh COMMAND --help' tells
the rest.
Exit codes: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 partial answer, 10 unhealthy.

Examples:
  mesh run --region eu
  mesh subscribe 'orders/#' --wait mesh
  mesh publish orders/eu/created '{"order": 17}'
"""


def help_text() -> str:
    """What `mesh --help` prints."""
    lines = ["Hopmesh: a federated event mesh.", "", "usage: mesh COMMAND [OPTIONS]", ""]
    for title, commands in SECTIONS:
        lines.append(f"{title}:")
        for command in commands:
            words = f" ({' | '.join(command.subcommands)})" if command.subcommands else ""
            lines.append(f"  {command.name:<11} {command.about}{words}")
        lines.append("")
    return "\n".join(lines) + "\n" + HELP_END


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns the exit code; prints at most one line about a failure, on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    try:
        code = _main(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone (`mesh ... | head`): nothing is wrong, and nothing more can be said.
        _silence_stdout()
        return OK
    except OSError as error:  # of a full disk, say
        _silence_stdout()
        sys.stderr.write(
            f"MESH-A017 standard output: {error.strerror or error}. Check its path and permissions.\n"
        )
        return FAILED
    return code


def _open_streams() -> None:
    """Whoever starts us with a closed standard stream (`>&-`) does not want to read it."""
    if sys.stdout is None or sys.stderr is None:
        nowhere = open(os.devnull, "w")  # noqa: SIM115
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        return OK if words else USAGE
    debug = "--debug" in words
    try:
        return _run(words)
    except SystemExit as stop:  # argparse, after it has printed a command's help
        return stop.code if isinstance(stop.code, int) else OK
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return FAILED
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        return _tell(words, error)


def _silence_stdout() -> None:
    """Keep the interpreter from writing to the closed pipe when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(words: Sequence[str], error: Exception) -> int:
    """Print one line about a failure; return its exit code."""
    from mesh.model.errors import ERRORS, MeshError

    if not isinstance(error, MeshError):
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        error = MeshError("MESH-A014", f"mesh {words[0]}", what)
    sys.stdout.flush()
    sys.stderr.write(f"{error}\n")
    row = ERRORS.get(error.code)  # a node of a newer release may know codes that are not here
    return row.exit if row is not None else FAILED


def _run(words: list[str]) -> int:
    from importlib import import_module

    leading, words = _split_leading(words)
    if words and words[0] in ("--version", "-V"):
        words[0] = "version"
    command = COMMANDS.get(words[0]) if words else None
    if command is None:
        raise _usage(words[0] if words else "", tuple(COMMANDS), "mesh")
    subcommand = next((word for word in words[1:] if word in command.subcommands), "")
    if command.subcommands and not subcommand and not {"-h", "--help"} & set(words):
        given = next((word for word in words[1:] if not word.startswith("-")), "")
        raise _usage(given, command.subcommands, f"mesh {command.name}")
    name = f"mesh.cli.{command.name}"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        from mesh.model.errors import MeshError

        raise MeshError("MESH-A011", f"mesh {command.name}", "it is not part of this release") from None
    from mesh.cli.options import new_parser, parse

    parser = new_parser(f"mesh {command.name}", command.about, getattr(module, "EXAMPLES", ()))
    module.build(parser)
    at = 1 + (words.index(subcommand) if subcommand else 0)
    args = parse(parser, [*words[1:at], *leading, *words[at:]], subcommand)
    code: int = args.run(args)
    sys.stdout.flush()
    return code


def _split_leading(words: list[str]) -> tuple[list[str], list[str]]:
    """Options that stand before the command, and the rest."""
    leading: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] not in ("--version", "-V"):
        leading.append(rest.pop(0))
        if leading[-1] in VALUE_OPTIONS and rest:
            leading.append(rest.pop(0))
    return leading, rest


def _usage(given: str, known: tuple[str, ...], where: str) -> Exception:
    """The error of a word that is no command, with the nearest spelling."""
    from difflib import get_close_matches

    from mesh.model.errors import MeshError

    near = get_close_matches(given, known, n=1)
    what = f"no command {given!r}" if given else "a command is needed"
    remedy = f"Did you mean '{where} {near[0]}'?" if near else f"One of: {', '.join(known)}."
    return MeshError("MESH-A001", where, what, remedy)
