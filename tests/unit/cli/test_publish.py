from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.answers import PUBLISHED
from cli.fake_node import FakeNode, fake_node

from mesh.cli.main import main
from mesh.cli.publish import content_type_of, header_value, outcome_line


@pytest.fixture(scope="module")
def server() -> Iterator[FakeNode]:
    with fake_node() as node:
        yield node


@pytest.fixture
def node(server: FakeNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNode:
    monkeypatch.setenv("MESH_EVENTS", server.url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    server.asked.clear()
    server.bodies.clear()
    server.answers = {
        "POST /v1/events/orders/eu/%C3%A9": PUBLISHED,
        "POST /v1/events": PUBLISHED,
        "POST /v1/events/t": PUBLISHED,
    }
    return server


def test_an_event_is_posted_in_binary_mode_with_the_attributes_it_needs(node: FakeNode) -> None:
    words = [
        "publish",
        "orders/eu/é",
        '{"order": 17}',
        "--type",
        "made",
        "--key",
        "17",
        "--attribute",
        "tenant=grüße 1",
    ]
    assert main([*words, "--deadline", "5s", "--require-interest"]) == 0
    assert node.asked == ["POST /v1/events/orders/eu/%C3%A9?key=17&deadline=5s&require=interest"]
    [(headers, body)] = node.bodies
    assert body == b'{"order": 17}'
    assert headers["Content-Type"] == "application/json"
    assert (headers["ce-specversion"], headers["ce-type"], headers["ce-source"]) == (
        "1.0",
        "made",
        "urn:hopmesh:cli",
    )
    assert headers["ce-tenant"] == "gr%C3%BC%C3%9Fe%201"
    assert len(headers["ce-id"]) == 36
    assert headers["ce-time"].endswith("Z")


def test_every_line_can_be_an_event(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\r\n\nlast")))
    assert main(["publish", "t", "-", "--lines", "-o", "name"]) == 0
    assert [body for _, body in node.bodies] == [b"one", b"two", b"", b"last"]
    assert len({headers["ce-id"] for headers, _ in node.bodies}) == 4
    assert capsys.readouterr().out.splitlines()[:2] == ["eu/eu-1/1764/17", "eu/eu-1/1764/18"]


def test_data_comes_from_a_file_or_standard_input(
    node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\x00\xff")
    assert main(["publish", "t", "--file", str(path)]) == 0
    assert (node.bodies[0][0]["Content-Type"], node.bodies[0][1]) == ("application/octet-stream", b"\x00\xff")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"in")))
    assert main(["publish", "t", "-"]) == 0
    assert node.bodies[1][1] == b"in"


def test_a_batch_file_is_posted_as_it_is(node: FakeNode, tmp_path: Path) -> None:
    path = tmp_path / "batch.json"
    path.write_bytes(b'[{"id": "1"}]')
    assert main(["publish", "--batch-file", str(path)]) == 0
    assert node.asked == ["POST /v1/events"]
    assert (node.bodies[0][0]["Content-Type"], node.bodies[0][1]) == (
        "application/cloudevents-batch+json",
        b'[{"id": "1"}]',
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "MESH-A001"),
        (["t"], "MESH-A001"),
        (["t", "x", "--file", "y"], "MESH-A001"),
        (["t", "x", "--batch-file", "y"], "MESH-A001"),
        (["t", "--file", "/nowhere/at/all"], "MESH-A017"),
        (["t", "--file", "/nowhere/at/all", "--lines"], "MESH-A017"),
        (["t", "x", "--attribute", "Bad=1"], "MESH-A001"),
        (["t", "x", "--attribute", "bad"], "MESH-A001"),
    ],
)
def test_what_makes_no_event_is_refused(
    words: list[str], code: str, node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", *words]) in (1, 2)
    assert capsys.readouterr().err.startswith(code)
    assert node.asked == []


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"{}", "application/json"),
        (b"17", "application/json"),
        (b"hello", "text/plain; charset=utf-8"),
        (b"", "text/plain; charset=utf-8"),
        ("größe".encode(), "text/plain; charset=utf-8"),
        (b"\xff\x00", "application/octet-stream"),
        (b"[" * 100_000, "text/plain; charset=utf-8"),
    ],
)
def test_the_content_type_is_found_from_the_data(data: bytes, kind: str) -> None:
    assert content_type_of(data) == kind


def test_header_values_are_encoded_as_the_http_binding_says() -> None:
    assert header_value('Euro € 😀 100% "x"') == "Euro%20%E2%82%AC%20%F0%9F%98%80%20100%25%20%22x%22"
    assert header_value("https://a/b?c=d&e#f") == "https://a/b?c=d&e#f"


def test_the_outcome_says_who_gets_it_and_why_others_do_not() -> None:
    groups = {"mesh_id": "m", "regions": ["us"], "local": 0, "groups": [{"group": "mail", "region": "us"}]}
    assert outcome_line(groups) == "m -> region us and group mail in us"
    assert outcome_line({"mesh_id": "m"}) == "m -> nobody"
    kept = {
        "mesh_id": "m",
        "regions": ["eu"],
        "reasons": [{"region": "eu", "reason": "no_route"}, {"region": "ap", "reason": "no_route"}],
    }
    assert outcome_line(kept) == "m -> region eu; not: ap no-route; later: eu no-route"
