"""The calls of the admin port: from a request to an answer, without a socket.

Decides paths, parameters and the shape of answers; every list covers the region and says who did not answer. Changes nothing
but through `Inspect.request_leave`. Web pages of other sites do not get here (`mesh.net.web_page`).
Invariant: every refusal is a problem object with a code; an unknown parameter is refused, not ignored.
Source: design page "What a person sees", Admin API; RFC 9457.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import trio

from mesh.admin.letters import FILTERS, PATH, LetterCalls, method_of, place_of
from mesh.admin.metrics import Metrics
from mesh.admin.paging import DEFAULT_LIMIT, MOST, page, read_cursor
from mesh.admin.region import gather
from mesh.model.errors import ERRORS, MeshError, problem
from mesh.model.quantity import parse_duration
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.node.inspect import Inspect, Item, What
from mesh.node.letters import Act

API_VERSION: Final = "mesh/v1"
WATCH_PATH: Final = "/v1/routes/watch"
DEFAULT_TIMEOUT_S, LONGEST_TIMEOUT_S = 2.0, 60.0
_JSON: Final = [("content-type", "application/json"), ("cache-control", "no-store")]
_PROBLEM: Final = [("content-type", "application/problem+json"), ("cache-control", "no-store")]


class Collection(NamedTuple):
    """One list. one: the field that a path's last segment selects by, "" for none. filters: fields that may be given."""

    what: What
    one: str
    filters: tuple[str, ...]


COLLECTIONS: Final[dict[str, Collection]] = {
    "/v1/nodes": Collection(What.NODES, "id", ("state", "region", "role", "version")),
    "/v1/links": Collection(What.LINKS, "id", ("region", "kind", "state", "peer", "role")),
    "/v1/routes": Collection(What.ROUTES, "region", ("region", "state", "next_hop", "reason")),
    "/v1/subscriptions": Collection(What.SUBSCRIPTIONS, "", ("filter", "group", "client", "region")),
    "/v1/config": Collection(What.CONFIG, "", ("key", "origin")),
    "/v1/version": Collection(What.VERSION, "", ()),
    "/v1/policy": Collection(What.POLICY, "", ("direction", "peer", "role", "place")),
    "/v1/policy/withheld": Collection(What.POLICY_WITHHELD, "", ("direction", "region", "peer", "reason")),
    "/v1/policy/denials": Collection(What.POLICY_DENIALS, "", ("direction", "peer", "topic", "reason")),
    "/v1/log": Collection(What.LOG, "", ("state",)),
    "/v1/spools": Collection(What.SPOOLS, "id", ("kind", "destination", "why")),
    "/v1/registry/status": Collection(What.REGISTRY, "", ("id", "kind", "state")),
    "/v1/registry/entries": Collection(What.REGISTRY_ENTRIES, "", ("id", "kind", "region", "reason")),
    "/v1/registry/diff": Collection(What.REGISTRY_DIFF, "", ("id", "kind", "verdict", "right")),
}
_SCOPE: Final = ("limit", "cursor", "node", "here", "timeout")

_Call = Callable[[Request], Awaitable[Response]]


