"""`mesh bench`: what a topology costs on this machine. The measuring is done in `mesh.testing.bench`.

Decides the options and how a report looks. Never measures anything.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any, Final

from mesh.cli.main import FAILED, OK
from mesh.cli.options import Parser
from mesh.cli.render import Column, as_json, as_yaml, field, paint, table, write_lines
from mesh.model.errors import MeshError

EXAMPLES: Final = (
    "mesh bench chain",
    "mesh bench chain --nodes 2 --level at-least-once --runs 5 -o json",
    "mesh bench chain --nodes 4 --protocol sse --rate 2000 --rate-seconds 10",
)
_COUNTS: Final = (
    ("nodes", 4, "regions in the chain, one node each"),
    ("events", 200_000, "events of one run at full speed"),
    ("warm-up", 40_000, "events before the first run, not counted"),
    ("batch", 100, "events in one request of a publisher"),
    ("publishers", 4, "connections that publish"),
    ("window", 4_000, "events under way at most (published, not yet seen)"),
    ("payload", 256, "bytes of an event's data, at least 40"),
    ("topics", 100, "topics the events are spread over"),
    ("runs", 3, "runs; medians and spread are shown"),
    ("seed", 1, "of the order of topics"),
)


def build(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "topology", choices=("chain",), help="chain: regions in a line, published first, read last"
    )
    for name, default, about in _COUNTS:
        parser.add_argument(
            f"--{name}", type=_count, default=default, metavar="N", help=f"{about} (default {default})"
        )
    parser.add_argument(
        "--protocol",
        choices=("ws", "sse"),
        default="ws",
        help="of the subscriber: mesh.v1.json WebSocket or SSE",
    )
    parser.add_argument(
        "--level",
        choices=("at-most-once", "at-least-once"),
        default="at-most-once",
        help="of the events (at-most-once)",
    )
    parser.add_argument("--tls", action="store_true", help="mutual TLS on every link, with a CA made for it")
    parser.add_argument(
        "--rate", type=_amount, default=1_000.0, metavar="R", help="events/s of the latency run (1000)"
    )
    parser.add_argument(
        "--rate-seconds",
        type=_amount,
        default=5.0,
        metavar="S",
        help="how long it lasts (5); 0: leave it out",
    )
    parser.add_argument(
        "--idle", type=_amount, default=5.0, metavar="S", help="seconds at rest that are watched (5)"
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "yaml"), default="table", help="table|json|yaml"
    )
    parser.add_argument("--no-color", action="store_true", help="plain text (also NO_COLOR, and in pipes)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    parser.set_defaults(run=_run)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return value


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("it must be 0 or more")
    return value


def _run(args: argparse.Namespace) -> int:
    from mesh.testing.bench import Wish, run

    if args.window < args.batch:
        raise MeshError("MESH-A001", "--window", f"it is smaller than one batch of {args.batch}")
    wish = Wish(
        nodes=args.nodes,
        tls=args.tls,
        events=args.events,
        warm_up=args.warm_up,
        batch=args.batch,
        publishers=args.publishers,
        window=args.window,
        payload=args.payload,
        topics=args.topics,
        protocol=args.protocol,
        rate=args.rate,
        rate_s=args.rate_seconds,
        idle_s=args.idle,
        runs=args.runs,
        seed=args.seed,
        level=args.level,
    )
    report = run(
        wish, shlex.join(["mesh", *sys.argv[1:]]), lambda text: print(text, file=sys.stderr, flush=True)
    )
    match args.output:
        case "json":
            write_lines([as_json(report)])
        case "yaml":
            write_lines(as_yaml(report))
        case _:
            color = not args.no_color and "NO_COLOR" not in os.environ and sys.stdout.isatty()
            write_lines(report_lines(report, color=color))
    return OK if report["lost"] == 0 and report["duplicates"] == 0 else FAILED


# -- the table -----------------------------------------------------------------------------------------------------------


def report_lines(report: Mapping[str, Any], *, color: bool) -> list[str]:
    """The report for a person."""
    machine, settings = report["machine"], report["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        paint(
            f"{report['topology']} of {settings['nodes']} nodes: {settings['payload']}-byte payloads, "
            f"{settings['topics']} topics, batches of {settings['batch']}, {settings['runs']} runs",
            "bold",
            color,
        ),
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}",
        f"{machine['python']}, {versions}",
        "",
    ]
    lines += table(_nodes(report), _COLUMNS, wide=False, color=color)
    fast, slow = report["throughput"], report["latency"]
    lines += ["", *table(_figures(fast, slow, settings), _FIGURES, wide=False, color=color), ""]
    load = fast["runs"][-1]
    lines.append(
        f"load generator: {load['load_cpu_us_per_event']:.2f} us/event, {100 * load['load_cpu_share']:.0f} % of a core"
        + (": IT IS THE BOTTLENECK of the events/s" if report["load_limits"] else "")
    )
    if slow["runs"]:
        lines.append(
            f"at {settings['rate']:g} events/s it sent late by {slow['runs'][-1]['late_p99_us']} us at p99"
        )
    acks = report.get("acknowledgement")
    if acks:
        ack, fsync = acks["ack_us"], acks["fsync_us"]
        lines.append(
            f"one publisher waiting for each answer: p50 {ack['p50']:.0f} us, p99 {ack['p99']:.0f} us; "
            f"fdatasync in that folder: p50 {fsync['p50']:.0f} us, p99 {fsync['p99']:.0f} us"
        )
    sound = not report["lost"] and not report["duplicates"]
    lines.append(
        paint(f"lost {report['lost']}, duplicates {report['duplicates']}", "good" if sound else "bad", color)
    )
    lines.append(f"seed {settings['seed']}: {report['command']}")
    return lines


def _nodes(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    fast, slow = report["throughput"]["nodes"], report["latency"].get("nodes", {})
    rows = [
        {
            "node": one["node"],
            "fast": f"{fast[one['node']]:.2f}",
            "slow": f"{slow[one['node']]:.1f}" if slow else None,
            "idle": f"{one['cpu_percent']:.1f}",
            "rss": f"{one['rss_mb']:.0f}",
            "after": f"{report['rss_mb_after'][one['node']]:.0f}",
        }
        for one in report["idle"]
    ]
    total = {
        "node": "sum",
        "fast": f"{sum(fast.values()):.2f}",
        "slow": f"{sum(slow.values()):.1f}" if slow else None,
    }
    return [*rows, total]


_COLUMNS: Final = (
    Column("NODE", field("node")),
    Column("CPU US/EVENT", field("fast")),
    Column("AT THE RATE", field("slow")),
    Column("IDLE CPU %", field("idle")),
    Column("IDLE MB", field("rss")),
    Column("MB AFTER", field("after")),
)
_FIGURES: Final = (
    Column("FIGURE", field("figure")),
    Column("MEDIAN", field("median")),
    Column("MIN", field("min")),
    Column("MAX", field("max")),
)


def _figures(
    fast: Mapping[str, Any], slow: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    rows = [
        _figure("events/s", fast["events_per_s"], "{:.0f}"),
        _figure("CPU us/event, all nodes", fast["cpu_us_per_event"], "{:.2f}"),
    ]
    if slow["runs"]:
        at = f"at {settings['rate']:g} events/s"
        rows += [_figure(f"{name} us {at}", slow[f"{name}_us"], "{:.0f}") for name in ("p50", "p99", "p99.9")]
    return rows


def _figure(name: str, values: Mapping[str, float], form: str) -> dict[str, Any]:
    return {"figure": name, **{key: form.format(values[key]) for key in ("median", "min", "max")}}
