from __future__ import annotations

import contextlib
import tomllib
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.members import MembershipSettings
from mesh.keys import BY_NAME, KEYS, LISTS, TABLES, BadValue, Key
from mesh.model.limits import Limits

DESIGN = """
node: id region data location labels
listen: events link admin mqtt grpc tcp
registry: kind path endpoints prefix namespace group user password_file ca cert key lease seeds
registry.directory: kind path endpoints prefix namespace group user password_file ca cert key lease seeds
federation: accept hop_limit export_merge_budget
membership: probe_interval probe_timeout suspicion_mult
bridge: to seeds links role transport cost proxy export import deny rules
policy: file
topic: filter level ordered deadline copies spool spool_policy retain
tls: ca cert key
tls.clients: ca cert key certificates
auth: tokens_file jwks issuer audience name_claim roles_claim leeway jwks_refresh certificates token_in_query acl
audit: file size files
telemetry: otlp sample log_level log_format
"""


def test_the_table_has_every_key_of_the_design_and_no_other() -> None:
    expected = {
        f"{line.split(':')[0]}.{key}"
        for line in DESIGN.strip().splitlines()
        for key in line.split(":")[1].split()
    }
    expected |= {f"limits.{each.name}" for each in fields(Limits)} - {"limits.hop_limit"}
    assert {key.name for key in KEYS} == expected


def test_names_are_unique_and_lists_are_tables() -> None:
    assert len(BY_NAME) == len(KEYS)
    assert LISTS <= TABLES


@pytest.mark.parametrize("key", [key for key in KEYS if key.default is not None], ids=lambda key: key.name)
def test_every_default_is_a_value_of_its_form_and_written_as_toml(key: Key) -> None:
    written = tomllib.loads(f"value = {key.default_text()}")["value"]
    assert key.form.read(written) == key.default


def test_defaults_of_the_membership_are_those_of_its_machine() -> None:
    machine = MembershipSettings()
    assert BY_NAME["membership.probe_interval"].default == machine.probe_interval_s
    assert BY_NAME["membership.probe_timeout"].default == machine.probe_timeout_s
    assert BY_NAME["membership.suspicion_mult"].default == machine.suspicion_mult


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("node.region", 5, "MESH-C002"),
        ("node.region", "a/b", "MESH-C007"),
        ("node.region", "", "MESH-C007"),
        ("node.location", [1.0], "MESH-C002"),
        ("node.location", [91.0, 0.0], "MESH-C006"),
        ("node.location", ["a", "b"], "MESH-C002"),
        ("node.labels", {"a": 1}, "MESH-C002"),
        ("listen.events", 7222, "MESH-C002"),
        ("listen.events", "7222", "MESH-C005"),
        ("registry.kind", "zookeeper", "MESH-C006"),
        ("registry.lease", 10, "MESH-C002"),
        ("registry.lease", "10", "MESH-C003"),
        ("registry.lease", "0s", "MESH-C006"),
        ("registry.seeds", "a:1", "MESH-C002"),
        ("registry.seeds", ["a:0"], "MESH-C005"),
        ("registry.seeds", [5], "MESH-C002"),
        ("federation.hop_limit", True, "MESH-C002"),
        ("federation.hop_limit", 0, "MESH-C006"),
        ("federation.hop_limit", 1.5, "MESH-C002"),
        ("membership.suspicion_mult", 0, "MESH-C006"),
        ("membership.suspicion_mult", float("nan"), "MESH-C006"),
        ("limits.frame_bytes", "1 mebibyte", "MESH-C004"),
        ("limits.frame_bytes", 0, "MESH-C006"),
        ("limits.frame_bytes", 1.5, "MESH-C002"),
        ("limits.open_timeout_s", 5, "MESH-C002"),
    ],
)
def test_a_wrong_value_has_its_own_code(name: str, value: Any, code: str) -> None:
    with pytest.raises(BadValue) as caught:
        BY_NAME[name].form.read(value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("registry.seeds", "a:1, b:2", ["a:1", "b:2"]),
        ("registry.seeds", "", []),
        ("node.location", "50.0,8.6", [50.0, 8.6]),
        ("node.labels", "rack=7, zone=b", {"rack": "7", "zone": "b"}),
        ("limits.frame_bytes", "1024", 1024),
        ("limits.frame_bytes", "1KiB", "1KiB"),
        ("federation.hop_limit", "8", 8),
    ],
)
def test_flags_and_variables_write_lists_and_tables_on_one_line(name: str, text: str, value: Any) -> None:
    assert BY_NAME[name].form.from_text(text) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.sampled_from(KEYS), JSON)
def test_any_value_is_read_or_refused_and_never_raises_anything_else(key: Key, value: Any) -> None:
    try:
        read = key.form.read(value)
    except BadValue:
        return
    if read is not None:
        assert isinstance(key.form.write(read), str)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.sampled_from(KEYS), st.text(max_size=20))
def test_any_text_is_read_or_refused_and_never_raises_anything_else(key: Key, text: str) -> None:
    with contextlib.suppress(BadValue):
        key.form.read(key.form.from_text(text))