class Api:
    """Answers requests about one node and its region."""

    def __init__(self, inspect: Inspect) -> None:
        self._inspect = inspect
        self._metrics = Metrics(inspect)
        self._letters = LetterCalls(inspect)
        self._calls: dict[str, tuple[str, _Call]] = {
            "/livez": ("GET", self._livez),
            "/readyz": ("GET", self._readyz),
            "/metrics": ("GET", self._scrape),
            "/v1/node/leave": ("POST", self._leave),
            "/v1/policy/test": ("POST", self._policy_test),
            "/v1/policy/preview": ("POST", self._policy_preview),
        }

    async def answer(self, request: Request) -> Response:
        """The answer to one request; every MeshError becomes its problem object. Never raises for what a client sent."""
        try:
            return await self._find(request)
        except MeshError as error:
            return problem_response(error)

    async def _find(self, request: Request) -> Response:
        path = request.path.rstrip("/") or "/"
        call = self._calls.get(path)
        if call is not None:
            method, answer = call
            check_method(request, method)
            return await answer(request)
        if path == PATH or path.startswith(PATH + "/"):
            return await self._dead_letters(request, path)
        parent, _, one = path.rpartition("/")
        if path in COLLECTIONS:
            collection, one = COLLECTIONS[path], ""
        elif parent in COLLECTIONS and COLLECTIONS[parent].one and one:
            collection = COLLECTIONS[parent]
        else:
            raise no_such_path(path, [*self._calls, *COLLECTIONS, PATH, WATCH_PATH])
        check_method(request, "GET")
        return await self._list(request, collection, one)

    async def _list(self, request: Request, collection: Collection, one: str) -> Response:
        given = parameters(request, (*collection.filters, *_SCOPE))
        filters = {name: given[name] for name in collection.filters if name in given}
        if one:
            filters[collection.one] = one
        limit = _number(given, "limit", DEFAULT_LIMIT, MOST)
        after = read_cursor(collection.what, given.get("cursor", ""))
        gathered = await gather(
            self._inspect,
            collection.what,
            node=given.get("node", ""),
            here=_here(given),
            timeout_s=_duration(given),
        )
        found = await page(collection.what, gathered.items, filters, limit=limit, after=after)
        if one and not found.items:
            silent = ", ".join(entry.node for entry in gathered.missing)
            raise MeshError(
                "MESH-A005", request.path, f"nobody knows it (not asked or silent: {silent or 'none'})"
            )
        return listing(gathered.answered, gathered.missing, found.items, found.next)

    async def _dead_letters(self, request: Request, path: str) -> Response:
        """The list, some that are named, or what is to be done with them: see `mesh.admin.letters`."""
        place = place_of(path)
        check_method(request, *method_of(place))
        if not place.node:
            given = parameters(request, (*FILTERS, *_SCOPE))
            items, answered, missing, cursor = await self._letters.page(
                given,
                limit=_number(given, "limit", DEFAULT_LIMIT, MOST),
                cursor=given.get("cursor", ""),
                node=given.get("node", ""),
                here=_here(given),
                timeout_s=_duration(given),
            )
            return listing(answered, missing, items, cursor)
        given = parameters(request, ("timeout", "limit"))
        act = {"POST": Act.REPLAY, "DELETE": Act.DROP}.get(request.method, Act.SHOW)
        items = await self._letters.act(place, act, _duration(given))
        return listing([place.node], [], items, None)

    # -- single calls ------------------------------------------------------------------------------------------------

    async def _livez(self, request: Request) -> Response:
        """Alive means that the loop turns: how long one turn takes is measured here and now."""
        begun = trio.current_time()
        await trio.lowlevel.checkpoint()
        turn_ms = (trio.current_time() - begun) * 1e3
        return Response(200, _encode({"status": "alive", "turn_ms": round(turn_ms, 3)}), _JSON)

    async def _readyz(self, request: Request) -> Response:
        ready, why = self._inspect.ready()
        if not ready:
            return problem_response(MeshError("MESH-A008", "", why))
        return Response(200, _encode({"status": "ready"}), _JSON)

    async def _scrape(self, request: Request) -> Response:
        body, content_type = self._metrics.render((request.header(b"accept") or b"").decode("latin-1"))
        return Response(200, body, [("content-type", content_type)])

    async def _policy_test(self, request: Request) -> Response:
        """A JSON object with the event in question: see `mesh.node.policy_views.PolicyViews.test`."""
        parameters(request, ())
        try:
            question = msgspec.json.decode(request.body, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MeshError("MESH-A007", "body", f"it is no JSON object ({error})") from None
        found = self._inspect.policy_test(question)
        return Response(200, _encode({"apiVersion": API_VERSION, **found}), _JSON)

    async def _policy_preview(self, request: Request) -> Response:
        """The text of a policy file, which is not put into force."""
        given = parameters(request, ("name",))
        found = self._inspect.policy_preview(request.body, given.get("name", "preview"))
        return Response(200, _encode({"apiVersion": API_VERSION, **found}), _JSON)

    async def _leave(self, request: Request) -> Response:
        key = self._inspect.key
        self._inspect.request_leave()
        told = {"apiVersion": API_VERSION, "node": key.node, "region": key.region, "status": "leaving"}
        return Response(202, _encode(told), _JSON)


# -- parts of answers -------------------------------------------------------------------------------------------------


def listing(
    answered: Sequence[str], missing: Sequence[tuple[str, str]], items: Sequence[Item], cursor: str | None
) -> Response:
    """The one shape of every list."""
    told = {
        "apiVersion": API_VERSION,
        "answered": answered,
        "missing": [{"node": node, "why": why} for node, why in missing],
        "next": cursor,
        "items": items,
    }
    return Response(200, _encode(told), _JSON)


def problem_response(error: MeshError, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """A MeshError as problem+json, with the status of its row."""
    told = problem(error.code, error.what, where=error.where)
    told["remedy"] = error.remedy
    status = ERRORS[error.code].status or 500
    told["status"] = status
    extra = [("retry-after", "1")] if status == 503 else []
    if isinstance(error, WrongMethod):
        extra.append(("allow", error.allowed))
    return Response(status, _encode(told), [*_PROBLEM, *extra, *headers])


def _encode(told: object) -> bytes:
    """One line of JSON with its line feed, for a terminal."""
    return msgspec.json.encode(told) + b"\n"


# -- parts of requests ------------------------------------------------------------------------------------------------


class WrongMethod(MeshError):
    """The path is there, the method is not. allowed: the Allow header."""

    def __init__(self, path: str, method: str, allowed: str) -> None:
        super().__init__("MESH-A006", path, f"{method} is not one of {allowed}")
        self.allowed = allowed


def check_method(request: Request, *methods: str) -> None:
    """Raises: WrongMethod. HEAD is answered wherever GET is."""
    allowed = [name for method in methods for name in (("GET", "HEAD") if method == "GET" else (method,))]
    if request.method not in allowed:
        raise WrongMethod(request.path, request.method, ", ".join(allowed))


def parameters(request: Request, known: Sequence[str]) -> dict[str, str]:
    """Query parameters, each known and given once. Raises: MeshError MESH-A007 with the nearest name."""
    found: dict[str, str] = {}
    for name, value in request.query:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
            raise MeshError("MESH-A007", name[:80], "no such parameter", remedy)
        if name in found:
            raise MeshError("MESH-A007", name, "it is given twice")
        found[name] = value
    return found


def no_such_path(path: str, known: Sequence[str]) -> MeshError:
    """The error of a path nobody answers, with the nearest one."""
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    remedy = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
    return MeshError("MESH-A005", path[:200], "no such path", remedy)


def _number(given: dict[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise MeshError("MESH-A007", name, f"{text[:20]!r} is not a number from 1 to {most}")
    return int(text)


def _here(given: dict[str, str]) -> bool:
    here = given.get("here", "false")
    if here not in ("true", "false"):
        raise MeshError("MESH-A007", "here", f"{here!r} is not true or false")
    return here == "true"


def _duration(given: dict[str, str]) -> float:
    text = given.get("timeout")
    if text is None:
        return DEFAULT_TIMEOUT_S
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        raise MeshError(
            "MESH-A007", "timeout", f"{text[:20]!r} is not a duration up to {LONGEST_TIMEOUT_S:g}s"
        )
    return seconds
