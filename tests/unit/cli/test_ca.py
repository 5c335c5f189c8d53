from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["ca", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    folder = f"--folder={tmp_path / 'ca'}"
    assert run(capsys, "init", "--trust=mesh.example", folder)[0] == 0
    return folder


def test_a_ca_says_what_to_do_with_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "init", f"--folder={tmp_path / 'ca'}")
    assert code == 0
    assert "trust domain mesh.local" in out
    assert "Keep it off the nodes" in out
    code, _, err = run(capsys, "init", f"--folder={tmp_path / 'ca'}")
    assert code == 1
    assert err.startswith("MESH-A030")
    code, _, err = run(capsys, "init", f"--folder={tmp_path / 'other'}", "--trust=Not Good")
    assert code == 2
    assert err.startswith("MESH-A001 --trust")


def test_issue_list_and_renew(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    out_folder = tmp_path / "tls"
    code, out, _ = run(
        capsys, "issue", "eu/eu-1", folder, "--host=eu-1.example", f"--out={out_folder}", "--days=10"
    )
    assert (code, out.startswith(f"{out_folder}: eu/eu-1, good until ")) == (0, True)
    assert run(capsys, "issue", "client/billing", folder)[0] == 0
    code, out, _ = run(capsys, "list", folder)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["NAME", "KIND", "EXPIRES", "LEFT", "STATE", "FOLDER"]
    assert (rows[1][0], rows[1][1], rows[1][4:6]) == ("eu/eu-1", "node", ["expires", "soon"])
    assert rows[1][3] in ("9d", "10d")
    assert (rows[2][0], rows[2][4]) == ("client/billing", "good")
    code, out, _ = run(capsys, "list", folder, "-o", "json")
    told = json.loads(out)
    assert told["apiVersion"] == "mesh/v1"
    assert told["items"][0]["hosts"] == ["localhost", "127.0.0.1", "::1", "eu-1.example"]
    assert told["items"][1]["hosts"] == []
    code, out, _ = run(capsys, "renew", "--soon", folder)
    assert (code, out.count("good until")) == (0, 1)
    assert run(capsys, "renew", "--soon", folder)[1] == "none expires within 30 days\n"
    assert run(capsys, "renew", "client/billing", folder)[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("issue", "eu-1"), 2, "write REGION/NODE, or client/NAME"),
        (("issue", "eu/eu 1"), 2, "MESH-A001"),
        (("issue", "client/"), 2, "MESH-A001"),
        (("issue", "eu/eu-1", "--days=0"), 2, "days"),
        (("issue", "eu/eu-1", "--host=a b"), 2, "MESH-A001 --host"),
        (("renew",), 2, "name one certificate"),
        (("renew", "eu/eu-1", "--soon"), 2, "name one certificate"),
        (("renew", "eu/eu-9"), 1, "MESH-A031"),
        (("frobnicate",), 2, "no command"),
    ],
)
def test_what_is_wrong_is_said(
    folder: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, says: str
) -> None:
    found, _, err = run(capsys, *words, folder)
    assert (found, len(err.splitlines())) == (code, 1)
    assert says in err


def test_without_a_ca_it_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "list", f"--folder={tmp_path / 'none'}")
    assert code == 1
    assert err.startswith("MESH-A030")
    assert "mesh ca init" in err
