"""JSON Web Tokens: which are good, and whom they show.

Decides by the issuer's keys, and by the issuer, audience and times inside. Never fetches a key (`mesh.access.key_source` does), and
never trusts what a token says of its own algorithm: a key of one kind checks that kind's signatures, and shared secrets are no keys.
Invariant: `read` returns a principal only for a token whose signature, issuer, audience and times are all in order.
Source: RFC 7515, 7517, 7519; RFC 8725 (best practices) sections 3.1, 3.8, 3.9.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key

from mesh.access.principal import NAME_CHARS, Kind, Principal
from mesh.access.terms import BadToken, TokenTerms, UnknownKey
from mesh.model.errors import MeshError

MOST_KEYS: Final = 64
MOST_BYTES: Final = 256 * 1024
TOKEN_CHARS: Final = 8_192
_ALGORITHMS: Final[Mapping[type, tuple[str, ...]]] = {
    RSAKey: ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ECKey: ("ES256", "ES384", "ES512"),
    OKPKey: ("EdDSA", "Ed25519"),
}
_ALL: Final = [name for names in _ALGORITHMS.values() for name in names]
VALUES: Final = 64
"""Roles, or values of one claim, that are read; a token with more is refused."""


class Keys:
    """The issuer's public keys, by kid. "" is the key without one."""

    def __init__(self, keys: Mapping[str, RSAKey | ECKey | OKPKey]) -> None:
        self._keys = dict(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def ids(self) -> frozenset[str]:
        """Their kids."""
        return frozenset(self._keys)

    def of(self, kid: str) -> RSAKey | ECKey | OKPKey:
        """The key a token names; without a name the only one. Raises: UnknownKey."""
        if not kid and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        found = self._keys.get(kid)
        if found is None:
            raise UnknownKey(
                f"its key {kid[:80]!r} is not one of the issuer's" if kid else "it names no key (kid)"
            )
        return found


def read_keys(raw: bytes, where: str) -> Keys:
    """Read a JWKS. Keys of kinds that are not used for signatures here are passed over. Raises: MeshError MESH-C052."""
    if len(raw) > MOST_BYTES:
        raise MeshError("MESH-C052", where, f"more than {MOST_BYTES} bytes")
    try:
        found = json.loads(raw)
        entries = found["keys"]
        if not isinstance(entries, list):
            raise ValueError("keys is no list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MeshError("MESH-C052", where, f"it is no JWKS ({str(error)[:80]})") from None
    if len(entries) > MOST_KEYS:
        raise MeshError("MESH-C052", where, f"{len(entries)} keys are more than {MOST_KEYS}")
    keys: dict[str, RSAKey | ECKey | OKPKey] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        if entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = import_key(entry)
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # a curve or form that is not known here
        if not isinstance(key, RSAKey | ECKey | OKPKey):
            continue
        kid = entry.get("kid", "")
        if isinstance(kid, str) and kid not in keys:
            keys[kid] = key
    if not keys:
        raise MeshError("MESH-C052", where, "it holds no public key for signatures (RSA, EC or OKP)")
    return Keys(keys)


class SignedTokens:
    """Reads tokens. keys: replaced whenever the issuer has others."""

    def __init__(self, terms: TokenTerms, keys: Keys) -> None:
        self.terms = terms
        self.keys = keys

    def read(self, token: str, now_s: float) -> Principal:
        """Whom a token shows. now_s: wall clock. Cost: 60 to 200 us, by the kind of key. Raises: BadToken, UnknownKey."""
        if len(token) > TOKEN_CHARS:
            raise BadToken(f"it is longer than {TOKEN_CHARS} characters")
        try:
            header = jws.extract_compact(token.encode("ascii")).headers()
        except (JoseError, ValueError, UnicodeError, KeyError, TypeError, RecursionError):
            raise BadToken("it is no JWT") from None
        kid = header.get("kid", "")
        key = self.keys.of(kid if isinstance(kid, str) else "")
        allowed = _ALGORITHMS[type(key)]
        try:
            named = key.alg
        except (AttributeError, JoseError):
            named = None
        if header.get("alg") not in ((named,) if named else allowed) or header.get("alg") not in allowed:
            raise BadToken("its algorithm is not its key's")
        try:
            claims = jwt.decode(token, key, algorithms=_ALL).claims
        except (JoseError, ValueError, TypeError, RecursionError):
            raise BadToken("its signature is not good") from None
        self._check(claims, now_s)
        return self._principal(claims)

    def _check(self, claims: dict[str, Any], now_s: float) -> None:
        terms = self.terms
        registry = jwt.JWTClaimsRegistry(
            now=int(now_s),
            leeway=int(terms.leeway_s),
            iss={"essential": True, "value": terms.issuer},
            aud={"essential": True, "value": terms.audience},
            exp={"essential": True},
        )
        try:
            registry.validate(claims)
        except (JoseError, ValueError, TypeError) as error:
            claim = getattr(error, "claim", "")
            raise BadToken(
                f"{error.__class__.__name__.removesuffix('Error')}{f': {claim}' if claim else ''}"
            ) from None

    def _principal(self, claims: dict[str, Any]) -> Principal:
        name = _claim(claims, self.terms.name_claim)
        if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS or not name.isprintable():
            raise BadToken(f"it has no name in {self.terms.name_claim!r}")
        found = [
            (claim, values)
            for claim in claims
            if claim not in ("iss", "aud", "exp", "nbf", "iat", "jti", "sub")
            for values in (_texts(claims[claim]),)
            if values
        ]
        roles = _texts(_claim(claims, self.terms.roles_claim))
        if len(roles) > VALUES or len(found) > VALUES or any(len(values) > VALUES for _, values in found):
            raise BadToken(f"it has more than {VALUES} roles, claims or values of one")
        until_s = float(claims["exp"]) + self.terms.leeway_s
        return Principal(name, Kind.JWT, frozenset(roles), tuple(sorted(found)), until_s)


def _claim(claims: dict[str, Any], name: str) -> object:
    """A claim, or one inside others: realm_access.roles."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(one for one in value if isinstance(one, str))
    return ()
