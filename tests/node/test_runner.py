"""The trio shell: links over memory transports, draining, and failures that end the process."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.memory_mesh import Box, memory_mesh, until

from mesh.core.opening import Terms
from mesh.model.errors import MeshError
from mesh.model.event import NewEvent
from mesh.model.reasons import Close
from mesh.net.memory import pair
from mesh.node.runner import DRAIN_S, DRAIN_TELL_S, Node


async def test_two_nodes_carry_an_event_from_a_publisher_to_a_subscriber(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        a, b = mesh.node("eu", "n1"), mesh.node("us", "n2")
        mesh.link(a, b)
        box = Box()
        session = b.clients.open_session(box, protocol="inproc", name="")
        b.clients.subscribe(session, 1, "t/#")
        await until(lambda: a.machine.interest.holders("t/#") != 0)
        [outcome] = a.clients.publish([NewEvent("t/x", "", 0, (), b"hello")]).each
        assert outcome.regions == ("us",)
        await until(lambda: bool(box.got))
        assert box.got[0].data == b"hello"
        assert a.bytes_out > 0 < b.bytes_in


async def test_leaving_tells_clients_region_and_peers_and_takes_no_longer_than_it_must(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        a, b = mesh.node("eu", "n1", run=False), mesh.node("eu", "n2")
        mesh.link(a, b)
        await until(lambda: bool(a.machine.links.peers))
        box, drained = Box(), []
        a.clients.open_session(box, protocol="inproc", name="")
        a.on_drain.append(lambda: drained.append(trio.current_time()))
        begun = trio.current_time()
        a.leave()
        a.leave()
        await a.run()
        assert box.closed == [Close.DRAINING]
        assert drained == [begun]
        assert trio.current_time() - begun < DRAIN_TELL_S + 0.3
        assert b.machine.control.membership.members()["n1"].state.name == "LEFT"
        assert a.links == {}
        assert a.stopped.is_set()


async def test_draining_ends_after_ten_seconds_although_a_peer_grants_no_credit(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        a, b = mesh.node("eu", "n1", run=False), mesh.node("eu", "n2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run)
            mesh.link(a, b)
            b.machine.subscribe(1, 1, "t", "", trio.current_time())
            b.after_call()
            await until(lambda: a.machine.interest.holders("t") != 0)
            session = a.machine.sessions[a.machine.links.peers["n2"]]
            session._may_bytes = 0
            monkeypatch.setattr(session, "_receive_ack", lambda ack: None)
            a.clients.publish([NewEvent("t", "", 0, (), b"x")])
            await trio.sleep(0.1)
            assert a.machine.queued_bytes > 0
            begun = trio.current_time()
            a.leave()
        assert DRAIN_S <= trio.current_time() - begun <= DRAIN_S + 1.5


async def test_a_second_signal_stops_without_waiting(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        a = mesh.node("eu", "n1", run=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run)
            await trio.sleep(0.1)
            begun = trio.current_time()
            a.leave()
            await trio.sleep(0.1)
            a.stop_now()
        assert trio.current_time() - begun < 0.2
        assert a.stopped.is_set()


async def test_a_process_whose_name_is_in_use_ends_with_that_error(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        holder, node = mesh.node("eu", "n1", epoch=1), mesh.node("eu", "n2")
        mesh.link(holder, node)
        await until(lambda: bool(node.machine.links.peers))
        second = mesh.node("eu", "n1", epoch=2, run=False)
        mesh.link(second, node)
        begun = trio.current_time()
        with pytest.raises(MeshError, match="eu/n1 is alive at n1:1") as raised:
            await second.run()
        assert raised.value.code == "MESH-N001" or raised.value.code.startswith("MESH-")
        assert trio.current_time() - begun < 2.0, "it does not drain: it never was a member"
        assert len(node.machine.sessions) == 1


async def test_a_link_that_ends_says_why_and_who_was_there(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        a, b = mesh.node("eu", "n1"), mesh.node("ap", "n2", accept="listed")
        mine, theirs = pair()
        opened: list[int] = []

        async def accept() -> None:
            await b.attach(theirs, dialled=False, terms=Terms())

        mesh.nursery.start_soon(accept)
        reason, detail, key = await a.attach(
            mine, dialled=True, terms=Terms(), when_open=lambda: opened.append(1)
        )
        assert (reason, key) == (Close.REGION_NOT_LISTED, None)
        assert "eu" in detail
        assert opened == []
        assert a.refusals == {("link", "region_not_listed"): 1}
        assert (a.links, a._when_open, a._closed) == ({}, {}, {})


async def test_a_timer_that_becomes_due_sooner_wakes_the_node(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        a = mesh.node("eu", "n1")
        await trio.sleep(1.0)
        begun = trio.current_time()
        box = Box()
        a.clients.subscribe(a.clients.open_session(box, protocol="inproc", name=""), 1, "svc")
        answer = await a.clients.request(NewEvent("svc", "", 0, (), b""), 0.05)
        assert answer.problem == "timeout"
        assert trio.current_time() - begun == pytest.approx(0.05, abs=0.01)


def test_refusals_are_counted_by_port_and_reason() -> None:
    counted: list[dict[tuple[str, str], int]] = []

    async def main() -> None:
        from mesh.node.settings import NodeSettings

        node = Node(NodeSettings("eu", "n1", "i", 1, "x"))
        node.count_refusal("link", "a")
        node.count_refusal("link", "a")
        node.count_refusal("events", "a")
        counted.append(node.refusals)

    trio.run(main)
    assert counted == [{("link", "a"): 2, ("events", "a"): 1}]
