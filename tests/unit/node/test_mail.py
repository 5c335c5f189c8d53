"""Requests and their replies, notices that nobody was found, and questions between nodes."""

from __future__ import annotations

import random

import pytest
from unit.node.wired_machines import linked

from mesh.core.inboxes import ReplyTo
from mesh.core.opening import Terms
from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, NewEvent
from mesh.model.reasons import Drop
from mesh.testing.world import SimNode, World
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, Data, Flag, Leg


class Chain:
    """a1, a2 in region a; b1, b2 in region b; the bridge is a1-b1."""

    def __init__(self) -> None:
        self.world = world = World(3)
        self.a1 = world.node("a", "a1", bridges=["b"])
        self.a2 = world.node("a", "a2")
        self.b1 = world.node("b", "b1")
        self.b2 = world.node("b", "b2")
        world.seed_link(self.a2, self.a1)
        world.seed_link(self.b2, self.b1)
        world.seed_link(self.a1, self.b1, Terms("b"))
        for node in (self.a1, self.a2, self.b1, self.b2):
            node.start()
        world.run(3.0)

    def ended(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        [end] = self.a2.ended
        return end.problem, end.reasons


def test_the_first_reply_ends_a_request_and_a_second_one_is_counted() -> None:
    chain = Chain()
    world, a2, b2 = chain.world, chain.a2, chain.b2
    b2.subscribe(1, 1, "svc")
    world.run(1.0)
    inbox = a2.request("svc", 5.0)
    world.run(0.5)
    [delivered] = world.delivered
    extra = delivered.event.extra
    assert extra is not None
    to = ReplyTo.parse(extra[EXTRA_REPLY_TO])
    for data in (b"one", b"two"):
        assert (
            b2.machine.reply(to, extra[EXTRA_CORRELATION], NewEvent("", "", 0, (), data), world.now) is None
        )
        b2.after()
    world.run(0.5)
    [end] = a2.ended
    assert end.event is not None
    assert (end.inbox, end.event.data, end.problem, end.path) == (inbox, b"one", "", ("b",))
    assert a2.machine.counters.drops == {Drop.UNKNOWN_INBOX: 1}


def test_a_request_that_nobody_subscribes_to_ends_at_once() -> None:
    chain = Chain()
    chain.a2.request("nobody/here", 5.0)
    assert chain.ended() == ("no_responders", ())


def test_a_request_whose_only_group_is_empty_by_now_ends_as_no_members() -> None:
    chain = Chain()
    chain.b2.subscribe(1, 1, "svc", "workers")
    chain.world.run(1.0)
    chain.b2.unsubscribe(1, 1)
    chain.a2.request("svc", 5.0)
    chain.world.run(0.5)
    assert chain.ended() == ("no_members", (("workers/svc", "no_members"),))


@pytest.mark.parametrize("name", ["a1", "b1", "b2"])
def test_a_responder_that_unsubscribed_before_the_news_of_it_arrived_is_no_responder(name: str) -> None:
    chain = Chain()
    responder = getattr(chain, name)
    responder.subscribe(1, 1, "svc")
    chain.world.run(1.0)
    responder.unsubscribe(1, 1)
    chain.a2.request("svc", 5.0)
    chain.world.run(1.0)
    problem, reasons = chain.ended()
    assert problem == "no_responders"
    assert reasons


def test_a_responder_whose_region_is_unreachable_is_named_with_the_reason() -> None:
    chain = Chain()
    chain.b2.subscribe(1, 1, "svc")
    chain.world.run(1.0)
    chain.b1.crash()
    chain.world.run(8.0)
    chain.a2.request("svc", 5.0)
    assert chain.ended() == ("no_responders", (("b", "no_route"),))


def test_a_responder_that_dies_with_the_request_leaves_it_to_the_time_out() -> None:
    chain = Chain()
    chain.b2.subscribe(1, 1, "svc")
    chain.world.run(1.0)
    chain.a2.request("svc", 2.0)
    chain.world.run(0.2)
    chain.b2.crash()
    chain.world.run(1.5)
    assert chain.a2.ended == []
    chain.world.run(1.0)
    assert chain.ended()[0] == "timeout"


def test_a_request_to_this_nodes_own_group_ends_without_waiting_for_the_next_deadline() -> None:
    chain = Chain()
    chain.a1.subscribe(1, 1, "svc", "workers")
    chain.world.run(1.0)
    chain.a1.unsubscribe(1, 1)
    chain.a2.request("svc", 5.0)
    chain.world.run(0.1)
    assert chain.ended()[0] == "no_members"


def test_a_reply_to_nowhere_says_why() -> None:
    chain = Chain()
    event = NewEvent("", "", 0, (), b"")
    now = chain.world.now
    assert chain.a2.machine.reply(ReplyTo("zz", "z1", "1"), "1", event, now) is Drop.NO_ROUTE
    assert chain.a2.machine.reply(ReplyTo("a", "a9", "1"), "1", event, now) is Drop.LINK_DOWN


def test_a_reply_to_an_inbox_of_this_very_node_needs_no_link() -> None:
    chain = Chain()
    machine, now = chain.a2.machine, chain.world.now
    machine.subscribe(1, 1, "svc", "", now)
    inbox = machine.request(NewEvent("svc", "", 0, (), b"?"), 5.0, now)
    [delivery] = machine.take_deliveries()[1]
    extra = delivery.events[0].extra
    assert extra is not None
    machine.reply(
        ReplyTo.parse(extra[EXTRA_REPLY_TO]), extra[EXTRA_CORRELATION], NewEvent("", "", 0, (), b"!"), now
    )
    assert [(end.inbox, end.event.data if end.event else b"") for end in machine.take_ended()] == [
        (inbox, b"!")
    ]


def test_a_notice_with_a_garbage_address_is_nobodys_mail() -> None:
    net, a, _, link = linked("us")
    extra = ("not an address", "1")
    header = BatchHeader(
        Leg.BRIDGE, Flag.GROUP_ONLY, "us", "n2", 1, ("eu",), 0, 9, 0, ("us",), 1, 1, (("g", "t", "eu"),)
    )
    body = encode_body([(1, "t", "", 0, extra, (), b"")])  # type: ignore[list-item]
    a.machine.receive(link, [Data(header, body)], net.now)
    net.take(a)
    assert a.open_links() != []
    assert a.machine.counters.drops == {Drop.NO_MEMBERS: 1}


def test_a_question_reaches_the_node_it_is_for_with_its_words_and_where_to_answer() -> None:
    chain = Chain()
    extra = ("a/a2/1", "c")
    assert chain.a2.machine.ask("b", "b2", "$mesh/ask/x", b"why", extra, chain.world.now) is None
    chain.a2.machine.flush(chain.world.now)
    heard = []

    def look(node: SimNode) -> None:
        heard.extend((node.key.node, event) for _, event in node.machine.mail.questions)

    chain.b2.machine.take_questions = lambda: []  # type: ignore[method-assign]
    chain.world.on_settled.append(look)
    chain.a2.after()
    chain.world.run(0.5)
    assert {name for name, _ in heard} == {"b2"}
    event = heard[0][1]
    assert (event.topic, event.data, event.extra) == ("$mesh/ask/x", b"why", extra)
    assert chain.world.delivered == [], "no client of that node sees it"


def test_mail_for_an_inbox_that_is_not_open_is_counted_where_it_arrives_and_nowhere_else() -> None:
    chain = Chain()
    to = ReplyTo("a", "a2", "1xdeadbeef")
    assert chain.b2.machine.reply(to, "1xdeadbeef", NewEvent("", "", 0, (), b"!"), chain.world.now) is None
    chain.b2.machine.flush(chain.world.now)
    chain.b2.after()
    chain.world.run(0.5)
    assert chain.a2.machine.counters.drops == {Drop.UNKNOWN_INBOX: 1}
    assert chain.world.drops() == {"unknown_inbox": 1}
    assert chain.a2.ended == []


def test_a_reply_with_anothers_correlation_does_not_end_a_request() -> None:
    chain = Chain()
    chain.b2.subscribe(1, 1, "svc")
    chain.world.run(1.0)
    inbox = chain.a2.request("svc", 2.0)
    chain.world.run(0.2)
    to = ReplyTo("a", "a2", inbox)
    chain.b2.machine.reply(to, "guess", NewEvent("", "", 0, (), b"!"), chain.world.now)
    chain.b2.machine.flush(chain.world.now)
    chain.b2.after()
    chain.world.run(0.5)
    assert chain.a2.ended == []
    assert chain.a2.machine.counters.drops == {Drop.UNKNOWN_INBOX: 1}
    chain.world.run(2.0)
    assert chain.ended()[0] == "timeout"


@pytest.mark.parametrize("seed", range(4))
def test_every_request_ends_exactly_once_whatever_becomes_of_its_responders(seed: int) -> None:
    dice = random.Random(seed)
    chain = Chain()
    nodes = [chain.a1, chain.a2, chain.b1, chain.b2]
    for node in nodes:
        node.replies = dice.random() < 0.7
    asked = []
    for _ in range(25):
        node = dice.choice(nodes)
        sid = dice.randrange(3)
        if (1, sid) in node.subscriptions:
            node.unsubscribe(1, sid)
        else:
            node.subscribe(1, sid, dice.choice(["svc", "svc/#", "other"]), dice.choice(["", "g"]))
        chain.world.run(dice.choice([0.0, 0.01, 0.3]))
        asked.append(chain.a2.request(dice.choice(["svc", "other", "nobody"]), 2.0))
    chain.world.run(4.0)
    assert sorted(end.inbox for end in chain.a2.ended) == sorted(asked)
    assert {end.problem for end in chain.a2.ended} <= {"", "no_responders", "no_members", "timeout"}
    assert all((end.event is not None) == (end.problem == "") for end in chain.a2.ended)
    assert len(chain.a2.machine.inboxes) == 0
