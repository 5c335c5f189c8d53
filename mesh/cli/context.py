"""`mesh context`: names for the nodes one talks to, kept in the user's configuration folder.

Decides where they are kept and which one is in use. Never checks that a node answers there.
Invariant: the file is replaced whole, so that it is never half written.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mesh.cli.options import Parser, common, options_of, subcommands, subparser
from mesh.cli.render import Column, emit
from mesh.model.errors import MeshError

EXAMPLES: Final = (
    "mesh context add eu --node http://127.0.0.1:8222 --events http://127.0.0.1:7222",
    "mesh context use eu",
    "mesh context list",
)


def _file() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "hopmesh" / "contexts.json"


@dataclass(slots=True)
class Contexts:
    """All contexts: name to {"node": URL, "events": URL, "token_file": PATH}, and the name of the one in use ("" for none)."""

    current: str = ""
    known: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Contexts:
        """Raises: MeshError MESH-A017 when the file is there but cannot be understood."""
        path = _file()
        try:
            found = json.loads(path.read_text())
            return cls(found["current"], {name: dict(urls) for name, urls in found["contexts"].items()})
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MeshError(
                "MESH-A017", str(path), f"it cannot be read ({error})", "Correct or remove it."
            ) from None

    def write(self) -> None:
        """Raises: MeshError MESH-A017 when the folder cannot be written."""
        path = _file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps({"current": self.current, "contexts": self.known}, indent=2) + "\n")
            fresh.replace(path)
        except OSError as error:
            raise MeshError("MESH-A017", str(path), f"it cannot be written ({error.strerror})") from None


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    add = subparser(commands, "add", "remember a node under a name", EXAMPLES)
    add.add_argument("name", metavar="NAME")
    common(add)
    add.set_defaults(run=_add)
    use = subparser(commands, "use", "talk to this node from now on", EXAMPLES)
    use.add_argument("name", metavar="NAME")
    common(use)
    use.set_defaults(run=_use)
    show = subparser(commands, "list", "show all names", EXAMPLES)
    common(show)
    show.set_defaults(run=_list)


def _add(args: argparse.Namespace) -> int:
    contexts = Contexts.read()
    urls = {name: url for name, url in (("node", args.node), ("events", args.events)) if url}
    token_file = {"token_file": str(Path(args.token_file).expanduser().absolute())} if args.token_file else {}
    if not urls:
        raise MeshError("MESH-A001", "mesh context add", "give --node URL, --events URL or both")
    for name, url in urls.items():
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise MeshError("MESH-A001", f"--{name}", f"{url!r} is not http://HOST:PORT")
    contexts.known[args.name] = urls | token_file
    contexts.current = contexts.current or args.name
    contexts.write()
    print(f"context {args.name} added{', in use' if contexts.current == args.name else ''}")
    return 0


def _use(args: argparse.Namespace) -> int:
    contexts = Contexts.read()
    if args.name not in contexts.known:
        raise MeshError("MESH-A013", "mesh context use", f"no context {args.name!r}")
    contexts.current = args.name
    contexts.write()
    print(f"context {args.name} in use")
    return 0


def _list(args: argparse.Namespace) -> int:
    contexts = Contexts.read()
    items: list[dict[str, object]] = [
        {
            "name": name,
            "node": urls.get("node"),
            "events": urls.get("events"),
            "in_use": name == contexts.current,
        }
        for name, urls in sorted(contexts.known.items())
    ]
    columns = (
        Column("", lambda item: "*" if item["in_use"] else ""),
        Column("NAME", lambda item: item["name"]),
        Column("NODE", lambda item: item["node"]),
        Column("EVENTS", lambda item: item["events"]),
    )
    emit({"apiVersion": "mesh/v1", "items": items}, columns, options_of(args), name="name")
    return 0
