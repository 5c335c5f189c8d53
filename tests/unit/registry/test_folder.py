"""Files of a shared folder: read without trust, written whole, versions that only one writer creates."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from mesh.model.ids import NodeKey
from registry import folder
from registry.base import ENTRY_BYTES

KEY = NodeKey("eu", "eu-1")
WALL = 1_750_000_000.0


def test_a_file_is_replaced_whole_and_its_signature_changes(tmp_path: Path) -> None:
    path = folder.node_path(tmp_path, KEY)
    first = folder.replace(path, b"1")
    second = folder.replace(path, b"2")
    assert first != second
    assert folder.look(path) == folder.Found(second, b"2")
    assert folder.look(path, second) == folder.Found(second, b"")
    assert os.listdir(path.parent) == ["eu-1.json"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = folder.node_path(tmp_path, KEY)
    folder.replace(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space"):
            folder.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["eu-1.json"]


def test_a_scan_reads_what_changed_and_leaves_out_what_is_no_entry(tmp_path: Path) -> None:
    good = folder.replace(folder.node_path(tmp_path, KEY), b"{}")
    region = tmp_path / "nodes" / "eu"
    (region / "no-suffix").write_text("x")
    (region / "bad name.json").write_text("x")
    (region / "huge.json").write_bytes(bytes(ENTRY_BYTES + 1))
    (region / "folder.json").mkdir()
    (region / "link.json").symlink_to("/etc/hostname")
    os.mkfifo(region / "pipe.json")
    (tmp_path / "nodes" / "not a region").mkdir()
    (tmp_path / "nodes" / "file").write_text("x")
    found = folder.scan(tmp_path, None, {}, WALL)
    assert found.files[KEY] == folder.Found(good, b"{}")
    reasons = {key.node: file.reason for key, file in found.files.items() if file.reason}
    assert reasons == {
        "huge": "too_large",
        "folder": "not_a_file",
        "link": "not_a_file",
        "pipe": "not_a_file",
    }
    assert found.left_out == {"bad_name": 3}
    again = folder.scan(tmp_path, "eu", {KEY: good}, WALL)
    assert again.files[KEY] == folder.Found(good, b"")
    assert folder.scan(tmp_path, "us", {}, WALL) == folder.Scan({}, {}, [])


def test_a_scan_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "ENTRIES", 5)
    for number in range(20):
        folder.replace(folder.node_path(tmp_path, NodeKey("eu", f"n{number}")), b"{}")
    found = folder.scan(tmp_path, None, {}, WALL)
    assert len(found.files) == 5
    assert found.left_out["too_many"] >= 5


def test_a_root_that_is_not_there_is_an_error_not_an_empty_registry(tmp_path: Path) -> None:
    for call in (
        lambda root: folder.scan(root, None, {}, WALL),
        lambda root: folder.versions(root, "eu"),
        folder.region_names,
        lambda root: folder.create_version(root, "eu", 1, b""),
        lambda root: folder.replace(folder.node_path(root, KEY), b""),
    ):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "unmounted")


def test_what_a_crashed_writer_left_behind_is_removed_after_an_hour(tmp_path: Path) -> None:
    folder.replace(folder.node_path(tmp_path, KEY), b"{}")
    left = tmp_path / "nodes" / "eu" / ".eu-2.json.123-abcd.tmp"
    left.write_text("half")
    os.utime(left, (WALL, WALL))
    folder.scan(tmp_path, None, {}, WALL + 3_599)
    assert left.exists()
    folder.scan(tmp_path, None, {}, WALL + 3_601)
    assert not left.exists()


def test_a_file_is_removed_only_while_it_is_the_one_that_was_seen(tmp_path: Path) -> None:
    path = folder.node_path(tmp_path, KEY)
    old = folder.replace(path, b"1")
    new = folder.replace(path, b"2")
    folder.remove(path, old)
    assert path.exists()
    folder.remove(path, new)
    assert not path.exists()
    folder.remove(path)


class TestVersions:
    def test_a_number_is_created_once(self, tmp_path: Path) -> None:
        assert folder.create_version(tmp_path, "eu", 1, b"a")
        assert not folder.create_version(tmp_path, "eu", 1, b"b")
        assert folder.versions(tmp_path, "eu") == folder.Versions(1, ((1, b"a"),))
        assert folder.region_names(tmp_path) == ["eu"]

    def test_old_versions_go_and_a_writer_too_slow_has_lost(self, tmp_path: Path) -> None:
        for number in range(1, 13):
            assert folder.create_version(tmp_path, "eu", number, b"%d" % number)
        kept = sorted(os.listdir(tmp_path / "regions" / "eu"))
        assert kept == [f"{number:010}.json" for number in range(5, 13)]
        assert not folder.create_version(tmp_path, "eu", 3, b"late")
        assert sorted(os.listdir(tmp_path / "regions" / "eu")) == kept
        assert folder.versions(tmp_path, "eu").files[0] == (12, b"12")

    def test_without_hard_links_it_works_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_links(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
        assert folder.create_version(tmp_path, "eu", 1, b"a")
        assert not folder.create_version(tmp_path, "eu", 1, b"b")
        assert folder.versions(tmp_path, "eu").files == ((1, b"a"),)
        assert os.listdir(tmp_path / "regions" / "eu") == ["0000000001.json"]

    def test_writers_in_parallel_never_create_one_number_twice(self, tmp_path: Path) -> None:
        created: list[int] = []

        def write(name: int) -> None:
            for _ in range(20):
                number = folder.versions(tmp_path, "eu").highest + 1
                if folder.create_version(tmp_path, "eu", number, b"%d" % name):
                    created.append(number)

        threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(created) == list(range(1, len(created) + 1))
        assert len(created) >= 20
