"""The policy of one node: its rules in force, and what they are applied with at each link.

Decides which links have rules at all: every link to another region once there is a policy file, and links of role dmz always. Routes
follow from the rules, so that nobody writes them down a second time: a region is told across a link when events may come to it over
that link, or when its requests may go out and their replies must come back.
Never opens a file and never looks at a batch (`gate` does).
Invariant: one rulebook a direction, region and role, so that the links of a pair of regions share rates and counts.
Source: design page "Routing", Boundary and Routes (link roles).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from federation.core.frontier import Side
from federation.core.policy.audit import Audit
from federation.core.policy.gate import Gate, Way
from federation.core.policy.passages import Requests
from federation.core.policy.rewriting import Rewriting
from federation.core.policy.roles import ALLOW, Role, Ruling
from federation.core.policy.rule_file import RuleFile
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Direction
from mesh.model.event import Event
from mesh.model.limits import Limits

RECENT: Final = 1_000
"""Events a preview is made of: the last ones that came to any link with rules."""
_NO_RULE: Final = RuleFile("")


class Seen(NamedTuple):
    """An event that came to a boundary. origin, peer: regions."""

    direction: Direction
    origin: str
    peer: str
    role: str
    event: Event


class Boundary:
    """Args: region: this node's. rule_file: None for none. keys: by id. nonce: 12 fresh bytes a call, needed where a rule encrypts."""

    def __init__(
        self,
        region: str,
        limits: Limits,
        rule_file: RuleFile | None = None,
        keys: Mapping[str, bytes] | None = None,
        nonce: Callable[[], bytes] | None = None,
    ) -> None:
        self._region = region
        self.configured = rule_file is not None
        """Whether there is a policy file: it cannot change while the node runs, only what stands in it."""
        self.rule_file = rule_file or _NO_RULE
        self.generation = 0
        self.requests = Requests(limits.boundary_requests, limits.request_wait_s)
        self.audit = Audit(limits.denials)
        self.recent: deque[Seen] = deque(maxlen=RECENT)
        self._nonce = nonce or _no_nonce
        self.keys: Mapping[str, bytes] = keys or {}
        self._rewriting = Rewriting(self.keys, self._nonce)
        self._books: dict[tuple[Direction, str, str], Rulebook] = {}

    def replace(self, rule_file: RuleFile, keys: Mapping[str, bytes]) -> None:
        """Other rules hold from now on; counts begin anew. Misuse: ValueError where there was no policy file before."""
        if not self.configured:
            raise ValueError("this node was started without a policy file")
        self.rule_file = rule_file
        self.generation += 1
        self.keys = keys
        self._rewriting = Rewriting(keys, self._nonce)
        self._books.clear()

    def has_rules(self, role: str) -> bool:
        """Whether a link of this role is one with rules, be they none."""
        return self.configured or role == Role.DMZ

    def book(self, direction: Direction, region: str, role: str) -> Rulebook:
        """The rules of one direction of the links to a region."""
        key = (direction, region, role)
        book = self._books.get(key)
        if book is None:
            rules = self.rule_file.rules
            book = self._books[key] = Rulebook(rules, direction, region, role, open=role != Role.DMZ)
        return book

    def books(self) -> Mapping[tuple[Direction, str, str], Rulebook]:
        """Those in use: (direction, region, role) -> rulebook."""
        return self._books

    def gate(self, side: Side, region: str, role: str) -> Gate | None:
        """What a link's batches pass; None where everything may cross as it is, so that no batch is decoded."""
        if side.export.passes_all and side.import_.passes_all:
            return None
        gate = Gate(
            side.peer,
            self._region,
            export=Way(side.export, side.export_names),
            import_=Way(side.import_, side.import_names),
            rewriting=self._rewriting,
            requests=self.requests,
            audit=self.audit,
        )
        gate.recent = lambda direction, origin, event: self.recent.append(
            Seen(direction, origin, region, role, event)
        )
        return gate

    # -- routes (RoutePolicy) --------------------------------------------------------------------------------------

    def import_route(self, role: Role, neighbour: str, region: str, path: tuple[str, ...]) -> Ruling:
        """See `roles.RoutePolicy`: may events go to `region` over this link, or replies to what it asked?"""
        return self._ruling(role, neighbour, region, Direction.EXPORT, Direction.IMPORT)

    def export_route(self, role: Role, neighbour: str, region: str, path: tuple[str, ...]) -> Ruling:
        """See `roles.RoutePolicy`: may events come to `region` over this link, or replies to what it asked?"""
        return self._ruling(role, neighbour, region, Direction.IMPORT, Direction.EXPORT)

    def _ruling(self, role: Role, neighbour: str, region: str, towards: Direction, away: Direction) -> Ruling:
        if not self.has_rules(role):
            return ALLOW
        found = self.book(towards, neighbour, role).lets_in(destination=region)
        if found.allowed or self.book(away, neighbour, role).lets_in(origin=region).allowed:
            return ALLOW
        if found.rule is None:
            return Ruling(False, f'role "{role.value}": no rule allows it')
        return Ruling(False, found.text)


def _no_nonce() -> bytes:
    raise ValueError("a rule encrypts, and nobody gave this node's policy its chance")
