"""The node as client protocols see it: sessions, receipts, requests, and what is refused."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.memory_mesh import Box, MemoryMesh, memory_mesh, until

from mesh.core.custody.window import AckTerms
from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Close, Drop, Refuse
from mesh.node.runner import Node
from mesh.node.service import AckLevel, Missing, RefusedError, Wait
from mesh.testing.memory_store import MemoryStore


def event(topic: str, data: bytes = b"x") -> NewEvent:
    return NewEvent(topic, "", 0, (), data)


def client(node: Node) -> tuple[int, Box]:
    box = Box()
    return node.clients.open_session(box, protocol="inproc", name="test"), box


async def line(mesh: MemoryMesh) -> tuple[Node, Node, Node]:
    """eu/n1, eu/n2 and us/n3; n1 and n3 are bridges."""
    one, two, three = mesh.node("eu", "n1"), mesh.node("eu", "n2"), mesh.node("us", "n3")
    mesh.link(one, two)
    mesh.link(one, three)
    await until(lambda: "us" in two.machine.control.routes.fib and "eu" in three.machine.control.routes.fib)
    return one, two, three


# -- receipts ------------------------------------------------------------------------------------------------------


async def test_waiting_for_the_node_the_region_and_the_mesh(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        _, two, three = await line(mesh)
        session, _ = client(two)
        two.clients.subscribe(session, 1, "t")
        here = await two.clients.wait_installed(session, [1], Wait.NODE, (), 5.0)
        assert (here.installed, here.missing, here.complete) == (("n2",), (), True)
        region = await two.clients.wait_installed(session, [1], Wait.REGION, (), 5.0)
        assert (region.installed, region.complete) == (("n1", "n2"), True)
        mesh_wide = await two.clients.wait_installed(session, [1], Wait.MESH, (), 5.0)
        assert (mesh_wide.installed, mesh_wide.complete) == (("eu", "us"), True)
        assert three.machine.interest.holders("t") != 0
        assert two.machine.control.tables.get("n2", "w") is None, "nobody waits any more"


@pytest.mark.parametrize("wait", [Wait.NODE, Wait.REGION, Wait.MESH])
async def test_named_regions_and_no_others_are_demanded(
    wait: Wait, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        _, two, _ = await line(mesh)
        session, _ = client(two)
        two.clients.subscribe(session, 1, "t")
        named = await two.clients.wait_installed(session, [1], wait, ["us"], 5.0)
        assert (named.installed, named.complete) == (("eu", "us"), True)
        monkeypatch.setattr(two.machine.control.receipts, "_attested", lambda region, needed: False)
        own = await two.clients.wait_installed(session, [1], wait, ["eu"], 5.0)
        assert (own.installed, own.missing, own.complete) == (("eu",), (), True)


async def test_a_named_region_that_is_not_known_yet_is_waited_for_until_the_time_out(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, _ = await line(mesh)
        session, _ = client(two)
        two.clients.subscribe(session, 1, "t")
        begun = trio.current_time()
        late = await two.clients.wait_installed(session, [1], Wait.MESH, ["us", "ap"], 3.0)
        assert trio.current_time() - begun == pytest.approx(3.0)
        assert (late.installed, late.complete) == (("eu", "us"), False)
        assert late.missing == (Missing("ap", "no_route"),)

        async def appear() -> None:
            await trio.sleep(1.0)
            mesh.link(one, mesh.node("ap", "n4"))

        mesh.nursery.start_soon(appear)
        both = await two.clients.wait_installed(session, [1], Wait.MESH, ["us", "ap"], 10.0)
        assert (both.installed, both.complete) == (("ap", "eu", "us"), True)


async def test_a_region_that_becomes_unreachable_is_told_as_missing_before_the_time_out(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, three = await line(mesh)
        monkeypatch.setattr(three.machine.control.receipts, "attest", lambda members, now: None)
        session, _ = client(two)
        two.clients.subscribe(session, 1, "t")

        async def lose() -> None:
            await trio.sleep(1.0)
            for link in list(one.machine.links.bridges):
                one.link_lost(link, Close.LINK_LOST, "reset")

        mesh.nursery.start_soon(lose)
        begun = trio.current_time()
        receipt = await two.clients.wait_installed(session, [1], Wait.MESH, (), 200.0)
        assert (receipt.missing, receipt.complete) == ((Missing("us", "no_route"),), False)
        assert 1.0 <= trio.current_time() - begun < 10.0


async def test_a_member_that_is_silent_is_named_at_the_time_out_and_the_subscription_stands(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, _ = await line(mesh)
        monkeypatch.setattr(one.machine.control.receipts, "region_changes", lambda *args: None)
        session, _ = client(two)
        two.clients.subscribe(session, 1, "t")
        receipt = await two.clients.wait_installed(session, [1], Wait.REGION, (), 0.5)
        assert receipt == (("n2",), (Missing("n1", "interest_lagging"),), False)
        assert two.machine.subscriptions.of_session(session) != {}


# -- sessions ------------------------------------------------------------------------------------------------------


async def test_what_a_client_may_not_do_is_refused_with_a_code(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node(
            "eu", "n1", limits=Limits(client_connections=1, session_subscriptions=2, pending_requests=1)
        )
        clients = node.clients
        session, _ = client(node)

        def code(call: object, *args: object) -> str:
            with pytest.raises(RefusedError) as refused:
                call(*args)  # type: ignore[operator]
            return refused.value.code

        with pytest.raises(RefusedError, match="MESH-E017"):
            client(node)
        assert code(clients.subscribe, 99, 1, "t") == "MESH-E011"
        assert code(clients.subscribe, session, 1, "a/#/b") == "MESH-E002"
        assert code(clients.subscribe, session, 1, "$share/one/t", "two") == "MESH-E002"
        clients.subscribe(session, 1, "$share/one/t", "one")
        assert code(clients.subscribe, session, 1, "u") == "MESH-E019"
        clients.subscribe(session, 2, "u")
        assert code(clients.subscribe, session, 3, "v") == "MESH-E018"
        assert code(clients.unsubscribe, session, 9) == "MESH-E020"
        assert code(clients.reply, "garbage", "", event("")) == "MESH-E028"
        assert code(clients.reply, "zz/z1/1", "", event("")) == "MESH-E029"
        node.machine.admission.draining = True
        assert code(clients.publish, [event("t")]) == "MESH-E016"
        assert code(clients.subscribe, session, 4, "w") == "MESH-E016"


async def test_a_key_or_correlation_that_would_fit_no_links_credit_is_refused_where_it_comes_in(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, _, three = await line(mesh)
        session, box = client(three)
        three.clients.subscribe(session, 1, "t")
        await until(lambda: one.machine.interest.holders("t") != 0)
        for key in ("k" * 1_025, "é" * 513):
            with pytest.raises(RefusedError) as refused:
                one.clients.publish([event("t"), NewEvent("t", key, 0, (), b"x")])
            assert (refused.value.code, refused.value.status) == ("MESH-E007", 413)
            with pytest.raises(RefusedError):
                await one.clients.request(NewEvent("t", key, 0, (), b"x"), 1.0)
            with pytest.raises(RefusedError):
                one.clients.reply("us/n3/1xabc", key, event("t"))
            with pytest.raises(RefusedError):
                one.clients.reply("us/n3/1xabc", "c", NewEvent("t", key, 0, (), b"x"))
        one.clients.publish([NewEvent("t", "é" * 512, 0, (), b"y")])
        await until(lambda: [e.data for e in box.got] == [b"y"])


async def test_a_closed_session_takes_its_interest_along_and_what_comes_later_is_counted(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        session, box = client(node)
        node.clients.subscribe(session, 1, "t")
        node.clients.publish([event("t")])
        assert len(box.got) == 1
        node.machine.publish([event("t")], trio.current_time())
        node.clients.sessions.pop(session)
        node.after_call()
        assert node.machine.counters.drops == {Drop.SESSION_CLOSED: 1}
        other, _ = client(node)
        node.clients.subscribe(other, 1, "t")
        for _ in range(2):
            node.clients.close_session(other, Close.PEER_CLOSED)
        [outcome] = node.clients.publish([event("u")]).each
        assert outcome.reasons[0].reason == "no_interest"


async def test_an_outcome_tells_regions_groups_and_what_is_here(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, three = await line(mesh)
        for node, filter in ((one, "t"), (two, "t"), (three, "t"), (three, "$share/g/jobs")):
            session, _ = client(node)
            node.clients.subscribe(session, 1, filter)
        await until(lambda: two.machine.interest.match("jobs").groups != ())
        await until(lambda: two.machine.interest.match("t").mask.bit_count() == 2)
        outcomes = two.clients.publish([event("t"), event("jobs")])
        first, second = outcomes.each
        assert (first.regions, first.local, first.groups, first.reasons) == (("us",), 2, (), ())
        assert (second.regions, second.local, second.groups) == (("us",), 0, (("g", "us"),))
        assert outcomes.first.seq == two.machine.forwarder.ingress.seq - 1


# -- requests ------------------------------------------------------------------------------------------------------


async def test_a_request_gets_its_reply_from_another_region(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        _, two, three = await line(mesh)
        session, box = client(three)
        three.clients.subscribe(session, 1, "svc")
        await until(lambda: two.machine.interest.match("svc").mask != 0)

        async def respond() -> None:
            await until(lambda: bool(box.got))
            extra = box.got[0].extra
            assert extra is not None
            mail = event("", b"!")
            [outcome] = three.clients.reply(extra[EXTRA_REPLY_TO], extra[EXTRA_CORRELATION], mail).each
            assert (outcome.regions, outcome.local) == (("eu",), 0)

        mesh.nursery.start_soon(respond)
        answer = await two.clients.request(event("svc"), 5.0)
        assert answer.event is not None
        assert (answer.event.data, answer.path, answer.problem) == (b"!", ("us",), "")
        assert len(two.machine.inboxes) == 0


async def test_a_request_that_nobody_can_answer_says_so_with_a_reason_and_a_silent_one_times_out(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1", limits=Limits(pending_requests=1))
        answer = await node.clients.request(event("svc"), 5.0)
        assert (answer.problem, [r.reason for r in answer.reasons]) == ("no_responders", ["no_interest"])
        session, _ = client(node)
        node.clients.subscribe(session, 1, "svc")
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.clients.request, event("svc"), 2.0)
            await trio.sleep(0.1)
            with pytest.raises(RefusedError, match="MESH-E030"):
                await node.clients.request(event("svc"), 2.0)
        assert trio.current_time() - begun == pytest.approx(2.0)


async def test_a_requester_that_gives_up_leaves_nothing_behind(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        session, _ = client(node)
        node.clients.subscribe(session, 1, "svc")
        with trio.move_on_after(0.1):
            await node.clients.request(event("svc"), 5.0)
        assert len(node.machine.inboxes) == 0
        assert len(node.clients.requests) == 0


class _Unsynced(MemoryStore):
    """Takes records in, and does not get them onto the disk."""

    @property
    def synced(self) -> int:
        return 0


@pytest.mark.parametrize(("fault", "why"), [(Refuse.NO_SPACE, "no_space"), (None, "too long")])
async def test_a_disk_that_fails_after_an_event_was_taken_in_leaves_it_in_doubt(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    fault: Refuse | None,
    why: str,
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = _Unsynced()
        node = mesh.node("eu", "n1", store=store)
        node.machine.custody.intake.informed = lambda now: True
        number = node.machine.consumers.connect(
            "c", AckTerms(False, 30.0, 5, 100), trio.current_time()
        ).number
        node.machine.subscribe(number, 1, "t", "", trio.current_time())
        kept = node.clients.keep([event("t")], AckLevel.ACCEPTED)
        store.fault = fault
        with pytest.raises(RefusedError) as refused:
            await node.clients.kept(kept, 1.0)
        assert (refused.value.code, refused.value.status) == ("MESH-E052", 503)
        assert why in refused.value.detail
        if fault:
            with pytest.raises(RefusedError) as second:
                node.clients.keep([event("t")], AckLevel.ACCEPTED)
            assert second.value.code == "MESH-E050", "nothing was taken in: there is no doubt"
