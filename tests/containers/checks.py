"""What is checked of the running containers: hardening, the mesh, the one way into inner, and a stopped container.

Decides the checks and their order; each says what it saw. Those that break something mend it again before they end.
Every wait polls and has a bound.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

from containers.commands import Failed, wait_until
from containers.deployment import NODES, REGIONS, REGISTRIES, Deployment
from containers.report import Report, must
from containers.stream import Stream

# Health is there before the routes are; registries and bridges are looked at again every few seconds.
CONVERGED_S = 120.0
REGISTRY_S = 90.0
RUN_AS = "10001"
# Who is asked, for which kind of entry, and what it must see.
HELD = (
    ("cloud-1", "node", {"cloud-1", "cloud-2"}),
    ("inner-2", "node", {"inner-1", "inner-2"}),
    ("cloud-1", "region", {"cloud", "dmz"}),
)
INSIDE = (("inner-1", "inner"), ("inner-2", "inner"), ("nacos", "inner"))
PORTS = (7222, 7946, 8222, 8848, 9848)
TRIES = 5
PROBE = 40
OUTSIDE = ("cloud-1", "cloud-2", "dmz-1", "dmz-2")

# Prints a JSON object: what a process of the node sees of its own rights, and whether it can write.
RIGHTS = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/1/status").read().splitlines())
def written(path):
    try:
        with open(path, "w"): pass
        os.unlink(path)
        return "yes"
    except OSError as error:
        return error.strerror
print(json.dumps({
    "uid": status["Uid"].split(), "capabilities": status["CapEff"].strip(), "bounding": status["CapBnd"].strip(),
    "no_new_privileges": status["NoNewPrivs"].strip(), "root": written("/x"), "program": written("/opt/hopmesh/x"),
    "data": written("/data/x"), "tmp": written("/tmp/x"),
    "forwarding": open("/proc/sys/net/ipv4/ip_forward").read().strip(),
}))
"""

# Prints for each HOST:PORT of its arguments how a connection to it ends. All at once: a refusal takes no time, silence does.
CONNECT = """
import concurrent.futures, json, socket, sys
def attempt(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        return "open"
    except socket.gaierror:
        return "no such name"
    except TimeoutError:
        return "timed out"
    except OSError as error:
        return error.strerror
targets = sys.argv[1:]
with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps(dict(zip(targets, pool.map(attempt, targets)))))
"""

