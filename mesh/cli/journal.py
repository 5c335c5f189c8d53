"""`mesh journal`: what the journal of a node on this machine holds, read from its folder, best while the node is down.

Decides the form. Never changes a file, and asks no node: of a node that runs it shows what was on the disk at that moment, and
says so. Exit codes: 0, or 10 when bytes are damaged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mesh.cli.main import OK, UNHEALTHY
from mesh.cli.options import Parser, common, options_of, subcommands, subparser
from mesh.cli.render import Column, as_json, as_yaml, details, emit, field, hyphens, versioned, write_lines
from mesh.model.errors import MeshError

if TYPE_CHECKING:
    from mesh.store.recovery import Recovered

EXAMPLES: Final = (
    "mesh journal list --data data/eu-1",
    "mesh journal verify --config mesh.toml",
    "mesh journal show 4711 --data data/eu-1",
)
SEGMENTS: Final = (
    Column("SEGMENT", field("segment")),
    Column("STATE", field("state")),
    Column("BYTES", field("bytes")),
    Column("LIVE", field("live_bytes")),
    Column("RECORDS", field("records")),
    Column("NOTES", field("notes")),
    Column("FIRST", field("first")),
    Column("LAST", field("last")),
    Column("FILE", field("file"), wide=True),
)
RECORDS: Final = (
    Column("LSN", field("lsn")),
    Column("STORED", field("stored")),
    Column("BYTES", field("bytes")),
    Column("PARTS", field("parts")),
    Column("SEGMENT", field("segment"), wide=True),
    Column("OFFSET", field("offset"), wide=True),
)
DAMAGE: Final = (
    Column("SEGMENT", field("segment")),
    Column("OFFSET", field("offset")),
    Column("BYTES", field("bytes")),
    Column("REASON", lambda item: hyphens(item.get("reason"))),
    Column("FILE", field("file"), wide=True),
)
FIELDS: Final = (
    ("lsn", field("lsn")),
    ("stored", field("stored")),
    ("parts", field("parts")),
    ("head bytes", field("head_bytes")),
    ("body bytes", field("body_bytes")),
    ("state", field("state")),
    ("segment", field("segment")),
    ("offset", field("offset")),
    ("file", field("file")),
)


def build(parser: Parser) -> None:
    """Declare the subcommands."""
    commands = subcommands(parser)
    listing = _command(
        commands,
        "list",
        "list the segments, or the records that are not delivered yet",
        (
            "mesh journal list --data data/eu-1",
            "mesh journal list --records --part r/us",
            "mesh journal list -o json",
        ),
        _list,
    )
    listing.add_argument("--records", action="store_true", help="the open records instead of the segments")
    listing.add_argument("--part", metavar="PART", help="only records open for it, such as r/us or n/eu-2")
    _command(
        commands,
        "verify",
        "read every byte and tell what is damaged",
        (
            "mesh journal verify --data data/eu-1",
            "mesh journal verify --config mesh.toml -o json",
            "mesh journal verify || echo damaged",
        ),
        _verify,
    )
    show = _command(
        commands,
        "show",
        "show one record",
        (
            "mesh journal show 4711 --data data/eu-1",
            "mesh journal show 4711 -o json",
            "mesh journal show 4711 --body > body",
        ),
        _show,
    )
    show.add_argument(
        "lsn", metavar="LSN", type=int, help="its number, as 'mesh journal list --records' has it"
    )
    show.add_argument("--body", action="store_true", help="write only its body, as it was stored")


def _command(commands: Any, name: str, about: str, examples: tuple[str, ...], run: Any) -> Parser:
    """A subcommand with the options that say whose journal."""
    parser = subparser(commands, name, about, examples)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--data", metavar="FOLDER", help="the node's data folder ([node] data)")
    which.add_argument("--config", metavar="FILE", help="the node's TOML file, which names the folder")
    common(parser)
    parser.set_defaults(run=run)
    return parser


def _folder(args: argparse.Namespace) -> Path:
    """The journal's folder. Effects: says when a node uses it. Raises: MeshError, also when there is none."""
    if args.data is not None:
        data = Path(args.data)
    else:
        from mesh.config import data_folder, load

        data = data_folder(load(Path(args.config) if args.config else None))
    from mesh.store.segment import FOLDER

    if not (data / FOLDER).is_dir():
        raise MeshError(
            "MESH-A005", str(data), "no journal is there", "Name the node's folder with --data or --config."
        )
    holder = user_of(data)
    if holder:
        sys.stderr.write(
            f"{data} is in use by pid {holder}: this is what its journal had on the disk just now; nothing is changed\n"
        )
    return data / FOLDER


def user_of(data: Path, locks: Path = Path("/proc/locks")) -> int:
    """The process that holds a data folder's lock, 0 if none is known. Takes no lock: it would keep a node from starting."""
    try:
        inode = (data / "lock").stat().st_ino
        lines = locks.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            return max(int(words[4]), 0)
    return 0


