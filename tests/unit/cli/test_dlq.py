from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.answers import DLQ, DLQ_ONE, done, listing
from cli.fake_node import FakeNode, fake_node

from mesh.cli.dlq import AT_ONCE, COLUMNS, FIELDS, destination
from mesh.cli.main import main


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with fake_node() as fake:
        monkeypatch.setenv("MESH_ADMIN", fake.url)
        fake.answers["GET /v1/dlq"] = DLQ | {"missing": []}
        yield fake


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("r/eu", "region eu"),
        ("n/eu-2", "node eu-2"),
        ("g/mail/orders/#", "group mail/orders/#"),
        ("r/eu,r/us", "region eu, region us"),
        ("here", "here"),
        (None, ""),
    ],
)
def test_a_part_is_told_in_words(part: str | None, told: str) -> None:
    assert destination(part) == told


@pytest.mark.parametrize("name", ["topic", "reason", "part", "attempts", "path", "mesh_id", "first_seen", "died_at", "age_s"])  # fmt: skip
def test_every_field_has_a_column_and_a_line(name: str) -> None:
    item = {name: 85.0 if name.endswith("_s") else "x"}
    assert [column for column in COLUMNS if column.cell(item) != column.cell({})]
    assert [title for title, cell in FIELDS if cell(item) != cell({})]


def test_what_narrows_the_list_is_asked_of_the_nodes(node: FakeNode) -> None:
    words = ["--topic", "orders/x", "--reason", "no-route", "--region", "us", "--on", "eu-1"]
    assert main(["dlq", "list", *words]) == 0
    assert node.asked == [
        "GET /v1/dlq?topic=orders%2Fx&reason=no-route&region=us&node=eu-1&timeout=3s&limit=10000"
    ]


def test_several_ids_are_one_call_for_each_node(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["DELETE /v1/dlq/eu-1/3,17"] = listing(done("eu-1", 3), done("eu-1", 17))
    node.answers["DELETE /v1/dlq/eu-2/4"] = listing(done("eu-2", 4))
    assert main(["dlq", "drop", "eu-1/17", "eu-2/4", "eu-1/3", "eu-1/17"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 dead letters dropped"
    assert len(node.asked) == 2


def test_many_are_done_in_runs_and_only_with_yes(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = list(range(1, 2 * AT_ONCE + 2))
    node.answers["GET /v1/dlq"] = listing(*({"id": f"eu-1/{n}", "lsn": n} for n in numbers))
    for at in range(0, len(numbers), AT_ONCE):
        some = numbers[at : at + AT_ONCE]
        path = f"POST /v1/dlq/eu-1/{','.join(map(str, some))}/replay"
        node.answers[path] = listing(*(done("eu-1", n) for n in some))
    assert main(["dlq", "replay", "--all"]) == 1
    assert (
        capsys.readouterr().err
        == f"{len(numbers)} dead letters would be published again; add --yes to do it\n"
    )
    assert len(node.asked) == 1
    assert main(["dlq", "replay", "--all", "--yes"]) == 0
    assert capsys.readouterr().out == f"{len(numbers)} dead letters published again\n"
    assert len(node.asked) == 5


def test_nothing_to_do_is_no_failure(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["GET /v1/dlq"] = listing()
    assert main(["dlq", "drop", "--all", "--yes"]) == 0
    assert capsys.readouterr().out == "0 dead letters dropped\n"
    assert main(["dlq", "drop", "--all"]) == 0


def test_a_node_that_does_not_answer_leaves_its_own_and_the_others_are_done(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {
        "status": 504,
        "code": "MESH-A012",
        "title": "t",
        "detail": "late",
        "where": "eu-1",
        "remedy": "r",
    }
    node.answers["POST /v1/dlq/eu-1/17,18/replay"] = (
        504,
        "application/problem+json",
        json.dumps(problem).encode(),
    )
    node.answers["POST /v1/dlq/eu-2/4/replay"] = listing(done("eu-2", 4, mesh_id="m", again=True))
    assert main(["dlq", "replay", "--all", "--yes", "-o", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [item.get("code") for item in told["items"]] == ["MESH-A012", "MESH-A012", None]
    assert main(["dlq", "replay", "--all", "--yes"]) == 1
    out, err = capsys.readouterr()
    assert (out, "2 dead letters left: MESH-A012" in err) == ("1 dead letter published again\n", True)


def test_one_that_died_again_says_so(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["POST /v1/dlq/eu-2/4/replay"] = listing(done("eu-2", 4, mesh_id="m", again=True))
    assert main(["dlq", "replay", "eu-2/4"]) == 0
    assert "dead letter again at once" in capsys.readouterr().out


def test_a_list_that_is_not_whole_is_told_whatever_was_done(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["GET /v1/dlq"] = listing(missing=(("eu-3", "no link"),))
    assert main(["dlq", "drop", "--all", "--yes"]) == 4
    assert "missing: eu-3 (no link)" in capsys.readouterr().err


def test_show_has_the_event_and_an_unknown_one_fails(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["GET /v1/dlq/eu-1/17"] = DLQ_ONE
    node.answers["GET /v1/dlq/eu-1/17,18"] = listing(DLQ_ONE["items"][0], done("eu-1", 18, why="unknown"))
    assert main(["dlq", "show", "eu-1/17", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["event"]["data"] == {"total": 12.5}
    assert main(["dlq", "show", "eu-1/17", "eu-1/18"]) == 1
    assert capsys.readouterr().err.startswith("MESH-A005 eu-1/18")


@pytest.mark.parametrize(
    "words",
    [
        ("replay",),
        ("replay", "eu-1/17", "--all"),
        ("drop", "eu-1/17", "--topic", "orders/#"),
        ("drop", "17"),
        ("drop", "eu-1/x"),
        ("show",),
        ("list", "--region", "us", "--part", "r/us"),
    ],
)
def test_what_is_asked_wrongly_is_usage_and_asks_nobody(node: FakeNode, words: tuple[str, ...]) -> None:
    assert main(["dlq", *words]) == 2
    assert node.asked == []
