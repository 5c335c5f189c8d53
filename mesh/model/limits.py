"""Every bound of the mesh in one value, so that each has a number and a name an operator can set under `[limits]`.

Units are in the names. A peer that passes a bound loses its link (Close.LIMIT, the detail names the bound) or has its
surplus refused and counted, as the comment says. Source: design page "Routing", Security, and "Wire and speed".
"""

from __future__ import annotations

from dataclasses import dataclass

CALL_COPIES = 4
"""A call's events are stored at most so often at once: for elsewhere, for whoever listens here, and for two queue groups at other nodes; or
twice, where every topic and key is as long as the rest of its event."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults are the design's numbers. All are upper bounds and must be positive."""

    # links
    frame_bytes: int = 1 << 20  # larger: link closed, frame_too_large
    batch_target_bytes: int = 256 * 1024  # a batch is flushed when its events reach this
    batch_events: int = 512  # or when it holds so many
    open_timeout_s: float = 5.0  # connection accepted, no valid OPEN: closed
    hello_interval_s: float = 1.0  # on a bridge
    hello_missed: float = 3.5  # hello intervals without any frame: the bridge is dead
    clock_skew_s: float = 86_400.0  # wall clocks further apart: refused (epochs may lie one day ahead)
    control_queue_frames: int = 20_000  # a link's control lane; full: closed, slow_consumer
    control_queue_bytes: int = 64 << 20  # the same lane in bytes: a resync may be thousands of large deltas
    data_queue_bytes: int = 8 << 20  # a link's data lane; full: oldest batch dropped, no_credit
    credit_bytes: int = 4 << 20  # what a receiver grants beyond what it has processed
    credit_events: int = 65_536  # the same in events
    ack_batches: int = 64  # a cumulative acknowledgement at least every so many batches
    ack_interval_s: float = 0.1  # and at least so often while batches arrive
    half_open_links: int = 256  # accepted links that have not finished opening; more: refused
    peer_links: int = 1_024  # more: refused
    # a peer's content
    regions: int = 1_024  # other regions known; more: refused, too_many_regions
    path_regions: int = 32  # a longer path of regions: refused
    filter_levels: int = 16  # of a peer's or client's filter; more: refused
    filter_bytes: int = 512  # of a peer's or client's filter; more: refused
    remote_filters: int = 200_000  # of all other regions; beyond it the largest summaries are refused
    updates_per_s: float = 50.0  # route updates of one peer, on average; more: refused
    updates_burst: int = 500  # route updates of one peer at once
    hop_limit: int = 16  # bridge links an event may cross
    tried_regions: int = 32  # regions a queue group's event may be offered to
    dedupe_window: int = 65_536  # seqs remembered for each (region, node, epoch)
    dedupe_age_s: float = 600.0  # and for how long at least
    dedupe_origins: int = 4_096  # oldest idle origin forgotten first
    # custody
    custody_window_bytes: int = 4 << 20  # on the way to one destination, not stored there yet; more waits
    custody_window_events: int = 16_384  # the same in events
    custody_timeout_s: float = 10.0  # a next hop that does not say that it stored a batch: sent again
    spool_bytes_per_s: float = 33_554_432.0  # what waited for a way leaves no faster
    spool_age_s: float = 86_400.0  # an event without a deadline waits no longer: dead letter, spool_age
    order_hold_s: float = 60.0  # an ordered event waits for the one before it; then it goes, order_gap
    dead_letters: int = 50_000  # kept at most; the oldest go first, dead_letters_full
    dead_letter_bytes: int = 64 << 20  # the same in bytes
    # second copies, where a [[topic]] says copies = 2
    copies_wait_s: float = 2.0  # the mirror has not said that it has one: accepted with one, copies_short
    copies_window_bytes: int = 1 << 20  # sent to the mirror and not stored there yet; more waits
    copies_bytes: int = 256 << 20  # kept for other nodes; more: refused, full
    copies_takeover_s: float = 10.0  # after a node was declared dead, or left: its mirror delivers
    # boundaries with rules
    boundary_requests: int = 10_000  # requests that crossed, in each direction, and wait for a reply; more: the oldest are forgotten
    denials: int = 10_000  # what did not cross, to look at; more: the oldest go, counted if no audit has them
    # clients
    event_bytes: int = 1 << 20  # of a published event; larger: 413
    topic_bytes: int = 512  # longer: 400
    key_bytes: int = 1_024  # of an ordering key, or of the correlation a reply brings back; longer: 413
    topic_levels: int = 16  # more: 400
    batch_request_events: int = 10_000  # events in one published batch; more: 413
    body_bytes: int = 8 << 20  # of one request; more: 413
    bodies_bytes: int = 256 << 20  # bodies being received on all connections of a port together; more: 503
    header_bytes: int = 64 * 1024  # of one request; more: 431
    header_count: int = 128  # of one request; more: 431
    client_connections: int = 10_000  # of one port; more: 503
    half_open_clients: int = 256  # TLS handshakes under way at one port; more: the oldest goes, tls_evicted
    handshake_timeout_s: float = 5.0  # a client's TLS handshake must be done within
    request_timeout_s: float = 10.0  # headers and body of one request must arrive within
    idle_timeout_s: float = 75.0  # keep-alive connection without a request
    close_timeout_s: float = 2.0  # for a client told goodbye to read what waits; then it is cut off
    session_queue_events: int = 10_000  # a client's unsent events; full: oldest dropped, slow_consumer
    session_queue_bytes: int = 16 << 20  # the same in bytes
    session_subscriptions: int = 10_000  # of one client connection; more: refused
    node_subscriptions: int = 1_000_000  # of all clients of this node, about 300 bytes each; more: 503
    session_calls: int = 1_024  # requests and receipts that one connection waits for; more: 503
    log_bytes: int = 1 << 30  # of the event log; over it its oldest events go, whatever their age
    log_pending_bytes: int = 16 << 20  # of events that wait for the log's disk; full: newer ones are a gap
    replays: int = 256  # replays from the event log under way; more: 503
    pending_requests: int = 10_000  # requests of this node's clients that wait for a reply; more: 503
    request_wait_s: float = 300.0  # longest a request or a receipt may wait
    # the journal
    journal_bytes: int = 1 << 30  # of all segments on the disk; full: what is to be stored is refused, full
    journal_records: int = 250_000  # open records, about 400 bytes of memory each; more: refused, full
    journal_pending_bytes: int = 32 << 20  # not yet written; more: refused, pending_full; >= 4 body_bytes
    journal_commit_bytes: int = 256 * 1024  # written at once, then one fdatasync
    journal_notes_bytes: int = 16 << 20  # keys and values of all notes; more: refused, notes_full
    segment_bytes: int = 16 << 20  # a segment of the journal is sealed before it would grow beyond this
    segment_files: int = 32  # segments kept open for reading; the one not used for longest is closed
    # consumers that acknowledge
    max_unacked: int = 256  # events out at one client and not acknowledged; the next ones wait here
    ack_timeout_s: float = 30.0  # without an acknowledgement: delivered again; a client may choose another
    max_deliveries: int = 5  # failed so often: a dead letter, max_deliveries; a client may choose another
    durable_clients: int = 10_000  # durable clients of one node; more: refused
    durable_events: int = 1_000_000  # waiting for one client; more: oldest to dead letters, durable_full
    durable_bytes: int = 256 << 20  # the same in bytes
    durable_age_s: float = 604_800.0  # a durable client away for longer: removed with what waits for it
