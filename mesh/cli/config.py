"""`mesh config`: what a node was told and from where, and whether a file is good before a node is started with it.

Decides nothing about settings: `mesh.config` reads them, exactly as `mesh run` does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mesh.cli.listing import on_nodes, show_list
from mesh.cli.options import Parser, common, options_of, subcommands, subparser
from mesh.cli.render import Column, emit, field, write_lines
from mesh.cli.run import add_settings, settings_of
from mesh.model.errors import MeshError
from mesh.model.ids import NodeKey

if TYPE_CHECKING:
    from mesh.config import Config

EXAMPLES: Final = (
    "mesh config show --origin",
    "mesh config show --config mesh.toml",
    "mesh config check mesh.toml",
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    show = subparser(
        commands,
        "show",
        "show every key with its value, of a running node or of a file",
        (
            "mesh config show --origin",
            "mesh config show --on eu-2",
            "mesh config show --config mesh.toml -o json",
        ),
    )
    show.add_argument("--origin", action="store_true", help="also say where each value comes from")
    show.add_argument("--page", action="store_true", help=argparse.SUPPRESS)
    show.add_argument("--config", metavar="FILE", help="what a node started here with this file would use")
    on_nodes(show)
    common(show)
    show.set_defaults(run=_show)
    check = subparser(
        commands,
        "check",
        "tell every problem of a file, as 'mesh run' with the same flags would find it",
        (
            "mesh config check mesh.toml",
            "mesh config check mesh.toml --region eu",
            "mesh config check mesh.toml --insecure-links",
        ),
    )
    check.add_argument("file", metavar="FILE", nargs="?", help="the node's TOML file")
    add_settings(check)
    check.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    check.set_defaults(run=_check)


def _columns(origin: bool) -> tuple[Column, ...]:
    columns = (Column("KEY", field("key")), Column("VALUE", field("value")))
    return (*columns, Column("ORIGIN", field("origin"), wide=not origin))


def _show(args: argparse.Namespace) -> int:
    if args.page:
        write_lines(reference_lines())
        return 0
    columns = _columns(args.origin)
    if args.config is None:
        # Settings are each node's own: the node that is asked speaks for itself unless another is named.
        args.here = not args.on
        return show_list(args, "/v1/config", columns, name="key", nodes=True)
    from mesh.config import load

    config = load(Path(args.config))
    items: list[dict[str, Any]] = [
        {"key": setting.key, "value": setting.value, "origin": setting.origin} for setting in config.settings
    ]
    emit({"apiVersion": "mesh/v1", "items": items}, columns, options_of(args), name="key")
    return 0


def _check(args: argparse.Namespace) -> int:
    from mesh.config import check, check_files

    path = args.file or args.config
    config, problems = check(
        Path(path) if path else None,
        flags=settings_of(args),
        insecure_links=args.insecure_links,
        insecure_clients=args.insecure_clients,
    )
    if config is not None:
        problems = [*check_files(config), *_certificate_problems(config)]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if config is None or problems:
        return 1
    for warning in config.warnings():
        sys.stderr.write(f"warning: {warning}\n")
    bridges = ", ".join(bridge.to for bridge in config.bridges) or "none"
    name = f"{config.node.region}/{config.node.id or '(host name)'}"
    write_lines(
        [f"{path or 'no file'}: good. node {name}, bridges: {bridges}, registry: {_registry(config)}"]
    )
    return 0


def _certificate_problems(config: Config) -> list[MeshError]:
    """What `mesh run` would find wrong with the files of [tls]; a node without an id in the file is not told from another here."""
    from mesh.secured import Secured

    key = NodeKey(config.node.region, config.node.id) if config.node.id is not None else None
    try:
        Secured(config, key)
    except MeshError as error:
        return [error]
    return []


def _registry(config: Config) -> str:
    """The kind, and that of the directory where it is elsewhere."""
    directory = config.registry.directory
    return config.registry.kind + (f", directory: {directory.kind}" if directory is not None else "")


def reference_lines() -> list[str]:
    """The reference of all keys in docs/operating.md, word for word."""
    from mesh.keys import KEYS, LISTS

    about = _limits_explained()
    lines: list[str] = []
    later: dict[str, list[str]] = {}
    table = ""
    for key in KEYS:
        if not key.built:
            later.setdefault(key.table, []).append(key.last)
            continue
        if key.table != table:
            table = key.table
            heading = f"[[{table}]]" if table in LISTS else f"[{table}]"
            lines += ["", f"### `{heading}`", "", "| key | form | default | |", "|---|---|---|---|"]
        default = "needed" if key.needed else f"`{key.default_text()}`" if key.default is not None else "-"
        lines.append(f"| `{key.last}` | {key.form.says} | {default} | {key.about or about[key.last]} |")
    lines += [
        "",
        "### Not built yet",
        "",
        "These keys exist, but nothing stands behind them in this release. Anything but their default stops the",
    ]
    lines += [
        "start with `MESH-C010`, so that no promise is accepted and ignored.",
        "",
        "| table | keys |",
        "|---|---|",
    ]
    lines += [f"| `[{name}]` | {', '.join(f'`{last}`' for last in keys)} |" for name, keys in later.items()]
    return lines[1:]


def _limits_explained() -> dict[str, str]:
    """What each limit bounds: the comment behind its field, which is the only place where it is written."""
    import inspect
    import re

    from mesh.model.limits import Limits

    return dict(re.findall(r"^    (\w+): [^#\n]+  # (.+)$", inspect.getsource(Limits), re.MULTILINE))
