from __future__ import annotations

import json

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from mesh.access.principal import Kind
from mesh.access.signed import MOST_BYTES, TOKEN_CHARS, SignedTokens, read_keys
from mesh.access.terms import BadToken, TokenTerms, UnknownKey
from mesh.model.errors import MeshError

NOW_S = 1_800_000_000
TERMS = TokenTerms("https://issuer", "mesh", leeway_s=30.0)
KEYS = {
    "ec": ECKey.generate_key("P-256", {"kid": "ec"}),
    "rsa": RSAKey.generate_key(2048, {"kid": "rsa"}),
    "ed": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
}
ALGORITHMS = {"ec": "ES256", "rsa": "PS256", "ed": "Ed25519"}


def reader(*kids: str) -> SignedTokens:
    public = KeySet([KEYS[kid] for kid in kids or KEYS]).as_dict(private=False)
    return SignedTokens(TERMS, read_keys(json.dumps(public).encode(), "keys"))


def token(kid: str, header: dict[str, str] | None = None, **claims: object) -> str:
    told = {"iss": "https://issuer", "aud": ["other", "mesh"], "exp": NOW_S + 60, "sub": "ann"} | claims
    head = {"alg": ALGORITHMS[kid], "kid": kid} if header is None else header
    return jwt.encode(head, told, KEYS[kid], algorithms=[*ALGORITHMS.values(), "RS256"])


@pytest.mark.parametrize("kid", list(KEYS))
def test_a_token_of_each_kind_of_key(kid: str) -> None:
    principal = reader().read(token(kid, roles=["a", "b"], tenant="acme", n=5), NOW_S)
    assert (principal.name, principal.kind, principal.roles) == ("ann", Kind.JWT, {"a", "b"})
    assert principal.values("tenant") == ("acme",)
    assert principal.until_s == NOW_S + 90
    assert hash(principal)


def test_a_token_without_kid_is_of_the_only_key() -> None:
    plain = token("ec", {"alg": "ES256"})
    assert reader("ec").read(plain, NOW_S).name == "ann"
    with pytest.raises(UnknownKey, match="names no key"):
        reader().read(plain, NOW_S)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": NOW_S - 31}, "Expired"),
        ({"nbf": NOW_S + 31}, "nbf"),
        ({"aud": "else"}, "aud"),
        ({"iss": "else"}, "iss"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, "exp"),
        ({"sub": ""}, "no name"),
        ({"sub": 7}, "sub"),
        ({"sub": "a\nb"}, "no name"),
        ({"roles": [str(n) for n in range(100)]}, "more than 64"),
    ],
)
def test_what_a_token_says_must_be_in_order(claims: dict[str, object], why: str) -> None:
    with pytest.raises(BadToken, match=why):
        reader().read(token("ec", **claims), NOW_S)


def test_clocks_may_differ_a_little() -> None:
    assert reader().read(token("ec", exp=NOW_S - 29, nbf=NOW_S + 29), NOW_S).name == "ann"


def test_keys_of_another_kind_or_name_check_nothing() -> None:
    with pytest.raises(UnknownKey):
        reader("rsa").read(token("ec"), NOW_S)
    with pytest.raises(BadToken, match="signature"):
        reader().read(token("ec")[:-6] + "AAAAAA", NOW_S)
    for text in ("", "a.b", "a.b.c", "x" * (TOKEN_CHARS + 1), "é.é.é"):
        with pytest.raises(BadToken):
            reader().read(text, NOW_S)


def test_an_algorithm_that_the_key_does_not_name_is_refused() -> None:
    named = KEYS["rsa"].as_dict(private=False) | {"alg": "RS256"}
    keys = read_keys(json.dumps({"keys": [named]}).encode(), "keys")
    with pytest.raises(BadToken, match="algorithm"):
        SignedTokens(TERMS, keys).read(token("rsa"), NOW_S)
    assert SignedTokens(TERMS, keys).read(token("rsa", {"alg": "RS256", "kid": "rsa"}), NOW_S).name == "ann"


def test_keys_that_are_not_for_signatures_are_passed_over() -> None:
    shared = OctKey.generate_key(256, {"kid": "shared"}).as_dict()
    encryption = ECKey.generate_key("P-256", {"kid": "enc", "use": "enc"}).as_dict(private=False)
    good = KEYS["ec"].as_dict(private=False)
    odd = {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA", "kid": "odd"}
    found = read_keys(json.dumps({"keys": [shared, encryption, odd, "text", good]}).encode(), "keys")
    assert found.ids == {"ec"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no",
        b"[]",
        b'{"keys": 5}',
        b'{"keys": []}',
        b"[" * 5_000,
        b'{"keys": [' + b"{}," * 65 + b"{}]}",
        b" " * (MOST_BYTES + 1),
    ],
)
def test_what_is_no_set_of_keys(raw: bytes) -> None:
    with pytest.raises(MeshError) as raised:
        read_keys(raw, "keys")
    assert raised.value.code == "MESH-C052"
