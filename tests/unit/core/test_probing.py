"""Probes of one's own and for others, without anything that follows from them."""

from __future__ import annotations

import random

import pytest

from mesh.core.agenda import Agenda
from mesh.core.effects import Effect, Send
from mesh.core.members import Due, MembershipSettings, MemberView
from mesh.core.probing import Prober
from mesh.core.roster import Roster
from mesh.core.suspicion import LocalHealth
from mesh.model.reasons import MemberReason
from mesh.wire.frames import Member, MemberState, Probe, ProbeAck, ProbeNack, ProbeRequest


class Bench:
    """A prober among linked members a, b, c, d, and what it sent."""

    def __init__(self, **numbers: float) -> None:
        self.settings = MembershipSettings(**numbers)  # type: ignore[arg-type]
        views = [
            MemberView(name, 1, 0, MemberState.ALIVE, (), "", False, 0.0, MemberReason.JOINED)
            for name in ("me", "a", "b", "c", "d")
        ]
        self.roster = Roster(views[0], self.settings)
        for view in views[1:]:
            self.roster.put(view)
            self.roster.link(view.node, 1)
        self.health = LocalHealth(self.settings.health_max)
        self.agenda: Agenda[Due] = Agenda()
        self.heard: dict[str, float] = {}
        self.doubted: dict[str, float] = {}
        self.outbox: list[Effect] = []
        self.asked_for_news: list[tuple[str, str]] = []
        self.prober = Prober(
            self.settings,
            self.roster,
            self.health,
            self.heard,
            self.doubted,
            self.agenda,
            random.Random(1),
            self.outbox,
            self.news,
        )

    def news(self, to: str, about: str) -> tuple[Member, ...]:
        self.asked_for_news.append((to, about))
        return ()

    def sent(self) -> list[tuple[str, object]]:
        found = [(str(e.to), e.frame) for e in self.outbox if isinstance(e, Send)]
        self.outbox.clear()
        return found

    def due(self) -> tuple[float, Due, int]:
        entry = self.agenda.pop(float("inf"))
        assert entry is not None
        assert isinstance(entry.key, int)
        return entry.at, entry.kind, entry.key


def failed_direct(bench: Bench) -> list[str]:
    """Probe a; it does not answer; returns the helpers asked."""
    bench.prober.start("a", 10.0)
    bench.sent()
    at, kind, seq = bench.due()
    assert (at, kind) == (10.5, Due.DIRECT)
    bench.prober.direct_failed(seq, at)
    return [to for to, frame in bench.sent() if isinstance(frame, ProbeRequest)]


def test_an_answer_in_time_ends_the_probe_and_is_good_for_the_health() -> None:
    bench = Bench()
    bench.health.note(2)
    bench.prober.start("a", 0.0)
    ((to, frame),) = bench.sent()
    assert to == "a"
    assert isinstance(frame, Probe)
    assert frame.target == "a"
    bench.prober.acked("a", frame.seq)
    assert bench.health.score == 1
    bench.prober.direct_failed(frame.seq, 0.5)
    assert bench.sent() == []
    assert bench.prober.verdict(frame.seq, 1.0, False) is None


def test_three_others_are_asked_when_the_direct_answer_is_late() -> None:
    bench = Bench()
    helpers = failed_direct(bench)
    assert sorted(helpers) == ["b", "c", "d"]
    assert bench.due()[:2] == (11.0, Due.VERDICT)
    assert ("b", "a") in bench.asked_for_news, "the helper is told what is believed of the target"


def test_an_answer_through_a_helper_ends_the_probe_without_praise() -> None:
    bench = Bench()
    failed_direct(bench)
    bench.health.note(3)
    bench.prober.acked("b", 1)
    assert bench.prober.verdict(1, 11.0, False) is None
    assert bench.health.score == 3
    assert bench.prober.failures == 0


@pytest.mark.parametrize(
    ("nacks", "score"), [((), 4 + 4), (("b",), 4 + 2), (("b", "b"), 4 + 2), (("b", "c", "d"), 4 - 1)]
)
def test_helpers_that_say_nothing_speak_against_the_own_health(nacks: tuple[str, ...], score: int) -> None:
    bench = Bench()
    failed_direct(bench)
    bench.health.note(4)
    for helper in nacks:
        bench.prober.nacked(helper, 1)
    assert bench.prober.verdict(1, 11.0, False) == "a"
    assert bench.health.score == score
    assert set(bench.doubted) == {"b", "c", "d"} - set(nacks), "and are not asked again until heard"


def test_doubted_members_are_not_asked_for_help() -> None:
    bench = Bench()
    bench.doubted.update({"b": 0.0, "c": 0.0})
    assert failed_direct(bench) == ["d"]


def test_with_nobody_to_help_a_failure_is_one_step_of_bad_health() -> None:
    bench = Bench(indirect=0)
    assert failed_direct(bench) == []
    assert bench.prober.verdict(1, 11.0, False) == "a"
    assert bench.health.score == 1


def test_any_frame_heard_from_the_target_since_counts_as_its_answer() -> None:
    bench = Bench()
    bench.prober.start("a", 10.0)
    bench.sent()
    bench.heard["a"] = 10.3
    bench.prober.direct_failed(1, 10.5)
    assert bench.sent() == []
    failed = Bench()
    failed_direct(failed)
    failed.heard["a"] = 10.8
    assert failed.prober.verdict(1, 11.0, False) is None
    assert failed.health.score == 0


