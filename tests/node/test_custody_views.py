"""What waits at a node, as its operators see it."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.memory_mesh import MemoryMesh, memory_mesh, until
from node.test_views import documented
from unit.core.custody.memory_store import MemoryStore

from mesh.core.opening import Terms
from mesh.model.event import Event, NewEvent
from mesh.model.reasons import Close, Drop
from mesh.node.inspect import CustodyReading, What
from mesh.node.runner import Node
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg


async def cut_off(mesh: MemoryMesh) -> Node:
    """A node that keeps two events, in two records, for region us, which is away; the first one was kept 3 s before the other."""
    store = MemoryStore()
    node, far = mesh.node("eu", "n1", store=store), mesh.node("us", "u1")
    mesh.link(node, far, Terms("us"))
    session = far.clients.open_session(_Nobody(), protocol="ws", name="shop")
    far.clients.subscribe(session, 1, "orders/#")
    await until(lambda: bool(node.machine.forwarder.plans.of("orders/x").regions))
    node.machine.custody.intake.informed = lambda now: True
    mesh.refusing.add("u1:1")
    for link in list(node.links):
        node.links[link].close(Close.LINK_LOST, "test")
    await until(lambda: "us" not in node.machine.control.routes.fib)
    for wait_s in (3.0, 1.0):
        node.machine.publish_kept([NewEvent("orders/x", "", 0, None, b"{}")], trio.current_time())
        node.machine.flush(trio.current_time())
        node.after_call()
        await trio.sleep(wait_s)
    return node


class _Nobody:
    def deliver(self, deliveries: object) -> None: ...
    def close(self, reason: Close, detail: str) -> None: ...


async def test_a_spool_tells_what_waits_since_when_and_why(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = await cut_off(mesh)
        [spool] = node.inspection.view(What.SPOOLS)
        assert documented("spools") <= spool.keys()
        assert (spool["id"], spool["kind"], spool["destination"]) == ("r/us", "region", "us")
        assert (spool["records"], spool["events"], spool["why"], spool["detail"]) == (2, 2, "no_route", "")
        assert spool["oldest_s"] == pytest.approx(4.0, abs=0.1)
        assert (spool["under_way_records"], spool["under_way_bytes"]) == (0, 0)
        routes = [item for item in node.inspection.view(What.ROUTES) if item["region"] == "us"]
        assert routes
        assert routes[0]["spooled"] == {"records": 2, "oldest_s": spool["oldest_s"], "why": "no_route"}
        [me] = node.inspection.view(What.SELF)
        assert me["spooled"] is None


async def test_what_is_under_way_is_told_by_the_link_it_went(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = await cut_off(mesh)
        far = mesh.nodes["u1:1"]
        monkeypatch.setattr(
            far.machine.custody, "receive", lambda *args: None
        )  # it never says that it has them
        mesh.refusing.clear()
        mesh.link(node, far, Terms("us"))
        await until(lambda: not node.machine.custody.departure.waiting)
        size = sum(held.size for held in node.machine.custody.departure.held.values())
        await until(lambda: node.inspection.counters().custody.under_way_bytes == {"us/u1": size})
        [link] = [item for item in node.inspection.view(What.LINKS) if item["state"] == "open"]
        assert (link["custody_bytes"], link["custody_batches"]) == (size, 2)
        [spool] = node.inspection.view(What.SPOOLS)
        assert (spool["records"], spool["why"], spool["oldest_s"]) == (0, "", None)
        assert (spool["under_way_records"], spool["under_way_bytes"]) == (2, size)


async def test_the_reading_has_every_counter(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = await cut_off(mesh)
        counters = node.machine.counters
        counters.refuse("full")
        counters.dead_letter(Drop.EXPIRED, 3)
        counters.passed_window = 4
        assert node.inspection.counters().custody == CustodyReading(
            records=2,
            waiting={"r/us": 2},
            refused={"full": 1},
            died={"expired": 3},
            passed_window=4,
        )
        assert mesh.nodes["u1:1"].inspection.view(What.SPOOLS) == []


async def test_what_waits_for_an_event_before_it_is_told_with_that_reason(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1", store=MemoryStore())
        session = node.clients.open_session(_Nobody(), protocol="ws", name="shop")
        node.clients.subscribe(session, 1, "t")
        await trio.sleep(5.0)
        late = Event(7, "t", "k", 0, ("", "", "eu=6@100"), (), b"12345")
        header = BatchHeader(Leg.LOCAL, Flag.CUSTODY, "us", "u1", 7, ("eu",), 0, 9, 0, ("us",), 1, 1)
        node.machine.custody.keeping.deliver(header, [late], encode_body([late]), trio.current_time())
        await trio.sleep(2.0)
        [spool] = node.inspection.view(What.SPOOLS)
        assert documented("spools") <= spool.keys()
        assert (spool["kind"], spool["destination"], spool["why"]) == ("clients", "here", "order")
        assert (spool["events"], spool["bytes"], spool["oldest_s"]) == (1, 5, pytest.approx(2.0, abs=0.1))
        assert node.inspection.counters().custody.held_back == 1
        await trio.sleep(node.settings.limits.order_hold_s)
        assert node.inspection.view(What.SPOOLS) == []
        reading = node.inspection.counters().custody
        assert (reading.held_back, reading.order_gaps) == (0, 1)
