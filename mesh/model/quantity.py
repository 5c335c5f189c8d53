"""Durations, sizes and addresses as people write them: "5s", "64KiB", "127.0.0.1:7222".

Decides what is accepted and how a value is written back. Never decides which values make sense for a key.
Invariant: writing a parsed value and parsing it again gives the same value (durations: to the microsecond).
Source: design page "What a person sees", section Configuration; IEC 80000-13 for the binary prefixes; RFC 3986 section 3.2.2
for brackets around IPv6 addresses.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_BYTES: Final = {
    "B": 1,
    "KB": 1_000,
    "MB": 1_000**2,
    "GB": 1_000**3,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+\Z")
_SIZE: Final = re.compile(r"(\d+)([A-Za-z]*)\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})\Z")


def parse_duration(text: str) -> float:
    """Seconds of "5s", "200ms", "2m" or "1m30s". Raises ValueError saying what is wrong."""
    compact = text.replace(" ", "")
    if _DURATION.match(compact) is None:
        raise ValueError(f"{text!r} is no duration")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(compact))


def format_duration(seconds: float) -> str:
    """The shortest exact form with one unit: 0.2 is "200ms", 120 is "2m", 90 is "90s"."""
    for unit in ("d", "h", "m"):
        size = _SECONDS[unit]
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    if 0 < seconds < 1:
        return f"{_plain(seconds * 1e3)}ms"
    return f"{_plain(seconds)}s"


def _plain(number: float) -> str:
    """Decimal digits without an exponent, down to a nanosecond's worth."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def parse_size(text: str) -> int:
    """Bytes of "64KiB", "1MB" or "512". Raises ValueError saying what is wrong."""
    found = _SIZE.match(text.replace(" ", ""))
    if found is None:
        raise ValueError(f"{text!r} is no size")
    number, unit = found.groups()
    if unit.upper() not in _BYTES and unit:
        raise ValueError(f"{text!r} has no unit known here")
    return int(number) * _BYTES.get(unit.upper(), 1)


def format_size(size: int) -> str:
    """The shortest exact form: 65536 is "64KiB", 1000 is "1000B"."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


class Address(NamedTuple):
    """A host (name or address, an IPv6 address without its brackets) and a port; port 0 lets the system pick one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is reached from this machine only, as far as the text tells: a name other than localhost is not."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def parse(cls, text: str, *, lowest_port: int = 0) -> Address:
        """Parse "HOST:PORT" or "[IPV6]:PORT". Raises ValueError saying what is wrong."""
        host, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} has no port")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            try:
                ipaddress.IPv6Address(host.partition("%")[0])
            except ValueError:
                raise ValueError(f"{text!r} has no IPv6 address between its brackets") from None
        elif ":" in host:
            raise ValueError(f"{text!r} has an IPv6 address without brackets")
        elif _HOST.match(host) is None:
            raise ValueError(f"{text!r} has no host" if not host else f"{text!r} has a bad host name")
        if not (port.isascii() and port.isdigit() and lowest_port <= int(port) <= 65_535):
            raise ValueError(f"{text!r} has no port from {lowest_port} to 65535")
        return cls(host, int(port))
