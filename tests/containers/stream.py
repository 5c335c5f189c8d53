"""Numbered events from one container to another, and what came of them.

Decides nothing of the mesh: it publishes at one node by HTTP from inside its container, and reads a `mesh subscribe` inside the
other's. Times are those of arrival here, and the publisher's clock for latency: containers share one clock.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from containers.commands import Failed, tail
from containers.deployment import PYTHON, Deployment

INTERVAL_S = 0.05
READY_S = 60.0
SETTLE_S = 10.0
PUBLISH_S = 120.0

# Publishes argv[2] events to topic argv[1], one every argv[3] seconds, over one connection each; prints how many were taken.
PUBLISH = """
import http.client, json, sys, time
topic, count, interval = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
taken, due = 0, time.monotonic()
for number in range(count):
    time.sleep(max(0.0, due - time.monotonic()))
    due += interval
    connection = http.client.HTTPConnection("127.0.0.1", 7222, timeout=10)
    connection.request("POST", "/v1/events/" + topic, json.dumps([number, time.time()]), {"Content-Type": "application/json"})
    taken += connection.getresponse().status == 202
    connection.close()
print(taken)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """count: published. missing: never arrived. last_missing: the highest number of those, -1. silence_s: longest time between
    two arrivals. longest_s: longest way of one event. path: regions crossed by the last."""

    count: int
    missing: int
    last_missing: int
    silence_s: float
    longest_s: float
    path: str
    twice: int

    def told(self) -> str:
        return (
            f"{self.missing} of {self.count} missing (the last is number {self.last_missing}), {self.twice} came twice, "
            f"longest silence {self.silence_s:.2f} s, longest way {self.longest_s:.2f} s"
        )


class Stream:
    """A subscriber at `target` for `count` events from `source`. Entered when its interest is installed in every region.

    topic: a new one by default.
    """

    def __init__(self, deployment: Deployment, source: str, target: str, count: int, topic: str = "") -> None:
        self._deployment = deployment
        self._source, self._target, self._count = source, target, count
        self._topic = topic or f"check/{uuid.uuid4().hex[:8]}"
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._arrived: list[tuple[int, float, float]] = []  # number, when, how long its way was
        self._path = ""
        self._subscriber: subprocess.Popen[str] | None = None
        self._publisher: subprocess.Popen[str] | None = None

    def __enter__(self) -> Stream:
        words = ["mesh", "subscribe", self._topic, "--wait", "mesh", "--wait-timeout", "30s", "-o", "json"]
        words += ["--no-reconnect", "--for", "200s", "-n", str(self._count)]
        self._subscriber = self._deployment.begin(self._target, *words)
        threading.Thread(target=self._read, args=(self._subscriber,), daemon=True).start()
        try:
            receipt = self._next(READY_S)
            if receipt is None or "subscribed" not in receipt:
                raise Failed(f"no receipt at {self._target}: {receipt}")
            if not receipt["subscribed"].get("complete", True):
                raise Failed(f"not installed everywhere: {receipt}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def publish(self) -> None:
        """Begin to publish."""
        words = [PYTHON, "-I", "-c", PUBLISH, self._topic, str(self._count), str(INTERVAL_S)]
        self._publisher = self._deployment.begin(self._source, *words)

    def wait_for(self, count: int) -> None:
        """Until so many arrived. Raises: Failed when one takes longer than READY_S."""
        while len(self._arrived) < count:
            if not self._take(READY_S):
                raise Failed(
                    f"{len(self._arrived)} of {count} events arrived at {self._target}: {self._said()}"
                )

    def result(self) -> Result:
        """When everything was published and nothing came for SETTLE_S, or all are there."""
        assert self._publisher is not None
        ends = time.monotonic() + PUBLISH_S
        while len({number for number, _, _ in self._arrived}) < self._count:
            if not self._take(SETTLE_S) and (self._publisher.poll() is not None or time.monotonic() > ends):
                break
        try:
            taken, complained = self._publisher.communicate(timeout=SETTLE_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"publishing at {self._source} does not end") from None
        if self._publisher.returncode != 0 or int(taken) != self._count:
            raise Failed(f"{self._source} took {taken.strip() or 'nothing'}: {tail(complained)}")
        numbers = [number for number, _, _ in self._arrived]
        missing = sorted(set(range(self._count)) - set(numbers))
        times = [when for _, when, _ in self._arrived]
        return Result(
            count=self._count,
            missing=len(missing),
            last_missing=missing[-1] if missing else -1,
            silence_s=max((b - a for a, b in zip(times, times[1:], strict=False)), default=0.0),
            longest_s=max((way for _, _, way in self._arrived), default=0.0),
            path=self._path,
            twice=len(numbers) - len(set(numbers)),
        )

    # What arrives

    def _read(self, subscriber: subprocess.Popen[str]) -> None:
        assert subscriber.stdout is not None
        for line in subscriber.stdout:
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                told["_at"] = time.monotonic()
                told["_wall"] = time.time()
                self._lines.put(told)
        self._lines.put(None)

    def _next(self, within_s: float) -> dict[str, Any] | None:
        try:
            return self._lines.get(timeout=within_s)
        except queue.Empty:
            return None

    def _take(self, within_s: float) -> bool:
        told = self._next(within_s)
        if told is None or "event" not in told:
            return False
        number, sent = told["event"]["data"]
        self._arrived.append((number, told["_at"], told["_wall"] - sent))
        self._path = ">".join(told.get("path") or ())
        return True

    def _said(self) -> str:
        if self._subscriber is None or self._subscriber.poll() is None:
            return "the subscriber is still there"
        assert self._subscriber.stderr is not None
        return tail(self._subscriber.stderr.read())

    def _end(self) -> None:
        for process in (self._subscriber, self._publisher):
            if process is not None:
                process.kill()
                process.wait(10)
