"""Ops of mesh.v1.json: read as they are meant, and refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mesh.node.service import Wait
from mesh.protocols.ops import OPS, BadOp, Publish, Subscribe, read_op


def refused(text: bytes) -> BadOp:
    with pytest.raises(BadOp) as caught:
        read_op(text)
    return caught.value


def test_a_subscribe_carries_what_it_says() -> None:
    op = read_op(b'{"op":"subscribe","sid":1,"filter":"a/#","group":"g","wait":"mesh","wait_timeout":"2s"}')
    assert isinstance(op, Subscribe)
    assert (op.sid, op.filter, op.group, op.wait, op.wait_timeout) == (1, "a/#", "g", Wait.MESH, "2s")
    assert op.id is None


def test_the_event_of_a_publish_keeps_its_bytes() -> None:
    event = b'{ "specversion" : "1.0",\n\t"n": 1.50, "u":"\\u00e9" }'
    op = read_op(b'{"op":"publish","id":"p1","topic":"t","event": ' + event + b" }")
    assert isinstance(op, Publish)
    assert (bytes(op.event), op.id) == (event, "p1")


def test_every_op_of_the_table_can_be_read() -> None:
    for name, fields in OPS.items():
        assert fields[0] == "op"
        assert "id" in fields, name


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (b"", "MESH-E022", ""),
        (b"[]", "MESH-E022", ""),
        (b"{", "MESH-E022", ""),
        (b"null", "MESH-E022", ""),
        (b"{}", "MESH-E022", "'op' is missing"),
        (b'{"op":"subscrib","sid":1}', "MESH-E021", "did you mean 'subscribe'"),
        (b'{"op":"subscribe","sid":1,"filtr":"a"}', "MESH-E010", "did you mean 'filter'"),
        (b'{"op":"subscribe","filter":"a"}', "MESH-E022", "sid"),
        (b'{"op":"subscribe","sid":"one","filter":"a"}', "MESH-E022", "sid"),
        (b'{"op":"subscribe","sid":1,"filter":"a","wait":"galaxy"}', "MESH-E022", "galaxy"),
        (b'{"op":"credit","events":1.5}', "MESH-E022", "events"),
        (b'{"op":7}', "MESH-E022", ""),
        (b'{"op":"publish","event":' + b"[" * 100_000, "MESH-E022", ""),
        (b'{"op":"ping","id":' + b"9" * 400 + b"}", "MESH-E022", ""),
    ],
)
def test_what_is_no_op_is_refused_with_its_reason(text: bytes, code: str, words: str) -> None:
    bad = refused(text)
    assert bad.problem.code == code
    assert words in bad.problem.detail


@pytest.mark.parametrize("field", [b'"client":"shop-7"', b'"durable":true'])
def test_a_field_that_belongs_to_the_connection_is_no_misspelling(field: bytes) -> None:
    bad = refused(b'{"op":"subscribe","id":4,"sid":1,"filter":"a/#",' + field + b"}")
    assert (bad.problem.code, bad.op_id) == ("MESH-E010", 4)
    assert "/v1/ws?client=NAME&durable=true" in bad.problem.detail


def test_a_wrong_op_is_answered_under_its_id() -> None:
    assert refused(b'{"op":"credit","id":"c9"}').op_id == "c9"
    assert refused(b'{"op":"nothing","id":9}').op_id == 9
    assert refused(b'{"op":"credit","id":[]}').op_id is None


def test_the_page_for_clients_names_every_op_and_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "clients.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", page[page.index("## mesh.v1.json") :], re.MULTILINE))
    for name, fields in OPS.items():
        documented = set(re.findall(r"`(\w+)`", rows[name]))
        assert documented == set(fields) - {"op", "id"}, name
