"""Who a certificate speaks for: a SPIFFE id in its subject alternative names, and what an end of a connection knows of the other's.

Decides the form of the ids of nodes, regions and clients, and what is none. Never reads a certificate itself and never checks one:
`mesh.net.tls` hands over what OpenSSL has verified.
Invariant: `str` of an id that was parsed is the text it came from.
Source: SPIFFE-ID section 2 (trust domain, path); design page "Routing", Security.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.model.ids import BadName, NodeKey, check_name

SCHEME: Final = "spiffe://"
_TRUST: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?\Z")
URIS: Final = 8
"""More URIs than these in one certificate are not looked at."""


class NodeId(NamedTuple):
    """A node of a trust domain: spiffe://TRUST/region/R/node/N."""

    trust: str
    key: NodeKey

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust}/region/{self.key.region}/node/{self.key.node}"


class ClientId(NamedTuple):
    """A client of a trust domain: spiffe://TRUST/client/NAME."""

    trust: str
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust}/client/{self.name}"


def check_trust(text: str) -> str:
    """Return a trust domain that may be one, else raise BadName."""
    if _TRUST.match(text) is None:
        raise BadName(
            f"trust domain {text!r}: use 1 to 255 lower-case letters, digits, '.', '_' or '-', such as mesh.example.org"
        )
    return text


def parse_id(uri: str) -> NodeId | ClientId:
    """Read an id. Raises: BadName for what is no SPIFFE id of a node or client."""
    trust, *path = uri.removeprefix(SCHEME).split("/")
    if uri.startswith(SCHEME):
        match path:
            case ["region", region, "node", node]:
                return NodeId(
                    check_trust(trust), NodeKey(check_name(region, "region"), check_name(node, "node"))
                )
            case ["client", name]:
                return ClientId(check_trust(trust), check_name(name, "client"))
    raise BadName(f"{uri[:200]!r} is neither spiffe://TRUST/region/R/node/N nor spiffe://TRUST/client/NAME")


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a verified certificate of the other end says. id: None where its URIs name no node or client, or more than one.
    subject: its common name, for people. serial: in hexadecimal. not_after_s: wall clock."""

    id: NodeId | ClientId | None
    subject: str
    serial: str
    not_after_s: float

    @property
    def node(self) -> NodeKey | None:
        """The node it speaks for, if it is a node's."""
        return self.id.key if isinstance(self.id, NodeId) else None

    def __str__(self) -> str:
        return (
            str(self.id) if self.id is not None else f"{self.subject!r}, which names neither node nor client"
        )


def only_id(uris: list[str]) -> NodeId | ClientId | None:
    """The id among a certificate's URIs; None where there is none, or where several leave open who is meant.

    Other URIs than SPIFFE's are passed over. Cost: O(URIS)."""
    found = [uri for uri in uris[: URIS + 1] if uri.startswith(SCHEME)]
    if len(found) != 1 or len(uris) > URIS:
        return None
    try:
        return parse_id(found[0])
    except BadName:
        return None
