from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.quantity import Address, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("200ms", 0.2),
        ("2m", 120.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("2 d", 172_800.0),
        ("0s", 0.0),
    ],
)
def test_durations_are_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 seconds", "-5s", "5s5", "1e3s", "5S", "x٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "5s"),
        (0.2, "200ms"),
        (120, "2m"),
        (90, "90s"),
        (86_400, "1d"),
        (0, "0s"),
        (1.5, "1.5s"),
        (0.0005, "0.5ms"),
    ],
)
def test_durations_are_written_with_one_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@settings(max_examples=60, derandomize=True)
@given(st.integers(0, 10**13))
def test_a_written_duration_reads_back_to_the_microsecond(micros: int) -> None:
    assert round(parse_duration(format_duration(micros / 1e6)) * 1e6) == micros


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65_536),
        ("8MiB", 8 << 20),
        ("1MB", 1_000_000),
        ("512", 512),
        ("512B", 512),
        ("1gib", 1 << 30),
    ],
)
def test_sizes_are_whole_numbers_with_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "1.5MiB", "-1", "12XB", "1,2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|unit"):
        parse_size(text)


@settings(max_examples=60, derandomize=True)
@given(st.integers(0, 1 << 42))
def test_a_written_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    "text", ["127.0.0.1:7222", "[::1]:0", "eu-1.example:65535", "localhost:1", "[fe80::1%eth0]:7946"]
)
def test_an_address_prints_as_it_was_written(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7222",
        ":7222",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "::1:7222",
        "[::1]",
        "[x]:1",
        "a b:1",
        "host:7_2",
        "host:٣",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has"):
        Address.parse(text)


def test_a_seed_needs_a_real_port() -> None:
    with pytest.raises(ValueError, match="from 1 to 65535"):
        Address.parse("host:0", lowest_port=1)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("LocalHost:1", True),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
        ("[::]:1", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(text: str, loopback: bool) -> None:
    assert Address.parse(text).is_loopback is loopback
