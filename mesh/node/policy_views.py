"""What an operator sees of a node's policy: its rules and counts, what is withheld, what did not cross, and what other rules would do.

Decides nothing: questions are answered by rulebooks made of the same rules as those in force, so that asking uses up no rate and counts
nothing. Invariant: nothing here changes what crosses.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from federation.core.policy.boundary import Boundary
from federation.core.policy.rewriting import CannotCross, Rewriting
from federation.core.policy.roles import Role, link_role
from federation.core.policy.rule_file import RuleError, RuleFile, parse
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Decision, Direction
from federation.core.reach import FILTER_KEY, split_group_key
from mesh.model.errors import MeshError
from mesh.model.event import Event
from mesh.model.ids import NodeKey
from mesh.model.topic import TopicError, check_topic
from mesh.node.inspect import Item
from mesh.wire.cloudevents import to_structured

if TYPE_CHECKING:
    from mesh.node.runner import Node

DENIALS: Final = 1_000
SAMPLE: Final = 20
"""Events of a preview that are shown; the others are counted."""
_ASKED: Final = frozenset(
    {"topic", "to", "from", "origin", "type", "source", "attributes", "data", "data_base64", "rules", "name"}
)


class Link(NamedTuple):
    """A region at the other end of links, and the role of these."""

    region: str
    role: Role


class PolicyViews:
    """Args: node: whose rules."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._machine = node.machine

    # -- lists -----------------------------------------------------------------------------------------------------

    def rules(self) -> list[Item]:
        """Each rule of each link in use, in their order, and what no rule matched."""
        found: list[Item] = []
        for (direction, peer, role), book in sorted(self._machine.boundary.books().items()):
            head: Item = {
                "node": self._node.key.node,
                "direction": direction.value,
                "peer": peer,
                "role": role,
            }
            for hit in book.hits():
                rule = hit.rule
                found.append(
                    {
                        **head,
                        "place": rule.where,
                        "rule": rule.text,
                        "allowed": hit.allowed,
                        "denied": hit.denied,
                    }
                )
            allowed, denied = book.by_default
            found.append({**head, "place": "", "rule": "", "allowed": allowed, "denied": denied})
        return found

    def withheld(self) -> list[Item]:
        """Interest that does not cross a link as it is."""
        found: list[Item] = []
        for side in self._machine.control.frontier.sides.values():
            for held in side.withheld:
                group, filter = _named(held.key)
                found.append(
                    {
                        "node": self._node.key.node,
                        "direction": held.direction.value,
                        "region": held.region,
                        "filter": filter,
                        "group": group,
                        "peer": held.peer,
                        "told": [_named(key)[1] for key in held.told],
                        "reason": f"{held.direction.value}_denied",
                        "detail": held.why,
                    }
                )
        return found

    def denials(self) -> list[Item]:
        """The last events that did not cross, newest first."""
        now = trio.current_time()
        return [
            {
                "node": self._node.key.node,
                "age_s": round(now - one.at_s, 3),
                "direction": one.direction.value,
                "peer": one.peer,
                "mesh_id": one.mesh_id,
                "topic": one.topic,
                "regions": list(one.regions),
                "reason": one.reason.value,
                "place": one.where,
                "rule": one.rule,
            }
            for one in reversed(self._machine.boundary.audit.newest(DENIALS))
        ]

    # -- one event -------------------------------------------------------------------------------------------------

    def test(self, question: Mapping[str, object]) -> Item:
        """What the rules do to one event.

        Args: question: `topic`, and `to` or `from`, a region; `origin` (default: this region, or with `from` that one); `type`, `source`,
        `attributes` (text by name), `data` (text) or `data_base64`; `rules`, the text of a policy file, and its `name`, instead of the
        rules in force. Raises: MeshError A007 (the question), F021 (its rules), F024 (no such link).
        """
        asked = _Question(question)
        direction = Direction.IMPORT if asked.text("from") else Direction.EXPORT
        far = asked.text("from") or asked.text("to")
        if bool(asked.text("from")) == bool(asked.text("to")):
            raise MeshError("MESH-A007", "to", "one of to and from names a region")
        link = self._link_towards(far)
        own = self._node.key.region
        origin = asked.text("origin") or (own if direction is Direction.EXPORT else far)
        destination = far if direction is Direction.EXPORT else own
        rule_file = self._machine.boundary.rule_file
        keys: Mapping[str, bytes] = self._machine.boundary.keys
        if asked.text("rules"):
            rule_file = _parsed(asked.text("rules"), asked.text("name") or "rules")
            keys = dict.fromkeys(rule_file.keys, bytes(32))
        book = _book(rule_file, direction, link)
        event = asked.event()
        decision = book.decide(event, origin, destination, 0.0)
        after = event
        if decision.allowed and decision.rule is not None:
            try:
                after = Rewriting(keys, lambda: bytes(12)).of(event, decision.rule)
            except CannotCross as error:
                decision = Decision(False, error.reason, decision.rule)
        rule = decision.rule
        return {
            "node": self._node.key.node,
            "direction": direction.value,
            "peer": link.region,
            "role": link.role.value,
            "origin": origin,
            "destination": destination,
            "topic": event.topic,
            "allowed": decision.allowed,
            "reason": decision.reason.value,
            "rule": "" if rule is None else rule.text,
            "place": decision.where,
            "topic_after": after.topic if decision.allowed else None,
            "changed": decision.allowed and after is not event,
            "event_after": to_structured(after).decode("utf-8", "replace") if decision.allowed else None,
        }

    def _link_towards(self, region: str) -> Link:
        """The link to a region, or the one on the way to it. Raises: MeshError F024."""
        machine = self._machine
        for session in machine.sessions.values():
            if session.link in machine.links.bridges and session.peer_key.region == region:
                assert session.peer is not None
                return Link(region, link_role(session.terms.role, session.peer.role))
        terms = self._node.settings.bridges.get(region)
        if terms is not None:
            return Link(region, link_role(terms.role, ""))
        entry = machine.control.routes.fib.get(region)
        for hop in () if entry is None else entry.hops:
            next_region = None if hop.link is None else machine.links.bridges.get(hop.link)
            if next_region is not None:
                return self._link_towards(next_region)
        raise MeshError("MESH-F024", region, "no link of this node leads there")

    # -- other rules -----------------------------------------------------------------------------------------------

    def preview(self, text: bytes, name: str) -> Item:
        """What the rules of a file would change: routes, interest, and the last events that came to links with rules.

        Raises: MeshError F021. Cost: O(interest of all regions + RECENT events).
        """
        try:
            rule_file = _parsed(text.decode(), name)
        except UnicodeDecodeError:
            raise MeshError("MESH-F021", name, "it is not UTF-8") from None
        boundary = self._machine.boundary
        links = self._links()
        items: Item = {
            "node": self._node.key.node,
            "rules": len(rule_file.rules),
            "rules_now": len(boundary.rule_file.rules),
            "in_force": boundary.configured,
            "routes": self._routes(rule_file, links),
            "interest": self._interest(rule_file),
        }
        return {**items, **self._events(rule_file)}

    def _links(self) -> list[Link]:
        machine = self._machine
        found = {Link(to, link_role(terms.role, "")) for to, terms in self._node.settings.bridges.items()}
        for session in machine.sessions.values():
            if session.link in machine.links.bridges and session.peer is not None:
                link = Link(session.peer.region, link_role(session.terms.role, session.peer.role))
                found = {one for one in found if one.region != link.region} | {link}
        return sorted(found)

    def _routes(self, rule_file: RuleFile, links: list[Link]) -> list[Item]:
        """Regions that would be told across a link, or taken from it, and are not now, and the other way round."""
        machine = self._machine
        now_rules = Boundary(
            machine.key.region,
            machine.settings.limits,
            machine.boundary.rule_file if machine.boundary.configured else None,
        )
        then = Boundary(machine.key.region, machine.settings.limits, rule_file)
        regions = sorted({machine.key.region, *machine.control.reach.regions(), *machine.control.routes.fib})
        regions = sorted(
            {*regions, *(view.region for view in machine.control.routes.rib(trio.current_time()))}
        )
        found: list[Item] = []
        for link in links:
            for region in regions:
                for way in ("import", "export"):
                    if region == (link.region if way == "export" else machine.key.region):
                        continue
                    before = getattr(now_rules, f"{way}_route")(link.role, link.region, region, ())
                    after = getattr(then, f"{way}_route")(link.role, link.region, region, ())
                    if before.allowed != after.allowed:
                        change = "opened" if after.allowed else "closed"
                        detail = after.rule or before.rule
                        found.append(
                            {
                                "region": region,
                                "peer": link.region,
                                "direction": way,
                                "change": change,
                                "detail": detail,
                            }
                        )
        return found

    def _interest(self, rule_file: RuleFile) -> list[Item]:
        frontier = self._machine.control.frontier
        found: list[Item] = []
        for peer, side in sorted(frontier.sides.items()):
            link = Link(peer.region, Role(side.export.role))
            taken, told = frontier.with_rules(side, side.export, side.import_)
            taken_then, told_then = frontier.with_rules(
                side, _book(rule_file, Direction.EXPORT, link), _book(rule_file, Direction.IMPORT, link)
            )
            for direction, before, after in (
                (Direction.EXPORT, taken, taken_then),
                (Direction.IMPORT, told, told_then),
            ):
                for change, entries in (("opened", after - before), ("closed", before - after)):
                    found += [_interest_item(direction, peer, entry, change) for entry in sorted(entries)]
        return found

    def _events(self, rule_file: RuleFile) -> Item:
        """The last events, judged by both sets of rules."""
        boundary, own = self._machine.boundary, self._node.key.region
        books: dict[tuple[bool, Direction, Link], Rulebook] = {}
        changes: list[Item] = []
        changed = 0
        for seen in boundary.recent:
            link = Link(seen.peer, Role(seen.role))
            decisions: list[Decision] = []
            for then, rules in ((False, boundary.rule_file), (True, rule_file)):
                key = (then, seen.direction, link)
                if key not in books:
                    books[key] = _book(rules, seen.direction, link)
                far = seen.peer if seen.direction is Direction.EXPORT else own
                decisions.append(books[key].decide(seen.event, seen.origin, far, 0.0))
            before, after = decisions
            if before.allowed == after.allowed and _does(before) == _does(after):
                continue
            changed += 1
            if len(changes) < SAMPLE:
                changes.append(
                    {
                        "topic": seen.event.topic,
                        "direction": seen.direction.value,
                        "peer": seen.peer,
                        "before": "allow" if before.allowed else "deny",
                        "after": "allow" if after.allowed else "deny",
                        "place_before": before.where,
                        "place_after": after.where,
                    }
                )
        return {"events_seen": len(boundary.recent), "events_changed": changed, "events": changes}


