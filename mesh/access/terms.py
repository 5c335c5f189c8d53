"""What the operator says of clients' proofs: which files, which issuer, what its tokens must say.

Decides what `[auth]` means as a whole, and what a source of keys may be. Imports no library for tokens: a node without JWTs needs none.
Source: docs/access.md; RFC 7519 section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mesh.model.quantity import Address


class BadToken(Exception):
    """A token that shows nobody. The text is for whoever sent it, and says nothing that the token does not."""


class UnknownKey(BadToken):
    """It names a key that is not held: the issuer may have a new one."""


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What a token must say. name_claim, roles_claim: where its principal is; a claim inside others is written A.B."""

    issuer: str
    audience: str
    name_claim: str = "sub"
    roles_claim: str = "roles"
    leeway_s: float = 30.0


@dataclass(frozen=True, slots=True)
class AccessTerms:
    """What is believed. jwks: a path or URL, "" for none. jwks_refresh_s: how often a URL is asked. certificates: those of clients
    are taken. token_in_query: `?access_token=` is taken."""

    acl: Path
    tokens_file: Path | None = None
    jwks: str = ""
    tokens: TokenTerms | None = None
    jwks_refresh_s: float = 300.0
    certificates: bool = False
    token_in_query: bool = False


def access_terms(table: Mapping[str, Any]) -> AccessTerms | None:
    """What `[auth]` says, key by key; None where it is not set, or lacks what `terms_problems` tells of."""
    if table["acl"] is None:
        return None
    tokens = None
    if table["jwks"] is not None:
        tokens = TokenTerms(
            issuer=table["issuer"] or "",
            audience=table["audience"] or "",
            name_claim=table["name_claim"],
            roles_claim=table["roles_claim"],
            leeway_s=table["leeway"],
        )
    return AccessTerms(
        acl=table["acl"],
        tokens_file=table["tokens_file"],
        jwks=table["jwks"] or "",
        tokens=tokens,
        jwks_refresh_s=table["jwks_refresh"],
        certificates=table["certificates"],
        token_in_query=table["token_in_query"],
    )


def terms_problems(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What contradicts itself in an `[auth]` that is set: (key, what); key "" for the table."""
    if table["acl"] is None:
        yield "", "auth.acl is missing: without rules nobody may do anything"
    if table["tokens_file"] is None and table["jwks"] is None and not table["certificates"]:
        yield "", "nobody could show who they are: none of tokens_file, jwks and certificates is set"
    if table["jwks"] is not None:
        for name in ("issuer", "audience"):
            if not table[name]:
                yield "jwks", f"auth.{name} is missing: keys alone do not tell for whom a token is"
        try:
            check_source(table["jwks"])
        except ValueError as error:
            yield "jwks", str(error)


def is_url(source: str) -> bool:
    """Whether keys come from a URL."""
    return "://" in source


def check_source(source: str) -> None:
    """A URL must be https; http is for this machine only. Raises: ValueError."""
    if not is_url(source):
        return
    try:
        parts = urlsplit(source)
        host, named = parts.hostname or "", parts.username is not None
    except ValueError:
        raise ValueError(f"{source!r} is no URL") from None
    if not host or parts.scheme not in ("http", "https") or named:
        raise ValueError(f"{source!r} is neither a path nor https://HOST/PATH")
    if parts.scheme == "http" and not on_loopback(host):
        raise ValueError(f"{source!r}: keys come over https; http is for this machine only")


def on_loopback(host: str) -> bool:
    """Whether a host is this machine, as far as its text tells."""
    return Address(host, 1).is_loopback
