"""The receipt protocol in its three roles, with the tables carried by hand so that every step can be late or missing."""

from __future__ import annotations

import msgspec
import pytest

from federation.core import receipts as module
from federation.core.receipts import Receipts
from mesh.core.effects import Send
from mesh.core.tables import TableSet
from mesh.model.ids import Version
from mesh.model.limits import Limits
from mesh.wire.frames import Delta, Held, Scope

encode = msgspec.msgpack.encode


class Party:
    """One node's receipts with its two sets of tables."""

    def __init__(self, region: str, node: str, epoch: int = 5) -> None:
        self.key = f"{region}/{node}"
        self.node = node
        self.ways: set[str] = {"eu", "us"} - {region}
        self.tables = TableSet(Scope.REGION, node, epoch, Limits(), 0.0)
        self.world = TableSet(Scope.WORLD, self.key, epoch, Limits(), 0.0)
        self.receipts = Receipts(region, node, self.tables, self.world, lambda region: region in self.ways)
        self.bridges: list[str] = []
        self.told: list[Delta] = []

    def write(self, key: str, value: object) -> None:
        """Write the own summary."""
        self.world.put(key, encode(value), 0.0)

    def tell(self, *others: Party) -> None:
        """The own summary's news arrive at others."""
        self.told += self.world.news()
        for delta in self.told:
            for other in others:
                applied = other.world.receive(delta, 0.0)
                if not applied.advanced:
                    continue
                other.receipts.world_changes(delta.owner, applied.changes, other.bridges, 0.0)

    def tell_region(self, *others: Party) -> None:
        """The own table's news arrive at members."""
        for delta in self.tables.news():
            for other in others:
                applied = other.tables.receive(delta, 0.0)
                other.receipts.region_changes(delta.owner, applied.changes, 0.0)

    def sent(self) -> list[tuple[int | str, Held]]:
        """Take the frames it sent."""
        effects, self.receipts.effects = self.receipts.effects, []
        assert all(isinstance(e, Send) and isinstance(e.frame, Held) for e in effects)
        return [(e.to, e.frame) for e in effects if isinstance(e, Send) and isinstance(e.frame, Held)]

    def at(self, owner: str) -> Version:
        position = self.world.position(owner)
        assert position is not None
        return position

    def attested(self, owner: str) -> tuple[int, ...] | None:
        value = self.world.get(self.key, "h" + owner)
        return None if value is None else tuple(msgspec.msgpack.decode(value))


# -- in the region ---------------------------------------------------------------------------------------------------


def test_a_member_acknowledges_the_table_of_one_who_waits_and_of_nobody_else() -> None:
    waiter, member = Party("eu", "eu-2"), Party("eu", "eu-3")
    waiter.tables.put("fa", encode(1), 0.0)
    waiter.tell_region(member)
    assert member.sent() == []
    wanted = waiter.receipts.start(0.0)
    assert waiter.receipts.in_region(wanted, ["eu-2", "eu-3"]).missing == (("eu-3", "interest_lagging"),)
    waiter.tell_region(member)
    [(to, frame)] = member.sent()
    assert to == "eu-2"
    waiter.receipts.held("eu-3", frame, 0.0)
    assert waiter.receipts.changed
    assert waiter.receipts.in_region(wanted, ["eu-2", "eu-3"]).installed == ("eu-2", "eu-3")


def test_an_older_acknowledgement_never_takes_back_a_newer_one() -> None:
    waiter = Party("eu", "eu-2")
    wanted = waiter.receipts.start(0.0)
    waiter.receipts.held("eu-3", Held((("eu-2", *wanted),)), 0.0)
    waiter.receipts.held("eu-3", Held((("eu-2", 1, 1),)), 0.0)
    assert waiter.receipts.in_region(wanted, ["eu-3"]).installed == ("eu-3",)


def test_a_member_that_went_has_to_acknowledge_again_when_it_returns() -> None:
    waiter = Party("eu", "eu-2")
    wanted = waiter.receipts.start(0.0)
    waiter.receipts.held("eu-3", Held((("eu-2", *wanted),)), 0.0)
    waiter.receipts.changed = False
    waiter.receipts.member_gone("eu-3")
    assert waiter.receipts.changed, "who waits has to look again: nobody else will wake it"
    assert waiter.receipts.in_region(wanted, ["eu-3"]).missing == (("eu-3", "interest_lagging"),)


