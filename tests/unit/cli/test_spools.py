from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.answers import SPOOLS
from cli.fake_node import FakeNode, fake_node

from mesh.cli.main import main
from mesh.cli.spools import COLUMNS, queue


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with fake_node() as fake:
        monkeypatch.setenv("MESH_ADMIN", fake.url)
        fake.answers["GET /v1/spools"] = SPOOLS
        yield fake


FIELDS = ("kind", "destination", "records", "events", "bytes", "oldest_s", "why", "under_way_records", "under_way_bytes")  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_column(name: str) -> None:
    item = {name: 85.0 if name.endswith("_s") else "x"}
    assert [column for column in COLUMNS if column.cell(item) != column.cell({})]


def test_what_narrows_the_list_is_asked_of_the_nodes(node: FakeNode) -> None:
    assert main(["spools", "list", "--destination", "us", "--why", "no-route", "--here"]) == 0
    assert node.asked == ["GET /v1/spools?destination=us&why=no_route&here=true&timeout=3s&limit=10000"]


def test_the_reason_of_a_retry_is_that_of_the_refusal() -> None:
    [why] = [column for column in COLUMNS if column.title == "WHY"]
    assert why.cell({"why": "retry", "detail": "no_space"}) == "retry (no-space)"
    assert why.cell({"why": "no_route", "detail": "no_space"}) == "no-route"


def test_a_queue_in_short_is_empty_where_nothing_waits() -> None:
    assert queue({"records": 17, "oldest_s": 40.3, "why": "no_route"}) == "17 records, oldest 40s, no-route"
    assert queue({"records": 1, "oldest_s": 3.0, "why": "rate"}) == "1 record, oldest 3s, rate"
    assert (queue(None), queue({"records": 0})) == ("", "")
