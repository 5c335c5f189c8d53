"""What the commands that list things share: what is asked, what is printed, who did not answer, and the exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.answers import listing
from cli.fake_node import FakeNode, fake_node

from mesh.cli import listing as page
from mesh.cli.listing import CLEAR, show_details, show_list, tell_missing
from mesh.cli.main import OK, PARTIAL
from mesh.cli.options import common, new_parser
from mesh.cli.render import Column, field
from mesh.model.errors import MeshError

COLUMNS = (Column("", lambda item: ">"), Column("ID", field("id")), Column("STATE", field("state")))
ONE = {"id": "a", "state": "alive", "node": "eu-1"}
TWO = {"id": "b", "state": "dead", "node": "eu-2"}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with fake_node() as fake:
        monkeypatch.setenv("MESH_ADMIN", fake.url)
        fake.answers["GET /v1/things"] = listing(ONE)
        yield fake


def args(*words: str) -> argparse.Namespace:
    parser = new_parser("mesh things", "things", ())
    parser.add_argument("--state")
    page.on_nodes(parser)
    common(parser, watch=True)
    return parser.parse_args(words)


def shown(*words: str, **more: Any) -> int:
    return show_list(args(*words), "/v1/things", COLUMNS, name="id", filters=("state",), **more)


@pytest.mark.parametrize(
    ("words", "query"),
    [
        ((), "timeout=3s"),
        (("--state", "dead"), "state=dead&timeout=3s"),
        (("--on", "eu-2"), "node=eu-2&timeout=3s"),
        (("--here",), "here=true&timeout=3s"),
        (("--timeout", "10s"), "timeout=6s"),
        (("--timeout", "500ms"), "timeout=0.3s"),
    ],
)
def test_filters_are_passed_on_and_members_get_less_time_than_the_command(
    words: tuple[str, ...], query: str, node: FakeNode
) -> None:
    """So that a slow member is named by the node and not waited for by the command."""
    assert shown(*words) == OK
    assert node.asked == [f"GET /v1/things?{query}&limit=10000"]


def test_one_node_and_the_asked_one_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, MeshError)):
        args("--on", "eu-2", "--here")


def test_nobody_missing_is_exit_0_and_somebody_missing_is_exit_4_and_named_on_standard_error(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (OK, PARTIAL) == (0, 4)
    assert shown() == OK
    assert capsys.readouterr().err == ""
    node.answers["GET /v1/things"] = listing(ONE, missing=(("eu-2", "suspect 4s"), ("eu-3", "no link")))
    for form in ("table", "json", "yaml", "name"):
        assert shown("-o", form) == PARTIAL
        out, err = capsys.readouterr()
        assert err == "1 of 3 nodes answered, missing: eu-2 (suspect 4s), eu-3 (no link)\n"
        assert out, "what was answered is shown all the same"


def test_lines_above_the_table_stand_above_tables_only(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(before=("Marks: none",))
    assert capsys.readouterr().out.splitlines()[0] == "Marks: none"
    for form in ("json", "yaml", "name"):
        shown("-o", form, before=("Marks: none",))
        assert "Marks" not in capsys.readouterr().out


def test_who_speaks_is_a_column_behind_the_marks_where_more_than_one_does(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(nodes=True)
    assert capsys.readouterr().out.splitlines() == ["  ID  STATE", "> a   alive"]
    node.answers["GET /v1/things"] = listing(ONE, TWO)
    shown(nodes=True)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["NODE", "ID", "STATE"]
    assert [row.split() for row in rows] == [[">", "eu-1", "a", "alive"], [">", "eu-2", "b", "dead"]]
    shown(nodes=False)
    assert "NODE" not in capsys.readouterr().out


def test_json_is_the_answer_whole_and_in_the_order_it_was_arranged(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["GET /v1/things"] = listing(ONE, TWO)

    def arrange(answer: dict[str, Any]) -> None:
        answer["items"].reverse()

    shown("-o", "json", arrange=arrange)
    found = json.loads(capsys.readouterr().out)
    assert found["items"] == [TWO, ONE]
    assert found["apiVersion"] == "mesh/v1"
    shown("-o", "name", arrange=arrange)
    assert capsys.readouterr().out == "b\na\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_asks_again_until_interrupted_and_clears_only_a_terminal(
    terminal: bool, node: FakeNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("mesh.cli.listing.time.sleep", sleep)
    monkeypatch.setattr("mesh.cli.listing.sys.stdout.isatty", lambda: terminal, raising=False)
    assert shown("--watch") == OK
    assert len(node.asked) == 3
    assert pauses == [page.WATCH_S] * 3
    assert capsys.readouterr().out.count(CLEAR) == (3 if terminal else 0)


def test_details_of_what_is_not_known_are_an_error_and_each_nodes_view_stands_apart(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines_of(item: Any, color: bool) -> list[str]:
        return [f"id {item['id']}", f"node {item['node']}"]

    node.answers["GET /v1/things/a"] = listing(ONE, TWO, missing=(("eu-3", "slow"),))
    assert show_details(args(), "/v1/things/a", lines_of, name="id") == PARTIAL
    assert capsys.readouterr().out == "id a\nnode eu-1\n\nid b\nnode eu-2\n"
    show_details(args("-o", "json"), "/v1/things/a", lines_of, name="id")
    assert json.loads(capsys.readouterr().out)["items"] == [ONE, TWO]
    show_details(args("-o", "name"), "/v1/things/a", lines_of, name="id")
    assert capsys.readouterr().out == "a\nb\n"
    node.answers["GET /v1/things/z"] = listing()
    with pytest.raises(MeshError, match="MESH-A005 /v1/things/z"):
        show_details(args(), "/v1/things/z", lines_of, name="id")


def test_the_exit_code_follows_from_who_is_missing_alone() -> None:
    assert tell_missing({"answered": [], "missing": []}) == OK
    assert tell_missing({"answered": [], "missing": [{"node": "a", "why": "slow"}]}) == PARTIAL
