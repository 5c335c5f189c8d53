"""`scripts/containers`: build the image, run docker-compose.yml in an engine of its own, check it, take everything down."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from containers import images
from containers.checks import Checks
from containers.commands import Failed
from containers.deployment import Deployment
from containers.engine import Engine
from containers.report import Report

PREFIX = "hopmesh-containers-"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/containers",
        description="Build the image and run docker-compose.yml in a container engine of its own (Debian, root), check that the "
        "mesh works and that inner cannot be entered, and take everything down. Ten minutes the first time, then five.",
    )
    parser.add_argument("--keep", action="store_true", help="leave it running; says how to use it and end it")
    parser.add_argument(
        "--down", metavar="FOLDER", type=Path, help="end what --keep left running, and no more"
    )
    parser.add_argument(
        "--compose", metavar="COMMAND", default="", help='"docker compose" or "docker-compose"'
    )
    arguments = parser.parse_args()
    # SIGTERM takes everything down, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    report = Report()
    if arguments.down:
        if not arguments.down.name.startswith(PREFIX) or not (arguments.down / "host.json").exists():
            parser.error(f"{arguments.down} is not a folder that --keep named")
        take_down(Engine(arguments.down), None, report)
        return report.summary()
    engine = Engine(Path(tempfile.mkdtemp(prefix=PREFIX)))
    deployment = None
    try:
        deployment = set_up(engine, report, arguments.compose)
        if deployment is not None:
            Checks(deployment, report).run()
    except KeyboardInterrupt:
        report.note("interrupted")
        report.failed += 1
    finally:
        if arguments.keep:
            tell_kept(engine, deployment, report)
        else:
            take_down(engine, deployment, report)
    return report.summary()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def set_up(engine: Engine, report: Report, compose: str) -> Deployment | None:
    """From nothing to containers in health; None when a step failed."""
    with report.check("the engine starts") as figures:
        figures.append(f"{engine.start():.1f} s, folder {engine.folder}")
    if report.failed:
        return None
    with report.check("the image is built") as figures:
        begun = time.monotonic()
        images.make_base(engine)
        report.note(f"local base in {time.monotonic() - begun:.0f} s")
        figures.append(f"{images.build_product(engine):.0f} s")
        base, product = engine.size_bytes(images.BASE), engine.size_bytes(images.PRODUCT)
        figures.append(f"{product / 1e6:.0f} MB, {(product - base) / 1e6:.0f} MB of them above its base")
    if report.failed:
        return None
    deployment = None
    with report.check("every container of docker-compose.yml comes into health") as figures:
        begun = time.monotonic()
        images.make_registries(engine)
        report.note(f"stand-ins for the registries' images in {time.monotonic() - begun:.0f} s")
        deployment = Deployment(engine, compose)
        begun = time.monotonic()
        deployment.up()
        figures.append(f"{Path(' '.join(deployment.command)).name} {deployment.version()}")
        deployment.wait_healthy()
        figures.append(f"{time.monotonic() - begun:.0f} s")
    return deployment if not report.failed else None


def tell_kept(engine: Engine, deployment: Deployment | None, report: Report) -> None:
    variables = f"DOCKER_HOST=unix://{engine.socket}"
    report.note(f"kept: {variables} docker ps")
    if deployment is not None:
        report.note(f"      {variables} docker exec {deployment.container('cloud-1')} mesh routes list")
    report.note(f"end it with: scripts/containers --down {engine.folder}")


def take_down(engine: Engine, deployment: Deployment | None, report: Report) -> None:
    """Everything, however far it came. Every step is bounded, so no signal cuts it short."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if deployment is not None:
        with report.check("docker-compose.yml is taken down"):
            deployment.down()
    with report.check("the engine ends and the machine is as it was") as figures:
        begun = time.monotonic()
        left = engine.down()
        figures.append(f"{time.monotonic() - begun:.1f} s")
        if left:
            raise Failed("left behind:\n" + "\n".join(left))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads that read from commands which were ended are not waited for.
    os._exit(code)
