"""The paces fit each other and the bounds that neighbours are held to."""

from __future__ import annotations

from federation.core.route_settings import RouteSettings
from mesh.model.limits import Limits

SETTINGS, LIMITS = RouteSettings(), Limits()


def test_a_repeated_request_is_not_taken_for_the_one_before() -> None:
    assert SETTINGS.request_suppress_s < SETTINGS.request_retry_s


def test_a_source_is_remembered_longer_than_anything_said_of_it_can_be_under_way() -> None:
    assert SETTINGS.source_keep_s > 2 * max(SETTINGS.ack_timeout_max_s, SETTINGS.seqno_bump_s)


def test_a_sender_at_full_pace_that_also_sends_whole_tables_is_no_excess() -> None:
    sent = LIMITS.updates_per_s + SETTINGS.full_price / SETTINGS.full_min_s
    assert sent <= SETTINGS.excess_factor * LIMITS.updates_per_s


def test_what_is_sent_at_once_fits_a_frame() -> None:
    longest = LIMITS.path_regions * 66 + 200
    assert SETTINGS.frame_bytes + longest < LIMITS.frame_bytes
