"""What SIGHUP takes over, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.config import Config, load
from mesh.reload import changes_of

FILE = '[registry]\nkind = "file"\npath = "{}"\n'
ETCD = '[registry]\nkind = "etcd"\nendpoints = ["http://{}:2379"]\n'


def config(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    return load(path, environ={})


@pytest.mark.parametrize(
    ("before", "after", "taken", "refused", "registry"),
    [
        (FILE.format("a"), FILE.format("a"), (), (), False),
        (FILE.format("a"), FILE.format("b"), ("registry.path",), (), True),
        (FILE.format("a"), FILE.format("a") + 'lease = "5s"', ("registry.lease",), (), True),
        (ETCD.format("a"), ETCD.format("b"), ("registry.endpoints",), (), True),
        (FILE.format("a"), ETCD.format("b"), ("registry.kind", "registry.path", "registry.endpoints"), (), True),
        ("", FILE.format("a"), (), ("registry.kind", "registry.path"), False),
        (FILE.format("a"), "", (), ("registry.kind", "registry.path"), False),
        (FILE.format("a"), FILE.format("a") + 'seeds = ["127.0.0.1:1"]', (), ("registry.seeds",), False),
        (
            FILE.format("a"),
            FILE.format("b") + '[node]\nregion = "eu"\n[[bridge]]\nto = "us"',
            ("registry.path",),
            ("node.region", "bridge.0.to", "bridge.0.seeds", "bridge.0.links", "bridge.0.role", "bridge.0.transport",
             "bridge.0.cost"),
            True,
        ),
        (
            FILE.format("a"),
            FILE.format("a") + '[registry.directory]\nkind = "file"\npath = "d"',
            ("registry.directory.kind", "registry.directory.path"),
            (),
            True,
        ),
        (
            FILE.format("a"),
            FILE.format("a") + '[registry.directory]\nkind = "none"',
            (),
            ("registry.directory.kind",),
            False,
        ),
    ],
)  # fmt: skip
def test_each_key_is_taken_over_or_named(
    tmp_path: Path, before: str, after: str, taken: tuple[str, ...], refused: tuple[str, ...], registry: bool
) -> None:
    old, new = config(tmp_path, before), config(tmp_path, after)
    found = changes_of(old, new)
    assert (set(found.taken), set(found.refused), found.registry) == (set(taken), set(refused), registry)
    values = {setting.key: setting.value for setting in found.config.settings}
    wanted = {setting.key: setting.value for setting in new.settings}
    kept = {setting.key: setting.value for setting in old.settings}
    assert all(values[key] == wanted[key] for key in taken)
    assert all(values.get(key) == kept.get(key) for key in refused)
    assert found.config.registry.seeds == old.registry.seeds
    assert (found.config.registry.backend == new.registry.backend) == (
        registry or before == after or "seeds" in after or "none" in after
    )
    assert found.config.node == old.node


def test_files_may_hold_something_else_under_the_same_name(tmp_path: Path) -> None:
    text = ETCD.format("127.0.0.1") + 'user = "u"\npassword_file = "p"\n'
    found = changes_of(config(tmp_path, text), config(tmp_path, text))
    assert found.registry
    assert found.taken == ()
