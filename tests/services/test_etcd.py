"""The registry on a real etcd that is killed, paused, emptied, compacted and filled with what is not ours."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
from services.etcd_clients import Follower, Keeper, client, control, entry, eventually, revision
from services.servers.etcd import Etcd, EtcdOptions
from services.servers.relay import Relay
from services.servers.web import Refused

from mesh.model.ids import NodeKey
from registry.base import Put, RegionEntry, RegistryFull, RegistryUnavailable, Relist, to_json
from registry.etcd import EtcdRegistry, EtcdSettings

OwnServer = Callable[..., Any]
LEASE_S = 2.0


@pytest.fixture
def relay(etcd_server: Etcd) -> Iterator[Relay]:
    relay = Relay(("127.0.0.1", etcd_server.client_port))
    yield relay
    relay.close()


@pytest.fixture
async def direct(etcd_server: Etcd, unique_name: str) -> AsyncIterator[EtcdRegistry]:
    """A client that nothing is done to."""
    async with client([etcd_server.address], unique_name) as found:
        yield found


@pytest.fixture
async def relayed(relay: Relay, unique_name: str) -> AsyncIterator[EtcdRegistry]:
    """A client behind a relay."""
    async with client([relay.address], unique_name) as found:
        yield found


class TestWatching:
    async def test_a_broken_stream_goes_on_after_the_last_revision_seen(
        self, direct: EtcdRegistry, relayed: EtcdRegistry, relay: Relay
    ) -> None:
        watch = relayed.watch("eu")
        await watch.next()
        await direct.register(entry("a"), 30)
        (event,) = await watch.next()
        assert isinstance(event, Put)
        await control(relay.cut)
        await direct.register(entry("b"), 30)
        with pytest.raises(RegistryUnavailable):
            await watch.next()
        await control(relay.open)
        (event,) = await watch.next()
        assert isinstance(event, Put)
        assert event.entry == entry("b")

    async def test_compaction_under_a_sleeping_watcher_makes_it_list_again(
        self, direct: EtcdRegistry, relayed: EtcdRegistry, relay: Relay, etcd_server: Etcd
    ) -> None:
        watch = relayed.watch("eu")
        (event,) = await watch.next()
        await control(relay.cut)
        for port in range(1, 5):
            await direct.register(entry("a", port=port), 30)
        old = (await direct.list("eu")).revision
        await direct.register(entry("b"), 30)
        await control(etcd_server.etcdctl, "compact", str(revision(etcd_server)))
        await control(relay.open)
        (event,) = await watch.next()
        assert isinstance(event, Relist)
        assert event.listing.entries == (entry("a", port=4), entry("b"))
        (event,) = await direct.watch("eu", old).next()
        assert isinstance(event, Relist)
        await direct.register(entry("c"), 30)
        (event,) = await watch.next()
        assert isinstance(event, Put)

    async def test_what_was_deleted_at_the_very_revision_of_a_compaction_is_missed_by_nobody(
        self, direct: EtcdRegistry, relayed: EtcdRegistry, relay: Relay, etcd_server: Etcd
    ) -> None:
        await direct.register(entry("a"), 30)
        lease = await direct.register(entry("b"), 30)
        follower = Follower(relayed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            await eventually(lambda: follower.nodes == ["a", "b"])
            await control(relay.cut)
            await direct.unregister(lease)
            await control(etcd_server.etcdctl, "compact", str(revision(etcd_server)))
            await control(relay.open)
            await eventually(lambda: follower.nodes == ["a"], 5.0)
            nursery.cancel_scope.cancel()

    async def test_a_stream_that_says_nothing_is_asked_and_then_given_up(
        self, relay: Relay, direct: EtcdRegistry, unique_name: str
    ) -> None:
        async with client([relay.address], unique_name, silence_s=0.3, call_timeout_s=0.5) as one:
            watch = one.watch("eu")
            await watch.next()
            with trio.move_on_after(2.0) as quiet:  # it is silent and alive
                await watch.next()
            assert quiet.cancelled_caught
            assert one.statistics().failures == 0
            await control(relay.stall)
            with trio.fail_after(3.0), pytest.raises(RegistryUnavailable) as error:
                await watch.next()
            assert "no answer in time" in error.value.what
            await control(relay.open)
            await direct.register(entry("a"), 30)
            with trio.fail_after(5.0):
                (event,) = await watch.next()
            assert isinstance(event, Put)

    async def test_a_watch_that_is_dropped_ends_its_stream(self, direct: EtcdRegistry) -> None:
        for _ in range(20):
            watch = direct.watch("eu")
            await watch.next()
            with trio.move_on_after(0.05):
                await watch.next()
        del watch
        channel = direct._connection._channel
        assert channel is not None
        await eventually(lambda: not channel._streams)


class TestTheServer:
    async def test_wiped_and_back_all_register_anew_and_watches_list_again(
        self, own_server: OwnServer, unique_name: str
    ) -> None:
        server: Etcd = own_server("etcd")
        await control(server.start)
        async with trio.open_nursery() as nursery, client([server.address], unique_name) as one:
            async with client([server.address], unique_name) as two:
                keepers = [Keeper(one, entry(f"n{n}"), 10.0) for n in range(5)]
                follower = Follower(two)
                for each in (*keepers, follower):
                    nursery.start_soon(each.run)
                await eventually(lambda: len(follower.seen) == 5)
                await control(server.wipe)
                took_s = await eventually(lambda: all(k.registered == 2 for k in keepers), 15.0)
                await eventually(lambda: follower.relists >= 2 and len(follower.seen) == 5, 5.0)
                assert len((await two.list()).entries) == 5
                print(f"all registered {took_s:.1f} s after it was back")
                nursery.cancel_scope.cancel()

    async def test_killed_and_back_with_its_data_nothing_is_lost_and_nothing_begins_anew(
        self, own_server: OwnServer, unique_name: str
    ) -> None:
        server: Etcd = own_server("etcd")
        await control(server.start)
        async with trio.open_nursery() as nursery, client([server.address], unique_name) as one:
            async with client([server.address], unique_name) as two:
                keeper, follower = Keeper(one, entry(), 10.0), Follower(two)
                for each in (keeper, follower):
                    nursery.start_soon(each.run)
                await eventually(lambda: follower.nodes == ["eu-1"])
                await control(server.kill)
                await eventually(lambda: follower.errors)
                await control(server.start)
                errors = len(follower.errors)
                await two.register(entry("eu-2"), 10.0)
                await eventually(lambda: follower.nodes == ["eu-1", "eu-2"])
                assert (keeper.registered, follower.relists) == (1, 1)
                assert set(follower.errors) == {"MESH-R001"}
                assert len(follower.errors) <= errors + 2
                nursery.cancel_scope.cancel()

    async def test_hung_it_is_unavailable_in_time_and_then_as_before(
        self, own_server: OwnServer, unique_name: str
    ) -> None:
        server: Etcd = own_server("etcd")
        await control(server.start)
        async with client([server.address], unique_name, call_timeout_s=0.5) as one:
            lease = await one.register(entry(), 30)
            await control(server.pause)
            for _ in range(2):
                with trio.fail_after(1.0), pytest.raises(RegistryUnavailable) as error:
                    await one.list()
                assert error.value.code == "MESH-R001"
                assert server.address in str(error.value)
            with trio.fail_after(1.0):
                await one.aclose()
            await control(server.resume)
        async with client([server.address], unique_name) as two:
            assert [found.node for found in (await two.list()).entries] == ["eu-1"]
            await two.unregister(lease)
            assert (await two.list()).entries == ()

    async def test_full_it_says_so(self, own_server: OwnServer, unique_name: str) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(flags=("--quota-backend-bytes", "2000000")))
        await control(server.start)

        def fill() -> None:
            with contextlib.suppress(Refused):
                for number in range(10):
                    TestWhatOthersWrote().put(server, "other", {f"{number}": b"x" * 1_000_000})

        await control(fill)
        async with client([server.address], unique_name) as one:
            with pytest.raises(RegistryFull) as error:
                await one.register(entry(), LEASE_S)
            assert "database space exceeded" in str(error.value)
            assert (await one.list()).entries == ()

    async def test_a_refused_endpoint_says_which(self, unique_name: str) -> None:
        async with client(["127.0.0.1:1"], unique_name) as one:
            with trio.fail_after(2.0), pytest.raises(RegistryUnavailable) as error:
                await one.register(entry(), LEASE_S)
        assert error.value.code == "MESH-R001"
        assert "127.0.0.1:1" in str(error.value)

    async def test_after_closing_calls_say_so(self, direct: EtcdRegistry) -> None:
        watch = direct.watch("eu")
        await watch.next()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def follow() -> None:
                with pytest.raises(RegistryUnavailable, match="closed"):
                    await watch.next()

            await trio.sleep(0.1)
            await direct.aclose()
        with pytest.raises(RegistryUnavailable, match="closed"):
            await direct.list()


KEEP = """
import sys, trio
from services.etcd_clients import Keeper, client, entry
async def main():
    async with client([sys.argv[1]], sys.argv[2]) as one:
        await Keeper(one, entry(), float(sys.argv[3])).run()
