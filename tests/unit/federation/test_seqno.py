"""When the own seqno moves, when requests are sent again, and which ones are passed on."""

from __future__ import annotations

import random

from federation.core.feasible import Distance
from federation.core.policy.roles import Role
from federation.core.route_settings import RouteSettings
from federation.core.seqno import OwnSeqno, SeqnoRequests
from federation.core.source import Need, Source, Why
from mesh.wire.frames import SeqnoRequest

SETTINGS = RouteSettings()
KEY = ("z", "o")


def need(why: Why, seqno: int = 6) -> Need:
    return Need(why, 1, seqno, (1,))


def two_routes() -> Source:
    source = Source(KEY)
    for hop, metric in ((1, 10), (2, 20)):
        source.learn(hop, "x", Distance(1, 5, metric), ("m", "z"), Role.TRANSIT, 1, None, 0.0)
    source.evaluate()
    return source


def test_the_own_seqno_is_renewed_every_minute_within_a_tenth() -> None:
    waits = [OwnSeqno(SETTINGS, random.Random(n), 5.0).renew_at - 5.0 for n in range(50)]
    assert 54 <= min(waits) < 56
    assert 64 < max(waits) <= 66


def test_a_request_moves_the_own_seqno_at_once_and_the_next_one_a_little_later() -> None:
    own = OwnSeqno(SETTINGS, random.Random(1), 0.0)
    assert own.asked(10.0)
    own.moved(10.0)
    assert not own.asked(10.05)
    assert own.renew_at == 10.0 + SETTINGS.seqno_bump_min_s


def test_a_starved_source_asks_at_once_then_ever_more_slowly_and_never_gives_up() -> None:
    requests = SeqnoRequests(SETTINGS)
    assert requests.want(KEY, need(Why.STARVED), 0.0)
    times, now = [], 0.0
    for _ in range(8):
        assert requests.due(now) == [KEY]
        want = requests.wants[KEY]
        assert not requests.exhausted(want)
        times.append(now)
        requests.asked(KEY, want, now)
        assert requests.want(KEY, need(Why.STARVED), now) is False
        at = requests.next_deadline()
        assert at is not None
        now = at
    assert times == [0, 1, 3, 7, 15, 31, 47, 63]


def test_a_route_whose_metric_rose_is_given_up_after_three_requests() -> None:
    requests = SeqnoRequests(SETTINGS)
    requests.want(KEY, need(Why.ROSE), 0.0)
    for _ in range(3):
        assert not requests.exhausted(requests.wants[KEY])
        requests.asked(KEY, requests.wants[KEY], 0.0)
    assert requests.exhausted(requests.wants[KEY])
    assert requests.want(KEY, need(Why.STARVED), 20.0)
    assert not requests.exhausted(requests.wants[KEY])


def test_a_merely_better_route_waits_before_it_asks_and_becoming_starved_ends_the_wait() -> None:
    requests = SeqnoRequests(SETTINGS)
    assert not requests.want(KEY, need(Why.BETTER), 0.0)
    assert requests.next_deadline() == SETTINGS.request_better_s
    assert requests.want(KEY, need(Why.STARVED), 0.5)


def test_a_need_for_the_next_seqno_starts_anew_but_not_faster_than_the_retry_time() -> None:
    requests = SeqnoRequests(SETTINGS)
    requests.want(KEY, need(Why.STARVED), 0.0)
    requests.asked(KEY, requests.wants[KEY], 0.0)
    assert not requests.want(KEY, need(Why.STARVED, 7), 0.1)
    assert requests.wants[KEY].tries == 0
    assert requests.next_deadline() == 1.0


def test_what_is_satisfied_is_not_asked_for_again() -> None:
    requests = SeqnoRequests(SETTINGS)
    requests.want(KEY, need(Why.STARVED), 0.0)
    requests.satisfied(KEY)
    assert requests.next_deadline() is None
    assert requests.due(100.0) == []


def test_a_request_is_passed_on_away_from_the_asker_with_one_hop_less_and_only_once() -> None:
    requests, source = SeqnoRequests(SETTINGS), two_routes()
    frame = SeqnoRequest("z", "o", 1, 9, 20)
    assert requests.relay(1, source, frame, 0.0) == (2, SeqnoRequest("z", "o", 1, 9, 19))
    assert requests.relay(2, source, frame, 0.1) is None
    assert requests.relay(2, source, frame, 1.0) == (1, SeqnoRequest("z", "o", 1, 9, 19))


def test_a_request_without_hops_left_ends_and_absurd_hops_are_cut() -> None:
    requests, source = SeqnoRequests(SETTINGS), two_routes()
    assert requests.relay(1, source, SeqnoRequest("z", "o", 1, 9, 1), 0.0) is None
    passed = requests.relay(1, source, SeqnoRequest("z", "o", 1, 10, 10**9), 0.0)
    assert passed is not None
    assert passed[1].hops == SETTINGS.request_hops - 1


def test_an_awaited_seqno_is_urgent_once() -> None:
    requests = SeqnoRequests(SETTINGS)
    requests.note(KEY, 1, 9)
    requests.note(KEY, 1, 8)
    assert not requests.awaited(KEY, 1, 8)
    assert requests.awaited(KEY, 1, 9)
    assert not requests.awaited(KEY, 1, 9)


def test_memory_of_requests_is_bounded() -> None:
    requests, source = SeqnoRequests(RouteSettings(requests_kept=10)), two_routes()
    for n in range(100):
        source.key = (f"z{n}", "o")
        requests.relay(1, source, SeqnoRequest(f"z{n}", "o", 1, 9, 20), 0.0)
    assert len(requests._seen) == len(requests._asked) == 10