def _read(args: argparse.Namespace, *, every_byte: bool) -> Recovered:
    from mesh.store.disk import Disk
    from mesh.store.recovery import recover

    folder = _folder(args)
    try:
        return recover(folder, Disk(), write=False, every_byte=every_byte)
    except OSError as error:
        raise MeshError("MESH-A017", str(folder), error.strerror or str(error)) from None


def _end(found: Recovered) -> int:
    """The exit code; damage is one line on standard error."""
    if not found.damage:
        return OK
    sys.stdout.flush()
    lost = sum(damage.bytes for damage in found.damage)
    sys.stderr.write(
        f"damaged places: {len(found.damage)}, bytes: {lost}; 'mesh journal verify' lists them, "
        "docs/operating.md tells what that means\n"
    )
    return UNHEALTHY


def _list(args: argparse.Namespace) -> int:
    found = _read(args, every_byte=False)
    options = options_of(args)
    if args.records or args.part:
        items = list(_records(found, args.part))
        emit(versioned({"items": items}), RECORDS, options, name="lsn")
    else:
        items = list(_segments(found))
        emit(versioned({"items": items}), SEGMENTS, options, name="segment")
    return _end(found)


def _segments(found: Recovered) -> Iterator[dict[str, Any]]:
    lsns: dict[int, list[int]] = {}
    for lsn, stored in found.ledger.records.items():
        if stored.segment is not None:
            lsns.setdefault(stored.segment.number, []).append(lsn)
    damaged = {damage.segment for damage in found.damage}
    for segment in sorted([*found.ledger.segments, *found.apart], key=lambda each: each.number):
        here = lsns.get(segment.number, [])
        state = "sealed" if segment.sealed else "open"
        yield {
            "segment": segment.number,
            "state": "unreadable" if segment.apart else "damaged" if segment.number in damaged else state,
            "bytes": segment.size,
            "live_bytes": segment.live_bytes,
            "records": len(here),
            "notes": sum(1 for place in found.ledger.places.values() if place is segment),
            "first": min(here, default=None),
            "last": max(here, default=None),
            "file": segment.path.name,
        }


def _records(found: Recovered, part: str | None) -> Iterator[dict[str, Any]]:
    for lsn in sorted(found.ledger.records):
        item = _record(found, lsn)
        if part is None or part in item["parts"]:
            yield item


def _record(found: Recovered, lsn: int) -> dict[str, Any]:
    stored = found.ledger.records[lsn]
    assert stored.segment is not None
    return {
        "lsn": lsn,
        "stored": _time(stored.stored_ms),
        "parts": list(stored.parts),
        "head_bytes": stored.head_bytes,
        "body_bytes": stored.body_bytes,
        "bytes": stored.size,
        "segment": stored.segment.number,
        "offset": stored.offset,
        "file": stored.segment.path.name,
    }


def _time(stored_ms: int) -> str | None:
    """RFC 3339 in UTC; None for what is no time of this era."""
    try:
        at = datetime.fromtimestamp(stored_ms / 1_000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _verify(args: argparse.Namespace) -> int:
    found = _read(args, every_byte=True)
    options = options_of(args)
    names = {segment.number: segment.path.name for segment in [*found.ledger.segments, *found.apart]}
    items = [
        {**damage._asdict(), "reason": damage.reason.value, "file": names.get(damage.segment)}
        for damage in found.damage
    ]
    ledger = found.ledger
    told = versioned(
        {
            "segments": len(ledger.segments) + len(found.apart),
            "bytes": ledger.total_bytes,
            "records": len(ledger.records),
            "notes": len(ledger.notes),
            "items": items,
        }
    )
    if options.output in ("table", "wide"):
        verdict = "damaged:" if items else "nothing is damaged"
        counts = ", ".join(f"{name} {told[name]}" for name in ("segments", "bytes", "records", "notes"))
        write_lines([f"{counts}: {verdict}"])
    if items or options.output not in ("table", "wide"):
        emit(told, DAMAGE, options, name="segment")
    return UNHEALTHY if items else OK


def _show(args: argparse.Namespace) -> int:
    from mesh.model.journal import JournalDamaged
    from mesh.store.disk import Disk
    from mesh.store.segment import Readers

    found = _read(args, every_byte=False)
    if args.lsn not in found.ledger.records:
        raise MeshError(
            "MESH-A005",
            f"record {args.lsn}",
            "it is not open in this journal",
            "See 'mesh journal list --records'.",
        )
    item = _record(found, args.lsn)
    readers = Readers(Disk(), 1)
    try:
        body = readers.read(found.ledger.records[args.lsn])[1]
        item["state"] = "ok"
    except JournalDamaged as error:
        body = b""
        item["state"] = "damaged"
        item["reason"] = error.damage.reason.value
    finally:
        readers.close()
    options = options_of(args)
    if args.body:
        sys.stdout.flush()
        sys.stdout.buffer.write(body)
    elif options.output in ("json", "yaml"):
        told = versioned(item)
        write_lines([as_json(told)] if options.output == "json" else as_yaml(told))
    elif options.output == "name":
        write_lines([str(item["lsn"])])
    else:
        write_lines(details(item, FIELDS, color=options.color))
    return OK if item["state"] == "ok" else UNHEALTHY
