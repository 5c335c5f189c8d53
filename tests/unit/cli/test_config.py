from __future__ import annotations

from pathlib import Path

import pytest

from mesh.cli.main import main


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "mesh.toml"


def test_check_says_that_a_file_is_good(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('[node]\nid = "eu-1"\nregion = "eu"\n[[bridge]]\nto = "us"\n[[bridge]]\nto = "ap"\n')
    assert main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: good. node eu/eu-1, bridges: us, ap, registry: none\n"


def test_check_tells_every_problem_and_fails(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('[node]\nidd = "x"\n[telemetry]\notlp = "y"\n')
    assert main(["config", "check", str(path), "--region", "a b"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:9] for line in err.splitlines()] == ["MESH-C001", "MESH-C010", "MESH-C007"]


def test_check_warns_of_ports_that_are_open_on_purpose(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text('[listen]\nlink = "0.0.0.0:7946"\n')
    assert main(["config", "check", str(path), "--insecure-links"]) == 0
    assert capsys.readouterr().err.startswith("warning: links are in clear text")


def test_show_with_a_file_tells_what_a_node_would_use(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text('[listen]\nevents = "127.0.0.1:7300"\n')
    monkeypatch.setenv("MESH_NODE__REGION", "eu")
    assert main(["config", "show", "--config", str(path), "--origin"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["node.region", '"eu"', "env"] in lines
    assert ["listen.events", '"127.0.0.1:7300"', "file"] in lines
    assert ["registry.lease", '"10s"', "default"] in lines
