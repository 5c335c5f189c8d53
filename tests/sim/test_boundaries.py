"""Boundaries with rules in simulated meshes: what crosses them, what does not, and what whoever listens on the link gets to see (P7)."""

from __future__ import annotations

import json
import random

import pytest
from msgspec.structs import replace

from federation.core.policy.rule_file import RuleError, parse
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Direction
from mesh.core.inboxes import ReplyTo
from mesh.core.opening import Terms
from mesh.model.event import Event, NewEvent
from mesh.model.reasons import Drop, PolicyReason
from mesh.model.topic import matches
from mesh.testing.network import Connection
from mesh.testing.sim_node import SimNode
from mesh.testing.world import World, events_of
from mesh.wire import frames as wire
from mesh.wire.codec import encode, encode_body, encode_data
from mesh.wire.frames import Data, Leg

OPEN = "export to * allow topic #\nimport from * allow topic #"
INNER = """
export to dmz allow topic orders/# mask data $.card strip attribute subject
import from dmz allow topic tickets/# rename tickets -> cloud/tickets
"""


EVENT = b'{"specversion":"1.0","id":"1","source":"urn:s","type":"t"}'


class Tapped(World):
    """A world that keeps every byte on every link between regions."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seen: dict[tuple[str, str], list[bytes]] = {}

    def transmit(self, sender: SimNode, connection: Connection, frame: wire.Frame) -> None:
        receiver = connection.end(sender)[1]
        data = encode_data(frame.header, frame.body) if isinstance(frame, Data) else encode(frame)
        self.seen.setdefault((sender.key.region, receiver.key.region), []).append(data)
        super().transmit(sender, connection, frame)

    def bytes_between(self, one: str, other: str) -> bytes:
        return b"".join(self.seen.get((one, other), []) + self.seen.get((other, one), []))


class Line:
    """inner - dmz - cloud: inner dials dmz with role dmz, dmz dials cloud. Two nodes in inner; one is its bridge."""

    def __init__(self, inner: str | None = INNER, dmz: str | None = OPEN, seed: int = 1) -> None:
        self.world = world = Tapped(seed)
        self.inner = world.node("inner", "i1")
        self.inner.bridges = {"dmz": Terms("dmz", "dmz")}
        self.second = world.node("inner", "i2")
        self.dmz = world.node("dmz", "d1", bridges=("cloud",))
        self.cloud = world.node("cloud", "c1")
        self.inner.policy, self.dmz.policy = inner, dmz
        world.seed_link(self.second, self.inner)
        world.seed_link(self.inner, self.dmz, Terms("dmz", "dmz"))
        world.seed_link(self.dmz, self.cloud)
        for node in (self.inner, self.second, self.dmz, self.cloud):
            node.start()
        world.run(4.0)

    def publish(self, node: SimNode, topic: str, data: object, *more: str, kept: bool = False) -> None:
        attributes = ("specversion", "1.0", "id", "1", "source", "urn:s", "type", "t", *more)
        event = NewEvent(topic, "", 0, attributes, json.dumps(data).encode())
        if kept:
            node.machine.publish_kept([event], node.now)
        else:
            node.machine.publish([event], node.now)
        node.machine.flush(node.now)
        node.after()
        self.world.run(3.0 if kept else 0.6)

    def got(self, node: SimNode) -> list[Event]:
        return events_of(one for one in self.world.delivered if one.node == node.key)


def test_allowed_topics_cross_each_way_as_the_rules_say_and_nothing_else_is_ever_seen_outside() -> None:
    line = Line()
    line.cloud.subscribe(1, 1, "#")
    line.dmz.subscribe(1, 1, "+/created")
    line.second.subscribe(1, 1, "cloud/tickets/#")
    line.second.subscribe(1, 2, "salaries/internal")
    line.second.subscribe(1, 3, "secret-group-filter/#", "payroll")
    line.world.run(4.0)
    line.publish(line.second, "orders/created", {"card": "4111", "n": 1}, "subject", "Miss Marple")
    line.publish(line.second, "salaries/paid", {"who": "Poirot"})
    line.publish(line.cloud, "tickets/7", {"t": 1})
    line.publish(line.cloud, "salaries/internal", {"forged": True})
    assert [(e.topic, json.loads(e.data)) for e in line.got(line.cloud)] == [
        ("orders/created", {"card": "***", "n": 1}),
        ("tickets/7", {"t": 1}),
        ("salaries/internal", {"forged": True}),
    ]
    assert [e.topic for e in line.got(line.dmz)] == ["orders/created"]
    assert [e.topic for e in line.got(line.second)] == ["cloud/tickets/7"]
    told = line.world.bytes_between("inner", "dmz")
    for word in (
        b"salaries",
        b"payroll",
        b"secret-group",
        b"4111",
        b"Miss Marple",
        b"Poirot",
        b"cloud/tickets",
    ):
        assert word not in told, word
    assert b"tickets/#" in told
    assert b'"card":"***"' in told


def test_without_a_rule_nothing_crosses_a_dmz_link_not_even_routes() -> None:
    line = Line(inner=None)
    line.dmz.subscribe(1, 1, "#")
    line.inner.subscribe(1, 1, "everything/#")
    line.world.run(2.0)
    line.publish(line.inner, "a", 1)
    line.publish(line.dmz, "everything/x", 1)
    assert not line.inner.machine.control.routes.fib
    assert line.got(line.dmz) == [e for e in line.got(line.dmz) if e.topic == "everything/x"]
    assert not line.got(line.inner)
    assert b"everything" not in line.world.bytes_between("inner", "dmz")


def test_interest_that_goes_is_taken_back_across_both_boundaries() -> None:
    line = Line()
    line.cloud.subscribe(1, 1, "orders/#")
    line.world.run(2.0)
    assert line.second.machine.interest.match("orders/x").mask
    line.cloud.unsubscribe(1, 1)
    line.world.run(8.0)
    assert not line.second.machine.interest.match("orders/x").mask
    assert not line.inner.machine.interest.match("orders/x").mask


def test_a_hostile_peer_gets_nothing_in_whatever_it_claims() -> None:
    line = Line(inner="import from dmz allow topic tickets/#")
    line.second.subscribe(1, 1, "#")
    line.world.run(2.0)
    sender = line.dmz.machine
    # What an honest node would never send: the event for a region, on a topic that nobody told of.
    sender.boundary.replace(parse("", "none"), {})
    line.publish(line.dmz, "salaries/x", 1)
    assert not line.got(line.second)
    header = sender.forwarder.ingress.header(0, 0)
    assert header.region == "dmz"
    link = next(iter(sender.links.bridges))
    for links, region in sender.links.bridges.items():
        if region == "inner":
            link = links
    session = sender.sessions[link]
    forged = Event(99, "salaries/x", "", 0, None, None, b"{}")
    session.offer(
        replace(header, leg=Leg.BRIDGE, regions=("inner",), path=("dmz",), count=1),
        encode_body([forged]),
        line.dmz.now,
    )
    sender.forwarder.ready.add(link)
    line.dmz.after()
    line.world.run(1.0)
    assert not line.got(line.second)
    assert line.inner.machine.counters.drops[Drop.POLICY_DENY] == 1
    [denial] = [one for one in line.inner.machine.boundary.audit.take() if one.topic == "salaries/x"]
    assert (denial.direction, denial.peer, denial.reason) == (
        Direction.IMPORT,
        "dmz/d1",
        PolicyReason.DEFAULT_DENY,
    )


def test_a_denied_event_at_least_once_ends_as_a_dead_letter_at_whoever_sent_it() -> None:
    line = Line(
        inner="import from dmz allow topic tickets/# size <= 20\nexport to dmz allow topic orders/# size <= 20"
    )
    line.second.subscribe(1, 1, "tickets/#")
    line.cloud.subscribe(1, 1, "orders/#")
    line.world.run(3.0)
    # Denied going out: at the boundary, before the link.
    line.publish(line.second, "orders/large", {"x": "y" * 100}, kept=True)
    line.publish(line.second, "orders/small", {"x": 1}, kept=True)
    assert [e.topic for e in line.got(line.cloud)] == ["orders/small"]
    assert line.inner.machine.counters.dead_letters == {Drop.POLICY_DENY: 1}
    # Denied coming in: nothing of it is kept inside, and the node outside tells it apart from what came with it.
    events = [
        NewEvent(
            f"tickets/{n}", "", 0, ("specversion", "1.0", "id", "1", "source", "s", "type", "t"), b"x" * size
        )
        for n, size in enumerate((1, 2, 90, 3, 4))
    ]
    line.cloud.machine.publish_kept(events, line.cloud.now)
    line.cloud.machine.flush(line.cloud.now)
    line.cloud.after()
    line.world.run(10.0)
    assert sorted(e.topic for e in line.got(line.second)) == [
        "tickets/0",
        "tickets/1",
        "tickets/3",
        "tickets/4",
    ]
    assert line.dmz.machine.counters.dead_letters == {Drop.POLICY_DENY: 1}
    assert line.inner.machine.counters.dead_letters == {Drop.POLICY_DENY: 1}
    for node in (line.inner, line.second, line.dmz, line.cloud):
        assert not node.machine.custody.departure.held, node.key


def test_replies_cross_only_against_a_live_request() -> None:
    line = Line(inner="export to dmz allow topic rpc/#")
    line.cloud.replies = True
    line.cloud.subscribe(1, 1, "rpc/#")
    line.world.run(3.0)
    line.second.request("rpc/add", 5.0)
    line.world.run(2.0)
    [ended] = line.second.ended
    assert ended.event is not None
    assert not ended.problem
    # The same reply again, and one to a request that never was, from a node outside that has no rules.
    for session in line.dmz.machine.sessions.values():
        session.passage = None
    for inbox in (ended.inbox, "abc"):
        forged = NewEvent("", "", 0, (), b"FORGED")
        line.dmz.machine.reply(ReplyTo("inner", "i2", inbox), inbox, forged, line.dmz.now)
    line.dmz.machine.flush(line.dmz.now)
    line.dmz.after()
    line.world.run(1.0)
    assert line.inner.machine.counters.drops[Drop.POLICY_DENY] == 2
    assert b"FORGED" in line.world.bytes_between("inner", "dmz")
    assert b"FORGED" not in line.world.bytes_between("inner", "inner")
    denials = line.inner.machine.boundary.audit.take()
    assert [one.reason for one in denials] == [PolicyReason.NO_REQUEST] * 2


def test_queue_groups_cross_under_their_own_names() -> None:
    line = Line(
        inner="import from dmz allow topic tickets/# rename tickets -> in/tickets\nexport to dmz allow topic orders/#"
    )
    line.second.subscribe(1, 1, "in/tickets/+", "workers")
    line.cloud.subscribe(1, 1, "orders/+", "packers")
    line.cloud.subscribe(1, 2, "#", "auditors")
    line.world.run(3.0)
    for n in range(6):
        line.publish(line.cloud, f"tickets/{n}", n)
        line.publish(line.second, f"orders/{n}", n)
    assert [e.topic for e in line.got(line.second)] == [f"in/tickets/{n}" for n in range(6)]
    orders = [e.topic for e in line.got(line.cloud) if e.topic.startswith("orders")]
    assert sorted(orders) == sorted([f"orders/{n}" for n in range(6)] * 2), "one of each group"


def test_other_rules_hold_at_once() -> None:
    line = Line()
    line.cloud.subscribe(1, 1, "#")
    line.world.run(3.0)
    line.publish(line.second, "orders/1", {})
    line.inner.change_policy("export to dmz allow topic news/#")
    line.world.run(3.0)
    line.publish(line.second, "orders/2", {})
    line.publish(line.second, "news/1", {})
    assert [e.topic for e in line.got(line.cloud)] == ["orders/1", "news/1"]
    line.inner.change_policy("")
    line.world.run(3.0)
    line.publish(line.second, "news/2", {})
    assert [e.topic for e in line.got(line.cloud)] == ["orders/1", "news/1"]
    assert not line.inner.machine.control.routes.fib, "routes follow from the rules"


def test_a_link_without_rules_is_not_decoded() -> None:
    line = Line()
    for node, peer in ((line.dmz, "cloud"), (line.cloud, "dmz")):
        for link, region in node.machine.links.bridges.items():
            if region == peer and node is line.cloud:
                assert node.machine.sessions[link].passage is None


@pytest.mark.parametrize("seed", range(8))
def test_random_rules_let_nothing_cross_that_they_deny(seed: int) -> None:
    """P7 against a naive reading of the same rules, for events, interest and renames, with the bridge restarted in between."""
    dice = random.Random(seed)
    levels = ("a", "b", "x")
    topics = [f"{one}/{other}" for one in levels for other in levels]
    filters = ["#", "a/#", "b/#", "+/a", "x/+", "b/x", "a/+", "+/+"]
    while True:
        lines = []
        for _ in range(dice.randint(1, 5)):
            direction, peer = dice.choice((("export", "to dmz"), ("import", "from dmz")))
            action, topic = dice.choice(("allow", "allow", "deny")), dice.choice(filters)
            rename = (
                " rename a -> z"
                if action == "allow" and topic.startswith("a/") and dice.random() < 0.5
                else ""
            )
            lines.append(f"{direction} {peer} {action} topic {topic}{rename}")
        try:
            rules = parse("\n".join(lines), "p").rules
            break
        except RuleError:
            continue
    line = Line(inner="\n".join(lines), seed=seed)
    wanted = {node.key: dice.sample([*filters, "z/#"], 2) for node in (line.second, line.cloud)}
    for node in (line.second, line.cloud):
        for sid, filter in enumerate(wanted[node.key], 1):
            node.subscribe(sid, sid, filter)
    line.world.run(4.0)
    if seed % 3 == 0:
        line.inner.crash()
        line.world.run(1.0)
        line.inner.start()
        line.world.run(6.0)
    for direction, source, target in (
        (Direction.EXPORT, line.second, line.cloud),
        (Direction.IMPORT, line.cloud, line.second),
    ):
        book = Rulebook(rules, direction, "dmz", "dmz", open=False)
        begun = len(line.world.delivered)
        expected: list[str] = []
        for topic in topics:
            source.publish(topic, data=EVENT)
            decision = book.decide(
                Event(1, topic, "", 0, None, None, b"x"), source.key.region, target.key.region, 0.0
            )
            if decision.allowed:
                after = (
                    "z" + topic[1:]
                    if decision.rule is not None and decision.rule.rename is not None
                    else topic
                )
                expected += [after] * sum(matches(filter, after) for filter in wanted[target.key])
            line.world.run(0.3)
        got = [one.event.topic for one in line.world.delivered[begun:] if one.node == target.key]
        assert sorted(got) == sorted(expected), (lines, wanted)


def test_interest_beyond_a_boundary_outlives_the_restart_of_the_node_that_tells_of_it() -> None:
    """What is accepted at least once in the region meanwhile is kept for it, and arrives."""
    line = Line()
    line.cloud.subscribe(1, 1, "orders/#")
    line.world.run(6.0)
    assert line.second.machine.interest.match("orders/x").mask
    line.inner.crash()
    line.world.cut(line.inner.key, line.dmz.key)
    line.world.run(0.5)
    line.inner.start()
    line.world.heal()
    without = []
    for step in range(200):
        if step % 40 == 20:
            line.second.publish_kept(f"orders/{step}", data=EVENT)
        if not line.second.machine.interest.match("orders/x").mask:
            without.append(step)
        line.world.run(0.05)
    line.world.run(5.0)
    assert not without
    assert {e.topic for e in line.got(line.cloud)} == {f"orders/{step}" for step in range(20, 200, 40)}


def test_a_share_of_a_group_that_begins_a_fresh_path_is_judged_again() -> None:
    """A member that goes away hands its share on; the boundary on the new way still has its say."""
    line = Line(inner="export to dmz allow topic orders/# size <= 200\nexport to dmz deny topic #")
    line.second.acknowledging(1)
    line.second.subscribe(1, 1, "orders/#", "workers")
    line.cloud.acknowledging(1)
    line.cloud.subscribe(1, 1, "orders/#", "workers")
    line.world.run(3.0)
    line.second.crash()
    line.world.run(0.2)
    attributes = ("specversion", "1.0", "id", "1", "source", "s", "type", "t")
    events = [NewEvent("orders/1", "", 0, attributes, b"x" * size) for size in (10, 500)]
    line.inner.machine.publish_kept(events, line.inner.now)
    line.inner.machine.flush(line.inner.now)
    line.inner.after()
    line.world.run(40.0)
    assert [len(e.data) for e in line.got(line.cloud)] == [10]
    assert b"x" * 500 not in line.world.bytes_between("inner", "dmz")
    assert line.inner.machine.counters.dead_letters == {Drop.POLICY_DENY: 1}


def test_what_waits_in_a_link_is_judged_by_the_rules_that_hold_when_they_change() -> None:
    line = Line()
    line.cloud.subscribe(1, 1, "orders/#")
    line.world.run(3.0)
    link = next(iter(line.inner.machine.links.bridges))
    session = line.inner.machine.sessions[link]
    granted, session._may_events = session._may_events, 0
    line.inner.publish("orders/1", data=EVENT)
    line.inner.publish_kept("orders/2", data=EVENT)
    line.world.run(0.3)
    assert session.queue
    assert session.custody.waiting
    line.inner.change_policy(
        "export to dmz allow topic orders/2 rename orders -> news\nexport to dmz deny topic orders/#"
    )
    assert not session.queue
    session._may_events = granted
    line.cloud.subscribe(1, 2, "news/#")
    line.world.run(1.0)
    line.inner.machine.forwarder.ready.add(link)
    line.inner.after()
    line.world.run(15.0)
    assert [e.topic for e in line.got(line.cloud)] == ["news/2"]
    assert line.inner.machine.counters.drops[Drop.POLICY_DENY] == 1


@pytest.mark.parametrize("seed", range(4))
def test_at_least_once_with_some_events_denied_survives_crashes_on_both_sides(seed: int) -> None:
    """P4 and P7 together: what may cross arrives, what may not never does and is a dead letter, whoever dies in between."""
    dice = random.Random(seed)
    rules = "export to dmz allow topic orders/# size <= 60\nimport from dmz allow topic tickets/# size <= 60"
    line = Line(inner=rules, seed=seed)
    for node, filter in ((line.cloud, "orders/#"), (line.second, "tickets/#")):
        node.acknowledging(1)
        node.subscribe(1, 1, filter)
    line.world.run(4.0)
    allowed: set[str] = set()
    denied: set[str] = set()
    attributes = ("specversion", "1.0", "id", "1", "source", "s", "type", "t")
    for step in range(12):
        source, prefix = dice.choice(((line.second, "orders"), (line.cloud, "tickets")))
        events = []
        for n in range(dice.randint(1, 6)):
            topic, large = f"{prefix}/{step}-{n}", dice.random() < 0.4
            (denied if large else allowed).add(topic)
            events.append(NewEvent(topic, "", 0, attributes, b"x" * (100 if large else 10)))
        source.machine.publish_kept(events, source.now)
        source.machine.flush(source.now)
        source.after()
        line.world.run(dice.uniform(0.0, 0.05))
        if step % 4 == 3:
            victim = dice.choice((line.inner, line.dmz))
            victim.crash()
            line.world.run(dice.uniform(0.1, 1.0))
            victim.start()
            line.world.run(dice.uniform(0.5, 4.0))
    line.world.run(60.0)
    got = {event.topic for event in (*line.got(line.cloud), *line.got(line.second))}
    assert allowed <= got
    assert not denied & got
    letters = {
        letter.event.topic
        for node in (line.inner, line.second, line.dmz, line.cloud)
        for letter in node.machine.custody.letters.page(0, 1_000, reason="policy_deny").letters
    }
    assert letters == denied
    for node in (line.inner, line.second, line.dmz, line.cloud):
        assert not node.machine.custody.departure.held, node.key
