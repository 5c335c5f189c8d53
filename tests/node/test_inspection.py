"""Asking the region over the mesh's own links, and what becomes of odd questions and answers."""

from __future__ import annotations

import zlib

import pytest
import trio
import trio.testing
from node.memory_mesh import memory_mesh, until

from mesh.core.effects import Notify
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.node.inspect import MissingNode, What
from mesh.node.inspection import ASK


async def test_every_linked_member_answers_and_the_silent_and_the_unlinked_are_named(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, three = (mesh.node("eu", f"n{n}") for n in (1, 2, 3))
        mesh.link(one, two)
        mesh.link(one, three)
        await until(lambda: len(one.machine.links.peers) == 2)
        monkeypatch.setattr(three.inspection, "answer", lambda questions: None)
        one.machine.control.membership.introduce("n4", 1, ("n4:1",), trio.current_time())
        begun = trio.current_time()
        answer = await one.inspection.ask_region(What.VERSION, 2.0)
        assert trio.current_time() - begun == pytest.approx(2.0, abs=0.1)
        assert list(answer.answered) == ["n2"]
        assert answer.answered["n2"] == two.inspection.view(What.VERSION)
        assert MissingNode("n3", "timeout") in answer.missing
        assert len(one.machine.inboxes) == 0


async def test_a_member_without_a_link_is_missing_with_its_state_and_one_that_left_owes_no_answer(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two = mesh.node("eu", "n1"), mesh.node("eu", "n2", run=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two.run)
            mesh.link(one, two)
            await until(lambda: bool(one.machine.links.peers))
            [number] = one.links
            one.link_lost(number, Close.LINK_LOST, "reset")
            [(name, why)] = (await one.inspection.ask_region(What.NODES, 1.0)).missing
            assert (name, why) == ("n2", "suspect 0s")
            one.links[number].close(Close.LINK_LOST, "test")
            await trio.sleep(0.1)
            mesh.link(one, two)
            await until(lambda: bool(one.machine.links.peers))
            two.leave()
        answer = await one.inspection.ask_region(What.NODES, 1.0)
        assert (dict(answer.answered), list(answer.missing)) == ({}, [])


async def test_an_answer_that_is_garbage_or_too_large_is_told_as_missing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two = mesh.node("eu", "n1"), mesh.node("eu", "n2")
        mesh.link(one, two)
        await until(lambda: bool(one.machine.links.peers) and bool(two.machine.links.peers))
        for data, why in (
            (zlib.compress(b'{"not": "a list"}'), None),
            (zlib.compress(b"\xff"), None),
            (b"in words", "in words"),
            (b"", "unreadable answer"),
            (zlib.compress(b"[" + b" " * 80_000_000 + b"]"), None),
        ):
            monkeypatch.setattr("mesh.node.inspection.zlib.compress", lambda *args, data=data: data)
            answer = await one.inspection.ask_region(What.LINKS, 2.0)
            assert dict(answer.answered) == {}
            [missing] = answer.missing
            assert missing.node == "n2"
            assert why is None or missing.why == why
            monkeypatch.undo()
            monkeypatch.setattr("mesh.node.dialler.dial", mesh.dial)
        monkeypatch.setattr("mesh.node.inspection.ANSWER_BYTES", 10)
        answer = await one.inspection.ask_region(What.LINKS, 2.0)
        assert answer.missing == [MissingNode("n2", "too much for one answer: ask this node directly")]


async def test_a_node_with_too_many_open_requests_still_answers_for_itself(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two = mesh.node("eu", "n1", limits=Limits(pending_requests=1)), mesh.node("eu", "n2")
        mesh.link(one, two)
        await until(lambda: bool(one.machine.links.peers))
        one.machine.inboxes.open(50.0, trio.current_time())
        answer = await one.inspection.ask_region(What.NODES, 1.0)
        assert [missing.node for missing in answer.missing] == ["n2"]


async def test_questions_from_another_region_and_questions_without_sense_get_no_answer(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, far = mesh.node("eu", "n1"), mesh.node("eu", "n2"), mesh.node("us", "u1")
        mesh.link(one, two)
        mesh.link(one, far)
        await until(lambda: "eu" in far.machine.control.routes.fib and bool(two.machine.links.peers))
        replies: list[object] = []
        monkeypatch.setattr(one.machine, "reply", lambda *args: replies.append(args))
        now = trio.current_time()
        for node, topic, extra in (
            (far, ASK + "nodes", ("us/u1/1", "1")),
            (two, ASK + "secrets", ("eu/n2/1", "1")),
            (two, "$mesh/odd", ("eu/n2/1", "1")),
            (two, ASK + "nodes", ("garbage", "1")),
        ):
            assert node.machine.ask("eu", "n1", topic, b"", extra, now) is None
            node.after_call()
        await trio.sleep(1.0)
        assert replies == []


async def test_route_changes_reach_those_who_watch(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, far = mesh.node("eu", "n1"), mesh.node("us", "u1")
        async with one.inspection.watch_routes() as watch:
            mesh.link(one, far)
            await until(lambda: "us" in one.machine.control.routes.fib)
            [first, *_] = await watch.receive()
            assert (first["region"], first["change"]) == ("us", "added")
            assert str(first["at"]).endswith("Z")
            for link in list(one.links.values()):
                link.close(Close.LINK_LOST, "test")
            with trio.fail_after(5.0):
                while (changes := await watch.receive())[-1]["change"] != "removed":
                    pass
            assert changes[-1]["reason"]
        one.inspection.notified(Notify("route_selected", "us"))


async def test_readiness_and_leaving(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        await trio.sleep(0.1)
        assert node.inspection.ready() == (True, "")
        node.inspection.request_leave()
        await trio.sleep(0.1)
        assert node.inspection.ready() == (False, "draining")
        with trio.fail_after(15.0):
            await node.stopped.wait()
