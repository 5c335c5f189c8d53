"""Addresses as people write them."""

from __future__ import annotations

import pytest

from mesh.net.address import join, split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7222", ("127.0.0.1", 7222)),
        ("node-1.example:0", ("node-1.example", 0)),
        ("[::1]:7946", ("::1", 7946)),
        (":80", ("", 80)),
        ("h:65535", ("h", 65535)),
    ],
)
def test_host_and_port_are_read_and_printed_again(text: str, expected: tuple[str, int]) -> None:
    assert split(text) == expected
    assert join(*expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "host:+1",
        "host:１",
        "::1:80",
        "[::1:80",
        "[host]:1",
        "a b:1",
        "a\n:1",
    ],
)
def test_what_is_no_address_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|port|IPv6|spaces"):
        split(text)