def _does(decision: Decision) -> object:
    rule = decision.rule
    return (
        None if rule is None or not rule.changes else (rule.rename, rule.fields, rule.encrypt, rule.decrypt)
    )


def _book(rule_file: RuleFile, direction: Direction, link: Link) -> Rulebook:
    return Rulebook(rule_file.rules, direction, link.region, link.role.value, open=link.role is not Role.DMZ)


def _parsed(text: str, name: str) -> RuleFile:
    try:
        return parse(text, name)
    except RuleError as error:
        raise MeshError("MESH-F021", f"{error.file}:{error.line}", error.what) from None


def _named(key: str) -> tuple[str, str]:
    """(group, filter) of an interest key."""
    return ("", key[1:]) if key[0] == FILTER_KEY else split_group_key(key)


def _interest_item(direction: Direction, peer: NodeKey, entry: str, change: str) -> Item:
    region, _, key = entry.partition("/")
    group, filter = _named(key)
    return {
        "direction": direction.value,
        "peer": str(peer),
        "region": region,
        "filter": filter,
        "group": group,
        "change": change,
    }


class _Question:
    """The parts of a question, each of its type."""

    def __init__(self, given: Mapping[str, object]) -> None:
        unknown = given.keys() - _ASKED
        if unknown:
            name = min(unknown)
            raise MeshError(
                "MESH-A007", name[:80], "no such field", f"Known here: {', '.join(sorted(_ASKED))}."
            )
        self._given = given

    def text(self, name: str) -> str:
        found = self._given.get(name, "")
        if not isinstance(found, str):
            raise MeshError("MESH-A007", name, "it is no text")
        return found

    def event(self) -> Event:
        """The event in question; what is not said of it is made up."""
        try:
            topic = check_topic(self.text("topic"))
        except TopicError as error:
            raise MeshError("MESH-A007", "topic", str(error)) from None
        attributes = {
            "specversion": "1.0",
            "id": "test",
            "source": self.text("source") or "urn:test",
            "type": self.text("type") or "test",
        }
        more = self._given.get("attributes", {})
        if not isinstance(more, dict) or not all(
            isinstance(part, str) for pair in more.items() for part in pair
        ):
            raise MeshError("MESH-A007", "attributes", "it is no object of texts")
        attributes.update(more)
        data = self.text("data").encode("utf-8", "replace")
        if self.text("data_base64"):
            try:
                data = base64.b64decode(self.text("data_base64"), validate=True)
            except (binascii.Error, ValueError):
                raise MeshError("MESH-A007", "data_base64", "it is no Base64") from None
        return Event(0, topic, "", 0, None, tuple(part for pair in attributes.items() for part in pair), data)
