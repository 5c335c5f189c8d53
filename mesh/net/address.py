"""The address of a port as people write it: "HOST:PORT", an IPv6 host in brackets.

Decides how such a text is read and printed. Never resolves a name.
Invariant: `join(*split(text))` names the same place as `text`.
Source: design page "What a person sees", Configuration; RFC 3986 section 3.2.2 (brackets).
"""

from __future__ import annotations


def split(address: str) -> tuple[str, int]:
    """Read "HOST:PORT".

    Returns: host (without brackets, "" when none is written) and port (0 to 65535). Cost: O(length).
    Raises: ValueError with a sentence for a person; state unaffected.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f'"{address}" has no port: write HOST:PORT')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f'"{address}": only an IPv6 address stands in brackets')
    elif ":" in host or "[" in host or "]" in host:
        raise ValueError(f'"{address}": write an IPv6 host in brackets, such as [::1]:7946')
    if any(character.isspace() or not character.isprintable() for character in host):
        raise ValueError(f'"{address}": a host name has no spaces')
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f'"{address}": the port is a number from 0 to 65535')
    return host, int(port)


def join(host: str, port: int) -> str:
    """Print host and port so that `split` reads them again. Cost: O(1)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