def test_a_frame_heard_before_the_probe_counts_for_nothing() -> None:
    bench = Bench()
    bench.heard["a"] = 10.0
    assert len(failed_direct(bench)) == 3


def test_without_a_link_helpers_are_asked_at_once() -> None:
    bench = Bench()
    bench.roster.unlink("a")
    bench.prober.start("a", 10.0)
    assert {type(frame) for _, frame in bench.sent()} == {ProbeRequest}
    assert bench.due()[:2] == (11.0, Due.VERDICT)


def test_a_link_lost_during_its_probe_hurries_the_helpers() -> None:
    bench = Bench()
    bench.prober.start("a", 10.0)
    bench.sent()
    bench.roster.unlink("a")
    bench.prober.hurry("a", 10.1)
    assert len(bench.sent()) == 3
    bench.prober.direct_failed(1, 10.5)
    assert bench.sent() == [], "they are asked once"


def test_bad_health_gives_others_more_time() -> None:
    bench = Bench()
    bench.health.note(3)
    bench.prober.start("a", 10.0)
    assert bench.due()[0] == 10.0 + 4 * 0.5
    bench.prober.direct_failed(1, 12.0)
    assert bench.due()[0] == 10.0 + 4 * 1.0


def test_a_verdict_that_comes_late_waits_once_for_unread_frames() -> None:
    bench = Bench()
    failed_direct(bench)
    bench.due()
    assert bench.prober.verdict(1, 11.2, True) is None
    at, kind, seq = bench.due()
    assert (at, kind) == (11.7, Due.VERDICT)
    assert bench.prober.verdict(seq, 12.0, True) == "a"


def test_a_member_is_probed_once_at_a_time() -> None:
    bench = Bench()
    bench.prober.start("a", 0.0)
    bench.prober.start("a", 0.1)
    assert len(bench.sent()) == 1


def test_forgiven_probes_have_no_verdict() -> None:
    bench = Bench()
    failed_direct(bench)
    bench.prober.forgive()
    assert bench.prober.verdict(1, 11.0, False) is None
    bench.prober.acked("b", 1)
    assert bench.prober.late == 1


def test_answers_of_strangers_are_not_taken() -> None:
    bench = Bench()
    bench.prober.start("a", 0.0)
    bench.prober.acked("b", 1)
    bench.prober.acked("a", 99)
    bench.prober.nacked("b", 77)
    assert bench.prober.late == 3
    bench.prober.direct_failed(1, 0.5)
    assert bench.prober.verdict(1, 1.0, False) == "a"


def test_a_request_makes_a_probe_and_its_answer_goes_back_under_the_askers_number() -> None:
    bench = Bench()
    bench.prober.requested("b", ProbeRequest(42, "a"), 0.0)
    ((to, probe),) = bench.sent()
    assert to == "a"
    assert isinstance(probe, Probe)
    bench.prober.acked("a", probe.seq)
    assert bench.sent() == [("b", ProbeAck(42))]
    bench.prober.relay_due(probe.seq)
    assert bench.sent() == []


def test_a_request_unanswered_is_nacked_in_time_and_a_late_answer_still_passed_on() -> None:
    bench = Bench()
    bench.prober.requested("b", ProbeRequest(42, "a"), 0.0)
    bench.sent()
    at, kind, seq = bench.due()
    assert kind is Due.RELAY
    assert at == pytest.approx(0.3), "well before the asker's verdict half a second after it asked"
    bench.prober.relay_due(seq)
    assert bench.sent() == [("b", ProbeNack(42))]
    bench.prober.acked("a", seq)
    assert bench.sent() == [("b", ProbeAck(42))]


def test_a_target_heard_since_the_request_is_acked() -> None:
    bench = Bench()
    bench.prober.requested("b", ProbeRequest(42, "a"), 0.0)
    bench.sent()
    bench.heard["a"] = 0.1
    bench.prober.relay_due(bench.due()[2])
    assert bench.sent() == [("b", ProbeAck(42))]


def test_a_request_for_a_member_without_link_or_one_too_many_is_nacked_at_once() -> None:
    bench = Bench(relays=1)
    bench.prober.requested("b", ProbeRequest(1, "nobody"), 0.0)
    assert bench.sent() == [("b", ProbeNack(1))]
    bench.prober.requested("b", ProbeRequest(2, "a"), 0.0)
    bench.sent()
    bench.prober.requested("b", ProbeRequest(3, "a"), 0.0)
    assert bench.sent() == [("b", ProbeNack(3))]
    bench.due()
    _, kind, seq = bench.due()
    assert kind is Due.RELAY_END
    bench.prober.relay_over(seq)
    bench.prober.requested("b", ProbeRequest(4, "a"), 3.0)
    assert isinstance(bench.sent()[0][1], Probe)


def test_without_nacks_a_helper_stays_silent() -> None:
    bench = Bench(nacks=False)
    bench.prober.requested("b", ProbeRequest(1, "nobody"), 0.0)
    assert bench.sent() == []
    failed_direct(bench)
    assert bench.prober.verdict(1, 11.0, False) == "a"
    assert bench.health.score == 1
