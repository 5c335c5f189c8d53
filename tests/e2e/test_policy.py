"""Boundaries between real processes: internal - dmz - cloud, with everything that passes the DMZ's link on record."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import trio
from processes import MESH, Answer, Mesh, NodeProcess, Relay, Subscriber, bridge, http, items, running, until

INNER = """\
# What leaves internal, and what it takes in.
export to dmz allow topic orders/# type com.acme.* mask data $.card strip attribute subject
import from dmz allow topic tickets/# rename tickets -> outside/tickets mask data $.phone
"""
OPEN = "export to * allow topic #\nimport from * allow topic #\n"
NEVER = (b"salaries", b"payroll", b"4111-1111", b"Miss Marple", b"outside/tickets", b"Poirot")


class Recorder(Relay):
    """A relay that keeps what passed."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.passed = bytearray()

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                self.passed += data
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


class Three:
    """The three regions. internal has two nodes, of which one dials out and has the rules."""

    def __init__(self, mesh: Mesh, nursery: trio.Nursery, folder: Path) -> None:
        self.mesh = mesh
        self.nursery = nursery
        self.folder = folder
        self.rules = folder / "policy.rules"
        self.cloud: NodeProcess
        self.dmz: NodeProcess
        self.gate: NodeProcess
        self.inner: NodeProcess
        self.line: Recorder

    async def start(self, rules: str = INNER) -> None:
        self.rules.write_text(rules)
        (self.folder / "open.rules").write_text(OPEN)
        mesh = self.mesh
        self.cloud = await mesh.start("cloud-1", "cloud")
        dmz = self.folder / "dmz.toml"
        dmz.write_text(f'[policy]\nfile = "{self.folder / "open.rules"}"\n')
        self.dmz = await mesh.start("dmz-1", "dmz", f"--config={dmz}", *bridge(self.cloud))
        self.line = Recorder(self.dmz.link)
        await self.nursery.start(self.line.run)
        gate = self.folder / "gate.toml"
        gate.write_text(
            f'[policy]\nfile = "{self.rules}"\n[[bridge]]\nto = "dmz"\nrole = "dmz"\nseeds = ["{self.line.link}"]\n'
        )
        self.gate = await mesh.start("gate-1", "internal", f"--config={gate}")
        self.inner = await mesh.start("inner-1", "internal", f"--seed={self.gate.link}")

    async def subscribe(self, node: NodeProcess, query: str) -> Subscriber:
        subscriber = Subscriber()
        await self.nursery.start(subscriber.run, node.events, query)
        return subscriber

    async def reaches(self, node: NodeProcess, topic: str, region: str) -> None:
        """Until an event published there is for that region."""

        async def is_for() -> bool:
            answer = await publish(node, topic, {"probe": True})
            return region in answer["regions"]

        await until(is_for, 20, f"{topic} published at {node.name} goes to {region}", 0.2)


async def publish(
    node: NodeProcess, topic: str, data: Any, level: str = "", **attributes: str
) -> dict[str, Any]:
    headers = {"id": "1", "source": "/test", "type": "com.acme.order", "specversion": "1.0", **attributes}
    answers: list[Answer] = []

    async def taken() -> bool:
        answer = await http(
            node.events,
            "POST",
            f"/v1/events/{topic}" + (f"?level={level}" if level else ""),
            headers=[
                ("Content-Type", "application/json"),
                *((f"ce-{name}", text) for name, text in headers.items()),
            ],
            body=json.dumps(data).encode(),
        )
        answers.append(answer)
        return answer.status == 202

    # A node that has just started takes nothing at least once before it knows who wants what.
    await until(taken, 10, f"{topic} is taken", 0.2)
    return dict(answers[-1].json["events"][0])


def real(subscriber: Subscriber) -> list[tuple[str, Any]]:
    """(topic, data) of what came, without the probes."""
    return [
        (event["topic"], event["event"]["data"])
        for event in subscriber.events
        if event["event"]["data"] != {"probe": True}
    ]


