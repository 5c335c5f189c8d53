"""`mesh request`: publish a request and print the first answer, or why nobody answered.

Decides the form of the answer. Who answers is the mesh's work; the connection is `mesh.client`'s.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from mesh.cli.options import Options, Parser, common, options_of
from mesh.cli.publish import add_attributes, attributes_of, content_type_of, read_input
from mesh.cli.render import hyphens, json_line, write_lines
from mesh.model.errors import MeshError

if TYPE_CHECKING:
    from mesh.client import CallRefused, Delivery

EXAMPLES: Final = (
    "mesh request prices/eu '{\"item\": 17}'",
    "mesh request prices/eu - --timeout 500ms < question.json",
    "mesh request echo hello -o json",
)


def build(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("data", metavar="DATA", help="the request's data; - reads standard input")
    add_attributes(parser)
    parser.add_argument("--key", metavar="KEY", default="", help="ordering key")
    common(parser)
    parser.set_defaults(run=_run)


def structured(args: argparse.Namespace, data: bytes) -> dict[str, Any]:
    """A structured CloudEvent of the attributes that were given and the data. JSON data stays JSON, other text is a string."""
    event: dict[str, Any] = dict(attributes_of(args))
    content_type = args.content_type or content_type_of(data)
    event["datacontenttype"] = content_type
    plain = content_type.partition(";")[0].strip().lower()
    try:
        if plain == "application/json" or plain.endswith("+json"):
            event["data"] = json.loads(data)
        else:
            event["data"] = data.decode()
    except (ValueError, RecursionError):
        event["data_base64"] = base64.b64encode(data).decode()
    return event


def _run(args: argparse.Namespace) -> int:
    import trio

    options = options_of(args)
    event = structured(args, read_input(args.data))
    return trio.run(_request, args, options, event)


async def _request(args: argparse.Namespace, options: Options, event: dict[str, Any]) -> int:
    from mesh.client import CallRefused, Client

    async with Client(
        options.events, name="cli", connect_timeout_s=options.timeout_s, token=options.token
    ) as client:
        try:
            reply = await client.request(args.topic, event, key=args.key, timeout_s=options.timeout_s)
        except CallRefused as refused:
            raise told(refused, args.topic) from None
    print_reply(reply, options)
    return 0


def told(refused: CallRefused, where: str) -> MeshError:
    """A refusal with the reasons the node gave, as one line."""
    reasons = [
        " ".join(part for part in (entry.get("region", ""), hyphens(entry.get("reason"))) if part)
        + (f" ({entry['detail']})" if entry.get("detail") else "")
        for entry in refused.problem.get("reasons") or ()
    ]
    if reasons:
        refused.args = (f"{refused.code} {where}: {refused.what} [{'; '.join(reasons)}]. {refused.remedy}",)
    return refused


def print_reply(reply: Delivery, options: Options) -> None:
    """The data alone, or with -o json everything."""
    event = json.loads(reply.raw)
    match options.output:
        case "json" | "yaml":
            write_lines([json_line({"path": list(reply.path), "event": event})])
        case "name":
            write_lines([str(event.get("id"))])
        case _:
            data = reply.data
            if isinstance(data, bytes):
                sys.stdout.flush()
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            elif data is not None:
                write_lines([data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)])