trio.run(main)
"""


@pytest.fixture
def keeping_process(etcd_server: Etcd, unique_name: str) -> Iterator[int]:
    environment = {**os.environ, "PYTHONPATH": "tests"}
    command = [sys.executable, "-c", KEEP, etcd_server.address, unique_name, str(LEASE_S)]
    process = subprocess.Popen(command, env=environment)
    yield process.pid
    process.kill()
    process.wait()


async def test_a_process_that_is_stopped_loses_its_entry_and_has_it_again_when_it_goes_on(
    direct: EtcdRegistry, keeping_process: int
) -> None:
    follower = Follower(direct)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await eventually(lambda: follower.nodes == ["eu-1"])
        os.kill(keeping_process, signal.SIGSTOP)
        await eventually(lambda: follower.nodes == [], LEASE_S + 3.0)
        if os.environ.get("HOPMESH_LONG_TESTS") == "yes":
            await trio.sleep(30.0)
        os.kill(keeping_process, signal.SIGCONT)
        took_s = await eventually(lambda: follower.nodes == ["eu-1"], 5.0)
        print(f"back {took_s:.2f} s after it went on")
        nursery.cancel_scope.cancel()


class TestWhatOthersWrote:
    def put(self, server: Etcd, prefix: str, values: dict[str, bytes]) -> None:
        def text(raw: bytes) -> str:
            return base64.b64encode(raw).decode()

        found = list(values.items())
        for at in range(0, len(found), 100):
            puts = [
                {"requestPut": {"key": text(f"/{prefix}/{key}".encode()), "value": text(value)}}
                for key, value in found[at : at + 100]
            ]
            server.call("/v3/kv/txn", {"success": puts})

    def garbage(self) -> dict[str, bytes]:
        good = json.loads(to_json(entry("x")))
        wrong = [
            {**good, "epoch": "100"}, {**good, "addresses": "10.0.0.1:1"}, {**good, "addresses": [1]}, {**good, "node": None},
            {**good, "epoch": -1}, {**good, "since": "yesterday"}, {**good, "addresses": [""]}, {**good, "addresses": ["x" * 400]},
            {**good, "addresses": ["10.0.0.1:1\\n"] * 40}, [], 1, "text", None,
        ]  # fmt: skip
        values = {f"nodes/eu/wrong{number}": json.dumps(value).encode() for number, value in enumerate(wrong)}
        raw = [b"", b"not json", b"\xff\xfe\x00", b"[" * 9_000, b"{" * 100, b'"\\ud800"', b"9" * 5_000]
        values |= {f"nodes/eu/raw{number}": value for number, value in enumerate(raw)}
        return values

    async def test_it_is_ignored_with_a_counted_reason(
        self, etcd_server: Etcd, direct: EtcdRegistry, unique_name: str
    ) -> None:
        garbage = self.garbage()
        values = garbage | {
            "nodes/eu/huge": b"x" * 1_000_000,
            "nodes/eu/large": b" " * 17_000 + to_json(entry("large")),
            "nodes/eu/other": to_json(entry("eu-9")),
            "nodes/eu/no-lease": to_json(entry("no-lease")),
            "nodes/eu": b"x",
            "nodes/eu/": b"x",
            "nodes/eu/a/b": to_json(entry("a")),
            "nodes/eu/sp ace": b"x",
            "nodes//a": b"x",
            "nodes/\x7f/a": b"x",
            "regions/eu": b"not json",
            "regions/us": to_json(RegionEntry(region="ap", endpoints=())),
            "regions/ap/x": b"{}",
            "elsewhere/x": b"x",
        }
        follower = Follower(direct)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            await eventually(lambda: follower.relists)
            await direct.register(entry("good"), 30)
            await control(self.put, etcd_server, unique_name, values)
            await direct.register(entry("good2"), 30)
            await eventually(lambda: follower.nodes == ["good", "good2"])
            watched = direct.statistics().ignored
            nursery.cancel_scope.cancel()
        assert [found.node for found in (await direct.list()).entries] == ["good", "good2"]
        assert await direct.regions() == ()
        expected = {
            "foreign_key": 6 + 1,
            "no_entry": len(garbage) + 1,
            "no_lease": 1,
            "too_large": 2,
            "wrong_name": 1 + 1,
        }
        assert direct.statistics().ignored == expected
        assert (direct.statistics().entries, direct.statistics().failures) == (2, 0)
        assert watched == {
            "foreign_key": 3,
            "no_entry": len(garbage),
            "no_lease": 1,
            "too_large": 2,
            "wrong_name": 1,
        }
        # A region that garbage stands for can be written, and a node too.
        token = await direct.put_region(RegionEntry(region="eu", endpoints=("a:1",)), None)
        found = await direct.get_region("eu")
        assert found is not None
        assert found.token == token
        await direct.register(entry("huge"), 30)
        assert NodeKey("eu", "huge") in [each.key for each in (await direct.list("eu")).entries]

    async def test_values_that_together_are_larger_than_a_message_are_read_in_smaller_pages(
        self, etcd_server: Etcd, direct: EtcdRegistry, unique_name: str
    ) -> None:
        for number in range(20):
            await control(self.put, etcd_server, unique_name, {f"nodes/eu/huge{number:02}": b"x" * 1_000_000})
        await direct.register(entry("z"), 30)
        assert [found.node for found in (await direct.list()).entries] == ["z"]
        assert direct.statistics().ignored == {"too_large": 20}

    async def test_ten_thousand_foreign_keys_hide_nothing(
        self, etcd_server: Etcd, direct: EtcdRegistry, unique_name: str
    ) -> None:
        foreign = {f"nodes/a/{number} x": b"not ours" for number in range(10_000)}
        await control(self.put, etcd_server, unique_name, foreign)
        await direct.register(entry(region="zz"), 30)
        start = trio.current_time()
        assert [found.region for found in (await direct.list()).entries] == ["zz"]
        print(f"10,001 keys listed in {trio.current_time() - start:.2f} s")
        assert direct.statistics().ignored == {"foreign_key": 10_000}
        follower = Follower(direct, None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            await eventually(lambda: follower.nodes == ["eu-1"])
            nursery.cancel_scope.cancel()

    async def test_beyond_the_bound_is_not_read_and_said(
        self, etcd_server: Etcd, direct: EtcdRegistry, unique_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry.etcd.reading.PAGE", 10)
        monkeypatch.setattr("registry.etcd.reading.KEYS", 20)
        await control(self.put, etcd_server, unique_name, {f"nodes/a/x{n:02}": b"x" for n in range(50)})
        await direct.list()
        assert direct.statistics().ignored == {"beyond_limit": 30, "no_entry": 20}
        await direct.list("eu")
        await control(etcd_server.etcdctl, "del", "--prefix", f"/{unique_name}/nodes/a/")
        await direct.list()
        assert direct.statistics().ignored == {}

    async def test_an_entry_that_an_operator_deleted_is_registered_anew(
        self, etcd_server: Etcd, direct: EtcdRegistry, unique_name: str
    ) -> None:
        keeper = Keeper(direct, entry(), LEASE_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            await eventually(lambda: keeper.registered)
            await control(etcd_server.etcdctl, "del", "--prefix", f"/{unique_name}/")
            await eventually(lambda: keeper.registered == 2, LEASE_S)
            nursery.cancel_scope.cancel()


async def test_meshes_with_other_prefixes_see_nothing_of_each_other(
    etcd_server: Etcd, direct: EtcdRegistry, unique_name: str
) -> None:
    async with client([etcd_server.address], f"{unique_name}2") as longer:
        async with client([etcd_server.address], f"{unique_name}/nodes") as below:
            await direct.register(entry("a"), 30)
            await longer.register(entry("b"), 30)
            await below.put_region(RegionEntry(region="eu", endpoints=()), None)
            assert [found.node for found in (await direct.list()).entries] == ["a"]
            assert [found.node for found in (await longer.list()).entries] == ["b"]
            assert (await below.list()).entries == ()
            assert await direct.regions() == ()


async def test_an_entry_is_json_that_a_person_can_read(
    etcd_server: Etcd, direct: EtcdRegistry, unique_name: str
) -> None:
    await direct.register(entry(), 30)
    key = f"/{unique_name}/nodes/eu/eu-1"
    told = etcd_server.etcdctl("get", key, "--print-value-only")
    assert '{\n  "region": "eu",\n  "node": "eu-1",' in told


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"endpoints": ()}, "endpoints"),
        ({"endpoints": ("",)}, "endpoints"),
        ({"prefix": "x"}, "prefix"),
        ({"prefix": "/x/"}, "prefix"),
        ({"prefix": "/\n"}, "prefix"),
        ({"prefix": "/" + "x" * 300}, "prefix"),
        ({"cert": "c"}, "cert"),
        ({"password": "p"}, "user"),
    ],
)
def test_settings_that_cannot_be_are_refused(more: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        EtcdSettings(**{"endpoints": ("127.0.0.1:2379",), **more})
