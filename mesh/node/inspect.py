"""What a node lets its operators see and do: the admin API sees this page and nothing behind it.

Decides the values that pass between the admin port and the node, and the field names of every item; these names are the
API's, the command's `-o json` and the console's. Never decides how a person is shown them.
Invariant: an item is plain data (str, int, float, bool, None, list, dict) made for the caller, never a hot table, and
its "node" says which node reports it.

Items, by `What` (each also has `node`; ages in seconds; a field that does not apply is None):

- nodes, self: `id region state incarnation addresses version age_s role` (and of the node itself `location labels security`); state `alive | suspect | dead | left`, role
  `node | bridge`, age_s since the state was entered, `reason` (MemberReason) and `detail` for a person.
- links: `id peer region kind role state rtt_ms rate_in rate_out queued credit age_s reason`; id as routes name it in
  `via` ("bridge#3"), kind `peer | bridge`, state `opening | open | closed | dialling`, rates in events/s, queued in
  events, credit in bytes the peer still lets us send. `certificate` of an open one is who its certificate names, None without TLS.
- routes: `region next_hop via metric seqno path age_s state reason detail`; state `in_use | selected | feasible |
  infeasible | withheld`, reason a RouteReason value, metric and seqno None where they do not apply, path a list of regions.
- subscriptions: `filter group client region since age_s`; client is the session's name, since in RFC 3339.
- config: `key value origin`; origin `flag | env | file | default`.
- version: `version protocol python instance epoch`.
- dead_letters: one item, `letters more`; each of `letters` has `id lsn topic reason part region attempts path mesh_id first_seen
  died_at age_s bytes replaying`; id is NODE/LSN, part the destination it did not reach (`r/REGION`, `n/NODE`, `c/CLIENT`,
  `s/SESSION`, `g/GROUP/FILTER`, `here`), region its region if it is one.
- spools: `id kind destination records events bytes oldest_s under_way_records under_way_bytes why detail`; id is the part, kind
  `region | node`, why a Hold value of the last decision, "" when nothing waits, detail the Refuse value behind `retry`.
- registry: `id kind endpoint state age_s registered lease_s lease_age_s last_success_s calls failures per_minute ignored entries
  regions detail`; one for each registry in use, id `all | nodes | directory | former`, state `reachable | unavailable |
  waiting | off`, ignored counts by reason.
- registry_entries: `id kind region addresses epoch instance role version since age_s reason detail`; kind `node | region |
  ignored`; of an ignored one id is its key, reason why, detail the beginning of its value.
- registry_diff: `id kind region registry registry_age_s registry_epoch gossip gossip_age_s gossip_epoch verdict right detail`;
  registry `leased | absent | unknown | listed`, gossip a member's state or `unknown`, verdict a Verdict value, right a Right.
- policy: `direction peer role place rule allowed denied`; place is FILE:LINE, rule its text, "" of both for what no rule matched;
  allowed and denied count events since the start, or since the rules were read.
- policy_withheld: `direction region filter group peer told reason detail`; direction of the events that are meant, told what crosses
  in its place, reason `export_denied | import_denied`.
- policy_denials: `age_s direction peer mesh_id topic regions reason place rule`; reason a PolicyReason value.
- log: `filters events bytes oldest oldest_at newest newest_at waiting replays state gap gaps`; one item where [[topic]] retain keeps
  anything: mesh_ids and times of its ends, waiting events that wait for the disk, replays under way, state `ok` or a LogGap
  value, gap the latest one for a person, gaps all of them (`reason since until events`). Counts are up to 2 s old.

Source: design page "What a person sees", section Admin API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from mesh.model.ids import NodeKey
from mesh.node.feed import Watch

if TYPE_CHECKING:
    from mesh.node.letters import Act

Item: TypeAlias = dict[str, object]


class What(StrEnum):
    """What can be asked of a node."""

    NODES = "nodes"
    """Every member of the region as this node believes it to be, itself included."""
    SELF = "self"
    """One item: this node as it knows itself. Joined with NODES so that each node speaks for itself."""
    LINKS = "links"
    ROUTES = "routes"
    SUBSCRIPTIONS = "subscriptions"
    CONFIG = "config"
    VERSION = "version"
    DEAD_LETTERS = "dead_letters"
    """One item with a page of them: see `mesh.node.letters.Query`, which may come with the question."""
    SPOOLS = "spools"
    """What this node keeps for each destination, and why it waits."""
    REGISTRY = "registry"
    """Each registry in use: whether it answers, and what it costs."""
    REGISTRY_ENTRIES = "registry_entries"
    REGISTRY_DIFF = "registry_diff"
    """What the registry and gossip say of each node of the region, and who is right."""
    POLICY = "policy"
    """The rules of each link to another region, and what they did."""
    POLICY_WITHHELD = "policy_withheld"
    """Interest that does not cross a link, or crosses as something else."""
    POLICY_DENIALS = "policy_denials"
    """The last events that did not cross."""
    LOG = "log"
    """The event log of a node that keeps one."""


class MissingNode(NamedTuple):
    """A member that did not answer, and why: "suspect 4s", "no link", "timeout"."""

    node: str
    why: str


class RegionAnswer(NamedTuple):
    """What the other members of the region said (the asked node itself is in neither)."""

    answered: Mapping[str, Sequence[Item]]
    missing: Sequence[MissingNode]


class RegistryCounters(NamedTuple):
    """One registry as this node uses it."""

    reachable: bool
    calls: int
    failures: int


class JournalReading(NamedTuple):
    """The journal as a scrape sees it. state: a JournalState value."""

    state: str
    records: int
    bytes: int
    commits: int
    committed_bytes: int


class AuditReading(NamedTuple):
    """The audit stream as a scrape sees it. lost: records that no file has, by reason."""

    written: int
    waiting: int
    lost: Mapping[str, int]
    writes: bool


class PolicyReading(NamedTuple):
    """What a boundary denied, and what it could not keep. denied: events, times destinations. denials_lost: of them, untold to any audit.
    requests_forgotten: whose replies are denied. interest_refused: entries without room, each time that they were worked out."""

    denied: int = 0
    denials_lost: int = 0
    requests_forgotten: int = 0
    interest_refused: int = 0


class CustodyReading(NamedTuple):
    """At-least-once delivery at one moment. records: that lead on from here. waiting: records by destination. refused: batches that
    came back, by Refuse value. died: dead letters made, by Drop value. letters, letter_bytes: dead letters kept. under_way_bytes: by
    the peer they were sent to. passed_window: events below the dedupe window. held_back: events of ordered topics that wait for the
    ones before them. order_gaps: those that did not wait any longer.
    copies_short: events accepted with one copy where a rule
    wants two, by Short value. copies_alone: records without a second copy now. copies_kept_bytes: kept for other nodes.
    copies_taken: records taken over from nodes that are gone."""

    records: int = 0
    waiting: Mapping[str, int] = {}
    refused: Mapping[str, int] = {}
    died: Mapping[str, int] = {}
    letters: int = 0
    letter_bytes: int = 0
    under_way_bytes: Mapping[str, int] = {}
    passed_window: int = 0
    held_back: int = 0
    order_gaps: int = 0
    copies_short: Mapping[str, int] = {}
    copies_alone: int = 0
    copies_kept_bytes: int = 0
    copies_taken: int = 0
    journal: JournalReading | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """A reading of the node's plain counters and gauges at one moment; made at each scrape.

    published: events taken in from clients. delivered: events handed to sessions, each session counted. forwarded: events
    sent over links, each link counted. drops: by Drop value. refusals: by (port, short stable reason). links: open and
    other links by (kind, state). members, routes: by state. sessions: by protocol. bytes_*: of link frames.
    registries: by role, "all" or "nodes" and "directory". audit: None where none is kept. certificates: seconds until the node's own
    expire, by what they are for. exposed: whether links and clients' ports are open to a network in clear text.
    """

    published: int = 0
    delivered: int = 0
    forwarded: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[tuple[str, str], int] = field(default_factory=dict)
    links: Mapping[tuple[str, str], int] = field(default_factory=dict)
    members: Mapping[str, int] = field(default_factory=dict)
    routes: Mapping[str, int] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)
    subscriptions: int = 0
    remote_filters: int = 0
    queued_bytes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    batches_in: int = 0
    batches_out: int = 0
    watch_lost: int = 0
    policy: PolicyReading = field(default_factory=PolicyReading)
    registries: Mapping[str, RegistryCounters] = field(default_factory=dict)
    custody: CustodyReading = field(default_factory=CustodyReading)
    audit: AuditReading | None = None
    certificates: Mapping[str, float] = field(default_factory=dict)
    exposed: Mapping[str, bool] = field(default_factory=dict)


class Security(Protocol):
    """The node's certificates, for those who look."""

    def item(self) -> Item:
        """How links and clients' ports are protected, and with which certificates."""

    def expires_in_s(self) -> Mapping[str, float]:
        """Seconds until the node's own certificates expire, by what they are for."""

    def exposed(self) -> Mapping[str, bool]:
        """Whether links and clients' ports are open to a network in clear text."""


