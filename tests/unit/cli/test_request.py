from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import pytest

from mesh.cli.options import Options
from mesh.cli.request import print_reply, structured, told
from mesh.client import CallRefused, Delivery

GIVEN = Namespace(id="1", source="s", type="t", subject=None, attribute=None, content_type=None)


def options(output: str) -> Options:
    return Options(output, False, 5.0, False, "", "")


@pytest.mark.parametrize(
    ("data", "content_type", "member", "value"),
    [
        (b'{"a": 1}', None, "data", {"a": 1}),
        (b"hello", None, "data", "hello"),
        (b"\xff", None, "data_base64", "/w=="),
        (b"<a/>", "application/xml", "data", "<a/>"),
        (b"[1]", "application/vnd.x+json; v=1", "data", [1]),
        (b"not json", "application/json", "data_base64", "bm90IGpzb24="),
    ],
)
def test_a_request_is_a_structured_event_that_keeps_its_data(
    data: bytes, content_type: str | None, member: str, value: Any
) -> None:
    event = structured(Namespace(**vars(GIVEN) | {"content_type": content_type}), data)
    assert event[member] == value
    assert (event["specversion"], event["id"], event["source"], event["type"]) == ("1.0", "1", "s", "t")


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"data": "hi"}, b"hi\n"),
        ({"data": {"a": 1}}, b'{"a": 1}\n'),
        ({"data_base64": "AP8="}, b"\x00\xff"),
        ({}, b""),
    ],
)
def test_the_answers_data_alone_is_printed(
    event: dict[str, Any], shown: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    print_reply(Delivery("", json.dumps({"id": "1"} | event).encode(), path=("us",)), options("table"))
    assert capfdbinary.readouterr().out == shown


def test_everything_about_the_answer_is_there_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    print_reply(Delivery("", b'{"id": "7", "data": 1}', path=("us",)), options("json"))
    assert json.loads(capsys.readouterr().out) == {
        "apiVersion": "mesh/v1",
        "path": ["us"],
        "event": {"id": "7", "data": 1},
    }
    print_reply(Delivery("", b'{"id": "7", "data": 1}', path=("us",)), options("name"))
    assert capsys.readouterr().out == "7\n"


def test_a_refusal_tells_the_reasons_region_by_region() -> None:
    reasons = [
        {"region": "us", "reason": "no_route"},
        {"region": "ap", "reason": "unreachable", "detail": "for 4m"},
    ]
    problem = {"code": "MESH-E014", "detail": "nobody can be reached", "remedy": "Wait.", "reasons": reasons}
    assert str(told(CallRefused(problem), "t")) == (
        "MESH-E014 t: nobody can be reached [us no-route; ap unreachable (for 4m)]. Wait."
    )
    assert str(told(CallRefused({**problem, "reasons": []}), "t")) == "MESH-E014 nobody can be reached. Wait."
