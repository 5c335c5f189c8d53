"""A node for the admin port's tests: fixed views, members that answer or do not, a feed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from mesh.model.ids import NodeKey
from mesh.node.feed import Feed, Watch
from mesh.node.inspect import Counters, Item, MissingNode, RegionAnswer, What
from mesh.node.letters import Act


def member(name: str, state: str = "alive", **more: object) -> Item:
    return {
        "id": name,
        "region": "eu",
        "state": state,
        "role": "node",
        "version": "0.1.0",
        "addresses": [],
        "age_s": 60.0,
    } | more


def route(region: str, state: str, metric: int | None, **more: object) -> Item:
    found: Item = {"region": region, "next_hop": "us-1", "via": "bridge#3", "metric": metric, "seqno": 118}
    return (
        found
        | {"path": [region], "age_s": 120.0, "state": state, "reason": "lowest_metric", "detail": ""}
        | more
    )


class FakeInspect:
    """eu-1 of region eu. others: what members answer; absent: those that do not."""

    def __init__(self) -> None:
        self.key = NodeKey("eu", "eu-1")
        self.draining = False
        self.own: dict[What, list[Item]] = {}
        self.others: dict[str, dict[What, list[Item]]] = {}
        self.absent: list[MissingNode] = []
        self.asked: list[tuple[What, float]] = []
        self.feed = Feed()
        self.reading = Counters()
        self.readiness = (True, "")
        self.leaving = 0
        self.refusals: list[tuple[str, str]] = []
        self.queries: list[bytes] = []
        self.acts: list[tuple[str, Act, tuple[int, ...], float]] = []
        self.done: list[Item] = []
        """What becomes of the next acts."""

    def view(self, what: What, query: bytes = b"") -> list[Item]:
        if query:
            self.queries.append(query)
        return self.own.get(what, [])

    def policy_test(self, question: Mapping[str, object]) -> Item:
        return {"node": self.key.node, "asked": dict(question)}

    def policy_preview(self, text: bytes, name: str) -> Item:
        return {"node": self.key.node, "rules": len(text.splitlines()), "name": name}

    async def letters(self, node: str, act: Act, lsns: Sequence[int], timeout_s: float) -> list[Item]:
        await trio.lowlevel.checkpoint()
        self.acts.append((node, act, tuple(lsns), timeout_s))
        return self.done

    async def ask_region(self, what: What, timeout_s: float, query: bytes = b"") -> RegionAnswer:
        await trio.lowlevel.checkpoint()
        if query:
            self.queries.append(query)
        self.asked.append((what, timeout_s))
        return RegionAnswer({name: views.get(what, []) for name, views in self.others.items()}, self.absent)

    def counters(self) -> Counters:
        return self.reading

    def watch_routes(self) -> AbstractAsyncContextManager[Watch]:
        return self.feed.watch()

    def request_leave(self) -> None:
        self.leaving += 1

    def ready(self) -> tuple[bool, str]:
        return self.readiness

    def count_refusal(self, port: str, reason: str) -> None:
        self.refusals.append((port, reason))
