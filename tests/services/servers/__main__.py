"""`scripts/services`: up, down and status of the real servers."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from services.servers import run
from services.servers.process import ServerFailed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/services",
        description="Real servers for tests, in one throw-away folder (HOPMESH_SERVICES, or one in the temporary folder).",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "start them, and wait until they are ready; twice is once"),
        ("down", "stop them and remove the folder"),
        ("status", "what runs, and where; fails when one of the kinds named does not run"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(run.KINDS))
    keep = commands.add_parser("keep", help="used by itself: take a run down when its owner has ended")
    keep.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "keep":
        run.keep(arguments.folder)
        return 0
    unknown = [kind for kind in arguments.kinds if kind not in run.KINDS]
    if unknown:
        parser.error(f"no such kind: {', '.join(unknown)} (there are {', '.join(run.KINDS)})")
    try:
        folder = run.run_folder()
        kinds = tuple(arguments.kinds)
        match arguments.command:
            case "up":
                return up(folder, kinds or tuple(run.KINDS))
            case "down":
                run.down(folder, kinds)
                return 0
            case _:
                return status(folder, kinds)
    except ServerFailed as failed:
        print(failed, file=sys.stderr)
        return 1


def up(folder: Path, kinds: tuple[str, ...]) -> int:
    """All kinds at the same time: starting is mostly waiting."""
    failures: list[str] = []

    def start(kind: str) -> None:
        began = time.monotonic()
        try:
            run.up(folder, kind)
        except Exception as failed:
            failures.append(str(failed) if isinstance(failed, ServerFailed) else f"{kind}: {failed!r}")
            return
        print(f"{kind} is ready ({time.monotonic() - began:.1f} s)", file=sys.stderr)

    threads = [threading.Thread(target=start, args=(kind,), name=kind) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        print("\n".join(failures), file=sys.stderr)
        return 1
    return status(folder, kinds)


def status(folder: Path, kinds: tuple[str, ...]) -> int:
    found = [run.status(folder, kind) for kind in kinds or run.KINDS]
    for each in found:
        line = f"{each.kind:7} {each.state:9} {','.join(each.addresses)}"
        print(line + (f"  {each.rss_bytes >> 20} MB" if each.rss_bytes else ""))
    print(f"folder  {folder}")
    if not kinds:
        return 0
    return 0 if all(each.state == "running" for each in found) else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads that wait for a server which will not come are not waited for.
    os._exit(code)
