from __future__ import annotations

import re

import pytest

from mesh.model import errors
from mesh.model.errors import ERRORS, MeshError, close_code, problem
from mesh.model.reasons import Close

ROWS = list(ERRORS.values())


def test_no_code_is_given_twice() -> None:
    tables = (
        errors._CONFIG,
        errors._ADMIN,
        errors._EVENTS,
        errors._LINKS,
        errors._MEMBERS,
        errors._FEDERATION,
        errors._REGISTRY,
    )
    codes = [row.code for rows in tables for row in rows]
    assert len(codes) == len(set(codes)) == len(ERRORS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.code)
def test_every_row_says_what_is_wrong_and_what_to_do(row: errors.ErrorCode) -> None:
    assert re.fullmatch(r"MESH-[CAELMFR]\d{3}", row.code)
    assert row.title[0].islower() or row.title.split()[0].isupper()
    assert not row.title.endswith(".")
    assert row.remedy.endswith((".", '".'))
    assert row.status == 0 or 400 <= row.status <= 599
    assert row.exit in (1, 2, 3, 4, 10)


@pytest.mark.parametrize("reason", list(Close))
def test_every_close_reason_leads_to_a_row(reason: Close) -> None:
    code = close_code(reason)
    assert code in ERRORS if reason is not Close.NORMAL else code == ""


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = MeshError("MESH-C012", "listen.events", "port 7222 is already used by pid 4121 (mesh)")
    assert str(error).startswith(
        "MESH-C012 listen.events: port 7222 is already used by pid 4121 (mesh). Set another port"
    )


def test_a_better_remedy_replaces_the_rows() -> None:
    assert (
        str(MeshError("MESH-C001", "x", "no such key", "Did you mean y?"))
        == "MESH-C001 x: no such key. Did you mean y?"
    )


def test_a_problem_object_has_the_members_of_rfc_9457_and_the_code() -> None:
    told = problem("MESH-A007", "limit is 0", where="limit")
    assert told["type"] == "urn:hopmesh:error:MESH-A007"
    assert (told["status"], told["detail"], told["where"]) == (400, "limit is 0", "limit")
    assert told["code"] == "MESH-A007"
    assert told["title"]
    assert told["remedy"]
