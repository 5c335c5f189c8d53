from __future__ import annotations

import pytest

from mesh.access.principal import Scope
from mesh.admin.api import COLLECTIONS
from mesh.admin.guarded import action, needed
from mesh.net.http_request import Request


def request(method: str, path: str) -> Request:
    return Request(method, path, path, "", [], b"", "1:2", "1.1", True)


@pytest.mark.parametrize(
    ("method", "path", "scope", "called"),
    [
        ("GET", "/livez", None, ""),
        ("HEAD", "/readyz/", None, ""),
        ("POST", "/livez", Scope.ADMIN, ""),
        ("GET", "/metrics", Scope.READ, ""),
        ("GET", "/v1/dlq/a-1/5", Scope.READ, ""),
        ("GET", "/v1/routes/watch", Scope.READ, ""),
        ("POST", "/v1/dlq/a-1/5/replay", Scope.PUBLISH, "dlq replay"),
        ("DELETE", "/v1/dlq/a-1/5", Scope.ADMIN, "dlq drop"),
        ("POST", "/v1/node/leave", Scope.ADMIN, "drain"),
        ("POST", "/v1/node/leave/", Scope.ADMIN, "drain"),
        ("POST", "/v1/policy/test", Scope.READ, ""),
        ("POST", "/v1/policy/preview", Scope.READ, ""),
        ("PUT", "/v1/anything", Scope.ADMIN, "put"),
    ],
)
def test_the_scope_of_each_call(method: str, path: str, scope: Scope | None, called: str) -> None:
    assert needed(request(method, path)) is scope
    if called:
        assert action(request(method, path)) == called


def test_no_list_is_open_to_all() -> None:
    for path in COLLECTIONS:
        assert needed(request("GET", path)) is Scope.READ
        assert needed(request("HEAD", path)) is Scope.READ
