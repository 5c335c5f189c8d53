"""`mesh completion`: a script that completes commands and options in bash, zsh or fish.

Decides the script's words from the parsers themselves, so that none can be forgotten. The script starts no process.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from typing import Final

from mesh.cli.main import COMMANDS
from mesh.cli.options import Parser, new_parser, subparsers_of, words_of
from mesh.cli.render import write_lines

EXAMPLES: Final = (
    'eval "$(mesh completion bash)"',
    "mesh completion zsh > ~/.zfunc/_mesh",
    "mesh completion fish > ~/.config/fish/completions/mesh.fish",
)
SHELLS: Final = ("bash", "zsh", "fish")


def build(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    words = dict(_words())
    write_lines({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](words))
    return 0


def _words() -> Iterator[tuple[str, list[str]]]:
    """Each command line so far ("", "node", "node list") with the words that may follow."""
    yield "", [*COMMANDS, "--help", "--version"]
    for command in COMMANDS.values():
        try:
            module = import_module(f"mesh.cli.{command.name}")
        except ModuleNotFoundError:
            continue
        parser = new_parser(f"mesh {command.name}", command.about, module.EXAMPLES)
        module.build(parser)
        yield command.name, words_of(parser) if not command.subcommands else list(command.subcommands)
        for name, inner in subparsers_of(parser).items():
            yield f"{command.name} {name}", words_of(inner)


def _bash(words: dict[str, list[str]]) -> list[str]:
    lines = [
        "# bash completion of mesh",
        "_mesh() {",
        '    local line="" word current="${COMP_WORDS[COMP_CWORD]}" at',
        "    for ((at = 1; at < COMP_CWORD; at++)); do",
        '        word="${COMP_WORDS[at]}"',
        '        [[ "$word" == -* ]] || line="${line:+$line }$word"',
        "    done",
        '    case "$line" in',
    ]
    for line, follow in words.items():
        pattern = (
            f'"{line}"' if not line or (" " not in line and COMMANDS[line].subcommands) else f'"{line}"*'
        )
        lines.append(f'        {pattern}) word="{" ".join(follow)}" ;;')
    lines += [
        '        *) word="" ;;',
        "    esac",
        '    COMPREPLY=($(compgen -W "$word" -- "$current"))',
        "}",
        "complete -o default -F _mesh mesh",
    ]
    return lines


def _zsh(words: dict[str, list[str]]) -> list[str]:
    return ["#compdef mesh", "autoload -Uz bashcompinit && bashcompinit", *_bash(words)]


def _fish(words: dict[str, list[str]]) -> list[str]:
    lines = ["# fish completion of mesh", "complete -c mesh -f"]
    for line, follow in words.items():
        seen = " && ".join(f"__fish_seen_subcommand_from {part}" for part in line.split())
        group = COMMANDS.get(line)
        if group is not None and group.subcommands:
            seen += f" && not __fish_seen_subcommand_from {' '.join(group.subcommands)}"
        condition = seen or "__fish_use_subcommand"
        plain = " ".join(word for word in follow if not word.startswith("-"))
        if plain:
            lines.append(f"complete -c mesh -n '{condition}' -a '{plain}'")
        lines += [
            f"complete -c mesh -n '{condition}' -l {word.removeprefix('--')}"
            for word in follow
            if word.startswith("--")
        ]
    return lines
