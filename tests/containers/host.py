"""What a container engine changes on its machine, and how it is put back: forwarding, the packet filter, interfaces.

Decides what is the engine's: chains that were not there before and have its names, rules that were not there before and name
one of those chains or an interface that is gone, the policy of FORWARD, ip_forward, bridges and docker0. Never touches a rule
or an interface that was there before, nor one of another program that came meanwhile.
Invariant: `restore` after `Host.look` and an engine's life leaves what `look` saw; calling it twice changes nothing more.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from containers.commands import ask

CALL_S = 60.0
# Another program may hold the packet filter for a moment.
LOCK_S = "20"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
INTERFACES = Path("/sys/class/net")
CHAIN = re.compile(r"DOCKER(-[A-Z0-9-]+)?$")
BRIDGE = re.compile(r"(docker0|docker_gwbridge|br-[0-9a-f]{12})$")
TABLES = ("filter", "nat")
TOOLS = ("iptables", "ip6tables")


@dataclass(frozen=True, slots=True)
class Host:
    """The state before. filters: tool to table to its lines as `iptables -S` prints them."""

    forwarding: str
    filters: dict[str, dict[str, list[str]]]
    interfaces: list[str]

    @classmethod
    def look(cls) -> Host:
        return cls(
            FORWARDING.read_text().strip(),
            {tool: {table: rules(tool, table) for table in TABLES} for tool in TOOLS},
            interfaces(),
        )

    @classmethod
    def read(cls, file: Path) -> Host:
        return cls(**json.loads(file.read_text()))

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1))

    def restore(self) -> list[str]:
        """Take out what the engine brought. Returns what is still different, for a person; [] when nothing is."""
        for tool in TOOLS:
            for table in TABLES:
                self._restore_table(tool, table)
        for name in interfaces():
            if name not in self.interfaces and BRIDGE.match(name):
                ask(["ip", "link", "delete", name], CALL_S)
        if FORWARDING.read_text().strip() != self.forwarding:
            FORWARDING.write_text(self.forwarding)
        return self.differences()

    def _restore_table(self, tool: str, table: str) -> None:
        before = self.filters[tool][table]
        now = rules(tool, table)
        brought = [shlex.split(line)[1] for line in now if line.startswith("-N ") and line not in before]
        chains = {chain for chain in brought if CHAIN.match(chain)}
        for line in now:
            words = shlex.split(line)
            if line in before or words[0] != "-A" or words[1] in chains:
                continue
            if chains & set(words) or any(BRIDGE.match(word) for word in words):
                change(tool, table, "-D", *words[1:])
        for chain in chains:
            change(tool, table, "-F", chain)
        for chain in chains:
            change(tool, table, "-X", chain)
        for line in before:
            words = shlex.split(line)
            if words[0] == "-P" and line not in now:
                change(tool, table, *words)

    def differences(self) -> list[str]:
        """What is not as before and looks like an engine's."""
        found = []
        for tool in TOOLS:
            for table in TABLES:
                before, now = self.filters[tool][table], rules(tool, table)
                found += [
                    f"{tool} {table}: {line}" for line in now if line not in before and _is_engines(line)
                ]
        found += [
            f"interface {name}" for name in interfaces() if name not in self.interfaces and BRIDGE.match(name)
        ]
        if (now_forwarding := FORWARDING.read_text().strip()) != self.forwarding:
            found.append(f"ip_forward: {now_forwarding}")
        return found


def _is_engines(line: str) -> bool:
    words = shlex.split(line)
    return words[:2] == ["-P", "FORWARD"] or any(CHAIN.match(w) or BRIDGE.match(w) for w in words)


def rules(tool: str, table: str) -> list[str]:
    """The lines of one table; [] where the kernel has no such table or the tool is not there."""
    try:
        code, said, _ = ask([tool, "-w", LOCK_S, "-t", table, "-S"], CALL_S)
    except FileNotFoundError:
        return []
    return said.splitlines() if code == 0 else []


def change(tool: str, table: str, *words: str) -> None:
    """One change; one that is not possible any more is none."""
    ask([tool, "-w", LOCK_S, "-t", table, *words], CALL_S)


def interfaces() -> list[str]:
    return sorted(each.name for each in INTERFACES.iterdir())


def engines() -> list[int]:
    """Processes named dockerd: two at a time would take away each other's rules."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                if (each / "comm").read_text().strip() == "dockerd":
                    found.append(int(each.name))
            except OSError:
                continue
    return sorted(found)
