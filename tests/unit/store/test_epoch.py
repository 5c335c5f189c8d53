"""The data folder: one process at a time, and an epoch that never goes backwards."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.errors import MeshError
from mesh.model.ids import NodeKey, check_name
from mesh.store.epoch import DataFolder, claim, next_epoch, node_id

WALL = 1_700_000_000.5
DAY = 86_400


def code(error: pytest.ExceptionInfo[MeshError]) -> str:
    return error.value.code


class TestTheFolder:
    def test_it_is_made_for_this_user_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "state" / "eu-1"
        with DataFolder(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
            assert (path / "lock").read_text() == f"{os.getpid()}\n"

    def test_a_second_user_is_kept_out_until_the_first_is_done(self, tmp_path: Path) -> None:
        first = DataFolder(tmp_path)
        with pytest.raises(MeshError, match=rf"in use by pid {os.getpid()}") as error:
            DataFolder(tmp_path)
        assert code(error) == "MESH-C015"
        first.close()
        first.close()
        with DataFolder(tmp_path):
            pass

    def test_a_killed_process_leaves_nothing_behind_that_keeps_others_out(self, tmp_path: Path) -> None:
        program = (
            "import sys, pathlib\nfrom mesh.store.epoch import DataFolder\n"
            "folder = DataFolder(pathlib.Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
        )
        root = Path(__file__).resolve().parents[3]
        holder = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
            with pytest.raises(MeshError, match=rf"in use by pid {holder.pid}\b"):
                DataFolder(tmp_path)
            holder.kill()
            holder.wait()
        with DataFolder(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"

    def test_a_lock_file_without_a_pid_still_says_who_it_can(self, tmp_path: Path) -> None:
        with DataFolder(tmp_path):
            (tmp_path / "lock").write_text("?")
            with pytest.raises(MeshError, match="in use by another process"):
                DataFolder(tmp_path)

    def test_a_folder_that_cannot_be_used_is_one_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/no-such-folder")):
            with pytest.raises(MeshError, match=r"cannot be used: .+\. Set \[node\] data") as error:
                DataFolder(path)
            assert code(error) == "MESH-C014"

    def test_it_belongs_to_the_node_that_first_used_it(self, tmp_path: Path) -> None:
        claim(tmp_path, NodeKey("eu", "eu-1"))
        claim(tmp_path, NodeKey("eu", "eu-1"))
        with pytest.raises(MeshError, match="made for node 'eu/eu-1', not for us/us-1") as error:
            claim(tmp_path, NodeKey("us", "us-1"))
        assert code(error) == "MESH-C022"


class TestTheEpoch:
    def test_it_is_the_clock_at_first_and_then_at_least_one_more(self, tmp_path: Path) -> None:
        assert next_epoch(tmp_path, WALL) == int(WALL)
        assert next_epoch(tmp_path, WALL) == int(WALL) + 1
        assert next_epoch(tmp_path, WALL + 100) == int(WALL) + 100

    def test_a_clock_that_went_back_does_not_take_it_back(self, tmp_path: Path) -> None:
        next_epoch(tmp_path, WALL)
        assert next_epoch(tmp_path, WALL - DAY + 5) == int(WALL) + 1

    def test_a_clock_far_behind_the_last_epoch_is_an_error(self, tmp_path: Path) -> None:
        next_epoch(tmp_path, WALL)
        with pytest.raises(MeshError, match=r"3\.0 days ahead") as error:
            next_epoch(tmp_path, WALL - 3 * DAY)
        assert code(error) == "MESH-C024"
        assert next_epoch(tmp_path, WALL) == int(WALL) + 1

    def test_a_machine_without_a_clock_counts_from_1(self, tmp_path: Path) -> None:
        assert [next_epoch(tmp_path, 0.0) for _ in range(3)] == [1, 2, 3]

    @pytest.mark.parametrize("name", ["epoch", "epoch.copy"])
    @pytest.mark.parametrize("damage", ["removed", "empty", "cut", "garbled", "huge", "binary"])
    def test_one_lost_or_damaged_file_is_made_good_by_the_other(
        self, tmp_path: Path, name: str, damage: str
    ) -> None:
        next_epoch(tmp_path, WALL)
        file = tmp_path / name
        match damage:
            case "removed":
                file.unlink()
            case "empty":
                file.write_text("")
            case "cut":
                file.write_text(file.read_text()[:-3])
            case "garbled":
                file.write_text("9" + file.read_text()[1:])
            case "huge":
                file.write_text("1" * 100_000)
            case _:
                file.write_bytes(bytes(range(128, 256)))
        assert next_epoch(tmp_path, WALL) == int(WALL) + 1
        assert (tmp_path / "epoch").read_text() == (tmp_path / "epoch.copy").read_text()

    def test_with_both_files_damaged_the_node_does_not_start(self, tmp_path: Path) -> None:
        next_epoch(tmp_path, WALL)
        (tmp_path / "epoch").write_text("")
        (tmp_path / "epoch.copy").write_text("1700000000 00000000\n")
        with pytest.raises(MeshError, match="no epoch can be read") as error:
            next_epoch(tmp_path, WALL)
        assert code(error) == "MESH-C023"

    def test_it_is_never_given_out_twice_whatever_step_the_machine_stops_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class PowerCut(BaseException):
            pass

        given_out = [next_epoch(tmp_path, WALL)]
        steps_left = 0

        def wire(name: str) -> None:
            real = getattr(os, name)

            def step(*args: object, **options: object) -> object:
                nonlocal steps_left
                steps_left -= 1
                if steps_left < 0:
                    raise PowerCut
                return real(*args, **options)

            monkeypatch.setattr(os, name, step)

        for name in ("open", "fsync", "rename", "close"):
            wire(name)
        cuts = 0
        for stop_at in range(200):
            steps_left = stop_at
            try:
                epoch = next_epoch(tmp_path, WALL)
            except PowerCut:
                cuts += 1
                continue
            assert epoch > given_out[-1]
            given_out.append(epoch)
            break
        steps_left = 1_000
        assert cuts >= 12
        assert next_epoch(tmp_path, WALL) > given_out[-1]

    def test_a_full_disk_is_an_error_and_the_next_start_still_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        next_epoch(tmp_path, WALL)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(MeshError, match="No space left") as error:
                next_epoch(tmp_path, WALL)
        assert code(error) == "MESH-C014"
        assert list(tmp_path.glob(".*")) == []
        assert next_epoch(tmp_path, WALL) == int(WALL) + 1

    def test_a_folder_that_went_away_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(MeshError) as error:
            next_epoch(tmp_path / "gone", WALL)
        assert code(error) == "MESH-C014"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(["epoch", "epoch.copy"]), st.integers(0, 30), st.binary(max_size=30))
def test_no_garbling_of_one_file_takes_the_epoch_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, garbage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("data")
    before = next_epoch(folder, WALL)
    text = (folder / name).read_bytes()
    (folder / name).write_bytes(text[:at] + garbage + text[at + len(garbage) :])
    assert next_epoch(folder, WALL - 100) > before


class TestTheDefaultId:
    def test_it_is_the_host_name_and_four_hex_digits_and_stays(self, tmp_path: Path) -> None:
        name = node_id(tmp_path, "web-7.example.com")
        assert name[:-4] == "web-7-"
        assert int(name[-4:], 16) >= 0
        assert node_id(tmp_path, "renamed") == name

    @pytest.mark.parametrize("host", ["", "...", "über host", "x" * 300, "-_.", "ホスト"])
    def test_any_host_name_gives_a_valid_one(self, tmp_path: Path, host: str) -> None:
        assert check_name(node_id(tmp_path, host), "node")

    def test_a_damaged_file_is_an_error_that_says_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "node_id").write_text("no name\n\n")
        with pytest.raises(MeshError, match=r"damaged\. Set \[node\] id") as error:
            node_id(tmp_path, "host")
        assert code(error) == "MESH-C025"
