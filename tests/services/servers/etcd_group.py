"""Three etcd servers that are one etcd: kill, pause or cut off any of them.

With `cuttable` the members reach each other's peer ports only through relays of this process, which know by the caller's
port which member calls: one member can be cut off from the others while clients still reach all of them. Such a group lives
and ends with the process that made it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from services.servers.etcd import READY_S, Etcd, EtcdOptions
from services.servers.ports import HOST
from services.servers.process import POLL_S, PortTaken, ServerFailed
from services.servers.relay import Relay

MEMBERS = 3
GROUP_TRIES = 5


class EtcdGroup:
    """Three members in folders of their own under `folder`. Not started by construction."""

    kind = "etcd3"

    def __init__(self, folder: Path, options: EtcdOptions | None = None, *, cuttable: bool = False) -> None:
        self.folder = folder.absolute()
        self._options = options or EtcdOptions()
        self._cuttable = cuttable
        self._relays: dict[str, Relay] = {}
        self._cut_off: set[str] = set()
        self.members: list[Etcd] = []
        self._make()

    @classmethod
    def open(cls, folder: Path) -> EtcdGroup:
        group = cls.__new__(cls)
        group.folder = folder.absolute()
        group._cuttable, group._relays, group._cut_off = False, {}, set()
        group.members = [Etcd.open(folder / f"member{number}") for number in range(1, MEMBERS + 1)]
        group._options = group.members[0].options
        return group

    def _make(self) -> None:
        names = [f"member{number}" for number in range(1, MEMBERS + 1)]
        self.members = [Etcd(self.folder / name, self._options, name) for name in names]
        for member in self.members:
            if self._cuttable:
                relay = Relay((HOST, member.peer_port), self._admission(member.name))
                self._relays[member.name] = relay
                member.advertised_peer_port = relay.port
        peers = {
            each.name: f"http://{HOST}:{each.advertised_peer_port or each.peer_port}" for each in self.members
        }
        for member in self.members:
            member.peers = peers
            if self._options.tls or self._options.token == "jwt":
                # One authority for all: clients know one, and a token of one member counts at the others.
                certificates = self.folder / "certificates"
                certificates.mkdir(parents=True, exist_ok=True)
                mine = member.folder / "certificates"
                if not mine.exists():
                    mine.symlink_to(certificates)
            member._keep()

    @property
    def addresses(self) -> list[str]:
        return [member.address for member in self.members]

    def start(self) -> None:
        """Start all members and wait until all are healthy."""
        for attempt in range(GROUP_TRIES):
            try:
                for member in self.members:
                    member.begin()
                for member in self.members:
                    member.wait_ready()
                break
            except PortTaken:
                # Only a group that never served may move.
                if attempt == GROUP_TRIES - 1 or not all(
                    member.choose_ports_again for member in self.members
                ):
                    raise
                self.kill()
                self._close_relays()
                for member in self.members:
                    member.remove_data()
                self._make()
        if self._options.password:
            self.members[0].enable_auth()

    def stop(self) -> None:
        for member in self.members:
            member.stop()
        self._close_relays()

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def pause(self) -> None:
        for member in self.members:
            member.pause()

    def resume(self) -> None:
        for member in self.members:
            member.resume()

    def restart(self) -> None:
        for member in self.members:
            member.stop()
        self.start()

    def wipe(self) -> None:
        """kill -9 of all, and all come back on the same ports, empty."""
        self.kill()
        for member in self.members:
            member.remove_data()
        self.start()

    def running(self) -> bool:
        return all(member.running() for member in self.members)

    def ready(self) -> bool:
        return all(member.ready() for member in self.members)

    def rss_bytes(self) -> int:
        return sum(member.rss_bytes() for member in self.members)

    def leader(self, other_than: Etcd | None = None) -> Etcd:
        """The member that leads, as seen by a member that is up; waits for an election, at most 30 s.

        `other_than` is a member known to be dead or cut off: it is not asked, and not accepted as the answer.
        """
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            for member in self.members:
                if member is other_than:
                    continue
                try:
                    found = member.status()
                except OSError:
                    continue
                # A member is the leader when it names itself: no table of ids is needed.
                if found.get("leader") not in (None, "0") and found["leader"] == found["header"]["member_id"]:
                    return member
            time.sleep(POLL_S)
        raise ServerFailed(f"no member of the etcd in {self.folder} leads after {READY_S:.0f} s")

    # Cutting off

    def cut_off(self, member: Etcd) -> None:
        """No byte passes between this member and the others; clients reach it as before."""
        if not self._cuttable:
            raise ValueError("the group was not made with cuttable=True")
        self._cut_off.add(member.name)
        # Open connections are ended on every relay: those between the others come back at once.
        for relay in self._relays.values():
            relay.drop()

    def join_again(self, member: Etcd) -> None:
        self._cut_off.discard(member.name)

    def _admission(self, target: str) -> Callable[[int], bool]:
        def admits(caller_port: int) -> bool:
            if not self._cut_off:
                return True
            return target not in self._cut_off and self._caller(caller_port) not in self._cut_off

        return admits

    def _caller(self, port: int) -> str:
        """The member whose process has this local port; "" for none."""
        inode = _socket_inode(port)
        for member in self.members:
            pid = member.process.pid()
            if inode and pid is not None and inode in _socket_inodes(pid.number):
                return member.name
        return ""

    def _close_relays(self) -> None:
        for relay in self._relays.values():
            relay.close()
        self._relays.clear()


def _socket_inode(port: int) -> str:
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "01":
                return fields[9]
    return ""


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found
