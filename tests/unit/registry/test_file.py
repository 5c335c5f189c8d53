"""The registry in a folder: leases between clocks that differ, files of strangers, shares that hang.

(What every kind promises: tests/contract/test_registry.py.)
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.model.ids import BadName, NodeKey
from registry import folder
from registry.base import (
    Gone,
    LeaseLost,
    NodeEntry,
    Put,
    RegionEntry,
    RegistryFull,
    RegistryUnavailable,
    Relist,
    to_json,
)
from registry.file import SKEW_S, SWEEP_AGE_S, THREADS, FileRegistry

WALL = 1_750_000_000.0
LEASE_S = 10.0
KEY = NodeKey("eu", "eu-1")


async def in_place(work: Callable[[], object]) -> object:
    await trio.lowlevel.checkpoint()
    return work()


def client(path: Path, clock_error_s: float = 0.0) -> FileRegistry:
    """A client on a machine whose wall clock is wrong by so much."""
    return FileRegistry(path, wall=lambda: WALL + trio.current_time() + clock_error_s, in_thread=in_place)


def entry(node: str = "eu-1", epoch: int = 100, instance: str = "i") -> NodeEntry:
    since = datetime(2025, 6, 1, tzinfo=UTC)
    return NodeEntry(region="eu", node=node, instance=instance, epoch=epoch, addresses=("a:1",), since=since)


async def nodes(registry: FileRegistry) -> list[str]:
    return [found.node for found in (await registry.list()).entries]


class TestClocksThatDiffer:
    @pytest.mark.parametrize("error_s", [-SKEW_S, -5.0, 0.0, 5.0, SKEW_S])
    async def test_inside_the_tolerance_an_entry_is_seen_at_once_and_ends_a_lease_after_its_last_renewal(
        self, tmp_path: Path, autojump_clock: MockClock, error_s: float
    ) -> None:
        writer, reader = client(tmp_path), client(tmp_path, error_s)
        lease = await writer.register(entry(), LEASE_S)
        assert await nodes(reader) == ["eu-1"]
        for _ in range(4):
            await trio.sleep(LEASE_S / 3)
            await writer.renew(lease)
            assert await nodes(reader) == ["eu-1"]
        await trio.sleep(LEASE_S - 0.1)
        assert await nodes(reader) == ["eu-1"]
        await trio.sleep(0.2)
        assert await nodes(reader) == []

    @pytest.mark.parametrize("error_s", [-86_400.0, 86_400.0])
    async def test_beyond_it_an_entry_is_seen_with_its_next_renewal_at_the_latest(
        self, tmp_path: Path, autojump_clock: MockClock, error_s: float
    ) -> None:
        writer, reader = client(tmp_path), client(tmp_path, error_s)
        lease = await writer.register(entry(), LEASE_S)
        await nodes(reader)
        await trio.sleep(LEASE_S / 3)
        await writer.renew(lease)
        assert await nodes(reader) == ["eu-1"]
        await trio.sleep(LEASE_S + 0.1)
        assert await nodes(reader) == []

    async def test_a_reader_that_just_came_does_not_take_a_long_dead_node_for_live(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        await client(tmp_path).register(entry(), LEASE_S)
        await trio.sleep(LEASE_S + SKEW_S + 0.1)
        late = client(tmp_path)
        assert await nodes(late) == []
        assert (tmp_path / "nodes" / "eu" / "eu-1.json").exists()

    async def test_two_looks_further_apart_than_a_lease_prove_nothing(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        writer, reader = client(tmp_path), client(tmp_path)
        lease = await writer.register(entry(), LEASE_S)
        await nodes(reader)
        await trio.sleep(LEASE_S / 2)
        await writer.renew(lease)
        await trio.sleep(LEASE_S + SKEW_S + 1.0)
        assert await nodes(reader) == []

    async def test_a_file_written_anew_with_the_same_content_is_no_renewal(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        reader = client(tmp_path)
        await client(tmp_path).register(entry(), LEASE_S)
        path = folder.node_path(tmp_path, KEY)
        for _ in range(3):
            await trio.sleep(LEASE_S / 3 + 0.1)
            await nodes(reader)
            folder.replace(path, path.read_bytes())
        await trio.sleep(LEASE_S / 3)
        assert await nodes(reader) == []


class TestFiles:
    async def test_a_person_can_read_them(self, tmp_path: Path) -> None:
        one = client(tmp_path)
        await one.register(entry(), LEASE_S)
        await one.put_region(RegionEntry(region="eu", endpoints=("a:1",)), None)
        found = json.loads((tmp_path / "nodes" / "eu" / "eu-1.json").read_text())
        assert list(found) == ["region", "node", "instance", "epoch", "addresses", "bridge", "software", "since",
                               "renewed", "renewal", "lease_s"]  # fmt: skip
        assert datetime.fromisoformat(found["renewed"]).tzinfo == UTC
        assert json.loads((tmp_path / "regions" / "eu" / "0000000001.json").read_text())["endpoints"] == [
            "a:1"
        ]

    async def test_what_is_no_entry_is_counted_once_and_passed_over(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        one = client(tmp_path)
        await one.register(entry(), LEASE_S)
        home = tmp_path / "nodes" / "eu"
        good = (home / "eu-1.json").read_bytes()
        garbage = {"empty": b"", "cut": good[:-9], "binary": bytes(range(256)), "huge": bytes(1 << 20), "deep": b"[" * 9_000,
                   "copy": good, "plain": to_json(entry("plain")), "lease": good.replace(b"10.0", b"1e99")}  # fmt: skip
        for name, raw in garbage.items():
            (home / f"{name}.json").write_bytes(raw)
        os.mkfifo(home / "pipe.json")
        (home / "README").write_text("not ours")
        reader = client(tmp_path)
        for _ in range(3):
            assert await nodes(reader) == ["eu-1"]
        assert reader.statistics().ignored == {
            "bad_name": 1, "no_entry": 6, "not_a_file": 1, "too_large": 1, "wrong_name": 1
        }  # fmt: skip

    async def test_a_node_whose_own_file_was_garbled_mends_it_with_its_next_renewal(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        one, reader = client(tmp_path), client(tmp_path)
        lease = await one.register(entry(), LEASE_S)
        (tmp_path / "nodes" / "eu" / "eu-1.json").write_text("garbage")
        assert await nodes(reader) == []
        await one.renew(lease)
        assert await nodes(reader) == ["eu-1"]

    async def test_a_node_whose_file_was_removed_registers_again(self, tmp_path: Path) -> None:
        one = client(tmp_path)
        lease = await one.register(entry(), LEASE_S)
        (tmp_path / "nodes" / "eu" / "eu-1.json").unlink()
        with pytest.raises(LeaseLost, match="its file is gone"):
            await one.renew(lease)
        await one.renew(await one.register(entry(), LEASE_S))

    async def test_of_two_that_wrote_over_each_other_the_greater_keeps_the_name(self, tmp_path: Path) -> None:
        less, more = client(tmp_path), client(tmp_path)
        old = await less.register(entry(epoch=100), LEASE_S)
        raw = folder.node_path(tmp_path, KEY).read_bytes()
        new = await more.register(entry(epoch=101), LEASE_S)
        folder.replace(
            folder.node_path(tmp_path, KEY), raw
        )  # the older one's renewal lands after the newer one's entry
        await more.renew(new)
        with pytest.raises(LeaseLost, match="another process has it"):
            await less.renew(old)
        assert (await client(tmp_path).list()).entries[0].epoch == 101

    async def test_files_of_nodes_long_dead_are_removed(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        await client(tmp_path).register(entry("dead"), LEASE_S)
        reader = client(tmp_path)
        await nodes(reader)
        await trio.sleep(SWEEP_AGE_S - 60.0)
        await nodes(reader)
        assert (tmp_path / "nodes" / "eu" / "dead.json").exists()
        await trio.sleep(61.0)
        await nodes(reader)
        assert not (tmp_path / "nodes" / "eu" / "dead.json").exists()

    async def test_a_folder_that_cannot_be_one_is_a_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(RegistryUnavailable, match=r"registry\.path: folder") as error:
                await client(path).list()
            assert error.value.code == "MESH-R006"
        with pytest.raises(BadName):
            await client(tmp_path).get_region("../../etc")


class TestVersionsOfARegion:
    async def test_garbage_among_them_is_passed_over_and_written_over(self, tmp_path: Path) -> None:
        one = client(tmp_path)
        token = await one.put_region(RegionEntry(region="eu", endpoints=("a:1",)), None)
        home = tmp_path / "regions" / "eu"
        (home / "0000000002.json").write_text("half of an ent")
        (home / "0000000003.json").write_bytes(to_json(RegionEntry(region="us", endpoints=())))
        (home / "notes.txt").write_text("x")
        found = await one.get_region("eu")
        assert found is not None
        assert (found.entry.endpoints, found.token) == (("a:1",), token)
        assert await one.put_region(RegionEntry(region="eu", endpoints=("b:1",)), token) == "4"

    async def test_numbers_go_on_after_a_removal(self, tmp_path: Path) -> None:
        one = client(tmp_path)
        await one.remove_region("eu", await one.put_region(RegionEntry(region="eu", endpoints=()), None))
        assert await one.put_region(RegionEntry(region="eu", endpoints=()), None) == "3"

    async def test_the_last_number_is_an_error_not_a_lost_write(self, tmp_path: Path) -> None:
        (tmp_path / "regions" / "eu").mkdir(parents=True)
        (tmp_path / "regions" / "eu" / "9999999999.json").write_text("x")
        with pytest.raises(RegistryFull):
            await client(tmp_path).put_region(RegionEntry(region="eu", endpoints=()), None)


class TestWatching:
    async def test_it_looks_once_an_interval_however_many_watch(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        calls = 0

        async def counted(work: Callable[[], object]) -> object:
            nonlocal calls
            calls += 1
            return await in_place(work)

        reader = FileRegistry(tmp_path, wall=lambda: WALL, in_thread=counted)
        await reader.list()
        calls = 0
        with trio.move_on_after(10.5):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    watch = reader.watch("eu")
                    await watch.next()
                    nursery.start_soon(watch.next)
        assert 10 <= calls <= 12

    async def test_a_change_is_seen_within_the_interval(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        watch = client(tmp_path).watch("eu")
        await watch.next()
        one = client(tmp_path)
        lease = await one.register(entry(), LEASE_S)
        start = trio.current_time()
        (event,) = await watch.next()
        assert isinstance(event, Put)
        await one.unregister(lease)
        (event,) = await watch.next()
        assert isinstance(event, Gone)
        assert event.reason == "unregistered"
        assert trio.current_time() - start <= 2.0

    async def test_a_revision_of_another_client_is_answered_by_a_relist(self, tmp_path: Path) -> None:
        revision = (await client(tmp_path).list()).revision
        (event,) = await client(tmp_path).watch(after=revision).next()
        assert isinstance(event, Relist)


class TestAShareThatHangs:
    async def test_it_does_not_hold_up_the_node_and_a_call_can_be_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hanging, running = threading.Event(), 0

        def hang(*_: object) -> None:
            nonlocal running
            running += 1
            hanging.wait()
            raise OSError("too late")

        one = FileRegistry(tmp_path)
        await one.list()
        monkeypatch.setattr(folder, "scan", hang)
        monkeypatch.setattr(folder, "versions", hang)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.list)
                for _ in range(5):
                    nursery.start_soon(one.get_region, "eu")
                await wait_all_tasks_blocked(0.01)  # this task goes on while they wait
                nursery.cancel_scope.cancel()
            assert running <= THREADS
        finally:
            hanging.set()

    async def test_with_real_threads_it_does_what_it_does_in_place(self, tmp_path: Path) -> None:
        one, two = FileRegistry(tmp_path), FileRegistry(tmp_path)
        lease = await one.register(entry(), LEASE_S)
        await one.renew(lease)
        assert await nodes(two) == ["eu-1"]
        await one.unregister(lease)
        assert await nodes(two) == []


async def test_what_is_no_entry_is_shown_with_its_reason_and_the_beginning_of_its_value(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    registry = FileRegistry(tmp_path, in_thread=in_place)
    folder = tmp_path / "nodes" / "eu"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{"hello":\n"\x1b[31mred"}')
    (folder / "b.json").write_bytes(b"x" * 20_000)
    (folder / "not a name.json").write_text("{}")
    assert (await registry.list("eu")).entries == ()
    assert [tuple(getattr(one, f) for f in ("key", "reason", "value")) for one in registry.ignored()] == [
        ("nodes/eu/a.json", "no_entry", '{"hello": " [31mred"}'),
        ("nodes/eu/b.json", "too_large", "(20000 bytes)"),
        ("nodes/eu/not a name.json", "bad_name", ""),
    ]
    (folder / "a.json").unlink()
    (folder / "not a name.json").unlink()
    await registry.list("eu")
    assert [one.key for one in registry.ignored()] == ["nodes/eu/b.json"]
    assert registry.statistics().endpoint == str(tmp_path)
