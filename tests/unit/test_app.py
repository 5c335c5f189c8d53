"""From a configuration to a node and back to an exit code; a start that cannot be changes nothing for anybody."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from federation.core.route_settings import RouteSettings
from mesh.app import configure_logging, run, settings_of
from mesh.config import Config, load
from mesh.core.opening import Terms
from mesh.model.errors import ERRORS, MeshError
from mesh.model.ids import NodeKey
from mesh.net.listener import Listener, open_listener
from mesh.store.epoch import DataFolder, claim

QUIET = {"listen.events": "none", "listen.link": "none", "listen.admin": "none"}


@pytest.fixture(autouse=True)
def _logging() -> Any:
    """Starting a node configures the log of the whole process: as it was afterwards."""
    yield
    structlog.reset_defaults()


def config(tmp_path: Path, text: str = "", **flags: Any) -> Config:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    given = {name.replace("__", "."): value for name, value in flags.items()}
    return load(path, flags={"node.data": str(tmp_path / "data"), **given}, environ={})


def ended(capsys: pytest.CaptureFixture[str], found: Config) -> tuple[int, str]:
    """What became of a start that cannot be: its exit code and its one line."""
    code = run(found)
    out, err = capsys.readouterr()
    assert "ready" not in out
    [line] = [one for one in err.splitlines() if one.startswith("MESH-")]
    assert "Traceback" not in err
    return code, line


# -- settings --------------------------------------------------------------------------------------------------------


def test_machines_are_told_what_the_operator_wrote(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        """
        [node]
        region = "eu"
        location = [50.0, 8.6]
        labels = { rack = "7" }
        [federation]
        hop_limit = 5
        export_merge_budget = 99
        accept = "listed"
        [membership]
        probe_interval = "2s"
        probe_timeout = "750ms"
        suspicion_mult = 6
        [limits]
        regions = 7
        [[bridge]]
        to = "us"
        role = "transit"
        cost = 3
        """,
    )
    told = settings_of(found, "eu-1", 42, "10.0.0.1:7946")
    assert (told.region, told.node, told.epoch, told.address) == ("eu", "eu-1", 42, "10.0.0.1:7946")
    assert (told.location, told.labels) == ((50.0, 8.6), {"rack": "7"})
    assert (told.accept, told.merge_budget) == ("listed", 99)
    assert (told.limits.hop_limit, told.limits.regions) == (5, 7)
    members = told.membership
    assert (members.probe_interval_s, members.probe_timeout_s, members.suspicion_mult) == (2.0, 0.75, 6)
    assert told.bridges == {"us": Terms(expect_region="us", role="transit", cost=3)}
    assert told.routes == RouteSettings()
    assert told.software.startswith("hopmesh/")


def test_each_process_is_another_instance_of_its_node(tmp_path: Path) -> None:
    """Or a second live process of the same name could not be told from the first."""
    found = config(tmp_path)
    instances = {settings_of(found, "eu-1", 42, "").instance for _ in range(20)}
    assert len(instances) == 20
    assert all(len(one) == 16 for one in instances)


# -- starts that cannot be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["events", "link", "admin"])
def test_a_port_in_use_is_one_line_and_what_was_bound_before_it_is_closed(
    taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bound: list[int] = []

    async def watched(where: str, address: str) -> Listener:
        listener = await open_listener(where, address)
        bound.append(listener.port)
        return listener

    monkeypatch.setattr("mesh.app.open_listener", watched)
    names = ["events", "link", "admin"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        ports = {f"listen__{name}": f"127.0.0.1:{number if name == taken else 0}" for name in names}
        code, line = ended(capsys, config(tmp_path, node__id="eu-1", **ports))
    assert code == ERRORS["MESH-C012"].exit == 1
    assert line.startswith(f"MESH-C012 listen.{taken}: port {number} is already used")
    assert len(bound) == names.index(taken)
    for port in bound:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    with DataFolder(tmp_path / "data"):
        pass  # and nobody holds the data folder


def test_a_data_folder_of_another_node_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DataFolder(tmp_path / "data") as folder:
        claim(folder.path, NodeKey("us", "us-1"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    code, line = ended(capsys, config(tmp_path, node__id="eu-1", node__region="eu", **_flags(QUIET)))
    assert (code, line[:9]) == (ERRORS["MESH-C022"].exit, "MESH-C022")
    after = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    assert {name: text for name, text in after.items() if name in before} == before


def test_a_data_folder_in_use_stops_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DataFolder(tmp_path / "data"):
        code, line = ended(capsys, config(tmp_path, node__id="eu-1", **_flags(QUIET)))
    assert code != 0
    assert line.startswith("MESH-C")


def _flags(settings: dict[str, str]) -> dict[str, str]:
    return {name.replace(".", "__"): value for name, value in settings.items()}


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_error_for_people_is_one_line_however_deep_in_a_nursery_it_was_raised(
    depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error: BaseException = MeshError("MESH-C014", "data", "the disk is gone")
    for _ in range(depth):
        error = BaseExceptionGroup("nursery", [error])

    def fail(found: Config, again: object) -> None:
        raise error

    monkeypatch.setattr("mesh.app._run", fail)
    code, line = ended(capsys, config(tmp_path))
    assert code == ERRORS["MESH-C014"].exit
    assert line.startswith("MESH-C014 data: the disk is gone")


def test_a_mistake_of_the_program_is_not_hidden_behind_an_error_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(found: Config, again: object) -> None:
        raise BaseExceptionGroup("nursery", [MeshError("MESH-C014", "data", "x"), RuntimeError("mistake")])

    monkeypatch.setattr("mesh.app._run", fail)
    with pytest.raises(BaseExceptionGroup) as caught:
        run(config(tmp_path))
    assert caught.value.subgroup(RuntimeError) is not None


# -- the log ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_goes_to_standard_error_in_the_form_and_from_the_level_that_was_asked_for(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging(config(tmp_path, telemetry__log_format=form, telemetry__log_level="warning"))
    log = structlog.get_logger("test")
    log.info("unheard")
    log.warning("heard", seconds=4)
    [line] = written.getvalue().splitlines()
    assert capsys.readouterr().out == "", "standard output is for the one line that says ready"
    if form == "json":
        found = json.loads(line)
        assert (found["event"], found["level"], found["seconds"]) == ("heard", "warning", 4)
        assert found["timestamp"].endswith("Z")
    else:
        assert "heard" in line
        assert "\x1b" not in line, "no colours where nobody looks"
