from __future__ import annotations

import pytest
from unit.admin.fake_inspect import FakeInspect, member, route

from mesh.admin.region import Gathered, gather
from mesh.model.errors import MeshError
from mesh.node.inspect import MissingNode, What


@pytest.fixture
def inspect() -> FakeInspect:
    fake = FakeInspect()
    fake.own[What.ROUTES] = [route("us", "in_use", 84)]
    fake.others = {"eu-2": {What.ROUTES: [route("us", "in_use", 85)]}}
    fake.absent = [MissingNode("eu-3", "suspect 4s")]
    return fake


async def ask(
    inspect: FakeInspect, what: What = What.ROUTES, *, node: str = "", here: bool = False
) -> Gathered:
    return await gather(inspect, what, node=node, here=here, timeout_s=2.0)


async def test_every_member_speaks_and_the_silent_ones_are_named(inspect: FakeInspect) -> None:
    found = await ask(inspect)
    assert [(item["node"], item["metric"]) for item in found.items] == [("eu-1", 84), ("eu-2", 85)]
    assert found.answered == ("eu-1", "eu-2")
    assert found.missing == (("eu-3", "suspect 4s"),)
    assert inspect.asked == [(What.ROUTES, 2.0)]


async def test_nobody_is_asked_for_what_this_node_says_itself(inspect: FakeInspect) -> None:
    for found in (await ask(inspect, here=True), await ask(inspect, node="eu-1")):
        assert [item["node"] for item in found.items] == ["eu-1"]
        assert (found.answered, found.missing) == (("eu-1",), ())
    assert inspect.asked == []


async def test_one_member_alone_can_be_asked_for(inspect: FakeInspect) -> None:
    found = await ask(inspect, node="eu-2")
    assert ([item["metric"] for item in found.items], found.answered, found.missing) == ([85], ("eu-2",), ())
    silent = await ask(inspect, node="eu-3")
    assert (silent.items, silent.answered, silent.missing) == ([], (), (("eu-3", "suspect 4s"),))
    with pytest.raises(MeshError, match="MESH-A005"):
        await ask(inspect, node="eu-9")


async def test_a_member_cannot_speak_in_anothers_name(inspect: FakeInspect) -> None:
    inspect.others["eu-2"][What.ROUTES] = [route("us", "in_use", 1, node="eu-1")]
    assert [item["node"] for item in (await ask(inspect)).items] == ["eu-1", "eu-2"]


async def test_a_member_is_described_by_itself_and_judged_by_the_node_that_is_asked() -> None:
    inspect = FakeInspect()
    inspect.own[What.NODES] = [
        member("eu-1", role="bridge"),
        member("eu-2", "suspect", version="old", age_s=4.0, reason="probe_failed"),
        member("eu-3", "dead"),
    ]
    inspect.others = {"eu-2": {What.SELF: [member("eu-2", "alive", version="new", role="bridge")]}}
    inspect.absent = [MissingNode("eu-3", "dead 60s")]
    found = await ask(inspect, What.NODES)
    assert inspect.asked[0][0] is What.SELF
    by_id = {item["id"]: item for item in found.items}
    assert (by_id["eu-2"]["state"], by_id["eu-2"]["age_s"], by_id["eu-2"]["reason"]) == (
        "suspect",
        4.0,
        "probe_failed",
    )
    assert (by_id["eu-2"]["version"], by_id["eu-2"]["role"], by_id["eu-2"]["node"]) == (
        "new",
        "bridge",
        "eu-2",
    )
    assert (by_id["eu-3"]["state"], by_id["eu-3"]["node"]) == ("dead", "eu-1")
    assert found.missing == (("eu-3", "dead 60s"),)


async def test_what_a_member_says_of_others_is_no_description_of_them() -> None:
    inspect = FakeInspect()
    inspect.own[What.NODES] = [member("eu-1"), member("eu-2", version="mine")]
    inspect.others = {"eu-2": {What.SELF: [member("eu-1", version="lie")]}}
    found = await ask(inspect, What.NODES)
    assert [item["version"] for item in found.items] == ["0.1.0", "mine"]
