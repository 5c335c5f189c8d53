"""The session of one link: opening, signs of life, credit and acknowledgement."""

from __future__ import annotations

import msgspec
import pytest

from mesh.core.effects import CloseLink, Send
from mesh.core.opening import Identity, Terms
from mesh.core.session import LinkSession, SessionState
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.wire.frames import PROTOCOL, Ack, BatchHeader, Heard, Hello, Leg, LinkKind, Open
from mesh.wire.frames import CloseLink as CloseFrame

WALL_MS = 1_700_000_000_000


def identity(region: str = "eu", node: str = "eu-1", instance: str = "i1") -> Identity:
    return Identity(region, node, instance, 1_700_000_000, "test", "127.0.0.1:1")


def session(
    local: Identity | None = None,
    *,
    dialled: bool = True,
    terms: Terms | None = None,
    limits: Limits | None = None,
) -> LinkSession:
    return LinkSession(
        1,
        dialled=dialled,
        local=local or identity(),
        terms=terms or Terms(),
        limits=limits or Limits(),
        wall_ms=WALL_MS,
        now=0.0,
    )


def open_frame(**changes: object) -> Open:
    base = Open(
        PROTOCOL,
        "test",
        "us",
        "us-1",
        "i2",
        1_700_000_000,
        WALL_MS,
        LinkKind.BRIDGE,
        "",
        "transit",
        0,
        "",
        1_000,
        100,
    )
    return msgspec.structs.replace(base, **changes)


def opened(limits: Limits | None = None, **changes: object) -> LinkSession:
    link = session(limits=limits)
    link.receive(open_frame(**changes), 0.0)
    link.accept(0.0)
    link.drain()
    return link


def header(count: int = 1, *, batch: int = 0, remaining_ms: int = 0) -> BatchHeader:
    return BatchHeader(Leg.BRIDGE, 0, "eu", "eu-1", 1, ("us",), 0, 16, remaining_ms, ("eu",), batch, count)


def close_of(link: LinkSession) -> CloseLink:
    [closed] = [effect for effect in link.drain() if isinstance(effect, CloseLink)]
    return closed


def test_the_dialling_end_speaks_first_and_the_accepting_end_only_after_it_was_satisfied() -> None:
    dialling, accepting = session(), session(dialled=False)
    [first] = dialling.drain()
    assert isinstance(first, Send)
    assert isinstance(first.frame, Open)
    assert accepting.drain() == []
    accepting.receive(open_frame(), 0.0)
    accepting.accept(0.0)
    assert [type(e.frame) for e in accepting.drain() if isinstance(e, Send)] == [Open, Hello]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": PROTOCOL + 1}, Close.VERSION_MISMATCH),
        ({"region": "no/slash"}, Close.MALFORMED),
        ({"role": "boss"}, Close.MALFORMED),
        ({"cost": -1}, Close.MALFORMED),
        ({"instance": "i1"}, Close.SELF_LINK),
        ({"region": "ap"}, Close.REGION_MISMATCH),
        ({"expect_region": "hr"}, Close.REGION_MISMATCH),
        ({"wall_ms": WALL_MS + 86_401_000}, Close.CLOCK_SKEW),
        ({"epoch": 1_700_000_000 + 86_401}, Close.EPOCH_AHEAD),
    ],
)
def test_an_open_that_cannot_be_accepted_closes_the_link_with_its_reason(
    changes: dict[str, object], reason: Close
) -> None:
    link = session(terms=Terms(expect_region="us"))
    link.drain()
    link.receive(open_frame(**changes), 0.0)
    assert close_of(link).reason is reason
    assert link.state is SessionState.CLOSED


def test_any_other_frame_before_open_closes_the_link() -> None:
    link = session(dialled=False)
    link.receive(Hello(1, 0), 0.0)
    assert close_of(link).reason is Close.UNEXPECTED_FRAME


def test_data_before_open_closes_the_link() -> None:
    link = session(dialled=False)
    assert not link.received(header(batch=1), 10, 0.0)
    assert close_of(link).reason is Close.UNEXPECTED_FRAME


def test_a_second_open_closes_the_link() -> None:
    link = opened()
    link.receive(open_frame(), 1.0)
    assert close_of(link).reason is Close.UNEXPECTED_FRAME


def test_a_peer_that_says_nothing_loses_its_link_at_the_open_timeout() -> None:
    link = session(dialled=False)
    assert link.next_deadline() == 5.0
    link.handle_deadline(5.0)
    assert close_of(link).reason is Close.OPEN_TIMEOUT


def test_a_bridge_says_hello_every_second_and_is_dead_after_three_and_a_half_missed() -> None:
    link = opened()
    now, hellos = 0.0, 0
    while link.state is SessionState.OPEN:
        deadline = link.next_deadline()
        assert deadline is not None
        now = deadline
        link.handle_deadline(now)
        hellos += sum(1 for e in link.drain() if isinstance(e, Send) and isinstance(e.frame, Hello))
        assert now < 10
    assert (now, hellos) == (3.5, 3)


