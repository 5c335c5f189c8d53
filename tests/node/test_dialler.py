"""When addresses are dialled, how often, and after which answers never again."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing
from node.memory_mesh import memory_mesh, until

from mesh.core.opening import Terms
from mesh.core.roster import Wanted
from mesh.model.errors import MeshError
from mesh.model.reasons import Close
from mesh.node.dialler import WAIT_FOR_SMALLER_S, Target
from mesh.node.runner import Node
from mesh.wire.frames import MemberState


async def test_an_address_that_does_not_answer_is_dialled_again_ever_more_slowly(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        target = Target("nowhere:1", Terms("us"))
        mesh.nursery.start_soon(node.dialler.keep, target)
        await trio.sleep(20.0)
        gaps = [b - a for (a, _), (b, _) in pairwise(mesh.dialled)]
        for gap, step in zip(gaps, (0.2, 0.4, 0.8, 1.6, *[2.0] * 50), strict=False):
            assert step / 2 <= gap <= step
        assert len(gaps) >= 12
        assert (target.state, target.worked) == ("dialling", False)
        assert target.problem == "link_lost: nowhere:1: connection refused"
        assert node.dialler.targets == [target]


async def test_a_link_that_was_lost_is_dialled_again_at_the_quick_pace(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        a, b = mesh.node("eu", "n1"), mesh.node("us", "n2")
        target = Target("n2:1", Terms("us"))
        mesh.refusing.add("n2:1")
        mesh.nursery.start_soon(a.dialler.keep, target)
        await trio.sleep(10.0)
        mesh.refusing.clear()
        await until(lambda: target.state == "linked")
        assert (target.problem, len(a.machine.sessions)) == ("", 1)
        await trio.sleep(30.0)
        attempts = len(mesh.dialled)
        begun = trio.current_time()
        for link in list(b.links.values()):
            link.close(Close.LINK_LOST, "test")
        await until(lambda: len(mesh.dialled) > attempts)
        assert trio.current_time() - begun < 0.3
        await until(lambda: target.state == "linked")
        assert target.key is not None
        assert str(target.key) == "us/n2"


async def test_an_address_that_leads_back_here_is_given_up(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        target = Target("n1:1", Terms("eu"))
        with trio.fail_after(5.0):
            await node.dialler.keep(target)
        assert target.state == "self"
        assert len(mesh.dialled) == 1
        assert node.failure is None


async def test_a_first_answer_that_only_a_person_can_put_right_ends_the_node(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1", run=False)
        mesh.node("ap", "n2")
        target = Target("n2:1", Terms("us"), where="bridge us")
        mesh.nursery.start_soon(node.dialler.keep, target)
        with pytest.raises(MeshError, match="bridge us"):
            await node.run()
        assert node.failure is not None
        assert "expected region us, found ap" in node.failure.what


async def test_an_address_that_worked_before_may_answer_anything(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, old = mesh.node("eu", "n1"), mesh.node("us", "n2")
        target = Target("n2:1", Terms("us"), where="bridge us")
        mesh.nursery.start_soon(node.dialler.keep, target)
        await until(lambda: target.state == "linked")
        other = mesh.node("ap", "n2")
        assert mesh.nodes["n2:1"] is other
        old.stop_now()
        for link in list(old.links.values()):
            link.close(Close.LINK_LOST, "test")
        await trio.sleep(10.0)
        assert node.failure is None
        assert target.problem.startswith("region_mismatch")


async def test_a_hint_that_leads_to_another_region_never_ends_the_node(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        mesh.node("ap", "n2")
        target = Target("n2:1", Terms("us"), where="bridge us", configured=False)
        mesh.nursery.start_soon(node.dialler.keep, target)
        await trio.sleep(10.0)
        assert node.failure is None
        assert len(mesh.dialled) > 5


async def test_two_addresses_of_one_node_make_one_link_and_no_storm(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, other = mesh.node("eu", "n1"), mesh.node("us", "n2")
        mesh.nodes["alias:1"] = other
        targets = [Target("n2:1", Terms("us")), Target("alias:1", Terms("us"))]
        for target in targets:
            mesh.nursery.start_soon(node.dialler.keep, target)
        await trio.sleep(30.0)
        assert [target.state for target in targets] == ["linked", "linked"]
        assert len(node.machine.sessions) == 1
        assert len(mesh.dialled) <= 4
        for link in list(other.links.values()):
            link.close(Close.LINK_LOST, "test")
        await trio.sleep(10.0)
        assert len(node.machine.sessions) == 1
        assert len(mesh.dialled) <= 12


async def test_two_regions_that_dial_each_other_everywhere_come_to_rest(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that is refused, because the pair is linked, must not set off the next one."""
    async with memory_mesh(monkeypatch) as mesh:
        mesh.delay_s = 0.2  # so that attempts overlap
        nodes = {
            region: [mesh.node(region, f"{region}{number}") for number in (1, 2)] for region in ("eu", "us")
        }
        for region, other in (("eu", "us"), ("us", "eu")):
            for node in nodes[region]:
                for there in nodes[other]:
                    target = Target(f"{there.key.node}:1", Terms(other))
                    mesh.nursery.start_soon(node.dialler.keep, target)
            await trio.sleep(10.0)
        begun = len(mesh.dialled)
        await trio.sleep(120.0)
        # Four pairs, of which the end that was refused asks once more every half minute.
        assert len(mesh.dialled) - begun <= 4 * 120 / 30
        for node in (*nodes["eu"], *nodes["us"]):
            assert sum(session.is_open for session in node.machine.sessions.values()) == 2


