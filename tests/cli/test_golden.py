"""Every output that people and scripts rely on, word for word. MESH_GOLDEN=write makes the files anew: look at the diff."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import answers
from cli.answers import DESIGN_ROUTES, listing, route
from cli.fake_node import FakeNode, fake_node
from cli.journals import damage_journal, make_journal

from mesh.cli.main import main

GOLDEN = Path(__file__).parent / "golden"
CASES: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "routes_list": ("routes", "list"),
    "routes_list_wide": ("routes", "list", "-o", "wide"),
    "routes_list_json": ("routes", "list", "--region", "hr", "-o", "json"),
    "routes_list_yaml": ("routes", "list", "--region", "hr", "-o", "yaml"),
    "routes_list_name": ("routes", "list", "-o", "name"),
    "routes_list_region": ("routes", "list", "--state", "two-nodes"),
    "routes_show": ("routes", "show", "hr"),
    "routes_watch": ("routes", "watch"),
    "node_list": ("node", "list"),
    "node_list_wide": ("node", "list", "-o", "wide"),
    "node_list_name": ("node", "list", "-o", "name"),
    "node_show": ("node", "show", "eu-2"),
    "node_leave": ("node", "leave"),
    "links_list": ("links", "list"),
    "links_show": ("links", "show", "bridge#3"),
    "subs_list": ("subs", "list"),
    "spools_list": ("spools", "list"),
    "spools_list_wide": ("spools", "list", "-o", "wide"),
    "dlq_list": ("dlq", "list"),
    "dlq_list_wide": ("dlq", "list", "-o", "wide"),
    "dlq_list_name": ("dlq", "list", "-o", "name"),
    "dlq_list_json": ("dlq", "list", "--region", "us", "-o", "json"),
    "dlq_show": ("dlq", "show", "eu-1/17"),
    "dlq_show_yaml": ("dlq", "show", "eu-1/17", "-o", "yaml"),
    "dlq_replay": ("dlq", "replay", "eu-1/17"),
    "dlq_replay_all": ("dlq", "replay", "--all", "--topic", "orders/#"),
    "dlq_replay_all_yes": ("dlq", "replay", "--all", "--topic", "orders/#", "--yes"),
    "dlq_replay_refused": ("dlq", "replay", "eu-1/19"),
    "dlq_drop": ("dlq", "drop", "eu-1/17", "eu-1/18"),
    "dlq_no_id": ("dlq", "drop"),
    "dlq_help": ("dlq", "replay", "--help"),
    "registry_status": ("registry", "status"),
    "registry_list": ("registry", "list"),
    "registry_list_wide": ("registry", "list", "-o", "wide"),
    "registry_list_name": ("registry", "list", "-o", "name"),
    "registry_diff": ("registry", "diff"),
    "registry_diff_wide": ("registry", "diff", "-o", "wide"),
    "journal_list": ("journal", "list", "--data", "eu-1"),
    "journal_list_wide": ("journal", "list", "--data", "eu-1", "-o", "wide"),
    "journal_list_records": ("journal", "list", "--data", "eu-1", "--records"),
    "journal_list_part": ("journal", "list", "--data", "eu-1", "--part", "r/us", "-o", "json"),
    "journal_list_damaged": ("journal", "list", "--data", "eu-2"),
    "journal_list_nothing": ("journal", "list", "--data", "eu-9"),
    "journal_verify": ("journal", "verify", "--data", "eu-1"),
    "journal_verify_damaged": ("journal", "verify", "--data", "eu-2"),
    "journal_verify_yaml": ("journal", "verify", "--data", "eu-2", "-o", "yaml"),
    "journal_show": ("journal", "show", "2", "--data", "eu-1"),
    "journal_show_json": ("journal", "show", "2", "--data", "eu-1", "-o", "json"),
    "journal_show_damaged": ("journal", "show", "1", "--data", "eu-2"),
    "journal_show_unknown": ("journal", "show", "17", "--data", "eu-1"),
    "config_show": ("config", "show"),
    "config_show_origin": ("config", "show", "--origin"),
    "publish": ("publish", "--batch-file", "/dev/null"),
    "subscribe_name": ("subscribe", "orders/#", "--wait", "mesh", "-n", "3", "-o", "name"),
    "subscribe_json": ("subscribe", "orders/#", "-n", "3", "-o", "json"),
    "errors_code": ("errors", "c12"),
    "unknown_command": ("nod", "list"),
    "unknown_option": ("routes", "list", "--regin", "us"),
    "unknown_context": ("node", "list", "--context", "nowhere"),
    "not_found": ("node", "show", "eu-9"),
    "run_bad_key": ("run", "--set", "listen.evnts=none"),
    "run_open_port": ("run", "--link", "0.0.0.0:7946"),
}  # fmt: skip


@pytest.fixture(scope="module")
def node() -> Iterator[FakeNode]:
    with fake_node() as fake:
        hr = [item for item in DESIGN_ROUTES if item["region"] == "hr"]
        sse = "text/event-stream"
        fake.answers = {
            "GET /v1/routes": listing(*DESIGN_ROUTES),
            "GET /v1/routes?region=hr&timeout=3s&limit=10000": listing(*hr),
            "GET /v1/routes?state=two-nodes&timeout=3s&limit=10000": listing(
                route("us", "eu-1", "peer#1", 85, 118, ["us"], 9.0, "selected", "only_route", node="eu-2"),
                *DESIGN_ROUTES[:2],
                route("us", "us-2", "bridge#4", 84, 118, ["us"], 9.0, "in_use", "equal_metric"),
                answered=("eu-1", "eu-2"),
                missing=(("eu-3", "no link"), ("eu-4", "dead 12s")),
            ),
            "GET /v1/routes/hr": listing(*hr),
            "GET /v1/routes/watch": (200, sse, answers.WATCH),
            "GET /v1/nodes": answers.NODES,
            "GET /v1/nodes/eu-2": listing(answers.NODES["items"][1]),
            "POST /v1/node/leave": (
                202,
                "application/json",
                b'{"apiVersion":"mesh/v1","node":"eu-1","region":"eu","status":"leaving"}',
            ),
            "GET /v1/links": answers.LINKS,
            "GET /v1/links/bridge%233": listing(answers.LINKS["items"][0]),
            "GET /v1/subscriptions": answers.SUBSCRIPTIONS,
            "GET /v1/spools": answers.SPOOLS,
            "GET /v1/dlq": answers.DLQ,
            "GET /v1/dlq?region=us&timeout=3s&limit=10000": listing(answers.DLQ["items"][0]),
            "GET /v1/dlq?topic=orders/%23&timeout=6s&limit=10000": listing(*answers.DLQ["items"][:2]),
            "GET /v1/dlq?topic=orders%2F%23&timeout=6s&limit=10000": listing(*answers.DLQ["items"][:2]),
            "GET /v1/dlq/eu-1/17": answers.DLQ_ONE,
            "POST /v1/dlq/eu-1/17/replay": listing(answers.DLQ_REPLAYED["items"][0]),
            "POST /v1/dlq/eu-1/17,18/replay": answers.DLQ_REPLAYED,
            "POST /v1/dlq/eu-1/19/replay": (
                409,
                "application/problem+json",
                b'{"status":409,"code":"MESH-A022","title":"t","detail":"nobody in the mesh wants its topic any more; it stays",'
                b'"where":"eu-1/19","remedy":"Drop it."}',
            ),
            "DELETE /v1/dlq/eu-1/17,18": listing(answers.done("eu-1", 17), answers.done("eu-1", 18)),
            "GET /v1/config": answers.CONFIG,
            "GET /v1/registry/status": answers.REGISTRY_STATUS,
            "GET /v1/registry/entries": answers.REGISTRY_ENTRIES,
            "GET /v1/registry/diff": answers.REGISTRY_DIFF,
            "POST /v1/events": answers.PUBLISHED,
            "GET /v1/events": (200, sse, answers.EVENTS),
        }
        yield fake


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folders of eu-1, whose journal is whole, and of eu-2, whose journal is not."""
    root = tmp_path_factory.mktemp("data")
    make_journal(root / "eu-1")
    make_journal(root / "eu-2")
    damage_journal(root / "eu-2")
    return root


@pytest.mark.parametrize("name", list(CASES))
def test_output_is_the_golden_one(
    name: str,
    node: FakeNode,
    folders: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for variable in [each for each in os.environ if each.startswith("MESH_") and each != "MESH_GOLDEN"]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MESH_ADMIN", node.url)
    monkeypatch.setenv("MESH_EVENTS", node.url)
    monkeypatch.chdir(folders)
    words = CASES[name]
    code = main(words)
    out, err = capsys.readouterr()
    quoted = [f"'{word}'" if re.search(r"[#*]", word) else word for word in words]
    told = [
        f"$ mesh {' '.join(quoted)}\n",
        out,
        *(f"! {line}\n" for line in err.splitlines()),
        f"exit {code}\n",
    ]
    found = "".join(told).replace(node.url, "http://127.0.0.1:8222")
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("MESH_GOLDEN") == "write":
        path.write_text(found)
    assert found == path.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)
    assert "Traceback" not in "".join(path.read_text() for path in GOLDEN.glob("*.txt"))