def test_any_frame_keeps_a_bridge_alive() -> None:
    link = opened()
    for second in range(1, 20):
        link.receive(Hello(second, 0), float(second))
        link.handle_deadline(float(second))
    assert link.state is SessionState.OPEN


def test_a_link_inside_a_region_needs_no_hello() -> None:
    link = opened(region="eu", kind=LinkKind.PEER)
    assert link.kind is LinkKind.PEER
    assert link.next_deadline() is None


def test_heard_measures_the_round_trip_and_ignores_what_was_never_sent() -> None:
    link = opened()
    link.receive(Heard(1, 0), 0.042)
    assert link.rtt_ms == pytest.approx(42.0)
    link.receive(Heard(99, 0), 0.5)
    assert link.rtt_ms == pytest.approx(42.0)


def test_batches_wait_for_credit_and_go_on_when_the_peer_acknowledges() -> None:
    link = opened(credit_bytes=250, credit_events=100)
    for _ in range(3):
        assert link.offer(header(), b"x" * 100, 0.0) == 0
    assert [link.pull(0.0) is not None for _ in range(3)] == [True, True, False]
    assert link.congested
    link.receive(Ack(2, 1_000, 100), 1.0)
    item = link.pull(1.0)
    assert item is not None
    assert item.header.batch == 3
    assert link.unacked_weight == 1


def test_a_peer_that_grants_everything_and_acknowledges_nothing_is_not_remembered_without_bound() -> None:
    link = opened(Limits(credit_events=10), credit_bytes=1 << 60, credit_events=1 << 60)
    for _ in range(20):
        link.offer(header(), b"x", 1.0)
    sent = 0
    while link.pull(1.0) is not None:
        sent += 1
    assert sent == 10
    link.receive(Ack(4, 0, 0), 1.0)
    assert link.pull(1.0) is not None


def test_a_full_data_lane_drops_its_oldest_and_says_how_many() -> None:
    link = opened(Limits(data_queue_bytes=250), credit_bytes=0)
    assert [link.offer(header(count), b"x" * 100, 0.0) for count in (5, 6, 7)] == [0, 0, 5]
    assert [item.header.count for item in link.queue] == [6, 7]


def test_the_time_a_batch_waited_comes_off_its_remaining_time_and_an_expired_one_says_so() -> None:
    link = opened()
    link.offer(header(remaining_ms=1_000), b"x", 0.0)
    link.offer(header(remaining_ms=100), b"x", 0.0)
    first, second = link.pull(0.4), link.pull(0.4)
    assert first is not None
    assert second is not None
    assert (first.header.remaining_ms, second.header.remaining_ms) == (600, -1)
    assert link.flow.batches_out == 1


def test_acknowledging_what_was_never_sent_closes_the_link() -> None:
    link = opened()
    link.receive(Ack(1, 1, 1), 0.0)
    assert close_of(link).reason is Close.PROTOCOL_ERROR


def test_batches_are_acknowledged_after_sixty_four_or_a_tenth_of_a_second() -> None:
    link = opened()
    for number in range(1, 65):
        assert link.received(header(batch=number), 10, 0.0)
    [ack] = [e.frame for e in link.drain() if isinstance(e, Send)]
    assert isinstance(ack, Ack)
    assert ack.batch == 64
    link.received(header(batch=65), 10, 0.5)
    assert link.drain() == []
    assert link.next_deadline() == pytest.approx(0.6)
    link.handle_deadline(0.6)
    [ack] = [e.frame for e in link.drain() if isinstance(e, Send)]
    assert isinstance(ack, Ack)
    assert ack.batch == 65


def test_credit_is_renewed_before_half_of_it_is_used() -> None:
    link = opened(Limits(credit_bytes=1_000))
    link.received(header(batch=1), 501, 0.0)
    [ack] = [e.frame for e in link.drain() if isinstance(e, Send)]
    assert isinstance(ack, Ack)
    assert ack.credit_bytes == 1_501


@pytest.mark.parametrize("number", [0, 2, 7])
def test_a_batch_number_that_does_not_follow_closes_the_link(number: int) -> None:
    link = opened()
    assert not link.received(header(batch=number), 10, 0.0)
    assert close_of(link).reason is Close.PROTOCOL_ERROR


def test_more_than_was_granted_closes_the_link() -> None:
    link = opened(Limits(credit_events=10))
    assert not link.received(header(11, batch=1), 10, 0.0)
    assert close_of(link).reason is Close.LIMIT


def test_a_close_frame_ends_the_session_without_an_answer() -> None:
    link = opened()
    link.receive(CloseFrame("draining", "bye"), 1.0)
    assert link.state is SessionState.CLOSED
    assert link.drain() == []
    assert link.next_deadline() is None
