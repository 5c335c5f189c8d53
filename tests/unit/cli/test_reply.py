from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mesh.cli.main import main
from mesh.client import CallRefused, Delivery


def asked(number: int, data: Any, **more: Any) -> Delivery:
    event = {"data_base64": "/w=="} if data is None else {"data": data}
    fields: dict[str, Any] = {
        "mesh_id": f"m{number}",
        "reply_to": f"eu/eu-1/i{number}",
        "correlation": str(number),
    } | more
    return Delivery("up/x", json.dumps(event).encode(), **fields)


class FakeClient:
    """Delivers the requests that are waiting and keeps the replies."""

    waiting: tuple[Delivery, ...] = ()
    replies: ClassVar[dict[str, Any]]
    wishes: ClassVar[list[tuple[str, dict[str, Any]]]]
    refuses = False

    def __init__(self, url: str, **more: Any) -> None:
        self.receipt = {"installed": ["eu"], "missing": [], "complete": True}

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def subscribe(self, filter: str, **wish: Any) -> FakeClient:
        self.wishes.append((filter, wish))
        return self

    def __aiter__(self) -> FakeClient:
        self.left = list(self.waiting)
        return self

    async def __anext__(self) -> Delivery:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)

    async def reply(self, request: Delivery, event: dict[str, Any]) -> None:
        if self.refuses:
            raise CallRefused({"code": "MESH-E029", "detail": "the requester is gone"})
        self.replies[request.correlation] = event.get("data", event.get("data_base64"))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeClient]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    class Client(FakeClient):
        pass

    Client.replies, Client.wishes = {}, []
    monkeypatch.setattr("mesh.client.Client", Client)
    return Client


def test_an_echo_answers_with_what_was_asked(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client.waiting = (asked(1, "hi"), asked(2, {"a": 1}), asked(3, None))
    assert main(["reply", "up/#", "--echo", "--group", "g", "--wait", "mesh"]) == 0
    assert client.replies == {"1": "hi", "2": {"a": 1}, "3": "/w=="}
    assert client.wishes == [("up/#", {"group": "g", "wait": "mesh"})]
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["up/x m1: 2 bytes", "up/x m2: 8 bytes", "up/x m3: 1 bytes"]
    assert err == "subscribed to up/#; installed in eu; answering\n"


def test_it_stops_after_so_many_answers_and_passes_over_what_is_no_request(client: type[FakeClient]) -> None:
    client.waiting = (asked(1, "event", reply_to=""), asked(2, "a"), asked(3, "b"), asked(4, "c"))
    assert main(["reply", "up/#", "--text", "ok", "-n", "2"]) == 0
    assert client.replies == {"2": "ok", "3": "ok"}


def test_a_command_answers_with_what_it_prints(client: type[FakeClient]) -> None:
    client.waiting = (asked(1, "hello"),)
    assert main(["reply", "up/#", "--exec", "tr a-z A-Z; printf ' %s' $MESH_TOPIC $MESH_ID"]) == 0
    assert client.replies == {"1": "HELLO up/x m1"}


@pytest.mark.parametrize(
    ("command", "words"), [("exit 3", "ended with 3"), ("sleep 20", "took longer than 0.05 s")]
)
def test_a_command_that_fails_answers_nothing_and_the_next_request_is_served(
    command: str, words: str, client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client.waiting = (asked(1, "x"),)
    assert (
        main(["reply", "up/#", "--exec", command, "--timeout", "50ms" if "sleep" in command else "5s"]) == 0
    )
    assert client.replies == {}
    assert words in capsys.readouterr().err


def test_a_requester_that_is_gone_is_told_and_nothing_ends(
    client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client.waiting = (asked(1, "a"), asked(2, "b"))
    client.refuses = True
    assert main(["reply", "up/#", "--echo"]) == 0
    assert capsys.readouterr().err.count("the requester is gone") == 2


@pytest.mark.parametrize("words", [[], ["--echo", "--text", "x"], ["--echo", "-n", "0"]])
def test_there_is_one_way_to_answer(
    words: list[str], client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reply", "up/#", *words]) == 2
    assert capsys.readouterr().err.startswith("MESH-A001")
