"""Whatever stands in a file or a header, it is refused with its code or read: nothing else is raised."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.access.credentials import shown
from mesh.access.denial import Denied
from mesh.access.principal import Kind, Principal
from mesh.access.rights import Rights
from mesh.access.rule_file import Right, read_rules
from mesh.access.signed import Keys, SignedTokens, read_keys
from mesh.access.terms import BadToken, TokenTerms
from mesh.access.token_file import read_tokens
from mesh.model.errors import MeshError
from mesh.net.http_request import Request

T = TypeVar("T")


def refused(code: str, call: Callable[[], T]) -> T | None:
    """What a call returns; None where it refuses, with this code."""
    found: str | None = None
    result: T | None = None
    try:
        result = call()
    except (MeshError, Denied) as error:
        found = error.code
    assert found in (None, code)
    return result


WORDS = st.sampled_from(
    [
        "allow",
        "deny",
        "scope",
        "limit",
        "a:",
        "*",
        "role:x",
        "claim:a=b",
        "publish",
        "read,admin",
        "#",
        "a/#",
        "{name}/x",
        "events=1/s",
    ]
) | st.text(max_size=6)
LINES = st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=6).map("\n".join)
NAMES = st.text(min_size=1, max_size=12)


@settings(max_examples=300)
@given(LINES | st.text(), NAMES, st.sampled_from(["a", "a/b", "$mesh/audit", "#", "+/a"]))
def test_access_files(text: str, name: str, topic: str) -> None:
    rules = refused("MESH-C051", lambda: read_rules(text, "x.acl"))
    if rules is None:
        return
    rights = Rights(rules, Principal(name, Kind.JWT, frozenset({"x"}), (("a", ("b",)),)))
    for right in Right:
        rights.part(right, topic)
        if "#" not in topic and "+" not in topic:
            rights.may(right, topic)
            assert rights.cause(right, topic).told


@given(st.text() | st.text(alphabet="ab0:=,sha256 \n"))
def test_tokens_files(text: str) -> None:
    refused("MESH-C050", lambda: read_tokens(text, "tokens"))


@given(st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr).map(str.encode))
def test_sets_of_keys(raw: bytes) -> None:
    refused("MESH-C052", lambda: read_keys(raw, "keys"))


@given(st.text() | st.text(alphabet="ey.aA0_-=", max_size=60))
def test_tokens(text: str) -> None:
    try:
        SignedTokens(TokenTerms("i", "a"), Keys({})).read(text, 0.0)
    except BadToken:
        return
    raise AssertionError("there is no key")


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"authorization", b"sec-websocket-protocol", b"host"]),
        st.binary(max_size=30)
        | st.sampled_from([b"Bearer a", b"mesh.v1.json, mesh.bearer.x", b"Bearer", b"Basic b"]),
    ),
    max_size=4,
)


@given(
    HEADERS,
    st.sampled_from(
        ["", "access_token", "access_token=a", "a=b&access_token=c&access_token=d", "xaccess_token=1"]
    ),
    st.booleans(),
)
def test_headers_and_queries(headers: list[tuple[bytes, bytes]], query: str, in_query: bool) -> None:
    request = Request("GET", "/", "/", query, headers, b"", "1:2", "1.1", True, True)
    connection: Any = SimpleNamespace(transport=SimpleNamespace())
    found = refused("MESH-E062", lambda: shown(request, connection, in_query=in_query))
    assert found is None or found.certified is None
