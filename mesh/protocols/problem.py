"""Refusals as clients read them: RFC 9457 problem objects, the same in an HTTP answer, a WebSocket `error` op and a close.

Decides the shape of a refusal and the nearest spelling it proposes. Never decides whether something is refused, and knows
no code of its own: the rows are in `mesh.model.errors`.
Invariant: every problem has type, title, status, detail, code and remedy. Source: RFC 9457 section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

import msgspec

from mesh.model.errors import ERRORS, problem
from mesh.node.service import RefusedError, RegionReason

PROBLEM_TYPE: Final = "application/problem+json"
_RETRY_AFTER_S: Final = 1
_NAME_CHARS: Final = 80
_DETAIL_CHARS: Final = 1_000
"""What is told of a client's own words: looking for a near spelling of megabytes, or sending them back, stops everybody else."""
_CLOSE_REASON_BYTES: Final = 123  # RFC 6455 section 5.5: 125 of a control frame, less the code


class Problem(RefusedError):
    """A refusal with what only clients need: the place in the request, more fields, headers of the answer.

    where: parameter, header or field. more: further members of the problem object. headers: of the HTTP answer.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        where: str = "",
        status: int = 0,
        more: Mapping[str, object] | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(code, detail, status=status or ERRORS[code].status)
        self.where = where
        self.more = dict(more or {})
        self.headers = tuple(headers)


def problem_object(refused: RefusedError) -> dict[str, object]:
    """The problem object of a refusal, ready for a JSON encoder. A code without a row keeps its own text. Cost: 1 us."""
    if refused.code not in ERRORS:  # a node newer than this table
        return {
            "type": f"urn:hopmesh:error:{refused.code}",
            "title": "refused",
            "status": refused.status,
            "detail": refused.detail[:_DETAIL_CHARS],
            "code": refused.code,
            "remedy": "",
        }
    where = refused.where if isinstance(refused, Problem) else ""
    found = problem(refused.code, refused.detail[:_DETAIL_CHARS], status=refused.status, where=where)
    found.update(refused.more)
    return found


def problem_json(refused: RefusedError) -> bytes:
    """The problem object as one line of JSON that ends with a line feed, for a terminal."""
    return msgspec.json.encode(problem_object(refused)) + b"\n"


def problem_headers(refused: RefusedError) -> list[tuple[str, str]]:
    """Headers of the HTTP answer: the content type, Retry-After where trying again may help, and the refusal's own."""
    headers = [("content-type", PROBLEM_TYPE), *refused.headers]
    if refused.status in (429, 503) and all(name != "retry-after" for name, _ in headers):
        headers.append(("retry-after", str(_RETRY_AFTER_S)))
    return headers


def close_reason(refused: RefusedError) -> str:
    """A refusal as the reason of a WebSocket close: code and detail, cut to what the frame holds. Source: RFC 6455 5.5.1."""
    whole = f"{refused.code} {refused.detail}".encode("utf-8", "replace")
    return whole[:_CLOSE_REASON_BYTES].decode("utf-8", "ignore")


def region_reasons(reasons: Iterable[RegionReason]) -> list[dict[str, str]]:
    """Reasons as answers carry them: region "" stands for all regions; detail only where there is one."""
    return [
        {"region": entry.region, "reason": entry.reason, "detail": entry.detail}
        if entry.detail
        else {"region": entry.region, "reason": entry.reason}
        for entry in reasons
    ]


def unknown_name(what: str, name: str, known: Sequence[str], *, code: str = "MESH-E010") -> Problem:
    """The refusal of a name nobody knows: proposes the nearest spelling, or lists what there is."""
    name = name[:_NAME_CHARS]
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    proposal = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known)) or 'none'}"
    return Problem(code, f"{what} {name!r} does not exist here; {proposal}", where=name)
