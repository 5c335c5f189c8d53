"""`mesh run`: start a node.

Decides how flags become settings; the node itself is `mesh.app`'s.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from mesh.cli.options import Parser
from mesh.model.errors import MeshError

EXAMPLES: Final = (
    "mesh run",
    "mesh run --config /etc/hopmesh/eu-1.toml",
    "mesh run --region ap --events 127.0.0.1:7223 --link 127.0.0.1:7947 --admin none --bridge us=127.0.0.1:7946",
)


def build(parser: Parser) -> None:
    """Declare the flags. A flag wins over the environment (MESH_LISTEN__EVENTS), that over the file."""
    add_settings(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    parser.set_defaults(run=_run)


def add_settings(parser: Parser) -> None:
    """Add the flags that set configuration keys; `settings_of` reads them back."""
    parser.add_argument("--config", metavar="FILE", help="the node's TOML file; a node runs without one")
    parser.add_argument("--id", metavar="ID", help="[node] id")
    parser.add_argument("--region", metavar="REGION", help="[node] region")
    parser.add_argument("--data", metavar="FOLDER", help="[node] data")
    parser.add_argument("--events", metavar="HOST:PORT", help="[listen] events; none turns it off")
    parser.add_argument("--link", metavar="HOST:PORT", help="[listen] link; none: only dial out")
    parser.add_argument("--admin", metavar="HOST:PORT", help="[listen] admin; none turns it off")
    parser.add_argument(
        "--seed", metavar="HOST:PORT", action="append", help="[registry] seeds; may be given again"
    )
    parser.add_argument(
        "--bridge",
        metavar="REGION[=HOST:PORT,...]",
        action="append",
        help="a [[bridge]] with its seeds; instead of the file's; may be given again",
    )
    parser.add_argument(
        "--tls",
        metavar="FOLDER",
        help="[tls] ca, cert and key: ca.pem, cert.pem and key.pem of a folder of 'mesh ca issue'",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", help="any other key, e.g. federation.accept=any"
    )
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    parser.add_argument("--log-format", metavar="FORMAT", help="text or json")
    parser.add_argument(
        "--insecure-links", action="store_true", help="allow links in clear text on a network you trust"
    )
    parser.add_argument(
        "--insecure-clients",
        action="store_true",
        help="open the events port to a network you trust, without tokens",
    )


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that flags gave, for `mesh.config.load`. Raises: MeshError MESH-A001 for --set without a value."""
    found: dict[str, Any] = {}
    for pair in args.set or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise MeshError("MESH-A001", "--set", f"{pair!r} is not KEY=VALUE")
        found[name.strip()] = value.strip()
    if args.tls is not None:
        files = {"tls.ca": "ca.pem", "tls.cert": "cert.pem", "tls.key": "key.pem"}
        found = {key: str(Path(args.tls) / file) for key, file in files.items()} | found
    given = {
        "node.id": args.id,
        "node.region": args.region,
        "node.data": args.data,
        "listen.events": args.events,
        "listen.link": args.link,
        "listen.admin": args.admin,
        "registry.seeds": args.seed,
        "bridge": [_bridge(text) for text in args.bridge] if args.bridge else None,
        "telemetry.log_level": args.log_level,
        "telemetry.log_format": args.log_format,
    }
    found.update((name, value) for name, value in given.items() if value is not None)
    return found


def _bridge(text: str) -> dict[str, Any]:
    """ "us=us-1:7946,us-2:7946" or "us" (accept only) as a [[bridge]]."""
    region, equals, seeds = text.partition("=")
    if equals:
        return {"to": region, "seeds": [seed.strip() for seed in seeds.split(",") if seed.strip()]}
    return {"to": region}


def _run(args: argparse.Namespace) -> int:
    from functools import partial

    from mesh.installation import check_installation

    check_installation()

    from mesh.config import check

    read = partial(
        check,
        Path(args.config) if args.config else None,
        flags=settings_of(args),
        insecure_links=args.insecure_links,
        insecure_clients=args.insecure_clients,
    )
    config, problems = read()
    if config is None:
        raise problems[0]
    from mesh.app import run

    return run(config, read if args.config else None)
