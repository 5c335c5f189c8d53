"""The paces of the route machine: how long it waits, how often it repeats, how much it says.

Decides nothing. Every figure is a default that a test may shorten; the bounds on what a peer may send are in
`mesh.model.limits`. Source: design page "Routing", Routes; RFC 8966 appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """All times in seconds, all positive. `ack_timeout_s` must be well above a round trip of the slowest bridge."""

    # what is said, and when
    coalesce_s: float = 0.05  # a triggered update waits so long for others; a retraction never waits
    refresh_coalesce_s: float = 0.25  # on a link, where only the seqno moved and nobody asked for it
    seqno_bump_s: float = 60.0  # each origin renews its seqno so often, within 10 % (spread by dice)
    seqno_bump_min_s: float = 0.2  # however many ask: seqnos of one origin are at least this far apart
    digest_s: float = 30.0  # both ends of a link compare what was announced
    full_min_s: float = 1.0  # a whole table on one link at most so often
    withdraw_grace_s: float = 2.0  # in the region: a published route whose seqno fell behind is kept so long
    # repair of a link's numbered frames; a stream never needs it
    ack_timeout_s: float = 3.0  # doubles with each repetition
    ack_timeout_max_s: float = 30.0
    window_frames: int = 64  # unacknowledged frames; beyond it updates wait and coalesce at the sender
    reorder_frames: int = 1_024  # a frame numbered further ahead than this: protocol error
    frame_updates: int = 512
    frame_bytes: int = (
        768 * 1024
    )  # a frame's updates by estimate; more go in the next one, a table's rest as updates
    # measured cost of a link
    rtt_weight: float = 0.125  # of a new sample in the smoothed round trip (RFC 6298 section 2)
    rtt_announce_s: float = 10.0  # a link's cost changes at most so often
    rtt_step_ms: int = 5  # steps of the cost: this, or a tenth above ten times this
    admin_metric: int = 0  # added to every bridge link of this node
    # seqno requests (RFC 8966 section 3.8.2)
    request_retry_s: float = 1.0  # first repetition; doubles
    request_retry_max_s: float = 16.0
    request_tries: int = (
        3  # unanswered: a route whose metric rose is dropped, a merely better one is given up
    )
    request_better_s: float = 1.0  # a better but infeasible route waits so long before its seqno is asked for
    request_hops: int = 64
    request_suppress_s: float = 0.8  # the same request is passed on once in this time; below request_retry_s
    requests_kept: int = 4_096
    seqno_jump: int = 100_000  # a seqno further beyond the known one (months of renewals) is refused
    # memory
    source_keep_s: float = (
        180.0  # without a usable route a source's feasibility distance is remembered so long
    )
    sources: int = 16_384  # of all neighbours together; more are refused
    region_sources: int = 16  # bridges of one region that one neighbour may announce
    # what a peer may do beyond a correct sender's pace before the link is closed
    excess_factor: int = 4
    full_price: int = 100  # a whole table counts as so many updates
    # the compiled table
    equal_hops: int = 8
    alternates: int = 8
