"""`mesh version`: what is installed here."""

from __future__ import annotations

import argparse
import platform
from typing import Final

from mesh import __version__
from mesh.cli.options import Parser, common, options_of
from mesh.cli.render import as_json, as_yaml, write_lines

EXAMPLES: Final = ("mesh version", "mesh version -o json", "mesh --version")


def build(parser: Parser) -> None:
    """Declare the arguments."""
    common(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from mesh.wire.frames import PROTOCOL

    found = {
        "apiVersion": "mesh/v1",
        "version": __version__,
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "platform": f"{platform.system().lower()} {platform.machine()}",
    }
    match options_of(args).output:
        case "json":
            write_lines([as_json(found)])
        case "yaml":
            write_lines(as_yaml(found))
        case "name":
            write_lines([__version__])
        case _:
            write_lines(
                [
                    f"mesh {__version__} (link protocol {PROTOCOL}, Python {found['python']}, {found['platform']})"
                ]
            )
    return 0
