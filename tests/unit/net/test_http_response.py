"""Answers as bytes."""

from __future__ import annotations

import json
import re

import pytest

from mesh.net.http_request import Refusal
from mesh.net.http_response import Response, chunk, problem_response, render, render_head


def test_a_whole_answer_has_its_length_and_date() -> None:
    data = render(Response(202, b"{}", [("content-type", "application/json")]), keep_alive=True)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 202 Accepted\r\n")
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", head)
    assert b"\r\ncontent-type: application/json" in head
    assert b"\r\nContent-Length: 2" in head
    assert b"Connection" not in head
    assert body == b"{}"


def test_the_connection_is_named_where_the_client_would_assume_the_other() -> None:
    assert b"\r\nConnection: close\r\n" in render(Response(), keep_alive=False)
    assert b"\r\nConnection: keep-alive\r\n" in render(Response(), keep_alive=True, version="1.0")


def test_head_keeps_the_length_and_204_has_none() -> None:
    data = render(Response(200, b"abc"), keep_alive=True, head_only=True)
    assert b"Content-Length: 3" in data
    assert data.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in render(Response(204), keep_alive=True)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\nb", "a\rb", "a\0b", "snow ☃"])
def test_a_header_that_would_break_the_answer_is_never_written(value: str) -> None:
    with pytest.raises(ValueError, match=r"line break|latin-1"):
        render_head(200, [("x", value)])


def test_a_chunk_has_its_length_in_hexadecimal() -> None:
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_a_refusal_is_a_problem_object_with_its_code() -> None:
    response = problem_response(Refusal(431, "headers_too_large", "too many"))
    found = json.loads(response.body)
    assert (found["status"], found["code"], found["detail"]) == (431, "MESH-E031", "too many")
    assert response.close
    assert dict(problem_response(Refusal(503, "x", "y", "MESH-E017")).headers)["retry-after"] == "1"
