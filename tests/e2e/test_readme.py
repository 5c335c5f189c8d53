"""The README's tour, run as it stands: only ports are replaced by free ones, and waiting for a person's pace is by polling."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

from processes import MESH

ROOT = Path(__file__).parents[2]
PORTS = ("7222", "7223", "7224", "7946", "7947", "7948", "8222", "8223", "8224")
EU_PORTS = "--events 127.0.0.1:7222 --link 127.0.0.1:7946 --admin 127.0.0.1:8222"
"""The tour's first node uses the default ports; the test names them so that they can be replaced."""

WAIT = {
    "start": "until mesh routes list --node http://127.0.0.1:8224 2>/dev/null | grep -q us,eu; do sleep 0.1; done",
    "subscribe": "until grep -qs installed subscribed.txt; do sleep 0.1; done",
    "publish": "wait $!; cat subscribed.txt",
    "durable": "until grep -qs installed subscribed.txt; do sleep 0.1; done",
    "acknowledged": "wait $!; cat subscribed.txt",
}


def blocks() -> dict[str, list[str]]:
    """Commands of each marked block: all its lines, or those behind `$ ` where it shows output."""
    text = (ROOT / "README.md").read_text()
    found = {}
    for name, block in re.findall(r"<!-- tour: (\w+) -->\n```\n(.*?)```", text, re.DOTALL):
        lines = block.splitlines()
        shown = [line[2:] for line in lines if line.startswith("$ ")]
        found[name] = shown or lines
    return found


def free_ports() -> list[str]:
    """As many free ports as the tour names."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_the_tour_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    script = ["set -m", "trap 'kill $(jobs -p) 2>/dev/null' EXIT", "trap exit TERM"]
    for name, commands in blocks().items():
        script.append(f"echo '== {name}'")
        for command in commands:
            if "--id eu-1" in command:
                command = command.replace(" &", f" {EU_PORTS} > eu.log 2>&1 &")
            elif command.startswith("mesh run"):
                command = command.replace(" &", " > other.log 2>&1 &")
            elif command.startswith("mesh subscribe") and command.endswith("&"):
                command = "rm -f subscribed.txt; " + command.replace(" &", " > subscribed.txt 2>&1 &")
            elif command.startswith("mesh reply"):
                command = (
                    command.replace(" &", " > replied.txt 2>&1 &")
                    + "\nuntil curl -sf -d x 'http://127.0.0.1:7224/v1/events/prices/x?require=interest' >/dev/null; do sleep 0.1; done"
                )
            script.append(command)
        script.append(WAIT.get(name, ""))
    text = "\n".join(script).replace("export PATH=$PWD/.venv/bin:$PATH", "")
    for old, new in zip(PORTS, free_ports(), strict=True):
        text = re.sub(rf"\b{old}\b", new, text)
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "PATH": f"{Path(MESH).parent}:{os.environ['PATH']}",
        "MESH_ADMIN": "http://" + re.findall(r"--id eu-1.*--admin (\S+)", text)[0],
        "MESH_EVENTS": "http://" + re.findall(r"--id eu-1.*--events (\S+)", text)[0],
    }
    done = subprocess.run(
        ["timeout", "90", "bash", "-c", text],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    for words in (
        ">* eu      us-1      bridge#1",
        '"regions":["eu"]',
        "-> region eu",
        "2 hops ap>us",
        '{"item": "tea"}',
        "installed in ap, eu, us",
        "\n42\n",
        "MESH-E013 nobody/here: no_responders",
        "billing: 0 events waited",
        '{"total": 7}',
        "billing: 1 events waited",
        '{"total": 8}',
        "invoices/3  expired  client billing",
        "eu-1  orders/#  2 ",
        "unreachable (interest kept)",
    ):
        assert words in said, said
    assert len(re.findall(r"orders/1  2 hops ap>us .* hello", said)) == 2, f"live, and from the log: {said}"
    assert '{"total": 9}' not in said, said
