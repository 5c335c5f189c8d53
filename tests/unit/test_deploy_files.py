"""The configurations that docker-compose.yml mounts: what can be known of them without an engine (`scripts/containers` has one)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mesh.config import check, load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts" / "deploy" / "compose"
FILES = sorted(FOLDER.glob("*.toml"))
COMPOSE = (ROOT / "docker-compose.yml").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_can_be_started_with_in_a_container(file: Path) -> None:
    variables = {"MESH_NODE__DATA": "/data", "MESH_INSECURE_LINKS": "1"}
    config = load(file, flags={"node.id": f"{file.stem}-1"}, environ=variables)
    assert config.insecure_links
    assert not config.insecure_clients


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_none_can_be_without_the_word_that_links_are_in_clear_text(file: Path) -> None:
    _, problems = check(file, environ={})
    assert {problem.code for problem in problems} == {"MESH-C016"}


def test_nobody_can_dial_the_bridge_of_inner() -> None:
    config = load(FOLDER / "inner-bridge.toml", environ={"MESH_INSECURE_LINKS": "1"})
    assert config.listen.link is None
    assert [bridge.to for bridge in config.bridges] == ["dmz"]
    assert config.bridges[0].seeds


def test_the_compose_file_mounts_each_of_them_and_no_other() -> None:
    mounted = re.findall(r"\./scripts/deploy/compose/(\S+?):/etc/hopmesh/mesh\.toml:ro", COMPOSE)
    assert set(mounted) == {file.name for file in FILES}
    assert len(mounted) == 6


def test_the_compose_file_is_for_every_release_of_compose() -> None:
    assert not re.search(r"^(version|name):", COMPOSE, re.MULTILINE)
    networks = COMPOSE.partition("\nnetworks:\n")[2].partition("\n\n")[0].splitlines()
    assert len(networks) == 5
    assert all(line.endswith("{ internal: true }") for line in networks)
