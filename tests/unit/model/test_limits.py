from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from mesh.model.limits import Limits

PAGE = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
NAMES = [field.name for field in fields(Limits)]
UNITS = ("_s", "_bytes")


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_is_a_positive_number_of_its_unit(name: str) -> None:
    value = getattr(Limits(), name)
    assert value > 0
    assert type(value) is (float if name.endswith(("_s", "_missed")) else int)


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_stands_in_the_operators_reference_with_what_happens_beyond_it(name: str) -> None:
    found = re.search(rf"^\| `{name}` \| ([^|]+) \| `([^|]+)` \| ([^|]*) \|$", PAGE, re.MULTILINE)
    assert found is not None
    assert found[3].strip()


def test_limits_are_fixed_for_the_life_of_a_node() -> None:
    with pytest.raises(FrozenInstanceError):
        Limits().regions = 5  # type: ignore[misc]


def test_the_defaults_go_together() -> None:
    """What one limit lets in, no other may turn away for ever."""
    limits = Limits()
    assert limits.event_bytes <= limits.frame_bytes
    assert limits.event_bytes <= limits.body_bytes <= limits.bodies_bytes
    assert limits.event_bytes + limits.topic_bytes + limits.key_bytes <= limits.credit_bytes
    assert limits.batch_target_bytes <= limits.credit_bytes <= limits.data_queue_bytes
    assert limits.batch_events <= limits.credit_events
    assert limits.event_bytes <= limits.session_queue_bytes
    assert limits.topic_levels <= limits.filter_levels
    assert limits.topic_bytes <= limits.filter_bytes
    assert limits.hop_limit <= limits.path_regions
    assert limits.ack_interval_s < limits.hello_interval_s * limits.hello_missed
    assert limits.dedupe_window % 8 == 0
    assert limits.dedupe_window >= limits.credit_events, (
        "or a peer's whole credit slides its own window past it"
    )
