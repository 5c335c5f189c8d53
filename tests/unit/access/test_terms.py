from __future__ import annotations

import pytest

from mesh.access.terms import check_source, is_url


@pytest.mark.parametrize(
    "source",
    [
        "keys.json",
        "/etc/keys.json",
        "https://issuer/keys",
        "http://127.0.0.1:1/k",
        "http://localhost/k",
        "http://[::1]:9/k",
    ],
)
def test_where_keys_may_come_from(source: str) -> None:
    check_source(source)
    assert is_url(source) == ("://" in source)


@pytest.mark.parametrize(
    "source",
    [
        "http://issuer/keys",
        "ftp://issuer/keys",
        "https://",
        "https://user:pass@issuer/k",
        "http://10.0.0.1/k",
    ],
)
def test_where_they_may_not(source: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_source(source)
