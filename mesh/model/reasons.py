"""Every reason a decision can have: closed enums, one per kind of decision.

A decision returns its reason at the moment it is taken; commands, logs, metrics and the API print that value and never
work it out again. Values are lower case with underscores in the API and in metrics; tables for people print hyphens.
Source: design pages "Routing" (Explain) and "Architecture" (Sans-IO machines).
"""

from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """Why an event (or one region's or session's share of it) was not delivered. Every drop is counted under one of these."""

    NO_ROUTE = "no_route"
    NO_CREDIT = "no_credit"
    """The link's queue was full because the peer granted no more credit: oldest dropped."""
    HOP_LIMIT = "hop_limit"
    LOOP = "loop"
    EXPIRED = "expired"
    DUPLICATE = "duplicate"
    """Not a loss: a copy of something already delivered here."""
    DEDUPE_WINDOW_PASSED = "dedupe_window_passed"
    LINK_DOWN_UNKNOWN = "link_down_unknown"
    """Sent on a link that died before the peer acknowledged it: it may or may not have arrived."""
    LINK_DOWN = "link_down"
    """Still queued here for a link that went down, and no other next hop was left."""
    NO_MEMBERS = "no_members"
    """A queue group without a member in any region that was tried."""
    SLOW_CONSUMER = "slow_consumer"
    """A client did not read as fast as its subscriptions delivered: its oldest queued event was dropped."""
    SESSION_CLOSED = "session_closed"
    """Queued for a client that went away."""
    NOT_FOR_US = "not_for_us"
    """A batch that names another node or region than this one where only delivery was allowed."""
    POLICY_DENY = "policy_deny"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    """A batch body that does not decode at the place where it had to be read."""
    UNKNOWN_INBOX = "unknown_inbox"
    """A reply whose requester is gone or timed out."""
    SHUTDOWN = "shutdown"


class NotDelivered(StrEnum):
    """Why a region or node is no destination of an event, as explain and a publish answer tell it."""

    NO_INTEREST = "no_interest"
    COVERED_BY_MERGE = "covered_by_merge"
    NO_ROUTE = "no_route"
    INFEASIBLE_ONLY = "infeasible_only"
    LINK_DOWN = "link_down"
    NO_CREDIT = "no_credit"
    GROUP_ASSIGNED = "group_assigned"
    POLICY_DENY = "policy_deny"
    INTEREST_LAGGING = "interest_lagging"
    UNREACHABLE = "unreachable"
    """The region's interest is kept from before it was cut off."""


class RouteReason(StrEnum):
    """Why a route is in use, or why it is not: the result of the comparison that chose."""

    LOWEST_METRIC = "lowest_metric"
    ONLY_ROUTE = "only_route"
    EQUAL_METRIC = "equal_metric"
    """Same metric as the selected one: used for part of the flows."""
    HIGHER_METRIC = "higher_metric"
    SAME_METRIC_LATER_NAME = "same_metric_later_name"
    STALE_SEQNO = "stale_seqno"
    METRIC_NOT_FEASIBLE = "metric_not_feasible"
    """Same seqno, metric not smaller than what this node once advertised (RFC 8966 section 3.5.1)."""
    METRIC_ROSE = "metric_rose"
    """The selected neighbour's metric rose past the feasibility distance: kept while a seqno request is answered."""
    OWN_REGION_IN_PATH = "own_region_in_path"
    LINK_DOWN = "link_down"
    NODE_UNREACHABLE = "node_unreachable"
    """Published by a sibling bridge to which this node has no link."""
    RETRACTED = "retracted"
    EXPIRED = "expired"
    VALLEY_FREE = "valley_free"
    """Withheld from a peer or a stub's other side: only the own region and stubs behind it are exported there."""
    IMPORT_DENIED = "import_denied"
    EXPORT_DENIED = "export_denied"
    PATH_TOO_LONG = "path_too_long"
    TOO_MANY_REGIONS = "too_many_regions"
    OLD_EPOCH = "old_epoch"
    SPLIT_HORIZON = "split_horizon"


class Close(StrEnum):
    """Why a link or a client connection was closed or refused. Sent to the other end in a CLOSE frame where one is left."""

    NORMAL = "normal"
    DRAINING = "draining"
    PEER_CLOSED = "peer_closed"
    LINK_LOST = "link_lost"
    """Reset, time-out or end of stream without a CLOSE frame."""
    HELLO_TIMEOUT = "hello_timeout"
    """No hello for 3.5 hello intervals."""
    OPEN_TIMEOUT = "open_timeout"
    """The other end did not finish the opening exchange in time."""
    DUPLICATE_LINK = "duplicate_link"
    """A pair keeps one link: the one dialled by the smaller (region, id)."""
    SELF_LINK = "self_link"
    """The address dialled is this node's own."""
    VERSION_MISMATCH = "version_mismatch"
    REGION_MISMATCH = "region_mismatch"
    REGION_NOT_LISTED = "region_not_listed"
    SAME_REGION_BRIDGE = "same_region_bridge"
    NAME_IN_USE = "name_in_use"
    """Another live process runs with this (region, id)."""
    OLD_EPOCH = "old_epoch"
    """The other end already knows a newer epoch of this node: a process that was replaced."""
    EPOCH_AHEAD = "epoch_ahead"
    """An epoch more than a day ahead of the local clock."""
    CLOCK_SKEW = "clock_skew"
    MALFORMED = "malformed"
    UNEXPECTED_FRAME = "unexpected_frame"
    FRAME_TOO_LARGE = "frame_too_large"
    LIMIT = "limit"
    """A per-peer limit was passed; the detail names it."""
    SLOW_CONSUMER = "slow_consumer"
    """The control lane's queue was full: the peer does not read."""
    SLOW_SENDER = "slow_sender"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    MEMBER_DEAD = "member_dead"
    """The region declared the peer dead; the link is closed so that it rejoins cleanly."""
    PROTOCOL_ERROR = "protocol_error"


class MemberReason(StrEnum):
    """Why a member changed its state."""

    JOINED = "joined"
    REFUTED = "refuted"
    NEW_EPOCH = "new_epoch"
    PROBE_FAILED = "probe_failed"
    LINK_LOST = "link_lost"
    SUSPECTED_BY_OTHERS = "suspected_by_others"
    SUSPICION_TIMEOUT = "suspicion_timeout"
    DECLARED_DEAD = "declared_dead"
    LEFT = "left"