def test_the_counter_exists_exactly_while_somebody_waits() -> None:
    waiter = Party("eu", "eu-2")
    first = waiter.receipts.start(0.0)
    second = waiter.receipts.start(0.0)
    assert second > first
    waiter.receipts.stop(0.0)
    assert waiter.tables.get("eu-2", "w") is not None
    waiter.receipts.stop(0.0)
    assert waiter.tables.get("eu-2", "w") is None


# -- in the mesh -----------------------------------------------------------------------------------------------------


class Mesh:
    """eu-2 waits, eu-1 is its bridge; us-1 is the other region's bridge, us-2 a plain member there."""

    def __init__(self) -> None:
        self.waiter, self.bridge = Party("eu", "eu-2"), Party("eu", "eu-1")
        self.far, self.member = Party("us", "us-1"), Party("us", "us-2")
        self.far.bridges = self.member.bridges = ["us-1"]
        self.wanted = self.waiter.receipts.start(0.0)

    def cover(self, *, to_member: bool = True) -> None:
        """The own bridge's summary covers the waiter; everybody hears of it."""
        self.bridge.write("fa", 0)
        self.bridge.write("c", {"eu-2": list(self.wanted)})
        self.bridge.tell(self.waiter, self.far, *([self.member] if to_member else []))

    def member_tells(self) -> None:
        for to, frame in self.member.sent():
            assert to == "us-1"
            self.far.receipts.held("us-2", frame, 0.0)

    def attest(self, *members: str) -> None:
        self.far.receipts.attest(members or ("us-1", "us-2"), 0.0)
        self.far.tell(self.waiter)

    def installed(self) -> bool:
        return self.waiter.receipts.in_mesh(self.wanted, ["us"], {"us"}).installed == ("us",)


def test_a_region_is_installed_when_every_live_member_told_its_bridge_that_it_holds_the_summary() -> None:
    mesh = Mesh()
    mesh.cover()
    mesh.attest()
    assert not mesh.installed(), "us-2 has said nothing yet"
    mesh.member_tells()
    mesh.attest()
    assert mesh.waiter.receipts.changed
    assert mesh.installed()


def test_a_member_that_lags_keeps_the_region_lagging_and_its_death_does_not() -> None:
    mesh = Mesh()
    mesh.cover(to_member=False)
    mesh.attest()
    status = mesh.waiter.receipts.in_mesh(mesh.wanted, ["us"], {"us"})
    assert status.missing == (("us", "interest_lagging"),)
    mesh.far.receipts.member_gone("us-2")
    mesh.attest("us-1")
    assert mesh.installed()


def test_a_region_without_a_route_is_missing_for_that_reason() -> None:
    mesh = Mesh()
    assert mesh.waiter.receipts.in_mesh(mesh.wanted, ["us", "zz"], {"us"}).missing == (
        ("us", "interest_lagging"),
        ("zz", "no_route"),
    )


def test_a_summary_older_than_the_subscription_proves_nothing() -> None:
    mesh = Mesh()
    mesh.cover()
    mesh.member_tells()
    mesh.attest()
    later = mesh.waiter.receipts.start(0.0)
    assert mesh.installed()
    assert mesh.waiter.receipts.in_mesh(later, ["us"], {"us"}).missing == (("us", "interest_lagging"),)


def test_a_member_without_a_way_to_the_region_says_so_only_once_it_has_one() -> None:
    mesh = Mesh()
    mesh.member.ways.clear()
    mesh.cover()
    mesh.attest()
    assert mesh.member.sent() == []
    mesh.member.ways.add("eu")
    mesh.member.receipts.routes_changed(["us-1"])
    mesh.member_tells()
    mesh.attest()
    assert mesh.installed()
    mesh.member.receipts.routes_changed(["us-1"])
    assert mesh.member.sent() == []


def test_a_new_link_to_a_bridge_repeats_everything_it_may_be_missing() -> None:
    mesh = Mesh()
    mesh.cover()
    mesh.member.sent()  # lost with the link
    mesh.member.receipts.resend("us-1")
    mesh.member_tells()
    mesh.attest()
    assert mesh.installed()


def test_a_bridge_that_appears_later_is_told_as_well() -> None:
    mesh = Mesh()
    mesh.cover()
    mesh.member.sent()
    second = Party("us", "us-3")
    second.write("b", 1)
    second.tell(mesh.member)
    assert [to for to, _ in mesh.member.sent()] == ["us-3"]


