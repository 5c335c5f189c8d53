from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mesh.access.credentials import CertifiedName, certified_name, shown
from mesh.access.denial import Denied
from mesh.net.http_request import Request


def request(
    *headers: tuple[str, str], query: str = "", method: str = "GET", websocket: bool = False
) -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    return Request(method, "/v1/ws", "/v1/ws", query, pairs, b"", "1:2", "1.1", True, websocket)


def connection(certificate: object = None) -> Any:
    return SimpleNamespace(transport=SimpleNamespace(certificate=certificate))


def test_a_token_in_the_header() -> None:
    assert shown(request(("authorization", "Bearer abc")), connection(), in_query=False).token == "abc"
    assert shown(request(("authorization", "bearer  abc ")), connection(), in_query=False).token == "abc"
    assert shown(request(), connection(), in_query=False).token == ""


def test_a_token_in_a_subprotocol_is_taken_out_of_it() -> None:
    asked = request(("sec-websocket-protocol", "mesh.v1.json, mesh.bearer.a-b_c"), websocket=True)
    assert shown(asked, connection(), in_query=False).token == "a-b_c"
    assert asked.header(b"sec-websocket-protocol") == b"mesh.v1.json"


def test_a_token_in_the_query_is_taken_out_of_it() -> None:
    asked = request(query="filter=a&access_token=abc&group=g")
    assert shown(asked, connection(), in_query=True).token == "abc"
    assert asked.raw_query == "filter=a&group=g"


@pytest.mark.parametrize(
    ("asked", "in_query", "why"),
    [
        (request(("authorization", "Basic abc")), True, "not 'Bearer TOKEN'"),
        (request(("authorization", "Bearer")), True, "not 'Bearer TOKEN'"),
        (request(("authorization", "Bearer a"), ("authorization", "Bearer b")), True, "more than one"),
        (request(("authorization", "Bearer a"), query="access_token=b"), True, "more than one"),
        (request(query="access_token=b"), False, "not taken here"),
        (request(query="access_token=b", method="POST"), True, "not taken here"),
        (request(("authorization", "Bearer " + "x" * 9_000)), True, "longer than"),
    ],
)
def test_what_is_refused(asked: Request, in_query: bool, why: str) -> None:
    with pytest.raises(Denied, match=why) as raised:
        shown(asked, connection(), in_query=in_query)
    assert raised.value.code == "MESH-E062"
    assert raised.value.status in (400, 401)


def test_the_name_in_a_clients_certificate() -> None:
    client = SimpleNamespace(id=SimpleNamespace(trust="t", name="ann"), not_after_s=5.0)
    node = SimpleNamespace(id=SimpleNamespace(trust="t", key=("a", "a-1")), not_after_s=5.0)
    nobody = SimpleNamespace(id=None, not_after_s=5.0)
    assert certified_name(connection(client)) == CertifiedName("ann", 5.0)
    assert certified_name(connection(node)) is None
    assert certified_name(connection(nobody)) is None
    assert certified_name(connection()) is None
