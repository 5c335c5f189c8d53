"""Compare and set on a configuration service that does not always say who lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock
from unit.registry.nacos.fake_nacos import FakeNacos

from registry.base import BadEntry, Conflict, RegionEntry, RegistryFull, RegistryUnavailable, Token
from registry.nacos import directory
from registry.nacos.directory import INDEX, REGION_PREFIX, REGIONS, WRITES, Directory
from registry.nacos.requests import OK, Answer, ConfigPublishRequest, Request, from_body, to_body
from registry.nacos.settings import NacosSettings

A = TypeVar("A", bound=Answer)
SETTINGS = NacosSettings(servers=("127.0.0.1:8848",))


class Asked:
    """The fake's configurations without a connection. fails: publications end with the connection, written or not."""

    def __init__(self, lies: bool) -> None:
        self.nacos = FakeNacos.__new__(FakeNacos)
        self.nacos.configs, self.nacos.lies = {}, lies
        self.asked: list[str] = []
        self.fails: bool | None = None
        self.busy = 0

    async def ask(self, request: Request, kind: type[A], *, again: bool = True) -> A:
        await trio.lowlevel.checkpoint()
        name, publishes = type(request).__name__, isinstance(request, ConfigPublishRequest)
        self.asked.append(name)
        if publishes and self.fails is False:
            raise RegistryUnavailable("registry.servers", "the connection ended")
        if self.busy and name == "ConfigQueryRequest":
            self.busy -= 1
            return from_body(
                b'{"resultCode":500,"errorCode":400,"message":"requested file is being modified"}', kind
            )
        raw = json.dumps(self.nacos._config(name, json.loads(to_body(request)))).encode()
        head = from_body(raw, Answer)
        refused = head.result_code != OK and head.error_code not in request.accepts
        if refused or (publishes and self.fails):
            raise RegistryUnavailable("registry.servers", head.message or "the connection ended")
        return from_body(raw, kind)


@pytest.fixture(params=[False, True], ids=["tells", "lies"])
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    return Asked(request.param)


def entry(*endpoints: str, region: str = "eu") -> RegionEntry:
    return RegionEntry(region=region, endpoints=endpoints)


async def test_a_person_can_read_what_is_written(asked: Asked) -> None:
    one = Directory(SETTINGS, asked)
    await one.put(RegionEntry(region="eu", endpoints=("a:1",), labels={"site": "Köln"}), None)
    content = json.loads(asked.nacos.configs[REGION_PREFIX + "eu"])
    assert content["endpoints"] == ["a:1"]
    assert content["labels"] == {"site": "Köln"}
    assert content["revision"] == 1
    assert len(content["writes"]) == 1
    assert json.loads(asked.nacos.configs[INDEX])["regions"] == ["eu"]


async def test_of_two_that_saw_the_same_one_wins_and_one_is_told(asked: Asked) -> None:
    one, two = Directory(SETTINGS, asked), Directory(SETTINGS, asked)
    token = await one.put(entry("a:1"), None)
    outcomes: list[object] = []

    async def put(which: Directory, endpoint: str) -> None:
        try:
            outcomes.append(await which.put(entry(endpoint), token))
        except Conflict:
            outcomes.append(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, one, "b:1")
        nursery.start_soon(put, two, "c:1")
    assert outcomes.count(None) == 1
    found = await one.get("eu")
    assert found is not None
    assert found.token in outcomes


async def test_a_removed_region_is_free_again_and_its_old_tokens_stay_dead(asked: Asked) -> None:
    one = Directory(SETTINGS, asked)
    first = await one.put(entry("a:1"), None)
    await one.remove("eu", first)
    assert await one.get("eu") is None
    assert await one.regions() == ()
    with pytest.raises(Conflict):
        await one.put(entry("a:1"), first)
    assert await one.put(entry("a:1"), None) != first
    for _ in range(2 * WRITES):
        found = await one.get("eu")
        assert found is not None
        await one.put(entry("a:1"), found.token)
    assert len(json.loads(asked.nacos.configs[REGION_PREFIX + "eu"])["writes"]) == WRITES


