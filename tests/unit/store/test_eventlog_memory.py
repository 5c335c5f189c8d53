"""The log in memory, beyond what the contract suite says of every engine."""

from __future__ import annotations

import pytest

from mesh.model.event import Event, Logged
from mesh.model.reasons import LogGap
from mesh.store.eventlog import LogFailed
from mesh.store.eventlog_memory import MemoryLog


def test_it_fails_as_long_as_it_is_told_to() -> None:
    engine = MemoryLog()
    entry = Logged(1, 1, 10, ("eu", "n", 1), (), Event(1, "a", "", 0, None, None, b"{}"))
    engine.failing = LogFailed(LogGap.NO_SPACE, "for a test")
    with pytest.raises(LogFailed, match="no_space: for a test"):
        engine.append([entry])
    engine.failing = None
    engine.append([entry])
    assert engine.statistics().events == 1
