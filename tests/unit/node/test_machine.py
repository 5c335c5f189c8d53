"""The composed machine: what it refuses from a peer, how it drains, and what it does with links that come and go."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from unit.node.wired_machines import BODY, GOOD, Net, linked, tight

from mesh.core.effects import Send
from mesh.model.event import NewEvent
from mesh.model.reasons import Close, Drop
from mesh.wire import frames as wire
from mesh.wire.frames import Data


@pytest.mark.parametrize("number", [0, 2])
def test_a_batch_out_of_turn_costs_the_peer_its_link(number: int) -> None:
    net, a, _, link = linked("us")
    a.machine.receive(link, [Data(replace(GOOD, batch=number), BODY)], net.now)
    net.take(a)
    assert a.closed() == [("us/n2", "protocol_error")]
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
