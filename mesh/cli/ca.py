"""`mesh ca`: a CA of one's own in a folder, and certificates for nodes and clients from it.

Decides the form of what is shown, and how names are written: REGION/NODE for a node, client/NAME for a client. Asks no node.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mesh.cli.options import Parser, common, options_of, subcommands, subparser
from mesh.cli.render import Column, age, emit, field, versioned, write_lines
from mesh.model.certificate import ClientId, NodeId, check_trust
from mesh.model.errors import MeshError
from mesh.model.ids import BadName, NodeKey, check_name

if TYPE_CHECKING:
    from mesh.identity.authority import Authority, Issued

EXAMPLES: Final = (
    "mesh ca init --trust mesh.example.org",
    "mesh ca issue eu/eu-1 --host eu-1.example.org --out /etc/hopmesh/tls",
    "mesh ca list",
)
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""In every node's certificate: whoever calls these calls this machine."""
SOON_S: Final = 14 * 86_400.0
COLUMNS: Final = (
    Column("NAME", field("name")),
    Column("KIND", field("kind")),
    Column("EXPIRES", field("expires")),
    Column("LEFT", lambda item: age(item["left_s"]) if item["left_s"] > 0 else "-"),
    Column("STATE", field("state")),
    Column("FOLDER", field("folder")),
    Column("HOSTS", field("hosts"), wide=True),
    Column("SERIAL", field("serial"), wide=True),
    Column("ID", field("id"), wide=True),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    init = _command(
        commands,
        "init",
        "make a CA: a key, its certificate, and an empty list",
        (
            "mesh ca init",
            "mesh ca init --trust mesh.example.org",
            "mesh ca init --folder /safe/ca --trust mesh.example.org --days 1825",
        ),
        _init,
    )
    init.add_argument(
        "--trust", metavar="NAME", default="mesh.local", help="its trust domain (default mesh.local)"
    )
    _days(init, "how long the CA's own certificate is good (default 3650)")
    issue = _command(
        commands,
        "issue",
        "issue a certificate: cert.pem, key.pem and ca.pem in a folder",
        (
            "mesh ca issue eu/eu-1",
            "mesh ca issue eu/eu-1 --host eu-1.example.org --host 10.0.0.7 --out tls/eu-1",
            "mesh ca issue client/billing --days 30",
        ),
        _issue,
    )
    issue.add_argument("name", metavar="NAME", help="REGION/NODE, or client/NAME")
    issue.add_argument(
        "--host",
        metavar="HOST",
        action="append",
        default=[],
        help="a DNS name or address that clients dial; may be given again",
    )
    issue.add_argument(
        "--again",
        action="store_true",
        help="also if this name has one; what it had stays good until it expires",
    )
    _out(issue, "where the files go (default: in the CA's folder)")
    _days(issue, "how long it is good (default 90)")
    listing = _command(
        commands,
        "list",
        "list what was issued, and when it expires",
        ("mesh ca list", "mesh ca list -o json", "mesh ca list --folder /safe/ca -o wide"),
        _list,
    )
    common(listing)
    renew = _command(
        commands,
        "renew",
        "issue again under the same name, with a new key, into the same folder",
        ("mesh ca renew eu/eu-1", "mesh ca renew --soon", "mesh ca renew client/billing --days 30"),
        _renew,
    )
    renew.add_argument("name", metavar="NAME", nargs="?", help="REGION/NODE, or client/NAME")
    renew.add_argument("--soon", action="store_true", help="every one that expires within 30 days")
    _out(renew, "where the files go (default: where they went last)")
    _days(renew, "how long it is good (default 90)")


def _command(commands: Any, name: str, about: str, examples: tuple[str, ...], run: Any) -> Parser:
    parser = subparser(commands, name, about, examples)
    parser.add_argument("--folder", metavar="FOLDER", default="ca", help="the CA's folder (default ./ca)")
    if name != "list":
        parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    parser.set_defaults(run=run)
    return parser


def _days(parser: Parser, about: str) -> None:
    parser.add_argument("--days", metavar="DAYS", type=_number_of_days, default=0.0, help=about)


def _out(parser: Parser, about: str) -> None:
    parser.add_argument("--out", metavar="FOLDER", help=about)


def _number_of_days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError("a number of days, above 0 and at most 36500")
    return days


def _init(args: argparse.Namespace) -> int:
    from mesh.identity.authority import CA_CERT, CA_DAYS, CA_KEY, Authority

    try:
        trust = check_trust(args.trust)
    except BadName as error:
        raise MeshError("MESH-A001", "--trust", str(error)) from None
    folder = Path(args.folder)
    authority = Authority.create(folder, trust, time.time(), args.days or CA_DAYS)
    write_lines(
        [
            f"{folder / CA_CERT}: the CA of trust domain {trust}, good until {_day(authority.not_after_s)}. Give it to every node.",
            f"{folder / CA_KEY}: its key. Keep it off the nodes: whoever has it can be any node.",
        ]
    )
    return 0


def _issue(args: argparse.Namespace) -> int:
    authority = _open(args)
    who = _who(authority, args.name)
    hosts = list(dict.fromkeys([*(LOOPBACK if isinstance(who, NodeId) else ()), *args.host]))
    row = authority.issue(
        who, time.time(), hosts=hosts, folder=_out_folder(args), days=args.days, again=args.again
    )
    _told(row)
    return 0


def _renew(args: argparse.Namespace) -> int:
    authority = _open(args)
    if bool(args.name) == args.soon or (args.soon and args.out):
        raise MeshError("MESH-A001", "mesh ca renew", "name one certificate, or say --soon (without --out)")
    now_s = time.time()
    if args.name:
        _told(authority.renew(_who(authority, args.name), now_s, folder=_out_folder(args), days=args.days))
        return 0
    due = [row for row in authority.issued() if row.not_after_s - now_s < 30 * 86_400]
    for row in due:
        _told(authority.renew(_who(authority, row.name), now_s, days=args.days))
    if not due:
        write_lines(["none expires within 30 days"])
    return 0


def _list(args: argparse.Namespace) -> int:
    options = options_of(args)
    items = [_item(row, time.time()) for row in _open(args).issued()]
    emit(versioned({"items": items}), COLUMNS, options, name="name")
    return 0


def _item(row: Issued, now_s: float) -> dict[str, Any]:
    left_s = row.not_after_s - now_s
    return {
        "name": row.name,
        "kind": row.kind,
        "id": row.id,
        "expires": datetime.fromtimestamp(row.not_after_s, UTC)
        .isoformat(timespec="seconds")
        .replace("+00:00", "Z"),
        "left_s": round(left_s),
        "state": "expired" if left_s <= 0 else "expires soon" if left_s <= SOON_S else "good",
        "hosts": list(row.hosts),
        "serial": row.serial,
        "folder": row.folder,
    }


def _open(args: argparse.Namespace) -> Authority:
    from mesh.identity.authority import Authority

    return Authority.open_ca(Path(args.folder))


def _out_folder(args: argparse.Namespace) -> Path | None:
    return Path(args.out) if args.out else None


def _who(authority: Authority, name: str) -> NodeId | ClientId:
    """ "eu/eu-1" is a node, "client/billing" a client. Raises: MeshError MESH-A001."""
    first, slash, second = name.partition("/")
    try:
        if first == "client" and slash:
            return ClientId(authority.trust, check_name(second, "client"))
        return NodeId(authority.trust, NodeKey.parse(name))
    except BadName as error:
        raise MeshError("MESH-A001", name, f"{error}; write REGION/NODE, or client/NAME") from None


def _told(row: Issued) -> None:
    write_lines([f"{row.folder}: {row.name}, good until {_day(row.not_after_s)}"])


def _day(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%d")
