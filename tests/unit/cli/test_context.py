from __future__ import annotations

from pathlib import Path

import pytest

from mesh.cli.main import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("MESH_ADMIN", "MESH_EVENTS", "MESH_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hopmesh"


def test_contexts_are_added_used_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["context", "add", "eu", "--node", "http://127.0.0.1:8222"]) == 0
    assert (
        main(["context", "add", "us", "--node", "http://127.0.0.1:8223", "--events", "http://127.0.0.1:7223"])
        == 0
    )
    assert main(["context", "use", "us"]) == 0
    capsys.readouterr()
    assert main(["context", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  NAME  NODE                   EVENTS",
        "  eu    http://127.0.0.1:8222  -",
        "* us    http://127.0.0.1:8223  http://127.0.0.1:7223",
    ]


@pytest.mark.parametrize(
    ("words", "code", "exit"),
    [
        (["add", "eu"], "MESH-A001", 2),
        (["add", "eu", "--node", "ftp://x"], "MESH-A001", 2),
        (["add", "eu", "--node", "http://"], "MESH-A001", 2),
        (["use", "nowhere"], "MESH-A013", 2),
    ],
)
def test_a_context_that_cannot_be_is_refused(
    words: list[str], code: str, exit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["context", *words]) == exit
    assert capsys.readouterr().err.startswith(code)


@pytest.mark.parametrize("text", ["{", "[]", '{"current": "x"}', '{"current": "", "contexts": {"a": 5}}'])
def test_a_damaged_file_is_told_and_not_overwritten(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / "contexts.json").write_text(text)
    assert main(["context", "add", "eu", "--node", "http://a:1"]) == 1
    assert capsys.readouterr().err.startswith("MESH-A017")
    assert (folder / "contexts.json").read_text() == text


def test_a_folder_that_cannot_be_written_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write_text("a file where the folder should be")
    assert main(["context", "add", "eu", "--node", "http://a:1"]) == 1
    assert capsys.readouterr().err.startswith("MESH-A017")
