"""What a run says: one line a check, figures beside them, and a summary.

Decides only the form. Invariant: a check that was begun is counted once, as passed or as failed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from containers.commands import Failed


class Report:
    def __init__(self) -> None:
        self.passed = self.failed = 0
        self._begun = time.monotonic()

    def note(self, text: str) -> None:
        """A figure or a step; no check."""
        self._line("    ", text)

    @contextmanager
    def check(self, what: str) -> Iterator[list[str]]:
        """One check: passed when its body ends, failed when that raises `Failed`. Yields a list for figures to tell with it."""
        figures: list[str] = []
        try:
            yield figures
        except Failed as failed:
            self.failed += 1
            first, *more = str(failed).splitlines() or [""]
            self._line("FAIL", f"{what}: {first}")
            for line in more:
                self._line("    ", f"  | {line}")
        else:
            self.passed += 1
            self._line("ok  ", f"{what} ({', '.join(figures)})" if figures else what)

    def summary(self) -> int:
        """Print it; the exit code."""
        self._line("    ", f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0

    def _line(self, mark: str, text: str) -> None:
        print(f"{mark} {time.monotonic() - self._begun:6.1f} s  {text}", flush=True)
        sys.stdout.flush()


def must(truth: object, why: str) -> None:
    """Raises: Failed with `why` unless it is true."""
    if not truth:
        raise Failed(why)