async def command(node: NodeProcess, *words: str) -> tuple[int, str]:
    done = await trio.run_process(
        [MESH, *words, f"--node=http://{node.admin}", "--no-color"],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return done.returncode, done.stdout.decode() + done.stderr.decode()


async def test_an_allowed_topic_crosses_each_way_with_a_mask_and_nothing_else_is_seen_on_the_dmzs_link(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        three = Three(mesh, nursery, tmp_path)
        await three.start()
        everything = await three.subscribe(three.cloud, "filter=%23")
        inside = await three.subscribe(three.inner, "filter=outside/%23&filter=salaries/%23")
        payroll = await three.subscribe(three.inner, "filter=salaries/%23&group=payroll")
        await three.reaches(three.inner, "orders/probe", "cloud")
        await three.reaches(three.cloud, "tickets/probe", "internal")

        order = {"card": "4111-1111", "n": 1}
        await publish(three.inner, "orders/1", order, subject="Miss Marple")
        await publish(three.inner, "orders/2", order, level="at-least-once", subject="Miss Marple")
        await publish(three.inner, "orders/3", order, type="org.other.order")
        await publish(three.inner, "salaries/7", {"who": "Poirot"})
        await publish(three.inner, "salaries/8", {"who": "Poirot"}, level="at-least-once")
        await publish(three.cloud, "tickets/1", {"phone": "+44 20", "n": 1})
        await publish(three.cloud, "tickets/2", {"phone": "+44 20", "n": 2}, level="at-least-once")
        await publish(three.cloud, "salaries/9", {"forged": True})

        async def arrived() -> bool:
            return len(real(everything)) >= 5 and len(real(inside)) >= 4

        await until(arrived, 15, f"all of it: {real(everything)}, {real(inside)}")
        await three.reaches(three.inner, "orders/probe", "cloud")  # whatever was behind it had its time
        masked = {"card": "***", "n": 1}
        assert sorted(real(everything)) == [
            ("orders/1", masked),
            ("orders/2", masked),
            ("salaries/9", {"forged": True}),
            ("tickets/1", {"phone": "+44 20", "n": 1}),
            ("tickets/2", {"phone": "+44 20", "n": 2}),
        ]
        assert sorted(real(inside)) == [
            ("outside/tickets/1", {"phone": "***", "n": 1}),
            ("outside/tickets/2", {"phone": "***", "n": 2}),
            ("salaries/7", {"who": "Poirot"}),
            ("salaries/8", {"who": "Poirot"}),
        ]
        assert len(real(payroll)) == 2
        assert b"***" in three.line.passed
        assert b"tickets/#" in three.line.passed
        outward = bytes(three.line.passed)
        for word in NEVER:
            assert word not in outward, word

        # Who asks is told which rule it was.
        code, said = await command(
            three.gate, "policy", "test", "orders/1", "--to", "cloud", "--type", "com.acme.x"
        )
        assert code == 0
        assert f"{three.rules}:2" in said
        code, said = await command(three.gate, "policy", "test", "salaries/1", "--to", "cloud")
        assert code == 1
        assert "default-deny" in said
        _, said = await command(three.gate, "routes", "withheld", "--here")
        assert "x " in said
        assert "export-denied" in said
        counted = {item["place"]: item for item in await items(three.gate, "policy?here=true")}
        assert counted[f"{three.rules}:2"]["allowed"] >= 2
        nursery.cancel_scope.cancel()


async def test_a_policy_changes_while_the_nodes_run_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        three = Three(mesh, nursery, tmp_path)
        await three.start()
        everything = await three.subscribe(three.cloud, "filter=%23")
        await three.reaches(three.inner, "orders/probe", "cloud")

        # A preview tells what another file would change, and changes nothing.
        new = tmp_path / "new.rules"
        new.write_text("export to dmz allow topic news/#\n")
        code, said = await command(three.gate, "policy", "preview", str(new))
        assert code == 0, said
        assert "1 rules, 2 in force" in said
        assert "news/#" in said
        assert "orders/probe" in said
        bad = tmp_path / "bad.rules"
        bad.write_text("\nexport to dmz permit\n")
        code, said = await command(three.gate, "policy", "preview", str(bad))
        assert code == 1
        assert f"MESH-F021 {bad}:2" in said

        # Broken: refused, told, and the rules before hold.
        three.rules.write_text("export to dmz allow topic news/#\nexport to\n")
        three.gate.signal(signal.SIGHUP)

        async def told() -> bool:
            return "MESH-F021" in three.gate.log.read_text()

        await until(told, 10, "the node says what is wrong with the file")
        await publish(three.inner, "orders/5", {"n": 5})

        # Good: taken over by itself, without a signal.
        three.rules.write_text("export to dmz allow topic news/#\n")
        await three.reaches(three.inner, "news/probe", "cloud")
        await publish(three.inner, "orders/6", {"n": 6})
        await publish(three.inner, "news/6", {"n": 6})

        async def arrived() -> bool:
            return ("news/6", {"n": 6}) in real(everything)

        await until(arrived, 10, "what the new rules allow")
        assert real(everything) == [("orders/5", {"n": 5}), ("news/6", {"n": 6})]
        nursery.cancel_scope.cancel()


async def test_a_denied_event_at_least_once_is_a_dead_letter_with_its_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        three = Three(mesh, nursery, tmp_path)
        await three.start()
        await three.subscribe(three.cloud, "filter=orders/%23")
        await three.reaches(three.inner, "orders/probe", "cloud")
        await publish(three.inner, "orders/9", {"n": 9}, level="at-least-once", type="org.other")

        async def died() -> bool:
            return bool(await items(three.inner, "dlq"))

        await until(died, 10, "a dead letter")
        [letter] = await items(three.inner, "dlq")
        assert (letter["topic"], letter["reason"], letter["part"]) == ("orders/9", "policy_deny", "r/cloud")
        assert letter["node"] == "gate-1"
        denials = await items(three.gate, "policy/denials?here=true&topic=orders/9")
        assert [one["reason"] for one in denials] == ["default_deny"]
        nursery.cancel_scope.cancel()
