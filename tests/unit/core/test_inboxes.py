"""Requests that wait, and what ends the waiting."""

from __future__ import annotations

import pytest

from mesh.core.inboxes import INBOX, NOTICE, Inboxes, ReplyTo
from mesh.model.event import Event
from mesh.model.ids import BadName
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.frames import BatchHeader, Flag, Leg


def header(region: str = "eu", node: str = "eu-1") -> BatchHeader:
    return BatchHeader(
        Leg.LOCAL, Flag.TO_NODE, region, node, 1, ("ap",), 0, 9, 0, (region,), 1, 1, (), "ap-1"
    )


def mail(topic: str, correlation: str, *, key: str = "", data: bytes = b"") -> Event:
    return Event(1, topic, key, 0, ("", correlation), (), data)


def test_the_first_reply_ends_a_request_and_a_second_one_finds_nobody() -> None:
    inboxes = Inboxes(Limits())
    inbox = inboxes.open(5.0, 0.0)
    inboxes.sent(inbox, {"r/eu"}, ())
    assert inboxes.mail(header(), mail(INBOX + inbox, inbox)) is None
    assert inboxes.mail(header(), mail(INBOX + inbox, inbox)) is Drop.UNKNOWN_INBOX
    [ended] = inboxes.ended
    assert (ended.problem, ended.path) == ("", ("eu",))
    assert ended.event is not None


def test_a_reply_with_a_wrong_correlation_is_not_taken() -> None:
    inboxes = Inboxes(Limits())
    inbox = inboxes.open(5.0, 0.0)
    inboxes.sent(inbox, {"r/eu"}, ())
    assert inboxes.mail(header(), mail(INBOX + inbox, "guess")) is Drop.UNKNOWN_INBOX
    assert inboxes.ended == []


def test_who_does_not_know_the_secret_cannot_tell_the_next_inbox_from_the_last() -> None:
    names = []
    for secret in (b"one", b"two"):
        inboxes = Inboxes(Limits())
        inboxes.secret = secret
        names += [inboxes.open(5.0, 0.0), inboxes.open(5.0, 0.0)]
    assert len(set(names)) == 4
    for name in names:
        assert ReplyTo.parse(f"eu/eu-1/{name}").inbox == name


def test_a_request_that_went_nowhere_has_no_responders_at_once_with_the_reasons() -> None:
    inboxes = Inboxes(Limits())
    inbox = inboxes.open(5.0, 0.0)
    inboxes.sent(inbox, (), [("hr", "no_route")])
    [ended] = inboxes.ended
    assert (ended.problem, ended.reasons) == ("no_responders", (("hr", "no_route"),))


def test_a_request_has_no_responders_only_when_every_place_has_said_so() -> None:
    inboxes = Inboxes(Limits())
    inbox = inboxes.open(5.0, 0.0)
    inboxes.sent(inbox, {"r/eu", "r/us"}, ())
    inboxes.mail(header("eu"), mail(NOTICE + inbox, inbox, data=b"interest_gone"))
    assert inboxes.ended == []
    inboxes.mail(header("us"), mail(NOTICE + inbox, inbox, data=b"interest_gone"))
    assert inboxes.ended[0].problem == "no_responders"


def test_an_empty_group_is_told_as_no_members() -> None:
    inboxes = Inboxes(Limits())
    inbox = inboxes.open(5.0, 0.0)
    inboxes.sent(inbox, {"g/mail/orders/#"}, ())
    inboxes.mail(header(), mail(NOTICE + inbox, inbox, key="mail/orders/#", data=b"no_members"))
    assert inboxes.ended[0].problem == "no_members"


def test_a_request_ends_at_its_time_out_and_its_deadline_is_the_next_one() -> None:
    inboxes = Inboxes(Limits())
    late, soon = inboxes.open(9.0, 0.0), inboxes.open(2.0, 0.0)
    for inbox in (late, soon):
        inboxes.sent(inbox, {"r/eu"}, ())
    assert inboxes.next_deadline() == 2.0
    inboxes.handle_deadline(2.0)
    assert [(e.inbox, e.problem) for e in inboxes.ended] == [(soon, "timeout")]
    assert inboxes.next_deadline() == 9.0


def test_open_requests_are_bounded() -> None:
    inboxes = Inboxes(Limits(pending_requests=1))
    inbox = inboxes.open(5.0, 0.0)
    with pytest.raises(ValueError, match="too many"):
        inboxes.open(5.0, 0.0)
    inboxes.abandon(inbox)
    inboxes.open(5.0, 0.0)


@pytest.mark.parametrize("text", ["", "eu", "eu/eu-1", "eu/eu-1/", "eu/eu-1/a b", "eu/eu-1/a/b", "../x/1"])
def test_a_reply_address_that_was_not_given_out_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        ReplyTo.parse(text)
