"""The tokens file: one token a line, as its hash, and new tokens.

    # comment
    NAME sha256:HEX [role=ROLE,ROLE] [expires=2027-01-31] [CLAIM=VALUE,VALUE ...]

Decides what a line means and which principal a token shows. Never keeps a token: only its SHA-256. A token has 256 random bits, so
that nobody can try them all, whatever the hash costs: a slow hash protects guessable passwords, and would cost every request here.
Invariant: a file with one bad line gives no tokens at all.
Source: RFC 6750 section 2.1 (the form of a bearer token); docs/decisions/0022-access.md.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, time
from typing import Final

from mesh.access.principal import NAME_CHARS, Kind, Principal
from mesh.model.errors import MeshError

PREFIX: Final = "mesh_"
"""So that a token is known as one wherever it turns up: scanners of repositories look for such marks."""
_RANDOM_BYTES: Final = 32
MOST_BYTES: Final = 4 << 20
_HASH: Final = re.compile(r"sha256:([0-9a-f]{64})\Z")
_CLAIM: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")


def new_token() -> str:
    """A fresh token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest(token: str) -> bytes:
    """What is kept of a token. Cost: 0.7 us."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def token_line(name: str, token: str, more: Sequence[str] = ()) -> str:
    """The line of a token for the file."""
    return " ".join((name, f"sha256:{digest(token).hex()}", *more))


class TokenFile:
    """The tokens of one file. Cost: one look-up a token."""

    def __init__(self, principals: dict[bytes, Principal]) -> None:
        self._principals = principals

    def __len__(self) -> int:
        return len(self._principals)

    def of(self, hashed: bytes) -> Principal | None:
        """Whose token has this hash. What a look-up's time tells is about the hash, which nobody can aim; the hash that was found
        is compared in constant time all the same."""
        for known in (hashed,) if hashed in self._principals else ():
            if hmac.compare_digest(known, hashed):
                return self._principals[known]
        return None


def read_tokens(text: str, file: str) -> TokenFile:
    """Read a tokens file. Cost: 5 us a line. Raises: MeshError MESH-C050 with the place of the first bad line."""
    if len(text) > MOST_BYTES:
        raise MeshError("MESH-C050", file, f"more than {MOST_BYTES} bytes")
    found: dict[bytes, Principal] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            hashed, principal = _read(words)
            if hashed in found:
                raise ValueError("this hash is there already")
        except ValueError as error:
            raise MeshError("MESH-C050", f"{file}:{number}", str(error)) from None
        found[hashed] = principal
    return TokenFile(found)


def check_name(name: str) -> str:
    """A name that a line of the file can carry. Raises: ValueError."""
    if not name or len(name) > NAME_CHARS or any(c in name for c in "/#+{}=:") or not name.isprintable():
        raise ValueError(
            f"{name[:80]!r} is no name: 1 to {NAME_CHARS} characters without / # + {{ }} = and :"
        )
    if " " in name:
        raise ValueError(f"{name[:80]!r} is no name: it has a space")
    return name


def _read(words: Sequence[str]) -> tuple[bytes, Principal]:
    """Raises: ValueError; what a line holds is never repeated where it might be a token itself."""
    name = check_name(words[0]) if not words[0].startswith(PREFIX) else ""
    if not name or any(word.startswith(PREFIX) for word in words):
        raise ValueError("this looks like a token itself: write the line that 'mesh token new NAME' prints")
    hashed = _HASH.match(words[1]) if len(words) > 1 else None
    if hashed is None:
        raise ValueError("write: NAME sha256:HEX [role=...] [expires=...] [CLAIM=VALUE]")
    roles: frozenset[str] = frozenset()
    until_s: float | None = None
    claims: list[tuple[str, tuple[str, ...]]] = []
    for word in words[2:]:
        key, equals, value = word.partition("=")
        if not equals or not value or _CLAIM.match(key) is None or key == "name":
            raise ValueError(f"{word[:80]!r} is not role=, expires= or CLAIM=VALUE")
        if key == "role":
            roles |= frozenset(value.split(","))
        elif key == "expires":
            until_s = read_date(value)
        else:
            claims.append((key, tuple(value.split(","))))
    return bytes.fromhex(hashed[1]), Principal(name, Kind.TOKEN, roles, tuple(claims), until_s)


def read_date(text: str) -> float:
    """Wall seconds of a date (its end, UTC) or an RFC 3339 time. Raises: ValueError."""
    try:
        if len(text) == 10:
            return datetime.combine(datetime.fromisoformat(text).date(), time.max, UTC).timestamp()
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no date such as 2027-01-31") from None
    if when.tzinfo is None:
        raise ValueError(f"{text[:40]!r}: a time needs its zone, such as Z")
    return when.timestamp()
