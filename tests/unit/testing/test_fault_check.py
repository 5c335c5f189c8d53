"""Each kind of broken promise is found in a history that has it, and in no other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from mesh.testing.fault_check import SHOWN, Verdict, Violation, check, shown
from mesh.testing.fault_draw import Wish, draw
from mesh.testing.fault_history import DeadLetter, Delivered, History, Published, history_json, read_history
from mesh.testing.fault_plan import FaultKind, TimedFault

EVENTS = 40
FAULT = TimedFault(kind=FaultKind.RESET, at_s=1.0, lasts_s=1.0, target="a-1>b-1")


def sound(level: str = "at-least-once", *, faults: bool = True) -> History:
    """A run in which everything went well: even events plain, odd ones ordered, four keys of each."""
    plan = draw(1, Wish(scenario="calm", topology="line", level=level))  # type: ignore[arg-type]
    plan = msgspec.structs.replace(plan, faults=(FAULT,) if faults else ())
    streams = [stream.name for stream in plan.streams]
    history = History(plan, healed_s=10.0)
    for number in range(EVENTS):
        stream = streams[number % len(streams)]
        key = f"{stream}-{number // len(streams) % 4}"
        at_s = number * 0.1
        history.published.append(
            Published(stream, key, number // 8 + 1, at_s, at_s + 0.01, "accepted", f"a/a-1/5/{number + 1}")
        )
    for reader in plan.readers:
        got = history.delivered.setdefault(reader.name, [])
        if reader.name == "worker-2":
            continue
        for number, event in enumerate(history.published):
            if event.stream in reader.streams:
                got.append(Delivered(number, event.mesh_id, event.sent_s + 0.05, 1))
    return history


def kinds(verdict: Verdict) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for violation in verdict.violations:
        found.setdefault(violation.kind, set()).add(violation.reader)
    return found


def figures(history: History, reader: str) -> object:
    return next(one for one in check(history).readers if one.reader == reader)


def test_a_sound_run_has_no_violation() -> None:
    verdict = check(sound())
    assert verdict.violations == []
    assert (verdict.events, verdict.accepted) == (EVENTS, EVENTS)
    assert verdict.total("duplicated") == verdict.total("lost") == verdict.total("reordered") == 0
    far = figures(sound(), "far")
    assert (far.promised, far.delivered, far.p50_ms) == (EVENTS, EVENTS, 50.0)  # type: ignore[attr-defined]


def lose(history: History) -> None:
    del history.delivered["far"][7]


def repeat(history: History) -> None:
    history.delivered["far"].append(msgspec.structs.replace(history.delivered["far"][3], at_s=6.0))


def swap(history: History) -> None:
    """Two ordered events of one key: numbers 1 and 9."""
    got = history.delivered["far"]
    got[1].at_s, got[9].at_s = got[9].at_s, got[1].at_s


def be_late(history: History) -> None:
    history.delivered["far"][-1].at_s = history.healed_s + history.plan.heal_s + 0.1


def invent(history: History) -> None:
    history.delivered["far"].append(Delivered(-1, "a/a-1/5/99", 5.0, 1))


def rename(history: History) -> None:
    history.delivered["far"].append(Delivered(3, "a/a-1/5/98", 5.0, 1))


def grow(history: History) -> None:
    history.peak_rss_mb["a-1"] = 201.0


def end(history: History) -> None:
    history.troubles.append("a-1 ended by itself (-11): ...")


@pytest.mark.parametrize(
    ("spoil", "kind", "reader"),
    [
        (lose, "lost", "far"),
        (repeat, "duplicated", "far"),
        (swap, "reordered", "far"),
        (be_late, "late", "far"),
        (invent, "stray", "far"),
        (rename, "stray", "far"),
        (grow, "memory", ""),
        (end, "trouble", ""),
    ],
)
def test_each_kind_is_found(spoil: Callable[[History], None], kind: str, reader: str) -> None:
    history = sound()
    spoil(history)
    assert kinds(check(history)) == {kind: {reader}}
    assert kinds(check(read_history(history_json(history)))) == {kind: {reader}}, "also in what was kept"


def test_a_repeat_that_says_so_is_counted_only() -> None:
    history = sound()
    history.delivered["far"].append(
        msgspec.structs.replace(history.delivered["far"][3], at_s=6.0, redelivered=True)
    )
    verdict = check(history)
    assert verdict.violations == []
    assert verdict.total("redelivered") == 1


def test_a_flagged_first_delivery_is_no_repeat_but_its_unflagged_repeat_is() -> None:
    history = sound()
    got = history.delivered["far"]
    got[3].redelivered = True
    assert check(history).violations == []
    got.append(Delivered(3, got[3].mesh_id, 6.0, 2))
    assert kinds(check(history)) == {"duplicated": {"far"}}


def test_a_copy_outside_of_the_window_is_none() -> None:
    history = sound()
    history.delivered["far"].append(msgspec.structs.replace(history.delivered["far"][3], at_s=700.0))
    assert check(history).violations == []


def test_reorders_of_other_streams_are_counted_only() -> None:
    history = sound()
    got = history.delivered["far"]
    got[0].at_s, got[8].at_s = got[8].at_s, got[0].at_s  # both plain, one key
    verdict = check(history)
    assert verdict.violations == []
    assert verdict.total("reordered") == 1


def test_order_is_promised_within_an_origin_and_a_key_only() -> None:
    history = sound()
    got = history.delivered["far"]
    got[1].at_s, got[3].at_s = got[3].at_s, got[1].at_s  # ordered, two keys
    history.published[9].mesh_id = got[9].mesh_id = "a/a-1/6/1"  # after a restart: another origin
    history.delivered["near"][9].mesh_id = "a/a-1/6/1"
    assert check(history).violations == []


def test_a_dead_letter_is_not_lost() -> None:
    history = sound()
    lose(history)
    history.dead_letters.append(DeadLetter(history.published[7].mesh_id, "expired"))
    verdict = check(history)
    assert verdict.violations == []
    assert (verdict.total("dead"), verdict.dead_letters) == (1, 1)


def test_a_group_gets_each_event_once_and_all_of_them() -> None:
    history = sound()
    first, second = history.delivered["worker-1"], history.delivered["worker-2"]
    second.extend(first[::2])
    del first[::2]
    assert check(history).violations == []
    second.append(Delivered(first[0].number, first[0].mesh_id, 5.0, 1))
    assert kinds(check(history)) == {"duplicated": {"worker-1+worker-2"}}
    second.pop()
    first.pop(0)
    assert kinds(check(history)) == {"lost": {"worker-1+worker-2"}}


def test_who_is_not_promised_anything_misses_it() -> None:
    history = sound()
    history.delivered["passer-by"].pop()
    verdict = check(history)
    assert verdict.violations == []
    assert verdict.total("missed") == 1


def test_at_most_once_promises_everything_without_faults_and_no_copy_ever() -> None:
    history = sound("at-most-once", faults=False)
    history.delivered["passer-by"].pop()
    assert kinds(check(history)) == {"lost": {"passer-by"}}
    history = sound("at-most-once")
    history.delivered["passer-by"].pop()
    repeat(history)
    assert kinds(check(history)) == {"duplicated": {"far"}}


def test_what_was_not_accepted_may_come_or_not() -> None:
    history = sound()
    history.published[2].outcome, history.published[2].mesh_id = "refused", ""
    history.published[4].outcome, history.published[4].mesh_id = "unknown", ""
    del history.delivered["near"][2]
    assert check(history).violations == []


def test_a_copy_of_a_publisher_that_asked_again_is_told_apart() -> None:
    history = sound()
    history.published[3].doubtful = True
    history.delivered["far"].insert(3, Delivered(3, "a/a-1/4/90", history.delivered["far"][3].at_s, 1))
    verdict = check(history)
    assert kinds(verdict) == {}
    assert verdict.total("copies") == 1
    del history.delivered["far"][4]  # the one that was acknowledged
    assert kinds(check(history)) == {"lost": {"far"}}, "the copy does not count for it"


def test_settling_is_measured_from_the_last_fault() -> None:
    history = sound()
    history.delivered["far"][-1].at_s = 12.5
    assert check(history).settled_s == 2.5
    assert check(sound()).settled_s == 0.0


def test_many_violations_are_summed_up() -> None:
    violations = [Violation("lost", "far", str(n)) for n in range(SHOWN + 3)]
    assert shown(violations) == [*(f"lost (far): {n}" for n in range(SHOWN)), "lost: and 3 more"]
