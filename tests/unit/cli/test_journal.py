"""`mesh journal`: of a running node it says so; a body comes out as it went in. The forms are golden files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli.journals import make_journal

from mesh.cli.journal import user_of
from mesh.cli.main import main
from mesh.store.epoch import DataFolder


def test_the_process_that_uses_a_folder_is_found_without_taking_its_lock(tmp_path: Path) -> None:
    assert user_of(tmp_path) == 0
    with DataFolder(tmp_path):
        assert user_of(tmp_path) == os.getpid()
    assert user_of(tmp_path) == 0
    assert user_of(tmp_path, tmp_path / "none") == 0


def test_of_a_running_node_it_reads_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_journal(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()}
    with DataFolder(tmp_path):
        for words in (["list"], ["list", "--records"], ["verify"], ["show", "1"]):
            assert main(["journal", *words, "--data", str(tmp_path)]) == 0
            told = capsys.readouterr().err
            assert f"in use by pid {os.getpid()}" in told
            assert "nothing is changed" in told
    assert {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()} == before


def test_a_body_comes_out_as_it_went_in(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    make_journal(tmp_path)
    assert main(["journal", "show", "2", "--body", "--data", str(tmp_path)]) == 0
    assert capfdbinary.readouterr().out == b"B" * 400


def test_the_folder_is_the_one_the_configuration_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_journal(tmp_path / "data")
    file = tmp_path / "mesh.toml"
    file.write_text(f'[node]\ndata = "{tmp_path / "data"}"\n')
    assert main(["journal", "list", "-o", "name", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "1\n2\n"
    make_journal(tmp_path / "state" / "hopmesh" / "local" / "default")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["journal", "list", "-o", "name"]) == 0
    assert main(["journal", "list", "--config", str(file), "--data", "x"]) == 2
