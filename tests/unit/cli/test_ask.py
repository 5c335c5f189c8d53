from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from cli.fake_node import FakeNode, fake_node

from mesh.cli.ask import Event, Node, partial_line, segment
from mesh.model.errors import MeshError


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeNode]:
    with fake_node() as node:
        yield node


def refused(node: Node, path: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        node.get(path)
    return caught.value


def test_an_answer_is_its_json_object(fake: FakeNode) -> None:
    fake.answers["GET /v1/x"] = {"a": 1}
    with Node(fake.url, 5) as node:
        assert node.get("/v1/x", [("filter", "a +/#")]) == {"a": 1}
        assert node.get("/v1/x") == {"a": 1}  # over the kept connection
    assert fake.asked[-2] == "GET /v1/x?filter=a%20%2B%2F%23"


def test_a_list_is_read_to_its_end_and_a_node_missing_once_is_missing(fake: FakeNode) -> None:
    def page(items: list[int], cursor: str | None, missing: list[str]) -> dict[str, object]:
        told = [{"node": node, "why": "slow"} for node in missing]
        return {
            "items": items,
            "next": cursor,
            "answered": [n for n in ("a", "b") if n not in missing],
            "missing": told,
        }

    fake.answers["GET /v1/l?limit=10000"] = page([1, 2], "k", [])
    fake.answers["GET /v1/l?limit=10000&cursor=k"] = page([3], "m", ["b"])
    fake.answers["GET /v1/l?limit=10000&cursor=m"] = page([4], None, ["b"])
    with Node(fake.url, 5) as node:
        whole = node.list("/v1/l")
    assert whole["items"] == [1, 2, 3, 4]
    assert (whole["answered"], whole["next"]) == (["a"], None)
    assert partial_line(whole) == "1 of 2 nodes answered, missing: b (slow)"


def test_a_problem_object_becomes_its_error(fake: FakeNode) -> None:
    kind = "application/problem+json"
    told = {
        "status": 400,
        "code": "MESH-A007",
        "detail": "limit is 0.",
        "where": "limit",
        "remedy": "Give more.",
    }
    fake.answers["GET /known"] = (400, kind, json.dumps(told).encode())
    fake.answers["GET /newer"] = (400, kind, json.dumps(told | {"code": "MESH-Z999"}).encode())
    fake.answers["GET /other"] = (500, kind, b'{"title": "oops"}')
    with Node(fake.url, 5) as node:
        assert str(refused(node, "/known")) == "MESH-A007 limit: limit is 0. Give more."
        assert "MESH-Z999 limit is 0." in str(refused(node, "/newer"))
        assert refused(node, "/other").code == "MESH-A010"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_no_node(fake: FakeNode, body: bytes) -> None:
    fake.answers["GET /odd"] = (200, "text/html", body)
    with Node(fake.url, 5) as node:
        assert refused(node, "/odd").code == "MESH-A010"


@pytest.mark.parametrize("url", ["127.0.0.1:8222", "ftp://x", "http://", "http://[x", "http://h:port"])
def test_a_url_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(MeshError, match="MESH-A001"):
        Node(url, 5)


def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert str(refused(Node(url, 5), "/x")).startswith(f"MESH-A002 {url}: connection refused.")


def test_silence_ends_with_the_time_out() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Node(f"http://127.0.0.1:{server.getsockname()[1]}", 0.05) as node,
    ):
        assert refused(node, "/x").code == "MESH-A012"


def test_a_port_that_speaks_something_else_is_no_node() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Node(f"http://127.0.0.1:{server.getsockname()[1]}", 5) as node,
    ):
        node._connection.sock = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"SSH-2.0-OpenSSH\r\n")
            assert refused(node, "/x").code == "MESH-A010"


STREAM = b": hello\nevent: one\nid: 7\ndata: a\ndata: b\n\ndata:c\r\n\r\nevent: empty\n\ndata: cut"


def test_a_stream_is_read_as_the_standard_says_and_its_end_is_a_loss(fake: FakeNode) -> None:
    fake.answers["GET /s"] = (200, "text/event-stream", STREAM)
    with Node(fake.url, 5) as node:
        stream = node.stream("/s")
        assert [next(stream), next(stream)] == [Event("one", "7", "a\nb"), Event("message", "7", "c")]
        with pytest.raises(MeshError, match="MESH-A016"):
            next(stream)


def test_a_stream_that_is_refused_tells_why(fake: FakeNode) -> None:
    fake.answers["GET /plain"] = {"a": 1}
    with Node(fake.url, 5) as node:
        with pytest.raises(MeshError, match="MESH-A010"):
            next(node.stream("/plain"))
        with pytest.raises(MeshError, match="MESH-A005"):
            next(node.stream("/nothing"))


def test_a_stream_ends_when_its_time_is_over() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Node(f"http://127.0.0.1:{server.getsockname()[1]}", 5) as node,
    ):
        stream = node.stream("/s", ends=time.monotonic() - 1)
        node._connect = lambda: _answered(server, node)  # type: ignore[method-assign]
        assert list(stream) == []
        node._connection.close()


def _answered(server: socket.socket, node: Node) -> socket.socket:
    """A connection whose answer's head is there already."""
    node._connection.sock = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    with accepted:
        accepted.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    return node._connection.sock


def test_names_are_path_segments() -> None:
    assert segment("bridge#3") == "bridge%233"
    assert segment("a/b") == "a%2Fb"


def test_everybody_answering_needs_no_line() -> None:
    assert partial_line({"answered": ["a"], "missing": []}) == ""