async def test_a_seed_whose_node_dialled_first_is_not_dialled_again_and_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        small, large = mesh.node("eu", "n1"), mesh.node("eu", "n2")
        mesh.link(small, large)
        await until(lambda: bool(large.machine.links.peers))
        target = Target("n1:1", Terms("eu"))
        mesh.dialled.clear()
        mesh.nursery.start_soon(large.dialler.keep, target)
        await trio.sleep(60.0)
        assert target.state == "linked"
        assert len(mesh.dialled) <= 4
        for link in list(large.links.values()):
            link.close(Close.LINK_LOST, "test")
        await until(lambda: len(mesh.dialled) > 4 or bool(large.machine.links.peers), 5.0)
        await until(lambda: bool(large.machine.links.peers), 5.0)


def known(monkeypatch: pytest.MonkeyPatch, node: Node, name: str, *addresses: str) -> None:
    """Let a node know another as a member to which it has no link."""

    def wanted(now: float) -> list[Wanted]:
        linked = name in node.machine.links.peers
        return [] if linked else [Wanted(name, addresses, MemberState.ALIVE)]

    monkeypatch.setattr(node.machine.control.membership, "wanted_links", wanted)


async def test_whom_only_a_registry_knows_is_dialled_at_once_by_either_name(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        mesh.node("eu", "n1")
        large = mesh.node("eu", "n2")
        large.machine.control.membership.introduce("n1", 1, ("n1:1",), trio.current_time())
        mesh.nursery.start_soon(large.dialler.keep_members)
        await until(lambda: bool(large.machine.links.peers))
        assert trio.current_time() < 0.5
        assert large.dialler.tried == {}


async def test_how_the_last_attempt_ended_is_kept_until_the_node_is_wanted_no_more(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n2")
        membership = node.machine.control.membership
        membership.introduce("gone", 1, ("gone:1",), trio.current_time())
        mesh.nursery.start_soon(node.dialler.keep_members)
        await until(lambda: "gone" in node.dialler.tried)
        assert node.dialler.tried["gone"].problem == "link_lost: gone:1: connection refused"
        membership.retract("gone")
        await until(lambda: not node.dialler.tried)


async def test_members_are_dialled_by_the_smaller_name_and_by_the_larger_one_when_nothing_comes(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        small, large = mesh.node("eu", "n1"), mesh.node("eu", "n2")
        for node, other in ((small, large), (large, small)):
            known(monkeypatch, node, other.key.node, other.settings.address)
            mesh.nursery.start_soon(node.dialler.keep_members)
        await until(lambda: bool(small.machine.links.peers))
        await trio.sleep(5.0)
        assert [address for _, address in mesh.dialled] == ["n2:1"]
        assert mesh.dialled[0][0] < 1.0


async def test_the_larger_name_dials_when_the_smaller_one_does_not(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        mesh.node("eu", "n1")
        large = mesh.node("eu", "n2")
        known(monkeypatch, large, "n1", "gone:1", "n1:1")
        mesh.nursery.start_soon(large.dialler.keep_members)
        begun = trio.current_time()
        await until(lambda: bool(large.machine.links.peers))
        assert WAIT_FOR_SMALLER_S <= trio.current_time() - begun < WAIT_FOR_SMALLER_S + 1.5
        assert [address for _, address in mesh.dialled] == ["gone:1", "n1:1"]


async def test_a_draining_node_dials_no_member(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        node.machine.admission.draining = True
        node.machine.control.membership.introduce("n2", 1, ("n2:1",), trio.current_time())
        with trio.fail_after(1.0):
            await node.dialler.keep_members()
        assert mesh.dialled == []
