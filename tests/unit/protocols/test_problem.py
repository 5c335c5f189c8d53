"""Problem objects: complete, bounded, and the same for every protocol."""

from __future__ import annotations

import json

from mesh.model.errors import ERRORS
from mesh.node.service import RefusedError, RegionReason
from mesh.protocols.problem import (
    Problem,
    close_reason,
    problem_headers,
    problem_json,
    problem_object,
    region_reasons,
    unknown_name,
)


def test_every_code_of_the_events_port_makes_a_whole_problem() -> None:
    codes = [code for code in ERRORS if code.startswith("MESH-E")]
    assert codes
    for code in codes:
        found = json.loads(problem_json(Problem(code, "what happened")))
        assert set(found) >= {"type", "title", "status", "detail", "code", "remedy"}
        assert 400 <= found["status"] <= 599
        assert found["detail"] == "what happened"
        assert found["remedy"].endswith((".", "bound."))


def test_a_refusal_of_the_node_keeps_its_own_status() -> None:
    found = problem_object(RefusedError("MESH-E016", "leaving", status=503))
    assert (found["status"], found["code"]) == (503, "MESH-E016")


def test_a_code_without_a_row_is_still_answered() -> None:
    assert problem_object(RefusedError("MESH-E999", "new", status=418))["status"] == 418


def test_what_may_work_later_says_when() -> None:
    assert ("retry-after", "1") in problem_headers(Problem("MESH-E016", "leaving"))
    assert problem_headers(Problem("MESH-E024", "", headers=[("allow", "POST")])) == [
        ("content-type", "application/problem+json"),
        ("allow", "POST"),
    ]


def test_more_members_and_the_place_are_part_of_the_object() -> None:
    found = problem_object(Problem("MESH-E013", "nobody", where="topic", more={"reasons": []}))
    assert (found["where"], found["reasons"]) == ("topic", [])


def test_a_close_reason_fits_its_frame_and_stays_text() -> None:
    assert close_reason(Problem("MESH-E001", "short")) == "MESH-E001 short"
    assert len(close_reason(Problem("MESH-E001", "€" * 200)).encode()) <= 123
    assert close_reason(Problem("MESH-E001", "\ud800")) == "MESH-E001 ?"


def test_reasons_carry_a_detail_only_where_there_is_one() -> None:
    assert region_reasons([RegionReason("us", "no_route"), RegionReason("", "no_interest", "none")]) == [
        {"region": "us", "reason": "no_route"},
        {"region": "", "reason": "no_interest", "detail": "none"},
    ]


def test_a_long_unknown_name_is_cut() -> None:
    assert len(unknown_name("parameter", "x" * 10_000, ["ack"]).detail) < 200


def test_a_client_s_own_words_come_back_cut() -> None:
    told = problem_object(Problem("MESH-E002", "x" * 1_000_000))
    assert len(str(told["detail"])) == 1_000
    unknown = unknown_name("op", "s" * 1_000_000, ["subscribe"])
    assert len(unknown.detail) < 200
