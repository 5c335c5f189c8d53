"""`mesh demo`: three regions on this machine, with a fault on the way. The work is done in `mesh.testing.demo`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from mesh.cli.options import Parser

EXAMPLES: Final = (
    "mesh demo",
    "mesh demo --seconds 20 --check",
    "mesh demo --registry etcd=http://127.0.0.1:2379",
)
SECONDS: Final = 30.0


def build(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        metavar="N",
        help=f"how long orders flow (default {SECONDS:.0f})",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="without a terminal: exit 0 only if all that it promises happened",
    )
    parser.add_argument(
        "--registry",
        metavar="KIND[=URL]",
        help="tell nodes no address: they find each other in file, etcd=http://HOST:PORT or nacos=http://USER:PASSWORD@HOST:PORT",
    )
    parser.add_argument("--no-color", action="store_true", help="plain text (also NO_COLOR, and in pipes)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from mesh.testing.demo import Demo, DemoRegistry

    color = sys.stdout.isatty() and not args.no_color and not args.check and not os.environ.get("NO_COLOR")
    registry = DemoRegistry.parse(args.registry) if args.registry else None
    return Demo(max(6.0, args.seconds), color, registry=registry).run()