class Inspect(Protocol):
    """The node, for its admin port. All calls but the waiting ones are synchronous and do no I/O."""

    @property
    def key(self) -> NodeKey: ...

    @property
    def draining(self) -> bool: ...

    def view(self, what: What, query: bytes = b"") -> list[Item]:
        """This node's own items, made for the caller. query: for a view that is asked in pages. Cost: O(items)."""

    def policy_test(self, question: Mapping[str, object]) -> Item:
        """What the rules do to one event: `mesh.node.policy_views.PolicyViews.test`. Raises: MeshError."""

    def policy_preview(self, text: bytes, name: str) -> Item:
        """What other rules would change: `PolicyViews.preview`. Raises: MeshError."""

    async def letters(self, node: str, act: Act, lsns: Sequence[int], timeout_s: float) -> list[Item]:
        """Show, replay or drop dead letters at the node that has them: `mesh.node.letters.Letters.act`. Raises: MeshError."""

    async def ask_region(self, what: What, timeout_s: float, query: bytes = b"") -> RegionAnswer:
        """Ask every other member over the mesh's own links. Members without an open link, and those that did not answer
        in time, are missing with the reason. Never raises for a member's sake."""

    def counters(self) -> Counters:
        """Read the counters. Cost: O(links + members + routes)."""

    def watch_routes(self) -> AbstractAsyncContextManager[Watch]:
        """Changes of this node's routes from now on: route items with `change` ("added" | "changed" | "removed") and
        `at` (RFC 3339). `Feed.watch` is made for it. Raises MeshError MESH-A019 when too many watch."""

    def request_leave(self) -> None:
        """Begin to drain and leave, as SIGTERM does. Idempotent."""

    def ready(self) -> tuple[bool, str]:
        """Whether clients should be sent here, and what is missing if not ("joining", "draining")."""

    def count_refusal(self, port: str, reason: str) -> None:
        """Count a refused or broken connection or request of the admin port."""
