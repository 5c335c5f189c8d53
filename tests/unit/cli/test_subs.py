from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.answers import SUBSCRIPTIONS
from cli.fake_node import FakeNode, fake_node

from mesh.cli.main import main
from mesh.cli.subs import COLUMNS

DESIGN = ("filter", "group", "client", "node", "region", "since", "age_s")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with fake_node() as fake:
        monkeypatch.setenv("MESH_ADMIN", fake.url)
        fake.answers["GET /v1/subscriptions"] = SUBSCRIPTIONS
        yield fake


@pytest.mark.parametrize("name", DESIGN)
def test_every_field_of_a_subscription_has_a_column(name: str) -> None:
    empty = dict.fromkeys(DESIGN)
    item = empty | {name: 85.0 if name == "age_s" else "x"}
    assert [column.title for column in COLUMNS if column.cell(item) != column.cell(empty)]


def test_wildcards_and_separators_of_a_filter_reach_the_node_as_they_are(node: FakeNode) -> None:
    assert main(["subs", "list", "--filter", "a/+/#", "--group", "g", "--client", "ws#9 shop"]) == 0
    query = "filter=a%2F%2B%2F%23&group=g&client=ws%239%20shop&timeout=3s&limit=10000"
    assert node.asked == [f"GET /v1/subscriptions?{query}"]


def test_names_are_the_filters(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["subs", "list", "-o", "name"]) == 0
    assert capsys.readouterr().out == "orders/#\norders/+/created\norders/#\n"
