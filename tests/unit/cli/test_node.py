from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.answers import NODES, listing
from cli.fake_node import FakeNode, fake_node

from mesh.cli.main import main
from mesh.cli.node import COLUMNS, FIELDS

DESIGN = ("id", "region", "state", "incarnation", "addresses", "version", "age_s", "role")
LEAVING = {"apiVersion": "mesh/v1", "node": "eu-1", "region": "eu", "status": "leaving"}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with fake_node() as fake:
        monkeypatch.setenv("MESH_ADMIN", fake.url)
        fake.answers |= {
            "GET /v1/nodes": NODES,
            "GET /v1/nodes/eu-2": listing(NODES["items"][1]),
            "POST /v1/node/leave": (202, "application/json", json.dumps(LEAVING).encode()),
        }
        yield fake


@pytest.mark.parametrize("name", DESIGN)
def test_every_field_of_a_member_has_a_column_and_a_line(name: str) -> None:
    item, empty = {name: 85.0 if name == "age_s" else "x"}, dict.fromkeys(DESIGN)
    assert [c.title for c in COLUMNS if c.cell(empty | item) != c.cell(empty)]
    assert [title for title, cell in FIELDS if cell(empty | item) != cell(empty)]


def test_members_in_one_state_are_asked_for_and_a_missing_one_makes_the_answer_partial(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", "list", "--state", "suspect"]) == 4
    assert node.asked == ["GET /v1/nodes?state=suspect&timeout=3s&limit=10000"]
    assert "missing: eu-2 (suspect 4s)" in capsys.readouterr().err


def test_a_name_is_one_segment_of_the_path_whatever_it_is(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", "show", "eu-2"]) == 0
    assert main(["node", "show", "../links"]) == 1
    assert node.asked[-1].startswith("GET /v1/nodes/..%2Flinks?")


@pytest.mark.parametrize(
    ("form", "out"),
    [
        ("table", "eu-1 drains and leaves\n"),
        ("wide", "eu-1 drains and leaves\n"),
        ("name", "eu-1\n"),
        ("json", None),
        ("yaml", "apiVersion: mesh/v1\nnode: eu-1\nregion: eu\nstatus: leaving\n"),
    ],
)
def test_leaving_is_asked_for_once_and_said_in_every_form(
    form: str, out: str | None, node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", "leave", "-o", form]) == 0
    assert node.asked == ["POST /v1/node/leave"]
    found = capsys.readouterr().out
    if out is None:
        assert json.loads(found) == LEAVING
    else:
        assert found == out


def test_leaving_takes_no_name(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the node that is asked that leaves: a name would be a promise to reach another one."""
    assert main(["node", "leave", "eu-2"]) == 2
    assert node.asked == []


def test_how_a_node_is_protected_is_told_by_itself_alone(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"links": "TLS", "links_certificate": "spiffe://t/region/eu/node/eu-1", "clients": "insecure"}
    own = {**NODES["items"][0], "security": told | {"links_expires_in_s": 9 * 86_400}}
    node.answers["GET /v1/nodes/eu-1"] = listing(own)
    assert main(["node", "show", "eu-1"]) == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["links"] == "TLS, spiffe://t/region/eu/node/eu-1, expires in 9d"
    assert lines["clients"] == "insecure"
    own["security"]["links_expires_in_s"] = -5
    node.answers["GET /v1/nodes/eu-1"] = listing(own)
    assert main(["node", "show", "eu-1"]) == 0
    assert "eu-1, has expired" in capsys.readouterr().out
