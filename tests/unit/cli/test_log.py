from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.answers import listing
from cli.fake_node import FakeNode, fake_node

from mesh.cli.log import COLUMNS
from mesh.cli.main import main

ITEM = {
    "node": "eu-1",
    "filters": ["orders/#", "audit"],
    "events": 7,
    "bytes": 4_096,
    "oldest": "eu/eu-1/1/1",
    "oldest_at": "2026-01-05T08:00:00.000Z",
    "newest": "eu/eu-1/1/7",
    "newest_at": "2026-01-05T09:00:00.000Z",
    "waiting": 0,
    "replays": 1,
    "state": "no_space",
    "gap": "stopped A to B",
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with fake_node() as fake:
        monkeypatch.setenv("MESH_ADMIN", fake.url)
        fake.answers["GET /v1/log"] = listing(ITEM)
        yield fake


@pytest.mark.parametrize("name", sorted(ITEM))
def test_every_field_of_a_log_has_a_column(name: str) -> None:
    item = dict.fromkeys(ITEM) | {name: ITEM[name]}
    assert [column.title for column in COLUMNS if column.cell(item) != column.cell(dict.fromkeys(ITEM))]


def test_states_are_asked_for_as_the_node_writes_them(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "list", "--state", "no-space"]) == 0
    assert "state=no_space" in node.asked[0]
    assert "orders/#, audit" in capsys.readouterr().out