def test_a_route_that_came_or_went_wakes_those_who_wait() -> None:
    mesh = Mesh()
    mesh.waiter.receipts.changed = False
    mesh.waiter.receipts.routes_changed([])
    assert mesh.waiter.receipts.changed


def test_receipts_go_when_nobody_in_that_region_waits_any_more() -> None:
    mesh = Mesh()
    mesh.cover()
    mesh.member_tells()
    mesh.attest()
    assert mesh.far.attested("eu/eu-1") == tuple(mesh.bridge.at("eu/eu-1"))
    mesh.bridge.world.delete("c", 0.0)
    mesh.bridge.tell(mesh.far, mesh.member)
    mesh.attest()
    assert mesh.far.attested("eu/eu-1") is None


def test_attesting_twice_writes_nothing_new() -> None:
    mesh = Mesh()
    mesh.cover()
    mesh.member_tells()
    mesh.attest()
    version = mesh.far.at("us/us-1")
    mesh.far.receipts.members_changed()
    mesh.attest()
    assert mesh.far.at("us/us-1") == version


def test_a_bridge_that_started_again_has_to_cover_the_subscription_again() -> None:
    mesh = Mesh()
    mesh.cover()
    again = Party("eu", "eu-1", epoch=6)
    again.write("fother", 0)
    again.write("c", {"eu-3": [5, 9]})  # it covers another waiter, not yet this one
    again.tell(mesh.far, mesh.member)
    mesh.member_tells()
    mesh.attest()
    assert mesh.far.attested("eu/eu-1") is not None
    assert not mesh.installed(), "the new process's summary does not hold the subscription"
    again.tell(mesh.waiter)
    again.write("fa", 0)
    again.write("c", {"eu-2": list(mesh.wanted), "eu-3": [5, 9]})
    again.tell(mesh.waiter, mesh.far, mesh.member)
    assert not mesh.installed()
    mesh.member_tells()
    mesh.attest()
    assert mesh.installed()


def test_a_cover_of_a_new_process_replaces_what_the_old_one_covered() -> None:
    mesh = Mesh()
    mesh.cover()
    again = Party("eu", "eu-1", epoch=6)
    again.write("fa", 0)
    again.write("c", {"eu-2": list(mesh.wanted)})
    again.tell(mesh.waiter, mesh.far, mesh.member)
    mesh.member_tells()
    mesh.attest()
    assert mesh.installed(), "the same version of the table, covered by a newer summary"


def test_members_that_hold_summaries_of_different_processes_attest_nothing() -> None:
    mesh = Mesh()
    mesh.cover()
    mesh.member_tells()
    mesh.far.receipts.member_gone("us-2")
    again = Party("eu", "eu-1", epoch=6)
    again.write("c", {"eu-3": [5, 9]})
    again.tell(mesh.member)
    mesh.member_tells()
    mesh.attest()
    assert mesh.far.attested("eu/eu-1") is None


def test_waiting_goes_on_working_after_more_steps_than_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "COVERS_KEPT", 3)
    mesh = Mesh()
    for _ in range(8):  # one wait never ends; others come and go meanwhile
        mesh.wanted = mesh.waiter.receipts.start(0.0)
        mesh.cover()
        mesh.waiter.receipts.stop(0.0)
    mesh.member_tells()
    mesh.attest()
    assert mesh.installed()


@pytest.mark.parametrize(
    "garbage", [b"", b"\xc1", encode("x"), encode([1]), encode([-1, "a"]), encode({"a": 1})]
)
def test_garbage_attests_and_covers_nothing_and_harms_nobody(garbage: bytes) -> None:
    mesh = Mesh()
    mesh.far.world.put("heu/eu-1", garbage, 0.0)
    mesh.far.tell(mesh.waiter)
    mesh.bridge.world.put("c", garbage, 0.0)
    mesh.bridge.tell(mesh.waiter)
    assert not mesh.installed()
    mesh.cover()
    assert not mesh.installed()
    mesh.bridge.world.put("c", garbage, 0.0)
    mesh.bridge.tell(mesh.waiter, mesh.far, mesh.member)
    mesh.attest()


def test_acknowledgements_of_unknown_summaries_take_no_memory() -> None:
    mesh = Mesh()
    frame = Held(tuple((f"zz/{n}", 1, 1) for n in range(100)))
    mesh.far.receipts.held("us-2", frame, 0.0)
    mesh.attest()
    assert mesh.far.world.position("us/us-1") is None
