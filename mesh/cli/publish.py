"""`mesh publish`: one event, one for each line, or a batch file.

Decides the attributes an event gets that were not given (id, source, type, time) and its content type. The node decides the rest.
Source: CloudEvents 1.0.2, HTTP binding sections 3.1 (binary mode) and 3.3 (batch).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from mesh.cli.ask import Node
from mesh.cli.options import Options, Parser, common, options_of
from mesh.cli.render import as_json, as_yaml, hyphens, text, versioned, write_lines
from mesh.model.errors import MeshError

EXAMPLES: Final = (
    "mesh publish orders/eu/created '{\"order\": 17}' --type order.created --key 17",
    "tail -f access.log | mesh publish logs/web - --lines",
    "mesh publish --batch-file events.json",
)
SOURCE: Final = "urn:hopmesh:cli"
TYPE: Final = "mesh.raw"


def build(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help="where to; not needed with --batch-file")
    parser.add_argument("data", metavar="DATA", nargs="?", help="the event's data; - reads standard input")
    parser.add_argument("--file", metavar="FILE", help="read the data from a file")
    parser.add_argument("--lines", action="store_true", help="every line of the input is an event")
    parser.add_argument(
        "--batch-file", metavar="FILE", help="a JSON array of structured CloudEvents; - reads standard input"
    )
    add_attributes(parser)
    parser.add_argument("--key", metavar="KEY", help="ordering key: events of one key stay in order")
    parser.add_argument("--deadline", metavar="DURATION", help="drop it when it is not delivered by then")
    parser.add_argument(
        "--level",
        choices=("at-most-once", "at-least-once"),
        help="how hard the mesh tries; default: what [[topic]] says",
    )
    parser.add_argument(
        "--ack",
        choices=("accepted", "region", "delivered"),
        help="with at-least-once: answer when this node, every region, or every subscriber has it",
    )
    parser.add_argument("--require-interest", action="store_true", help="fail when nobody wants it")
    common(parser)
    parser.set_defaults(run=_run)


def add_attributes(parser: Parser) -> None:
    """Add the options that set CloudEvent attributes; `attributes_of` reads them back."""
    parser.add_argument("--id", metavar="ID", help="CloudEvent id (default: a new one)")
    parser.add_argument("--source", metavar="URI", help=f"CloudEvent source (default: {SOURCE})")
    parser.add_argument("--type", metavar="TYPE", help=f"CloudEvent type (default: {TYPE})")
    parser.add_argument("--subject", metavar="TEXT", help="CloudEvent subject")
    parser.add_argument("--content-type", metavar="TYPE", help="of the data (default: found from it)")
    parser.add_argument(
        "--attribute", metavar="NAME=VALUE", action="append", help="any other attribute; may be given again"
    )


def attributes_of(args: argparse.Namespace) -> dict[str, str]:
    """The CloudEvent attributes of one event, datacontenttype left out. Raises: MeshError MESH-A001."""
    found = {
        "specversion": "1.0",
        "id": args.id or str(uuid.uuid4()),
        "source": args.source or SOURCE,
        "type": args.type or TYPE,
        "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    if args.subject:
        found["subject"] = args.subject
    for pair in args.attribute or ():
        name, equals, value = pair.partition("=")
        if not equals or not (name.isascii() and name.isalnum() and name == name.lower()):
            raise MeshError(
                "MESH-A001", "--attribute", f"{pair!r} is not NAME=VALUE with a name of a-z and 0-9"
            )
        found[name] = value
    return found


def content_type_of(data: bytes) -> str:
    """application/json for what is JSON, text/plain for other text, else application/octet-stream."""
    try:
        json.loads(data)
    except RecursionError:
        return "text/plain; charset=utf-8"
    except UnicodeDecodeError:
        return "application/octet-stream"
    except ValueError:
        try:
            data.decode()
        except UnicodeDecodeError:
            return "application/octet-stream"
        return "text/plain; charset=utf-8"
    return "application/json"


def header_value(value: str) -> str:
    """An attribute as a header: percent-encoded as the HTTP binding section 3.1.3.2 says."""
    return quote(value, safe="".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%'))


def _run(args: argparse.Namespace) -> int:
    options = options_of(args)
    params = [
        (name, value)
        for name, value in (
            ("key", args.key),
            ("deadline", args.deadline),
            ("level", args.level),
            ("ack", args.ack),
            ("require", "interest" if args.require_interest else None),
        )
        if value
    ]
    with Node(options.events, options.timeout_s, options.token) as node:
        if args.batch_file:
            if args.data is not None or args.file or args.lines:
                raise MeshError("MESH-A001", "mesh publish", "--batch-file brings its own data")
            body = _read(args.batch_file)
            path = _path(args.topic) if args.topic else "/v1/events"
            headers = {"Content-Type": "application/cloudevents-batch+json"}
            _show(node.call("POST", path, params, body=body, headers=headers), options)
            return 0
        if not args.topic:
            raise MeshError("MESH-A001", "mesh publish", "a topic is needed")
        if (args.data is None) == (args.file is None):
            raise MeshError("MESH-A001", "mesh publish", "give DATA, - or --file FILE, and only one of them")
        for data in _data(args):
            headers = {f"ce-{name}": header_value(value) for name, value in attributes_of(args).items()}
            headers["Content-Type"] = args.content_type or content_type_of(data)
            _show(node.call("POST", _path(args.topic), params, body=data, headers=headers), options)
    return 0


def _path(topic: str) -> str:
    return "/v1/events/" + quote(topic, safe="/")


def _data(args: argparse.Namespace) -> Iterator[bytes]:
    """The data of each event: one, or with --lines one for each line as it comes."""
    if not args.lines:
        yield _read(args.file) if args.file else read_input(args.data)
        return
    if args.data not in (None, "-"):
        yield from os.fsencode(args.data).splitlines()
        return
    try:
        source = open(args.file, "rb") if args.file and args.file != "-" else sys.stdin.buffer  # noqa: SIM115
    except OSError as error:
        raise MeshError("MESH-A017", args.file, error.strerror or str(error)) from None
    with source:
        for line in source:
            yield line.rstrip(b"\r\n")


def _read(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise MeshError("MESH-A017", path, error.strerror or str(error)) from None


def read_input(data: str) -> bytes:
    """DATA of a command line: its bytes, or standard input for "-". Raises: MeshError MESH-A017."""
    return _read("-") if data == "-" else os.fsencode(data)


def _show(answer: dict[str, Any], options: Options) -> None:
    """Print what became of the events."""
    events = answer.get("events") or []
    match options.output:
        case "json":
            write_lines([as_json(versioned(answer))])
        case "yaml":
            write_lines(as_yaml(versioned(answer)))
        case "name":
            write_lines([text(event.get("mesh_id")) for event in events])
        case _:
            write_lines([outcome_line(event) for event in events])


def outcome_line(event: dict[str, Any]) -> str:
    """ "eu/eu-1/1764/17 -> regions us,ap and 2 here", or why nobody gets it."""
    parts = []
    regions = event.get("regions") or []
    if regions:
        parts.append(f"region{'s' if len(regions) > 1 else ''} {','.join(regions)}")
    if event.get("local"):
        parts.append(f"{event['local']} here")
    parts += [f"group {entry['group']} in {entry['region']}" for entry in event.get("groups") or ()]
    line = f"{text(event.get('mesh_id'))} -> {' and '.join(parts) if parts else 'nobody'}"
    reasons = event.get("reasons") or ()
    # A region that is among those it goes to gets it when it can be reached again: it is kept for it.
    for word, some in (
        ("not", [entry for entry in reasons if entry.get("region") not in regions]),
        ("later", [entry for entry in reasons if entry.get("region") in regions]),
    ):
        if some:
            line += f"; {word}: {', '.join(map(_reason_text, some))}"
    return line


def _reason_text(entry: dict[str, Any]) -> str:
    detail = entry.get("detail")
    words = (entry.get("region"), hyphens(entry.get("reason")), detail and f"({detail})")
    return " ".join(word for word in words if word)
