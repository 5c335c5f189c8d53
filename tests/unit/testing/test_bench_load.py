"""The generator's bytes and figures: ids and times stand where a reader finds them, quantiles are those of the list."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mesh.testing.bench_load import _EVENT, Body, Connection, masked_text, quantiles_us


def events_of(body: bytes) -> list[dict[str, object]]:
    head, _, text = body.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(text)}".encode() in head
    told = json.loads(text)
    return told if isinstance(told, list) else [told]


def test_a_batch_is_valid_cloudevents_of_the_size_asked_for() -> None:
    body = Body(["bench/1", "bench/2"], 256, "127.0.0.1:1", single=False)
    events = events_of(bytes(body.bytes))
    assert [event["topic"] for event in events] == ["bench/1", "bench/2"]
    assert all(len(json.dumps(event["data"], separators=(",", ":"))) == 256 for event in events)
    assert b"application/cloudevents-batch+json" in body.bytes


def test_ids_and_times_are_written_in_place_and_found_again() -> None:
    body = Body(["bench/1", "bench/2"], 100, "127.0.0.1:1", single=False)
    before = len(body.bytes)
    body.stamp(123_456_789)
    data = body.number(41)
    assert len(data) == before
    assert [(int(found[1]), int(found[2])) for found in _EVENT.finditer(bytes(data))] == [
        (41, 123_456_789),
        (42, 123_456_789),
    ]
    assert [event["id"] for event in events_of(bytes(data))] == ["000000000041", "000000000042"]


def test_a_single_event_is_no_list() -> None:
    body = Body(["bench/1"], 10, "h:1", single=True)
    assert b"\r\nContent-Type: application/cloudevents+json\r\n" in body.bytes
    assert len(events_of(bytes(body.bytes))) == 1


def test_quantiles_are_microseconds() -> None:
    values = [n * 1_000 for n in range(1, 1_001)]
    assert quantiles_us(values) == {"p50": 501.0, "p99": 991.0, "p99.9": 1_000.0, "max": 1_000.0}
    assert quantiles_us([]) == {"p50": 0.0, "p99": 0.0, "p99.9": 0.0, "max": 0.0}


@pytest.mark.parametrize("size", [0, 125, 126, 1_000])
def test_a_masked_text_frame_has_the_length_the_standard_says(size: int) -> None:
    text = b"x" * size
    frame = masked_text(text)
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    short = frame[1] & 0x7F
    told = short if short < 126 else int.from_bytes(frame[2:4], "big")
    assert told == size
    assert frame.endswith(bytes(4) + text)


@contextmanager
def answering(*pieces: bytes) -> Iterator[str]:
    """A server that answers the first request in these pieces."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1_024)
            for piece in pieces:
                connection.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        thread.join(5)
        server.close()


def test_a_call_reads_the_whole_answer_in_whatever_pieces_it_comes() -> None:
    with answering(b"HTTP/1.1 202 Accepted\r\nContent-", b"Length: 5\r\n\r\nab", b"cde") as address:
        connection = Connection(address)
        connection.call(b"x")
        connection.socket.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n", "503"), (b"HTTP/1.1 202 ok", "closed")],
)
def test_another_status_or_an_early_end_raises(answer: bytes, told: str) -> None:
    with answering(answer) as address:
        connection = Connection(address)
        with pytest.raises(RuntimeError, match=told):
            connection.call(b"x")
        connection.socket.close()