# Prints every address that something listens at, as the kernel writes it (little-endian hex), without the engine's own
# name server, which it puts at 127.0.0.11.
LISTENING = """
import json
found = []
for name in ("tcp", "tcp6"):
    for line in open(f"/proc/net/{name}").read().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and not words[1].startswith("0B00007F"):
            found.append(words[1])
print(json.dumps(found))
"""
# Prints how many events the node has sent over links.
FORWARDED = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 8222, timeout=10)
connection.request("GET", "/metrics")
lines = connection.getresponse().read().decode().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("mesh_events_forwarded_total ")))
"""
LOOPBACK = ("0100007F", "00000000000000000000000001000000")


class Checks:
    def __init__(self, deployment: Deployment, report: Report) -> None:
        self._deployment = deployment
        self._report = report

    def run(self) -> None:
        for check in (
            self.rights,
            self.members,
            self.registries_hold,
            self.routes,
            self.events_cross,
            self.inner_is_closed,
            self.inner_listens_for_nobody,
            self.dmz_node_stops,
            self.cloud_bridge_is_killed,
            self.registries_stop,
        ):
            check()

    # Hardening

    def rights(self) -> None:
        with self._report.check("nodes run as 10001 with a read-only root and no rights") as figures:
            for name in NODES:
                told = json.loads(self._deployment.python(name, RIGHTS))
                where = f"{name}: {told}"
                must(set(told["uid"]) == {RUN_AS}, where)
                must(int(told["capabilities"], 16) == 0 and int(told["bounding"], 16) == 0, where)
                must(told["no_new_privileges"] == "1", where)
                must("Read-only" in told["root"] and "Read-only" in told["program"], where)
                must(told["data"] == "yes" and told["tmp"] == "yes", where)
                must(told["forwarding"] == "0", where)
                figures[:] = [f"{len(NODES)} nodes", f"writing to /: {told['root']}"]
        with self._report.check("etcd runs as 10001 with a read-only root; no registry has a right left"):
            for name in REGISTRIES:
                config = self._deployment.inspect(name)["HostConfig"]
                must(config["CapDrop"] == ["ALL"] and not config["CapAdd"], f"{name}: {config['CapDrop']}")
                must("no-new-privileges:true" in config["SecurityOpt"], f"{name}: {config['SecurityOpt']}")
            etcd = self._deployment.inspect("etcd")
            must(etcd["HostConfig"]["ReadonlyRootfs"], "etcd: its root is not read-only")
            must(etcd["Config"]["User"].startswith(RUN_AS), f"etcd: user {etcd['Config']['User']!r}")

    # The mesh

    def members(self) -> None:
        with self._report.check("nodes of each region found each other") as figures:
            for region in REGIONS:
                wanted = {name for name in NODES if name.startswith(region)}
                for name in wanted:
                    self._until(f"{name} knows {wanted}", lambda n=name, w=wanted: self._alive(n) == w)
                figures.append(f"{region} {len(wanted)}")

    def _alive(self, name: str) -> set[str]:
        return {
            each["id"] for each in self._deployment.items(name, "node", "list") if each["state"] == "alive"
        }

    def registries_hold(self) -> None:
        with self._report.check("etcd holds cloud and the directory, Nacos holds inner") as figures:
            for name, kind, wanted in HELD:
                self._until(
                    f"{name} sees {kind} {wanted}",
                    lambda n=name, k=kind, w=wanted: self._held(n, k) == w,
                    REGISTRY_S,
                )
                figures.append(f"{kind} {' '.join(sorted(wanted))}")

    def _held(self, name: str, kind: str) -> set[str]:
        entries = self._deployment.items(name, "registry", "list", "--kind", kind)
        return {entry["id"].rpartition("/")[2] for entry in entries}

    def routes(self) -> None:
        with self._report.check("routes are learned in every region") as figures:
            took = 0.0
            for name in NODES:
                others = [region for region in REGIONS if not name.startswith(region)]
                for region in others:
                    took += self._until(
                        f"{name} has a route to {region}",
                        lambda n=name, r=region: self._deployment.routes(n, r),
                    )
            figures.append(f"waited {took:.1f} s")
        with self._report.check("cloud knows inner through the DMZ") as figures:
            for name in ("cloud-1", "cloud-2"):
                paths = {",".join(route["path"]) for route in self._deployment.routes(name, "inner")}
                must(paths == {"dmz,inner"}, f"{name}: {paths}")
            figures.append("path dmz,inner")

    def events_cross(self) -> None:
        for source, target in (("cloud-1", "inner-2"), ("inner-2", "cloud-2")):
            with self._report.check(
                f"an event published at {source} reaches a subscriber at {target}"
            ) as figures:
                with Stream(self._deployment, source, target, 1) as stream:
                    stream.publish()
                    result = stream.result()
                must(result.missing == 0, result.told())
                figures.append(f"{result.longest_s * 1e3:.0f} ms, {result.path}")

    # The one way in

    def inner_is_closed(self) -> None:
        deployment = self._deployment
        addresses = {f"{name}.{network}": deployment.address(name, network) for name, network in INSIDE}
        with self._report.check("inside inner its ports are open (so that the next checks mean something)"):
            wanted = {f"{addresses['inner-2.inner']}:7946", f"{addresses['nacos.inner']}:8848"}
            told = self._connect("inner-1", wanted)
            must(set(told.values()) == {"open"}, str(told))
        for source in OUTSIDE:
            with self._report.check(f"inner cannot be entered from {source}") as figures:
                names = ["inner-2", "inner-2.inner", "nacos", "nacos.inner", "inner-1.inner"]
                by_name = self._connect(source, {f"{name}:7946" for name in names})
                must(set(by_name.values()) == {"no such name"}, f"by name: {by_name}")
                by_address = self._connect(source, {f"{a}:{p}" for a in addresses.values() for p in PORTS})
                must("open" not in by_address.values(), f"by address: {by_address}")
                must(
                    set(by_address.values()) <= {"timed out", "Network is unreachable"},
                    f"by address: {by_address}",
                )
                figures.append(f"{len(by_name)} names: no such name")
                figures.append(f"{len(by_address)} ports: {', '.join(sorted(set(by_address.values())))}")

    def inner_listens_for_nobody(self) -> None:
        deployment = self._deployment
        with self._report.check("inner's bridge listens on its loopback only") as figures:
            listening = json.loads(deployment.python("inner-1", LISTENING))
            open_to = [each for each in listening if each.partition(":")[0] not in LOOPBACK]
            must(listening and not open_to, f"it listens at {open_to or 'nothing'}")
            figures.append(f"{len(listening)} ports")
        at = deployment.address("inner-1", "passage")
        for source in ("dmz-1", "dmz-2"):
            with self._report.check(
                f"{source} shares a network with inner's bridge and cannot dial it"
            ) as figures:
                told = self._connect(source, {f"{at}:{port}" for port in PORTS})
                must(set(told.values()) == {"Connection refused"}, str(told))
                figures.append(f"{len(told)} ports: Connection refused")

    def _connect(self, name: str, targets: set[str]) -> dict[str, str]:
        told: dict[str, str] = json.loads(self._deployment.python(name, CONNECT, *sorted(targets)))
        return told

    # A container stops

    def dmz_node_stops(self) -> None:
        with self._report.check("a DMZ node that is stopped under way is routed around") as figures:
            ways = [("cloud-1", "inner-2", victim) for victim in ("dmz-1", "dmz-2")]
            self._break_one_of(ways, self._deployment.stop, figures, may_lose=0)

    def cloud_bridge_is_killed(self) -> None:
        with self._report.check("a cloud bridge that is killed under way is routed around") as figures:
            # Into cloud by one bridge, to the subscriber at its sibling.
            ways = [("inner-2", "cloud-2", "cloud-1"), ("inner-2", "cloud-1", "cloud-2")]
            # At most once: what was on the link that died may be lost, and nothing published later.
            self._break_one_of(ways, self._deployment.kill, figures, may_lose=40)

    def _break_one_of(
        self,
        ways: list[tuple[str, str, str]],
        end: Callable[[str], None],
        figures: list[str],
        may_lose: int,
    ) -> None:
        """Find a (source, target, victim) whose events go through the victim, and end that in their middle.

        Which of several ways events take, metrics decide from moment to moment: so it is looked at, not guessed.
        """
        for _ in range(TRIES):
            for source, target, victim in ways:
                topic = f"check/{uuid.uuid4().hex[:8]}"
                if self._carried(source, target, victim, topic) >= PROBE / 4 and self._break(
                    source, target, victim, topic, end, figures, may_lose
                ):
                    return
        raise Failed(f"no events went through any of {sorted({victim for _, _, victim in ways})}")

    def _carried(self, source: str, target: str, victim: str, topic: str) -> float:
        """How many of PROBE events from source to target the victim sends on."""
        with Stream(self._deployment, source, target, PROBE, topic) as stream:
            before = self._forwarded(victim)
            stream.publish()
            result = stream.result()
            must(result.missing == 0, f"before anything was stopped: {result.told()}")
            return self._forwarded(victim) - before

    def _break(
        self,
        source: str,
        target: str,
        victim: str,
        topic: str,
        end: Callable[[str], None],
        figures: list[str],
        may_lose: int,
    ) -> bool:
        """Events every 50 ms from source to target, and `victim` ended in their middle. It is back before this returns.

        Returns: whether events had gone through it; otherwise it was not ended.
        """
        deployment = self._deployment
        with Stream(deployment, source, target, 400, topic) as stream:
            before = self._forwarded(victim)
            stream.publish()
            stream.wait_for(100)
            carried = self._forwarded(victim) - before
            if carried <= 0:
                stream.result()
                return False
            try:
                end(victim)
                result = stream.result()
                lost = "nothing lost" if result.missing == 0 else f"{result.missing} of {result.count} lost"
                figures.append(f"{victim} had carried {carried:.0f} events")
                figures.append(f"{lost}, longest silence {result.silence_s * 1e3:.0f} ms")
                must(result.missing <= may_lose, result.told())
                must(result.last_missing < result.count - 100, f"not mended: {result.told()}")
                return True
            finally:
                self._bring_back(victim)

    def _bring_back(self, victim: str) -> None:
        deployment = self._deployment
        deployment.start(victim)
        deployment.wait_healthy([victim])
        for region in REGIONS:
            if not victim.startswith(region):
                self._until(f"{victim} is back", lambda r=region: deployment.routes(victim, r))

    def _forwarded(self, name: str) -> float:
        return float(self._deployment.python(name, FORWARDED))

    def registries_stop(self) -> None:
        with self._report.check("with both registries stopped events still cross") as figures:
            try:
                for name in REGISTRIES:
                    self._deployment.stop(name)
                with Stream(self._deployment, "cloud-1", "inner-2", 20) as stream:
                    stream.publish()
                    result = stream.result()
                must(result.missing == 0, result.told())
                figures.append(f"{result.count} of {result.count}")
            finally:
                for name in REGISTRIES:
                    self._deployment.start(name)
        with self._report.check("they come back empty, and every node registers again") as figures:
            took = self._deployment.wait_healthy(REGISTRIES)
            for name, kind, wanted in HELD:
                took += self._until(
                    f"{name} sees {kind} {wanted}",
                    lambda n=name, k=kind, w=wanted: self._reachable(n) and self._held(n, k) == w,
                    REGISTRY_S,
                )
            figures.append(f"{took:.0f} s, most of it Nacos's start")

    def _reachable(self, name: str) -> bool:
        states = self._deployment.items(name, "registry", "status", "--here")
        return bool(states) and all(state["state"] == "reachable" for state in states)

    def _until(self, what: str, done: Callable[[], object], within_s: float = CONVERGED_S) -> float:
        try:
            return wait_until(what, done, within_s, 0.5)
        except Failed as failed:
            name = what.split()[0]
            raise Failed(f"{failed}\n{name}:\n{self._deployment.log(name)}") from None
