"""Which requests are those of a foreign web page."""

from __future__ import annotations

import pytest

from mesh.net.web_page import foreign

HERE = {"host": "127.0.0.1:7222"}


def reason(on_loopback: bool = True, **headers: str) -> str:
    found = foreign(
        [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()],
        on_loopback=on_loopback,
    )
    return "" if found is None else found[0]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:7222",
        "127.0.0.1",
        "localhost:7222",
        "LOCALHOST",
        "[::1]:7222",
        "10.1.2.3:7222",
        "workstation:7222",
    ],
)
def test_a_loopback_port_is_called_by_an_address_or_a_name_of_this_machine(host: str) -> None:
    assert reason(host=host) == ""


@pytest.mark.parametrize(
    "host", ["evil.example:7222", "localhost.evil.example", "", "[x", "127.0.0.1.evil.example", "\xff"]
)
def test_a_loopback_port_under_a_public_name_was_rebound(host: str) -> None:
    assert reason(host=host) == "foreign_host"
    assert reason(False, host=host) == ""


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8222", "http://localhost:3000", "https://localhost", "http://[::1]:1"]
)
def test_pages_of_this_machine_may_call(origin: str) -> None:
    assert reason(**HERE, origin=origin) == ""


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://[x", "", "http://10.1.2.3", "file://", "\xff://\xff"]
)
def test_pages_of_other_sites_may_not(origin: str) -> None:
    assert reason(**HERE, origin=origin) == "foreign_origin"
    assert reason(False, host="mesh.example", origin=origin) == "foreign_origin"


def test_a_page_may_call_the_host_it_came_from_and_no_other() -> None:
    assert reason(False, host="mesh.example:7222", origin="http://mesh.example:7222") == ""
    assert reason(False, host="mesh.example:7222", origin="http://mesh.example:8222") == "foreign_origin"
    assert reason(False, origin="http://mesh.example") == "foreign_origin"


def test_two_origins_are_no_origin() -> None:
    twice = [(b"host", b"127.0.0.1"), (b"origin", b"http://localhost"), (b"origin", b"http://localhost")]
    assert foreign(twice, on_loopback=True) is not None


def test_a_script_without_an_origin_is_told_apart_from_a_link_that_somebody_followed() -> None:
    assert reason(**HERE, sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == "foreign_origin"
    assert reason(**HERE, sec_fetch_site="cross-site", sec_fetch_mode="navigate") == ""
    assert reason(**HERE, sec_fetch_site="same-origin", sec_fetch_mode="cors") == ""
    assert reason(**HERE) == ""
