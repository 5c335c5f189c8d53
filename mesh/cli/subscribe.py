"""`mesh subscribe`: print events as they arrive, with the regions they crossed and how long they took.

Decides the line of an event, and that a lost connection is made again: what passed in between is not delivered (at most once),
and the command says that it was away; with --from it goes on behind the last event that it printed. Never decides what is delivered.
Source: design page "What a person sees", Publishing and subscribing (SSE).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mesh.cli.ask import Event, Node
from mesh.cli.options import Options, Parser, common, duration, options_of
from mesh.cli.render import hyphens, json_line, paint, text, write_lines
from mesh.model.errors import ERRORS, MeshError

if TYPE_CHECKING:
    from trio import CancelScope

    from mesh.client import Client, Subscription

EXAMPLES: Final = (
    "mesh subscribe 'orders/#' --client billing --durable --ack-after-print",
    "mesh subscribe 'orders/+/created' --group billing --wait mesh",
    "mesh subscribe 'orders/#' --from 10m -o json",
)
RETRY_FIRST_S, RETRY_MOST_S = 0.2, 2.0
_LOST: Final = frozenset({"MESH-A002", "MESH-A012", "MESH-A016"})
_UNAVAILABLE: Final = 503


def build(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("filter", metavar="FILTER", nargs="+", help="topic filters: + one level, # the tail")
    parser.add_argument(
        "--group", metavar="GROUP", help="share the events with the other members of this group"
    )
    parser.add_argument(
        "--wait",
        choices=("node", "region", "mesh"),
        metavar="node|region|mesh",
        help="say how far the interest is installed before the first event",
    )
    parser.add_argument(
        "--regions", metavar="A,B", help="with --wait mesh: these regions and no others are demanded"
    )
    parser.add_argument("--wait-timeout", type=duration, default=5.0, metavar="DURATION", help="default 5s")
    parser.add_argument(
        "--from",
        dest="since",
        metavar="10m|TIME|MESH_ID",
        help="replay the node's event log from there first: so long ago, a time, or behind an event",
    )
    parser.add_argument("-n", "--count", type=int, metavar="COUNT", help="stop after so many events")
    parser.add_argument(
        "--for",
        dest="for_s",
        type=duration,
        metavar="DURATION",
        help="stop after this time; exit 1 if COUNT was not reached",
    )
    parser.add_argument(
        "--client", metavar="NAME", help="with --durable: the name under which the node knows this subscriber"
    )
    parser.add_argument(
        "--durable",
        action="store_true",
        help="the node keeps the subscription, and at-least-once events while this command does not run",
    )
    parser.add_argument(
        "--ack-after-print",
        action="store_true",
        help="with --durable: acknowledge each event once it is printed, not once it is sent",
    )
    parser.add_argument(
        "--no-reconnect", action="store_true", help="stop (exit 3) when the connection is lost"
    )
    common(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.count is not None and args.count < 1:
        raise MeshError("MESH-A001", "--count", "it must be above 0")
    if bool(args.client) != args.durable or (args.ack_after_print and not args.durable):
        raise MeshError("MESH-A001", "--client", "it goes with --durable, and --ack-after-print with both")
    session = _Subscription(args, options_of(args))
    try:
        return session.run_durable() if args.durable else session.run()
    except KeyboardInterrupt:
        return 0


class _Subscription:
    """One run of the command: prints, counts, and dials again."""

    def __init__(self, args: argparse.Namespace, options: Options) -> None:
        self._args = args
        self._options = options
        self._seen = 0
        self._last_id = ""
        """Where a replay goes on when the connection was lost."""
        self._ends = time.monotonic() + args.for_s if args.for_s else None

    def run(self) -> int:
        """Until the count or the time is reached. Raises: MeshError when the node cannot be reached the first time."""
        retry_s, connected, away = RETRY_FIRST_S, False, False
        while True:
            try:
                for event in self._events():
                    connected, away, retry_s = True, False, RETRY_FIRST_S
                    self._take(event)
                    if self._args.count is not None and self._seen >= self._args.count:
                        return 0
                    if self._is_over():
                        break
            except MeshError as error:
                if not _may_return(error) or not connected or self._args.no_reconnect:
                    if not self._is_over():
                        raise
                elif not away:
                    away = True
                    meanwhile = "is replayed" if self._args.since else "is not delivered here"
                    self._say(f"{error.what}: dialling again; what passes meanwhile {meanwhile}")
            if self._is_over():
                return 1 if self._args.count is not None else 0
            time.sleep(retry_s)
            retry_s = min(RETRY_MOST_S, retry_s * 2)

    def run_durable(self) -> int:
        """As `run`, over one WebSocket that acknowledges. Raises: MeshError, also when another process takes the name over."""
        import trio

        return trio.run(self._read_durable)

    async def _read_durable(self) -> int:
        import trio

        from mesh.client import Client

        args, options = self._args, self._options
        acks = "explicit" if args.ack_after_print else "auto"
        within_s = self._ends - time.monotonic() if self._ends is not None else float("inf")
        client = Client(
            options.events,
            durable=args.client,
            acks=acks,
            connect_timeout_s=options.timeout_s,
            token=options.token,
        )
        regions = [one for one in (args.regions or "").split(",") if one]
        async with client:
            self._say(f"{args.client}: {client.waiting} events waited")
            with trio.move_on_after(within_s):
                async with trio.open_nursery() as nursery:
                    for filter in args.filter:
                        subscription = await client.subscribe(
                            filter,
                            group=args.group or "",
                            wait=args.wait or "",
                            regions=regions,
                            wait_timeout_s=args.wait_timeout,
                        )
                        if subscription.receipt:
                            self._tell_receipt(subscription.receipt)
                        nursery.start_soon(self._print_all, client, subscription, nursery.cancel_scope)
                return 0
            return 1 if args.count is not None else 0

    async def _print_all(self, client: Client, subscription: Subscription, all_of_them: CancelScope) -> None:
        async for delivery in subscription:
            self._seen += 1
            told: dict[str, Any] = {"topic": delivery.topic, "path": list(delivery.path)}
            if delivery.redelivered:
                told["redelivered"] = True
            self._print(delivery.mesh_id, told | {"event": json.loads(delivery.raw)})
            if self._args.ack_after_print:
                sys.stdout.flush()
                await client.ack(delivery)
            if self._args.count is not None and self._seen >= self._args.count:
                all_of_them.cancel()
                return

    def _is_over(self) -> bool:
        return self._ends is not None and time.monotonic() >= self._ends

    def _events(self) -> Any:
        args = self._args
        params = [("filter", each) for each in args.filter]
        if args.group:
            params.append(("group", args.group))
        patience_s = 0.0
        if args.wait or args.regions:
            params.append(("wait", args.wait or "mesh"))
            params.append(("wait_timeout", f"{args.wait_timeout:g}s"))
            patience_s = args.wait_timeout
        if args.regions:
            params.append(("regions", args.regions))
        if args.since:
            params.append(("from", self._last_id or args.since))
        with Node(self._options.events, self._options.timeout_s, self._options.token) as node:
            yield from node.stream("/v1/events", params, patience_s=patience_s, ends=self._ends)

    def _take(self, event: Event) -> None:
        try:
            told = json.loads(event.data)
        except (ValueError, RecursionError):
            raise MeshError("MESH-A010", self._options.events, "an event that is no JSON") from None
        if event.event == "subscribed":
            self._tell_receipt(told)
        elif event.event == "event":
            self._seen += 1
            self._last_id = event.id
            self._print(event.id, told)
        elif event.event in ("live", "gap"):
            self._tell_replay(event.event, told)
        elif event.event == "closing":
            self._say(f"the node closes the stream: {told.get('reason')}")

    def _tell_receipt(self, receipt: Mapping[str, Any]) -> None:
        if self._options.output == "json":
            write_lines([json_line({"subscribed": receipt})])
        self._say(receipt_line(", ".join(self._args.filter), receipt))

    def _tell_replay(self, name: str, told: Mapping[str, Any]) -> None:
        if self._options.output == "json":
            write_lines([json_line({name: told})])
        self._say(replay_line(name, told))

    def _print(self, mesh_id: str, told: Mapping[str, Any]) -> None:
        match self._options.output:
            case "json" | "yaml":
                write_lines([json_line({"mesh_id": mesh_id, **told})])
            case "name":
                write_lines([mesh_id])
            case form:
                line = event_line(told, datetime.now(UTC), color=self._options.color)
                write_lines([f"{line}  {mesh_id}" if form == "wide" else line])

    @staticmethod
    def _say(line: str) -> None:
        sys.stdout.flush()
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _may_return(error: MeshError) -> bool:
    """Whether trying again may help: the node was lost, or says that it drains or is full."""
    row = ERRORS.get(error.code)
    return error.code in _LOST or (row is not None and row.status == _UNAVAILABLE)


def receipt_line(filters: str, receipt: Mapping[str, Any]) -> str:
    """ "subscribed to orders/#; installed in us, ap; missing: af (no_route)"."""
    installed = receipt.get("installed") or []
    missing = receipt.get("missing") or []
    line = f"subscribed to {filters}"
    if installed:
        line += f"; installed in {', '.join(installed)}"
    if missing:
        line += "; missing: " + ", ".join(f"{entry['region']} ({hyphens(entry['why'])})" for entry in missing)
    return line


def replay_line(name: str, told: Mapping[str, Any]) -> str:
    """ "live: 2000 events were replayed", or "gap: events are missing here, TIME to TIME (stopped)"."""
    if name == "live":
        return f"live: {told.get('replayed')} events were replayed"
    missing = "events" if told.get("events") is None else f"{told['events']} events"
    times = [str(told[end]) for end in ("since", "until") if told.get(end)]
    span = f", {' to '.join(times)}" if times else ""
    return f"gap: {missing} are missing here{span} ({hyphens(told.get('reason'))})"


def event_line(told: Mapping[str, Any], now: datetime, *, color: bool) -> str:
    """One event: arrival, topic, regions crossed, latency if the event has a time, data."""
    event = told.get("event") or {}
    path = told.get("path") or []
    crossed = f"{len(path)} hop{'s' if len(path) != 1 else ''} {'>'.join(path)}" if path else "here"
    parts = [
        paint(now.astimezone().strftime("%H:%M:%S.%f")[:-3], "dim", color),
        paint(text(told.get("topic")), "bold", color),
        crossed,
        latency(event.get("time"), now),
        data_text(event),
    ]
    return "  ".join(parts)


def latency(sent: Any, now: datetime) -> str:
    """Milliseconds since the event's time, "-" without one. Right only as far as the two clocks agree."""
    if not isinstance(sent, str):
        return "-"
    try:
        then = datetime.fromisoformat(sent.replace("Z", "+00:00").replace("z", "+00:00"))
        elapsed_ms = (now - then).total_seconds() * 1e3
    except (ValueError, TypeError, OverflowError):
        return "-"
    return f"{elapsed_ms:.0f}ms"


def data_text(event: Mapping[str, Any]) -> str:
    """The data on one line: text as it is, JSON compact, binary data as its base64."""
    if "data_base64" in event:
        return f"base64:{text(event['data_base64'])}"
    data = event.get("data")
    if data is None:
        return ""
    return (
        text(data) if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(", ", ": "))
    )
