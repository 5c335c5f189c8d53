"""What a reload of the configuration changes in a node that runs, and what needs a restart.

Decides, key by key, from the values before and after: everything about registries is taken over but their seeds, and but that
there is one at all; every other key is kept as it was, and named. Never changes anything itself.
Invariant: the configuration it returns is what the node runs with afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from mesh.backends import Backend
from mesh.config import Config, RegistryConfig

KEPT: Final = ("registry.seeds",)


class Changes(NamedTuple):
    """taken, refused: keys that differ, by what becomes of them. registry: whether registries have to be opened anew, also
    because a file they name may hold something else now. config: what holds from now on."""

    taken: tuple[str, ...]
    refused: tuple[str, ...]
    registry: bool
    config: Config


def changes_of(old: Config, new: Config) -> Changes:
    """Compare what runs with what was read. Cost: O(keys)."""
    before = {setting.key: setting for setting in old.settings}
    after = {setting.key: setting for setting in new.settings}
    differs = [
        key
        for key in [*after, *(key for key in before if key not in after)]
        if key not in before or key not in after or before[key].value != after[key].value
    ]
    of_registry = _registry(old.registry, new.registry)
    refused = [key for key in differs if not key.startswith("registry.") or key in KEPT]
    taken = [key for key in differs if key not in refused]
    if isinstance(of_registry, str):
        refused, taken = [*refused, of_registry, *(key for key in taken if key != of_registry)], []
        kept = old.registry
    else:
        kept = of_registry
    settings = tuple(after[key] if key in taken else setting for key, setting in before.items())
    with_files = any(backend.files for _, backend in new.registry_backends())
    return Changes(
        taken=tuple(taken),
        refused=tuple(refused),
        registry=bool(taken) or (with_files and not isinstance(of_registry, str)),
        config=replace(old, registry=kept, settings=settings),
    )


def _registry(old: RegistryConfig, new: RegistryConfig) -> RegistryConfig | str:
    """The registries from now on, or the key that stands against it."""
    if _is_there(old.backend) != _is_there(new.backend):
        return "registry.kind"
    if _is_there(old.directory or old.backend) != _is_there(new.directory or new.backend):
        return "registry.directory.kind"
    return replace(new, seeds=old.seeds)


def _is_there(backend: Backend) -> bool:
    return backend.kind != "none"
