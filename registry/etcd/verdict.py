"""What a failed call to etcd means: another endpoint, a new token, or an error for a person.

Decides by code and by etcd's own sentences, which its clients compare too. Never tries again: who called does.
Invariant: every failure has a verdict, whatever code and text it comes with.
Source: etcd's api/v3rpc/rpctypes/error.go.
"""

from __future__ import annotations

import enum
from typing import Final

from registry.base import RegistryFull, RegistryUnavailable
from registry.rpc import RpcError, StatusCode

TEXT_CHARACTERS: Final = 300


class Verdict(enum.Enum):
    ENDPOINT = "this endpoint cannot answer: try another"
    TOKEN = "the token is not, or no longer, good: log in again"
    USER = "user or password are wrong, or missing"
    DENIED = "the user may not do that"
    TLS = "no TLS with this endpoint"
    FULL = "etcd takes no more"
    LEASE = "there is no such lease"
    COMPACTED = "the revision is compacted"
    TOO_LARGE = "the answer is larger than what is taken"
    REQUEST = "etcd does not understand the request"


_SENTENCES: Final = (
    ("invalid auth token", Verdict.TOKEN),
    ("revision of auth store is old", Verdict.TOKEN),
    ("revision in header is old", Verdict.TOKEN),
    ("authentication failed", Verdict.USER),
    ("user name is empty", Verdict.USER),
    ("user name not found", Verdict.USER),
    ("authentication is not enabled", Verdict.USER),
    ("permission denied", Verdict.DENIED),
    ("requested lease not found", Verdict.LEASE),
    ("database space exceeded", Verdict.FULL),
    ("request is too large", Verdict.FULL),
    ("revision has been compacted", Verdict.COMPACTED),
    ("required revision is a future revision", Verdict.COMPACTED),
    ("message larger than max", Verdict.TOO_LARGE),
    ("CERTIFICATE_VERIFY_FAILED", Verdict.TLS),
    ("certificate", Verdict.TLS),
    ("handshake", Verdict.TLS),
    ("Handshake", Verdict.TLS),
    ("TSI_", Verdict.TLS),
    ("Ssl", Verdict.TLS),
    ("Peer name", Verdict.TLS),
)
_CODES: Final = {
    StatusCode.UNAUTHENTICATED: Verdict.TOKEN,
    StatusCode.PERMISSION_DENIED: Verdict.DENIED,
    StatusCode.UNIMPLEMENTED: Verdict.REQUEST,
    StatusCode.INVALID_ARGUMENT: Verdict.REQUEST,
    StatusCode.OUT_OF_RANGE: Verdict.COMPACTED,
}


def judge(error: RpcError) -> Verdict:
    """What to do about a failed call."""
    for sentence, verdict in _SENTENCES:
        if sentence in error.details:
            return verdict
    return _CODES.get(error.code, Verdict.ENDPOINT)


def unavailable(verdict: Verdict, endpoint: str, error: RpcError) -> RegistryUnavailable | RegistryFull:
    """The error for the caller, and for a person."""
    where, said = f"registry etcd {endpoint}", said_text(error)
    match verdict:
        case Verdict.USER | Verdict.TOKEN:
            return RegistryUnavailable(where, said, "MESH-R009")
        case Verdict.DENIED:
            return RegistryUnavailable(where, said, "MESH-R010")
        case Verdict.TLS:
            return RegistryUnavailable(where, said, "MESH-R011")
        case Verdict.FULL:
            return RegistryFull(where, said)
        case _:
            return RegistryUnavailable(where, said)


def said_text(error: RpcError) -> str:
    """What the peer, or gRPC, said, short and printable."""
    text = error.details.removeprefix("etcdserver: ") or error.code.name
    if error.code is StatusCode.DEADLINE_EXCEEDED:
        text = "no answer in time"
    if "failed to connect" in text and "Socket closed" in text:
        text += " (it accepted and hung up: it may want TLS)"
    return "".join(letter if letter.isprintable() else " " for letter in text)[:TEXT_CHARACTERS]
