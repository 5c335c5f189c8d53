"""What a node that listens everywhere tells others."""

from __future__ import annotations

import pytest

from mesh.net.own_address import told_address


@pytest.mark.parametrize("address", ["127.0.0.1:7946", "[::1]:7946", "eu-1.example:7946"])
async def test_an_address_that_names_a_host_is_told_as_it_is(address: str) -> None:
    assert await told_address(address, ["127.0.0.1:1"]) == address


async def test_a_wildcard_is_told_as_the_address_from_which_the_reader_is_reached() -> None:
    assert await told_address("0.0.0.0:7946", ["127.0.0.1:2379"]) == "127.0.0.1:7946"
    assert await told_address("0.0.0.0:7946", ["no such host:1", "127.0.0.1:2379"]) == "127.0.0.1:7946"


async def test_without_anybody_to_reach_it_is_this_machines_own_address_or_what_was_configured() -> None:
    host, _, port = (await told_address("0.0.0.0:7946")).rpartition(":")
    assert port == "7946"
    assert host.count(".") == 3
