from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli.answers import EVENTS
from cli.fake_node import FakeNode, fake_node

from mesh.cli import subscribe
from mesh.cli.main import main
from mesh.cli.subscribe import data_text, event_line, latency, receipt_line, replay_line

NOW = datetime(2026, 1, 5, 9, 0, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeNode]:
    with fake_node() as node:
        yield node


@pytest.fixture
def node(server: FakeNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNode:
    monkeypatch.setenv("MESH_EVENTS", server.url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(subscribe.time, "sleep", lambda seconds: None)
    server.asked.clear()
    server.answers = {"GET /v1/events": (200, "text/event-stream", EVENTS)}
    return server


def test_the_wish_becomes_parameters(node: FakeNode) -> None:
    words = [
        "subscribe",
        "a/+",
        "b/#",
        "--group",
        "g",
        "--wait",
        "mesh",
        "--regions",
        "us,ap",
        "--wait-timeout",
        "2s",
        "-n",
        "1",
    ]
    assert main(words) == 0
    assert node.asked == [
        "GET /v1/events?filter=a%2F%2B&filter=b%2F%23&group=g&wait=mesh&wait_timeout=2s&regions=us%2Cap"
    ]


def test_an_event_is_one_line_and_cannot_move_the_cursor(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["subscribe", "orders/#", "-n", "3"]) == 0
    out, err = capsys.readouterr()
    lines = [re.sub(r"^\d\d:\d\d:\d\d\.\d{3}", "TIME", line) for line in out.splitlines()]
    assert lines == [
        'TIME  orders/eu/created  2 hops ap>us  -  {"order": 17}',
        "TIME  orders/eu/paid  here  -  two\\x1b[2Jlines\\nhere",
        "TIME  orders/eu/photo  1 hop us  -  base64:AAE=",
    ]
    assert err == "subscribed to orders/#; installed in eu, us; missing: af (no-route)\n"


def test_a_lost_connection_is_made_again_and_said_so(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["subscribe", "orders/#", "-n", "7", "-o", "name"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 7
    assert len(node.asked) == 3
    assert err.count("dialling again") == 2


def test_without_reconnecting_a_lost_connection_is_unreachable(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["subscribe", "orders/#", "--no-reconnect"]) == 3
    assert "MESH-A016" in capsys.readouterr().err


def test_a_refusal_ends_it_at_once(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers = {}
    assert main(["subscribe", "orders/#"]) == 1
    assert len(node.asked) == 1
    assert "MESH-A005" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["-n", "5"], 1), ([], 0)])
def test_a_time_that_is_over_ends_it(
    node: FakeNode, words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["subscribe", "orders/#", "--for", "1ms", *words]) == code


def test_a_count_below_one_is_refused(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["subscribe", "orders/#", "-n", "0"]) == 2


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("2026-01-05T09:00:00.500Z", "500ms"),
        ("2026-01-05T10:00:00.750+01:00", "250ms"),
        ("2026-01-05T09:00:00.123456789Z", "877ms"),
        ("2026-01-05T09:00:00", "-"),
        ("yesterday", "-"),
        (None, "-"),
        (17, "-"),
    ],
)
def test_latency_needs_a_time_that_can_be_read(sent: Any, shown: str) -> None:
    assert latency(sent, NOW) == shown


def test_a_line_has_arrival_topic_path_latency_and_data() -> None:
    told = {
        "topic": "a/b",
        "path": ["ap", "us"],
        "event": {"time": (NOW - timedelta(seconds=0.128)).isoformat(), "data": "x"},
    }
    clock = NOW.astimezone().strftime("%H:%M:%S.000")
    assert event_line(told, NOW, color=False) == f"{clock}  a/b  2 hops ap>us  128ms  x"
    assert "\x1b[1ma/b\x1b[0m" in event_line(told, NOW, color=True)


def test_data_of_every_kind_is_one_line() -> None:
    assert data_text({}) == ""
    assert data_text({"data": [1, "é"]}) == '[1, "é"]'
    assert data_text({"data_base64": "AA=="}) == "base64:AA=="


def test_a_receipt_says_where_it_is_installed_and_where_not() -> None:
    assert receipt_line("a", {}) == "subscribed to a"
    assert receipt_line("a", {"installed": ["eu"], "missing": [{"region": "us", "why": "timeout"}]}) == (
        "subscribed to a; installed in eu; missing: us (timeout)"
    )


@pytest.mark.parametrize(
    ("name", "told", "line"),
    [
        ("live", {"replayed": 7}, "live: 7 events were replayed"),
        ("gap", {"reason": "trimmed"}, "gap: events are missing here (trimmed)"),
        (
            "gap",
            {"reason": "no_space", "since": "A", "until": "B", "events": 3},
            "gap: 3 events are missing here, A to B (no-space)",
        ),
        (
            "gap",
            {"reason": "damaged", "since": None, "until": "B"},
            "gap: events are missing here, B (damaged)",
        ),
    ],
)
def test_what_a_replay_says_is_one_line(name: str, told: dict[str, Any], line: str) -> None:
    assert replay_line(name, told) == line


def test_from_is_asked_for_and_what_a_replay_says_is_told(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = b'event: gap\ndata: {"reason":"stopped"}\n\nevent: live\ndata: {"replayed":0}\n\n'
    node.answers = {
        "GET /v1/events": (
            200,
            "text/event-stream",
            EVENTS.replace(b"event: event", stream + b"event: event", 1),
        )
    }
    assert main(["subscribe", "orders/#", "--from", "10m", "-n", "3", "-o", "json"]) == 0
    assert "from=10m" in node.asked[0]
    told = capsys.readouterr()
    assert '"live": {"replayed": 0}' in told.out
    assert "gap: events are missing here (stopped)" in told.err
    assert "live: 0 events were replayed" in told.err
