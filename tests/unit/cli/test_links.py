from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.answers import LINKS, listing
from cli.fake_node import FakeNode, fake_node

from mesh.cli.links import COLUMNS, FIELDS
from mesh.cli.main import main

DESIGN = ("id", "peer", "region", "kind", "role", "state", "rtt_ms", "rate_in", "rate_out", "queued", "credit", "age_s", "reason")  # fmt: skip


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with fake_node() as fake:
        monkeypatch.setenv("MESH_ADMIN", fake.url)
        fake.answers["GET /v1/links"] = LINKS
        fake.answers["GET /v1/links/bridge%233"] = listing(LINKS["items"][0])
        yield fake


@pytest.mark.parametrize("place", range(len(DESIGN)))
def test_every_field_of_a_link_has_a_column_that_shows_it_and_a_line(place: int) -> None:
    item = dict.fromkeys(DESIGN) | {DESIGN[place]: 85.0 if DESIGN[place].endswith(("_ms", "_s")) else "x"}
    empty = dict.fromkeys(DESIGN)
    assert [c.title for c in COLUMNS if c.cell(item) != c.cell(empty)], DESIGN[place]
    assert [title for title, cell in FIELDS if cell(item) != cell(empty)], DESIGN[place]


def test_the_round_trip_is_in_milliseconds_and_a_link_without_one_shows_none() -> None:
    [rtt] = [column for column in COLUMNS if column.title == "RTT"]
    assert [rtt.cell({"rtt_ms": value}) for value in (85.44, 0, None)] == ["85.4ms", "0.0ms", "-"]


def test_what_narrows_the_list_is_asked_of_the_node(node: FakeNode) -> None:
    words = ["links", "list", "--region", "us", "--kind", "bridge", "--state", "open", "--on", "eu-1"]
    assert main(words) == 0
    assert node.asked == ["GET /v1/links?region=us&kind=bridge&state=open&node=eu-1&timeout=3s&limit=10000"]


def test_a_links_name_with_its_number_sign_reaches_the_node(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["links", "show", "bridge#3", "--here"]) == 0
    assert node.asked == ["GET /v1/links/bridge%233?here=true&timeout=3s&limit=10000"]
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()][:3] == ["id", "node", "peer"]
    assert main(["links", "show", "bridge#9"]) == 1
    assert capsys.readouterr().err.startswith("MESH-A005")
