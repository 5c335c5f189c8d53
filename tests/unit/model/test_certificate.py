from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.certificate import ClientId, NodeId, PeerCertificate, check_trust, only_id, parse_id
from mesh.model.ids import BadName, NodeKey

NODE = "spiffe://mesh.example/region/eu/node/eu-1"
CLIENT = "spiffe://mesh.example/client/billing"


def test_an_id_prints_as_it_was_read() -> None:
    assert parse_id(NODE) == NodeId("mesh.example", NodeKey("eu", "eu-1"))
    assert parse_id(CLIENT) == ClientId("mesh.example", "billing")
    assert [str(parse_id(uri)) for uri in (NODE, CLIENT)] == [NODE, CLIENT]


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "https://mesh.example/region/eu/node/eu-1",
        "spiffe:///region/eu/node/eu-1",
        "spiffe://Mesh.example/region/eu/node/eu-1",
        "spiffe://mesh.example/region/eu/node/eu-1/",
        "spiffe://mesh.example/region/eu/node/",
        "spiffe://mesh.example/region//node/eu-1",
        "spiffe://mesh.example/region/eu/node/eu-1?x",
        "spiffe://mesh.example/region/e%75/node/eu-1",
        "spiffe://mesh.example:1/region/eu/node/eu-1",
        "spiffe://u@mesh.example/client/billing",
        "spiffe://mesh.example/client/bil\nling",
        "spiffe://mesh.example/region/eu",
        "SPIFFE://mesh.example/client/billing",
    ],
)
def test_what_is_no_id_is_none(uri: str) -> None:
    with pytest.raises(BadName):
        parse_id(uri)
    assert only_id([uri]) is None


@given(st.text(max_size=60))
def test_whatever_stands_behind_the_scheme_is_an_id_or_refused(text: str) -> None:
    try:
        found = parse_id("spiffe://" + text)
    except BadName:
        return
    assert str(found) == "spiffe://" + text


def test_a_certificate_with_two_ids_speaks_for_nobody() -> None:
    assert only_id([NODE, CLIENT]) is None
    assert only_id([NODE, NODE]) is None
    assert only_id(["https://example.org", NODE]) == parse_id(NODE)
    assert only_id([NODE] + ["https://example.org"] * 8) is None
    assert only_id([]) is None


def test_who_a_certificate_is_of() -> None:
    node = PeerCertificate(parse_id(NODE), "eu/eu-1", "1", 0.0)
    assert node.node == NodeKey("eu", "eu-1")
    assert str(node) == NODE
    assert PeerCertificate(parse_id(CLIENT), "x", "1", 0.0).node is None
    assert "names neither" in str(PeerCertificate(None, "www.example.org", "1", 0.0))


def test_trust_domains() -> None:
    assert check_trust("a") == "a"
    for bad in ("", "-a", "a-", "A", "a/b", "a b", "ä", "a" * 256):
        with pytest.raises(BadName):
            check_trust(bad)
