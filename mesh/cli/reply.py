"""`mesh reply`: answer the requests of a filter, with a text, an echo, or what a command prints.

Decides what an answer holds. A request that a command fails on is not answered: the requester's time-out tells it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mesh.cli.options import Options, Parser, common, options_of
from mesh.cli.publish import add_attributes
from mesh.cli.render import text, write_lines
from mesh.cli.request import structured
from mesh.cli.subscribe import receipt_line
from mesh.model.errors import MeshError

if TYPE_CHECKING:
    import trio

    from mesh.client import Client, Delivery

EXAMPLES: Final = (
    "mesh reply echo --echo",
    "mesh reply 'prices/#' --exec 'jq .item' --group pricing",
    "mesh reply health/eu --text ok -n 1",
)
AT_ONCE: Final = 16
"""Commands of --exec that run at the same time; further requests wait in the subscription's bounded queue."""


def build(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("filter", metavar="FILTER", help="requests on these topics")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--echo", action="store_true", help="answer with the request's data")
    how.add_argument("--text", metavar="TEXT", help="answer with this")
    how.add_argument(
        "--exec",
        dest="command",
        metavar="COMMAND",
        help="answer with what a shell command prints; the data is its input, MESH_TOPIC the topic",
    )
    parser.add_argument(
        "--group", metavar="GROUP", default="", help="share the requests with the other members"
    )
    parser.add_argument("-n", "--count", type=int, metavar="COUNT", help="stop after so many answers")
    parser.add_argument(
        "--wait",
        choices=("node", "region", "mesh"),
        default="node",
        metavar="node|region|mesh",
        help="say how far it is installed before the first request",
    )
    add_attributes(parser)
    common(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    import trio

    if args.count is not None and args.count < 1:
        raise MeshError("MESH-A001", "--count", "it must be above 0")
    try:
        return trio.run(_reply_to_all, args, options_of(args))
    except KeyboardInterrupt:
        return 0


async def _reply_to_all(args: argparse.Namespace, options: Options) -> int:
    import trio

    from mesh.client import Client
    from mesh.net.supervise import unwrapped

    left = args.count
    async with (
        Client(
            options.events, name="cli", connect_timeout_s=options.timeout_s, token=options.token
        ) as client,
        await client.subscribe(args.filter, group=args.group, wait=args.wait) as requests,
    ):
        sys.stderr.write(receipt_line(args.filter, requests.receipt) + "; answering\n")
        limiter = trio.CapacityLimiter(AT_ONCE)
        # An interrupt or a lost connection must reach the caller as itself, not wrapped in the nursery's group.
        with unwrapped():
            async with trio.open_nursery() as nursery:
                async for request in requests:
                    if not request.reply_to:
                        continue  # an ordinary event on the same topic: nobody waits for an answer
                    await limiter.acquire_on_behalf_of(request)
                    nursery.start_soon(_reply, args, options, client, request, limiter)
                    if left is not None:
                        left -= 1
                        if left == 0:
                            break
    return 0


async def _reply(
    args: argparse.Namespace, options: Options, client: Client, request: Delivery, limiter: Any
) -> None:
    from mesh.client import CallRefused, ConnectionLost

    try:
        data = await _answer(args, options, request)
        if data is not None:
            await client.reply(request, structured(args, data))
            write_lines([f"{text(request.topic)} {text(request.mesh_id)}: {len(data)} bytes"])
    except (CallRefused, ConnectionLost) as error:
        sys.stderr.write(f"{error}\n")
    finally:
        limiter.release_on_behalf_of(request)


async def _answer(args: argparse.Namespace, options: Options, request: Delivery) -> bytes | None:
    """The data of the answer, None when there is none to give."""
    if args.text is not None:
        return os.fsencode(args.text)
    data = request.data
    asked = data if isinstance(data, bytes) else b"" if data is None else _text_of(data).encode()
    if args.echo:
        return asked
    return await _run_command(args.command, asked, request, options.timeout_s)


def _text_of(data: Any) -> str:
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)


async def _run_command(command: str, data: bytes, request: Delivery, timeout_s: float) -> bytes | None:
    import trio

    environ = {**os.environ, "MESH_TOPIC": request.topic, "MESH_ID": request.mesh_id}
    with trio.move_on_after(timeout_s):
        done = await trio.run_process(
            ["/bin/sh", "-c", command],
            stdin=data,
            capture_stdout=True,
            check=False,
            env=environ,
            start_new_session=True,
            deliver_cancel=_kill_group,
        )
        if done.returncode == 0:
            return bytes(done.stdout)
        sys.stderr.write(f"{request.mesh_id}: the command ended with {done.returncode}: not answered\n")
        return None
    sys.stderr.write(f"{request.mesh_id}: the command took longer than {timeout_s:g} s: not answered\n")
    return None


async def _kill_group(process: trio.Process) -> None:
    """End the shell and what it started: a late answer is no answer."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
