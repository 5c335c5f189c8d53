from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.cli.main import main
from mesh.config import Config
from mesh.model.errors import MeshError
from mesh.model.quantity import Address


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that nodes were started with; the program itself is not."""
    configs: list[Config] = []
    app = types.ModuleType("mesh.app")

    def run(config: Config, again: Callable[[], tuple[Config | None, list[MeshError]]] | None) -> int:
        configs.append(config)
        # What SIGHUP reads is what was started with; without a file there is nothing to read.
        from_file = any(setting.origin == "file" for setting in config.settings)
        assert (again is not None) == from_file
        assert again is None or again()[0] == config
        return 0

    app.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mesh.app", app)
    return configs


def test_flags_become_the_configuration_of_the_node(started: list[Config], tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text('[node]\nregion = "file"\n[federation]\nhop_limit = 3\n')
    words = [
        "run", "--config", str(path), "--id", "eu-1", "--region", "eu", "--data", "d", "--events", "127.0.0.1:1", "--link", "none",
        "--admin", "127.0.0.1:0", "--seed", "127.0.0.1:5", "--seed", "127.0.0.1:6", "--bridge", "us=127.0.0.1:7, 127.0.0.1:8",
        "--bridge", "ap=127.0.0.1:9", "--set", "federation.accept=listed", "--set", "limits.regions = 5", "--log-level", "debug",
        "--log-format", "json",
    ]  # fmt: skip
    assert main(words) == 0
    [config] = started
    assert (config.node.id, config.node.region, config.node.data) == ("eu-1", "eu", Path("d"))
    assert (config.listen.events, config.listen.link) == (Address("127.0.0.1", 1), None)
    assert [seed.port for seed in config.registry.seeds] == [5, 6]
    assert [(bridge.to, [seed.port for seed in bridge.seeds]) for bridge in config.bridges] == [
        ("us", [7, 8]),
        ("ap", [9]),
    ]
    assert (config.federation.accept, config.federation.hop_limit, config.limits.regions) == ("listed", 3, 5)
    assert (config.telemetry.log_level, config.telemetry.log_format) == ("debug", "json")


def test_a_bridge_without_seeds_only_accepts(started: list[Config]) -> None:
    assert main(["run", "--bridge", "us"]) == 0
    assert started[0].bridges[0].seeds == ()


def test_open_ports_need_their_flag(started: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--link", "0.0.0.0:1", "--events", "0.0.0.0:2"]
    assert main(words) == 1
    assert main([*words, "--insecure-links"]) == 1
    assert main([*words, "--insecure-links", "--insecure-clients"]) == 0
    assert len(started) == 1
    assert [line[:9] for line in capsys.readouterr().err.splitlines()] == ["MESH-C016", "MESH-C017"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--set", "x"], "MESH-A001"),
        (["--config", "/nowhere"], "MESH-C008"),
        (["--bridge", "a b=x"], "MESH-C007"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(
    words: list[str], code: str, started: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(code)
    assert started == []


def test_a_folder_of_the_ca_is_three_keys_of_which_each_may_be_set_otherwise(started: list[Config]) -> None:
    assert main(["run", "--tls", "ca/nodes/eu/eu-1", "--set", "tls.ca=both.pem"]) == 0
    tls = started[0].tls
    assert tls is not None
    folder = Path("ca/nodes/eu/eu-1")
    assert (tls.ca, tls.cert, tls.key) == (Path("both.pem"), folder / "cert.pem", folder / "key.pem")
