"""Settings that cannot be right are refused with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.nacos.settings import NacosSettings


def test_the_grpc_port_is_a_thousand_above() -> None:
    settings = NacosSettings(servers=("nacos.example.org:8848", "[::1]:8848"))
    assert [settings.grpc_target(server) for server in settings.servers] == [
        "nacos.example.org:9848",
        "[::1]:9848",
    ]
    assert [settings.split(server) for server in settings.servers] == [
        ("nacos.example.org", 8848),
        ("::1", 8848),
    ]
    assert not settings.secure
    assert not settings.login_secure


def test_certificates_mean_tls_for_both_ways() -> None:
    assert NacosSettings(servers=("a:1",), ca=Path("ca.pem")).login_secure
    assert not NacosSettings(servers=("a:1",), ca=Path("ca.pem"), login_tls=False).login_secure
    assert NacosSettings(servers=("a:1",), tls=True).secure


def test_a_password_is_not_shown() -> None:
    assert "hush" not in repr(NacosSettings(servers=("a:1",), user="u", password="hush"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("servers", ()), ("servers", ("a",)), ("servers", ("http://a:1",)), ("servers", ("a:0",)), ("servers", ("a:65000",)),
     ("servers", ("a:1",) * 17), ("namespace", "no/slash"), ("group", ""), ("group", "a b"), ("cert", Path("c")),
     ("password", "p")],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.rstrip("s")):
        NacosSettings(**{"servers": ("a:1",), field: value})  # type: ignore[arg-type]
