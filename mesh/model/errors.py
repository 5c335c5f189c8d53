"""The table of everything that can be told to a person as an error: one code, one sentence, one remedy.

`mesh errors CODE`, docs/errors.md, problem+json answers and log lines come from this table and from nowhere else.
Letters: C configuration, A admin and command line, E events port, L links, M membership, F federation, R registry.
Form for people: `MESH-C012 listen.events: port 7222 is already used. Set [listen] events, or ...`.
Source: design page "What a person sees", section Errors; RFC 9457.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row. status: HTTP status where it answers a request (0: never). exit: exit code of the command (1 to 10)."""

    code: str
    title: str
    remedy: str
    status: int = 0
    exit: int = 1


class MeshError(Exception):
    """An error for a person: a code of ERRORS, where it happened, what was wrong, and optionally a better remedy."""

    def __init__(self, code: str, where: str, what: str, remedy: str = "") -> None:
        row = ERRORS[code]
        self.code = code
        self.where = where
        self.what = what
        self.remedy = remedy or row.remedy
        super().__init__(f"{code} {where}: {what}. {self.remedy}" if where else f"{code} {what}. {self.remedy}")


_ROWS: Final[tuple[ErrorCode, ...]] = ()
ERRORS: Final[dict[str, ErrorCode]] = {row.code: row for row in _ROWS}
