"""The composed machine: what it refuses from a peer, how it drains, and how requests end."""

from __future__ import annotations

import pytest
from unit.node.wired_machines import Net, Wired, tight

from mesh.core.effects import Send
from mesh.core.inboxes import ReplyTo
from mesh.core.session import Terms
from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, NewEvent
from mesh.model.reasons import Close, Drop
from mesh.testing.world import World
from mesh.wire import frames as wire
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, Data, Flag, Leg


def linked(region_b: str) -> tuple[Net, Wired, Wired, int]:
    net = Net()
    a, b = net.node("eu", "n1"), net.node(region_b, "n2")
    net.connect(b, a)
    net.settle()
    return net, a, b, a.open_links()[0].link


GOOD = BatchHeader(Leg.BRIDGE, 0, "us", "n2", 1, ("eu",), 0, 9, 0, ("us",), 1, 1)
BODY = encode_body([(1, "t", "", 0, None, (), b"")])  # type: ignore[list-item]
LONG = tuple(f"r{n}" for n in range(1_100))


@pytest.mark.parametrize(
    ("region", "change"),
    [
        ("us", {"leg": Leg.LOCAL}),
        ("us", {"leg": Leg.TRANSIT}),
        ("eu", {"leg": Leg.BRIDGE}),
        ("us", {"path": ()}),
        ("us", {"path": ("us", "ap")}),
        ("us", {"regions": LONG}),
        ("us", {"path": (*LONG[:40], "us")}),
        ("us", {"tried": LONG[:40]}),
        ("us", {"groups": tuple(("g", "t", region) for region in LONG)}),
        ("us", {"hops_left": -1}),
        ("us", {"count": 0}),
        ("us", {"count": -1}),
        ("us", {"remaining_ms": -1}),
        ("us", {"batch": 2}),
        ("us", {"batch": 0}),
    ],
)
def test_a_batch_that_a_correct_peer_never_sends_costs_it_the_link(
    region: str, change: dict[str, object]
) -> None:
    net, a, _, link = linked(region)
    values = {name: getattr(GOOD, name) for name in GOOD.__struct_fields__} | change
    a.machine.receive(link, [Data(BatchHeader(**values), BODY)], net.now)
    net.take(a)
    assert a.closed() == [(f"{region}/n2", "protocol_error")]
    assert a.machine.sessions == {}
    assert a.machine.take_deliveries() == {}


def test_a_good_batch_is_delivered_and_acknowledged() -> None:
    net, a, b, link = linked("us")
    a.machine.subscribe(1, 1, "t", "", net.now)
    a.machine.receive(link, [Data(GOOD, BODY)], net.now)
    assert [e.topic for d in a.machine.take_deliveries()[1] for e in d.events] == ["t"]
    b.silent = (
        True  # it never sent that batch, so its answer to the acknowledgement is not what this is about
    )
    net.run(0.2)
    sent = [frame for burst in net.pipes[0].queues[0] for frame in burst or ()]
    assert [frame.batch for frame in sent if isinstance(frame, wire.Ack)] == [1]


def test_frames_behind_one_that_closed_the_link_are_not_looked_at() -> None:
    net, a, _, link = linked("us")
    a.machine.subscribe(1, 1, "t", "", net.now)
    a.machine.receive(link, [wire.Probe(1, "n1"), Data(GOOD, BODY)], net.now)
    assert a.machine.take_deliveries() == {}
    a.machine.receive(link, [Data(GOOD, BODY)], net.now)  # already under way when it closed
    assert a.machine.take_deliveries() == {}


def test_losing_a_link_twice_is_losing_it_once() -> None:
    net, a, _, link = linked("us")
    for _ in range(2):
        a.machine.link_lost(link, Close.LINK_LOST, "reset", net.now)
        net.take(a)
    assert a.closed() == [("us/n2", "link_lost")]


def test_a_reason_this_release_does_not_know_is_a_peer_that_closed() -> None:
    net, a, _, link = linked("us")
    a.machine.receive(link, [wire.CloseLink("from_the_future", "?")], net.now)
    net.take(a)
    assert a.closed() == [("us/n2", "peer_closed")]


def test_a_link_that_never_opens_is_closed_and_was_never_open() -> None:
    net = Net()
    a, b = net.node("eu", "n1"), net.node("eu", "n2")
    b.silent = True
    net.connect(a, b)
    net.run(5.1)
    [notice] = [n for n in a.notices if n.what == "link_closed"]
    assert (notice.reason, notice.data["was_open"]) == (Close.OPEN_TIMEOUT, False)


def test_frames_for_a_member_whose_link_is_gone_vanish_with_it() -> None:
    _net, a, _, _ = linked("eu")
    a.machine.control.effects.append(Send("nobody", wire.ProbeAck(1)))
    assert a.machine.drain() == []


def test_a_draining_machine_takes_nothing_in_and_says_so() -> None:
    net, a, b, _ = linked("eu")
    a.machine.leave(net.now)
    net.take(a)
    event = NewEvent("t", "", 0, (), b"")
    with pytest.raises(ValueError, match="draining"):
        a.machine.publish([event], net.now)
    with pytest.raises(ValueError, match="draining"):
        a.machine.request(event, 1.0, net.now)
    net.run(0.5)
    assert b.machine.control.membership.members()["n1"].state.name == "LEFT"
    a.machine.close_links(net.now)
    net.take(a)
    net.settle()
    assert b.closed() == [("eu/n1", "draining")]
    assert a.machine.sessions == {}


def test_misuse_by_the_caller_is_told() -> None:
    net, a, _, _ = linked("eu")
    a.machine.subscribe(1, 1, "t", "", net.now)
    with pytest.raises(ValueError, match="1"):
        a.machine.subscribe(1, 1, "u", "", net.now)
    with pytest.raises(KeyError):
        a.machine.unsubscribe(1, 9, net.now)
    a.machine.drop_session(7, net.now)


# -- requests ------------------------------------------------------------------------------------------------------


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


def test_a_batch_larger_than_the_peers_whole_credit_is_split_or_dropped_and_holds_up_nothing() -> None:
    net = Net()
    a = net.node("eu", "n1")
    b = net.node("us", "n2", limits=tight(credit_bytes=64 * 1024, event_bytes=64 * 1024, credit_events=100))
    net.connect(b, a)
    net.settle()
    net.run(2.0)
    b.machine.subscribe(1, 1, "t", "", net.now)
    net.take(b)
    net.run(2.0)
    sizes = (200_000, 5, *[1_000] * 150)
    a.machine.publish([NewEvent("t", "", 0, (), b"x" * size) for size in sizes], net.now)
    a.machine.flush(net.now)
    link = a.open_links()[0].link
    got: list[int] = []
    for _ in range(50):
        item = a.machine.pull(link, net.now)
        if item is not None:
            b.machine.receive(b.open_links()[0].link, [Data(item.header, item.body)], net.now)
            got += [len(e.data) for d in b.machine.take_deliveries().get(1, ()) for e in d.events]
        net.take(b)
        net.run(0.2)
    assert tuple(got) == sizes[1:]
    assert a.machine.counters.drops == {Drop.TOO_LARGE: 1}
