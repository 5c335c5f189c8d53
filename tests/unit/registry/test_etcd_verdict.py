"""What failures of etcd and gRPC mean. The sentences of etcd itself are met on a real one in tests/services."""

from __future__ import annotations

import pytest

from registry.base import RegistryFull
from registry.etcd.verdict import Verdict, judge, unavailable
from registry.rpc import RpcError, StatusCode


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        (StatusCode.UNAVAILABLE, "etcdserver: no leader", Verdict.ENDPOINT),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", Verdict.ENDPOINT),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Verdict.ENDPOINT),
        (StatusCode.CANCELLED, "", Verdict.ENDPOINT),
        (StatusCode.UNKNOWN, "whatever", Verdict.ENDPOINT),
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", Verdict.TOKEN),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Verdict.TOKEN),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password", Verdict.USER),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Verdict.DENIED),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Verdict.FULL),
        (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", Verdict.LEASE),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Verdict.COMPACTED),
        (StatusCode.UNAVAILABLE, "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", Verdict.TLS),
    ],
)  # fmt: skip
def test_the_verdict(code: StatusCode, details: str, verdict: Verdict) -> None:
    assert judge(RpcError(code, details)) is verdict


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_can_be_told_with_the_endpoint(verdict: Verdict) -> None:
    error = unavailable(verdict, "etcd1:2379", RpcError(StatusCode.UNKNOWN, "said\n" + "x" * 1_000))
    assert "etcd1:2379" in str(error)
    assert "said x" in str(error)
    assert len(error.what) <= 300
    assert isinstance(error, RegistryFull) == (verdict is Verdict.FULL)
