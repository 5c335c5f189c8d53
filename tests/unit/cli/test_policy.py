"""Sentences and tables of `mesh policy`."""

from __future__ import annotations

from mesh.cli.policy import changes, verdict

DENIED = {
    "topic": "hr/pay",
    "origin": "internal",
    "destination": "cloud",
    "direction": "export",
    "peer": "dmz",
    "role": "dmz",
    "allowed": False,
    "reason": "rule",
    "rule": "export to dmz deny topic hr/#",
    "place": "policy.rules:3",
    "topic_after": None,
    "changed": False,
}


def test_a_denial_names_the_rule_and_its_place() -> None:
    assert verdict(DENIED) == [
        "hr/pay  (internal -> cloud, export on the link to dmz, role dmz)",
        "denied: rule, policy.rules:3: export to dmz deny topic hr/#",
    ]
    nobody = {**DENIED, "rule": "", "place": "", "reason": "default_deny"}
    assert verdict(nobody)[1] == "denied: default-deny"


def test_what_crosses_is_shown_as_it_crosses() -> None:
    told = {**DENIED, "allowed": True, "topic_after": "x/pay", "changed": True, "event_after": '{"id":"1"}'}
    assert verdict(told)[2:] == ["topic after: x/pay", 'event after: {"id":"1"}']


def test_changes_are_told_table_by_table() -> None:
    answer = {
        "node": "gate-1",
        "rules": 2,
        "rules_now": 1,
        "in_force": True,
        "routes": [{"region": "cloud", "peer": "dmz", "direction": "import", "change": "closed", "detail": "no rule"}],
        "interest": [
            {"direction": "export", "peer": "dmz/d1", "region": "cloud", "filter": "news/#", "group": "", "change": "opened"}
        ],
        "events_seen": 9,
        "events_changed": 1,
        "events": [
            {"topic": "a", "direction": "export", "peer": "dmz", "before": "allow", "after": "deny", "place_before": "p:1", "place_after": ""}
        ],
    }  # fmt: skip
    lines = changes(answer, color=False)
    text = "\n".join(lines)
    assert lines[0] == "2 rules, 1 in force on gate-1"
    assert "routes: 1 changes" in text
    assert "- cloud" in text
    assert "+ export" in text
    assert "events: 1 of the last 9" in text
    assert "allow (p:1)" in text
    assert "deny (default)" in text
    assert "no policy file" in "\n".join(changes({**answer, "in_force": False, "routes": []}, color=False))
