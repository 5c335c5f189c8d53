from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from mesh.access.token_file import digest, read_tokens
from mesh.cli.main import main
from mesh.cli.options import common as common_options
from mesh.cli.options import new_parser, options_of


def test_a_new_token_goes_to_the_person_and_its_line_to_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["token", "new", "shop", "--role", "a,b", "--claim", "tenant=acme", "--expires", "2040-01-31"])
        == 0
    )
    line, token = capsys.readouterr()
    principal = read_tokens(line, "x").of(digest(token.strip()))
    assert principal is not None
    assert (principal.name, principal.roles, principal.values("tenant")) == ("shop", {"a", "b"}, ("acme",))


def test_as_json_it_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "new", "shop", "-o", "json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert item["line"] == f"shop {item['hash']}"
    assert item["hash"] == f"sha256:{digest(item['token']).hex()}"


def test_a_token_of_ones_own_is_hashed_unless_it_can_be_guessed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 40 + "\n"))
    assert main(["token", "hash", "shop"]) == 0
    assert capsys.readouterr().out == f"shop sha256:{digest('x' * 40).hex()}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("password\n"))
    assert main(["token", "hash", "shop"]) == 2
    assert "too few" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["a b"], ["x", "--expires", "soon"], ["x", "--claim", "tenant"]])
def test_what_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "new", *words]) == 2
    assert capsys.readouterr().err.startswith("MESH-A001")


def test_where_a_command_has_its_token_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("flag", "variable", "context"):
        (tmp_path / name).write_text(f"token-of-{name}\nmore\n")
    parser = new_parser("mesh x", "x", ())
    common_options(parser)

    def token(*words: str) -> str:
        return options_of(parser.parse_args(words)).token

    assert token() == ""
    assert (
        main(["context", "add", "eu", "--node", "http://h:1", "--token-file", str(tmp_path / "context")]) == 0
    )
    assert token() == "token-of-context"
    monkeypatch.setenv("MESH_TOKEN", "token-itself")
    assert token() == "token-itself"
    monkeypatch.setenv("MESH_TOKEN_FILE", str(tmp_path / "variable"))
    assert token() == "token-of-variable"
    assert token("--context", "eu") == "token-of-context"
    assert token("--token-file", str(tmp_path / "flag")) == "token-of-flag"
    (tmp_path / "flag").write_text("\n")
    assert main(["node", "list", "--token-file", str(tmp_path / "flag")]) == 1
    assert "its first line is no token" in capsys.readouterr().err