async def test_listing_what_did_not_change_is_two_questions(asked: Asked) -> None:
    one, two = Directory(SETTINGS, asked), Directory(SETTINGS, asked)
    for name in ("us", "eu", "ap"):
        await one.put(entry("a:1", region=name), None)
    assert [found.entry.region for found in await two.regions()] == ["ap", "eu", "us"]
    asked.asked.clear()
    await two.regions()
    assert asked.asked == ["ConfigQueryRequest", "ConfigBatchListenRequest"]
    found = await one.get("us")
    assert found is not None
    await one.put(entry("b:1", region="us"), found.token)
    assert (await two.regions())[2].entry == entry("b:1", region="us")
    assert two.count == 3


async def test_a_connection_that_ends_leaves_it_to_what_is_there(
    asked: Asked, autojump_clock: MockClock
) -> None:
    one = Directory(SETTINGS, asked)
    token = await one.put(entry("a:1"), None)
    asked.fails = True  # written all the same
    assert await one.put(entry("b:1"), token)
    found = await one.get("eu")
    assert found is not None
    asked.fails = False  # not written
    with pytest.raises(RegistryUnavailable):
        await one.put(entry("c:1"), found.token)


async def test_what_is_being_written_is_read_again(asked: Asked, autojump_clock: MockClock) -> None:
    one = Directory(SETTINGS, asked)
    await one.put(entry("a:1"), None)
    asked.busy = 3
    assert await one.get("eu") is not None
    asked.busy = 10_000
    with pytest.raises(RegistryUnavailable, match="being written"):
        await one.get("eu")


@pytest.mark.parametrize(
    "garbage",
    ["{", "[]", "7", '{"region":"us","endpoints":[]}', '{"region":"eu","endpoints":"a"}', "x" * 20_000],
)
async def test_what_somebody_else_wrote_is_no_region_and_can_be_replaced(asked: Asked, garbage: str) -> None:
    one = Directory(SETTINGS, asked)
    await one.put(entry("a:1"), None)
    asked.nacos.configs[REGION_PREFIX + "eu"] = garbage
    assert await one.regions() == ()
    assert sum(one.ignored.values()) == 1
    with pytest.raises(Conflict):
        await one.put(entry("b:1"), Token("0" * 32))
    await one.put(entry("b:1"), None)
    assert [found.entry for found in await one.regions()] == [entry("b:1")]
    assert not one.ignored


@pytest.mark.parametrize("garbage", ["{", "null", '{"regions":["a/b"]}', '{"regions":[]}', "y" * 300_000])
async def test_an_index_that_somebody_spoiled_grows_again(asked: Asked, garbage: str) -> None:
    one = Directory(SETTINGS, asked)
    token = await one.put(entry("a:1"), None)
    asked.nacos.configs[INDEX] = garbage
    assert await one.regions() == ()
    await one.put(entry("b:1"), token)
    assert [found.entry for found in await one.regions()] == [entry("b:1")]


async def test_a_full_index_forgets_what_was_removed_long_ago(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Directory(SETTINGS, asked)
    await one.remove("gone", await one.put(entry("a:1", region="gone"), None))
    now = datetime.now(UTC).isoformat()
    names = ["gone", *(f"r{number:04}" for number in range(REGIONS - 1))]
    asked.nacos.configs[INDEX] = json.dumps({"regions": names, "revision": 1, "changed": now, "writes": []})
    with pytest.raises(RegistryFull):
        await one.put(entry("a:1"), None)
    monkeypatch.setattr(directory, "FORGET_AFTER", timedelta(0))
    await one.put(entry("a:1"), None)
    assert "gone" not in json.loads(asked.nacos.configs[INDEX])["regions"]
    assert await one.get("eu") is not None


async def test_an_entry_outside_the_form_is_refused_before_anything_is_asked(asked: Asked) -> None:
    with pytest.raises(BadEntry):
        await Directory(SETTINGS, asked).put(entry("a\nb:1"), None)
    assert not asked.asked
