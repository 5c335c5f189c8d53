from __future__ import annotations

import pytest

from mesh.access.principal import Kind
from mesh.access.token_file import check_name, digest, new_token, read_date, read_tokens, token_line
from mesh.model.errors import MeshError


def test_a_new_token_is_found_by_its_line() -> None:
    token = new_token()
    line = token_line("ann", token, ["role=a,b", "expires=2030-01-31", "tenant=acme"])
    assert token not in line
    assert len(token) >= 43
    found = read_tokens(f"# tokens\n\n{line}\n", "tokens")
    principal = found.of(digest(token))
    assert principal is not None
    assert (principal.name, principal.kind, principal.roles) == ("ann", Kind.TOKEN, {"a", "b"})
    assert principal.values("tenant") == ("acme",)
    assert principal.until_s == read_date("2030-01-31")
    assert found.of(digest(token + "x")) is None
    assert found.of(digest("")) is None


def test_tokens_differ() -> None:
    assert len({new_token() for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("ann", "write: NAME sha256:HEX"),
        ("ann sha256:12", "write: NAME sha256:HEX"),
        ("ann md5:" + "0" * 64, "write: NAME sha256:HEX"),
        ("a/b sha256:" + "0" * 64, "is no name"),
        ("role:x sha256:" + "0" * 64, "is no name"),
        ("ann sha256:" + "0" * 64 + " expires=soon", "is no date"),
        ("ann sha256:" + "0" * 64 + " expires=2030-01-01T00:00:00", "needs its zone"),
        ("ann sha256:" + "0" * 64 + " name=bob", "is not role="),
        ("ann sha256:" + "0" * 64 + " tenant", "is not role="),
        ("ann sha256:" + "0" * 64 + "\nbob sha256:" + "0" * 64, "there already"),
    ],
)
def test_a_bad_line_is_told_with_its_place(line: str, what: str) -> None:
    with pytest.raises(MeshError) as raised:
        read_tokens(line, "tokens")
    assert (raised.value.code, raised.value.where) == ("MESH-C050", f"tokens:{1 + line.count(chr(10))}")
    assert what in raised.value.what


def test_a_token_written_where_its_hash_belongs_is_not_repeated() -> None:
    token = new_token()
    for line in (token, f"ann {token}", f"ann sha256:{'0' * 64} {token}"):
        with pytest.raises(MeshError) as raised:
            read_tokens(line, "tokens")
        assert token not in str(raised.value)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 300, "a\n", "a=b", "a:b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        check_name(name)
