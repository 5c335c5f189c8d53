"""HTTP requests: strict, bounded, and the same however the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.limits import Limits
from mesh.net.http_request import BodyBudget, RefusedRequest, RequestParser, read_query, read_target

LIMITS = Limits(header_bytes=1000, header_count=10, body_bytes=100)


def parser(limits: Limits = LIMITS, budget: BodyBudget | None = None) -> RequestParser:
    return RequestParser(limits, "1.2.3.4:5", budget or BodyBudget(1 << 20))


def fed(*pieces: bytes, limits: Limits = LIMITS) -> RequestParser:
    made = parser(limits)
    for piece in pieces:
        made.feed(piece)
    return made


def refused(*pieces: bytes, limits: Limits = LIMITS) -> tuple[int, str]:
    made = fed(*pieces, limits=limits)
    assert made.refusal is not None
    assert made.refusal.detail
    return made.refusal.status, made.refusal.counted


def test_a_request_is_read_into_its_parts() -> None:
    made = fed(
        b"POST /v1/events/a%20b/+/%23?filter=a/+&x=%26&x=2&flag HTTP/1.1\r\nHost: h\r\nCE-Id: 1\r\nce-id: 2\r\n"
        b"Content-Length: 5\r\n\r\nhello"
    )
    (request,) = made.requests
    assert (request.method, request.path) == ("POST", "/v1/events/a b/+/#")
    assert request.query == [("filter", "a/+"), ("x", "&"), ("x", "2"), ("flag", "")]
    assert request.query.get("x") == "&"
    assert request.query.get_all("x") == ["&", "2"]
    assert request.query.get("none", "d") == "d"
    assert request.header(b"ce-id") == b"1, 2"
    assert request.header(b"absent") is None
    assert request.body == b"hello"
    assert request.remote == "1.2.3.4:5"
    assert request.keep_alive
    assert not made.in_request


def test_chunks_are_joined_and_trailers_forgotten() -> None:
    made = fed(
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\n"
    )
    assert made.requests[0].body == b"hello world"
    assert made.requests[0].header(b"x") is None


STREAM = (
    b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"
    b"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    b"POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    b"GET /4 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    b"GET /5 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\nframes"
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_pipelined_requests_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    made = parser()
    leftover = b""
    for begin, end in itertools.pairwise(places):
        if made.finished:
            leftover += STREAM[begin:end]
        else:
            made.feed(STREAM[begin:end])
    assert [(r.path, r.body, r.websocket) for r in made.requests] == [
        ("/1", b"", False),
        ("/2", b"abc", False),
        ("/3", b"abc", False),
        ("/4", b"", False),
        ("/5", b"", True),
    ]
    assert made.leftover + leftover == b"frames"
    assert made.refusal is None


def test_every_prefix_of_a_stream_is_no_refusal() -> None:
    for end in range(len(STREAM)):
        assert fed(STREAM[:end]).refusal is None


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.integers(0, len(STREAM) - 1), st.binary(min_size=1, max_size=20))
def test_garbage_at_any_place_never_raises(place: int, garbage: bytes) -> None:
    made = fed(STREAM[:place] + garbage + STREAM[place:])
    made.close()
    assert all(request.path.startswith("/") or request.path == "*" for request in made.requests)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", (505, "unsupported_version")),
        (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", (505, "unsupported_version")),
        (b"GET /\r\n\r\n", (505, "unsupported_version")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505, "unsupported_version")),
        (b"FOO / HTTP/1.1\r\nHost: h\r\n\r\n", (400, "bad_method")),
        (b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", (501, "bad_method")),
        (b"PROPFIND / HTTP/1.1\r\nHost: h\r\n\r\n", (501, "bad_method")),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400, "bad_method")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, "bad_host")),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400, "bad_host")),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            (400, "bad_length"),
        ),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            (400, "bad_length"),
        ),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            (400, "bad_length"),
        ),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\nx", (400, "bad_length")),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nx", (400, "bad_length")),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            (501, "transfer_coding"),
        ),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (501, "transfer_coding")),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", (501, "transfer_coding")),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            (400, "malformed_request"),
        ),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n", (413, "body_too_large")),
        (b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", (417, "expectation")),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", (400, "malformed_request")),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", (400, "malformed_request")),
        (b"GET / HTTP/1.1\nHost: h\n\n", (400, "malformed_request")),
        (b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", (400, "malformed_request")),
        (b"GET /% HTTP/1.1\r\nHost: h\r\n\r\n", (400, "bad_target")),
        (b"GET /a/%2e%2E/b HTTP/1.1\r\nHost: h\r\n\r\n", (400, "bad_target")),
        (b"GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n", (400, "bad_target")),
        (b"GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n", (400, "bad_target")),
        (b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", (400, "bad_target")),
        (
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
            (400, "upgrade_with_body"),
        ),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, expected: tuple[int, str]) -> None:
    assert refused(data) == expected
    assert refused(*[data[n : n + 1] for n in range(len(data))]) == expected


def test_a_request_before_a_bad_one_is_still_there() -> None:
    made = fed(b"GET /good HTTP/1.1\r\nHost: h\r\n\r\nGARBAGE")
    assert [request.path for request in made.requests] == ["/good"]
    assert made.refusal is not None


def test_header_bombs_are_stopped_at_their_bound() -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n"
    assert refused(head + b"A: b\r\n" * 20) == (431, "too_many_headers")
    assert refused(head + b"A: " + b"b" * 2000 + b"\r\n\r\n") == (431, "headers_too_large")
    assert refused(b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n") == (431, "headers_too_large")
    made = parser()
    made.feed(head + b"A: ")
    pieces = 0
    while made.refusal is None:
        made.feed(b"b" * 100)
        pieces += 1
    assert pieces <= 11, "a header that never ends is held no longer than the bound"


@pytest.mark.parametrize("endless", [b"X: " + b"y" * 97, b"3;" + b"e" * 98])
def test_endless_trailers_and_chunk_extensions_are_stopped(endless: bytes) -> None:
    made = fed(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    made.feed(b"0\r\n" if endless.startswith(b"X") else b"")
    pieces = 0
    while made.refusal is None:
        made.feed(endless if pieces == 0 else b"y" * 100)
        pieces += 1
    assert pieces <= 12
    assert made.refusal.status == 431


def test_many_trailers_are_stopped() -> None:
    made = fed(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    for _ in range(200):
        made.feed(b"A: b\r\n")
    assert made.refusal is not None


def test_a_chunked_body_is_stopped_at_its_bound() -> None:
    made = fed(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(101):
        made.feed(b"1\r\nx\r\n")
    assert made.refusal is not None
    assert made.refusal.counted == "body_too_large"


def test_all_connections_together_hold_no_more_than_the_budget() -> None:
    budget = BodyBudget(150)
    first, second = parser(budget=budget), parser(budget=budget)
    begun = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n"
    first.feed(begun + b"x" * 90)
    second.feed(begun + b"x" * 50)
    assert budget.used_bytes == 140
    second.feed(b"x" * 20)
    assert second.refusal is not None
    assert second.refusal.status == 503
    second.close()
    first.feed(b"x" * 10)
    assert budget.used_bytes == 100
    first.release(len(first.requests.popleft().body))
    first.close()
    assert budget.used_bytes == 0


def test_the_client_is_told_to_go_on_only_while_its_body_is_awaited() -> None:
    made = fed(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    assert made.wants_continue
    made.feed(b"ab")
    assert not made.wants_continue
    made = fed(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab")
    assert not made.wants_continue
    made = fed(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert not made.wants_continue


def test_nothing_is_read_behind_the_last_request() -> None:
    made = fed(b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [request.path for request in made.requests] == ["/1"]
    assert made.finished
    assert made.refusal is None
    assert not fed(b"GET / HTTP/1.0\r\n\r\n").requests[0].keep_alive
    assert fed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").requests[0].keep_alive


def test_an_empty_line_between_requests_is_ignored() -> None:
    made = fed(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
    made.feed(b"\r\n")
    assert not made.in_request
    made.feed(b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [request.path for request in made.requests] == ["/1", "/2"]


def test_empty_lines_without_end_are_stopped() -> None:
    made = parser()
    for _ in range(20):
        made.feed(b"\r\n" * 40)
    assert made.refusal is not None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", ("/", "")),
        (b"*", ("*", "")),
        (b"http://h:1/a?b", ("/a", "b")),
        (b"HTTP://h", ("/", "")),
        (b"/a//b/?x?y", ("/a//b/", "x?y")),
        (b"/a%2Fb/.hidden", ("/a/b/.hidden", "")),
        (b"/%C3%A9", ("/é", "")),
    ],
)
def test_targets_in_their_three_forms(target: bytes, expected: tuple[str, str]) -> None:
    assert read_target(target) == expected


def test_queries_that_do_not_decode_are_refused() -> None:
    for raw in ("a=%zz", "a=%ff", "a=%0a", "&".join(["a"] * 2000)):
        with pytest.raises(RefusedRequest):
            read_query(raw)
    assert read_query("&&a=&") == [("a", "")]
