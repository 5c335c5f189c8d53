"""The load of a bench run: publishers and one subscriber in a process of their own, driven by lines of JSON.

Decides when an event is sent (closed loop: a window of events that nobody has seen yet; open loop: a fixed rate) and counts
every single one at the other end. Never measures the nodes: whoever started it does.
Plain threads and blocking sockets: a sleeping thread wakes within 0.1 ms, an event loop's timer only within 1 ms. Bodies are
rendered once, and only ids and times are written into them, so that the generator costs less than what it measures.
Invariant: a time inside an event is the moment at which it was due, so that waiting for a slow answer counts as latency.
Source: design page "Wire and speed", The benchmark; G. Tene, "How NOT to Measure Latency" (coordinated omission).
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

READ_BYTES: Final = 256 * 1024
QUIET_S: Final = 5.0
"""No progress for so long: what is missing now is lost."""
_NO_TIME: Final = b"0" * 20
_EVENT: Final = re.compile(rb'"id":"(\d{12})","data":\{"t":"(\d{20})"')
_KEEP: Final = 64  # bytes in which an event's id and time fit: what is kept between two reads
_PONG: Final = bytes((0x8A, 0x80, 0, 0, 0, 0))
_WS_KEY: Final = base64.b64encode(b"hopmesh-bench-00").decode()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to load. publish, subscribe: "HOST:PORT" of events ports. regions: where the interest must be before it begins."""

    publish: str
    subscribe: str
    regions: str = ""
    protocol: str = "ws"
    publishers: int = 4
    batch: int = 100
    topics: int = 100
    payload: int = 256
    window: int = 4_000
    seed: int = 1
    level: str = "at-most-once"

    @property
    def path(self) -> str:
        """Where events are published."""
        return "/v1/events" + (f"?level={self.level}" if self.level != "at-most-once" else "")


class Body:
    """One request: its bytes, and where the ids and times of its events stand in them."""

    def __init__(
        self, topics: list[str], payload: int, address: str, *, single: bool, path: str = "/v1/events"
    ) -> None:
        pad = "x" * max(0, payload - len(f'{{"t":"{_NO_TIME.decode()}","pad":""}}'))
        events = [
            f'{{"specversion":"1.0","source":"/bench","type":"bench.event","topic":"{topic}","id":"{"0" * 12}",'
            f'"data":{{"t":"{_NO_TIME.decode()}","pad":"{pad}"}}}}'
            for topic in topics
        ]
        text = events[0] if single else f"[{','.join(events)}]"
        kind = "application/cloudevents+json" if single else "application/cloudevents-batch+json"
        head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n"
        self.bytes = bytearray(f"{head}{text}".encode())
        self._ids = [found.start(1) for found in _EVENT.finditer(self.bytes)]
        self._times = [found.start(2) for found in _EVENT.finditer(self.bytes)]

    def number(self, first: int) -> bytearray:
        """Give its events the ids `first`, `first` + 1, ..."""
        data = self.bytes
        for at, place in enumerate(self._ids, first):
            data[place : place + 12] = b"%012d" % at
        return data

    def stamp(self, at_ns: int) -> None:
        """Write a time into all its events."""
        text = b"%020d" % at_ns
        for place in self._times:
            self.bytes[place : place + 20] = text


class Connection:
    """One keep-alive connection to an events port."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, request: bytes | bytearray) -> None:
        """Send a request and read its whole answer. Raises: RuntimeError for any status but 202."""
        self.socket.sendall(request)
        data = self.socket.recv(READ_BYTES)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        if not data.startswith(b"HTTP/1.1 202"):
            raise RuntimeError(data[:300].decode("latin-1"))
        found = re.search(rb"content-length: *(\d+)", data[:end], re.IGNORECASE)
        assert found is not None, "answers to a publish tell their length"
        left = int(found[1]) - (len(data) - end - 4)
        while left > 0:
            left -= len(self._more())

    def _more(self) -> bytes:
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise RuntimeError("the node closed the connection")
        return data


@dataclass
class Tally:
    """What a run has seen. first: the id of its first event. seen: one byte an event."""

    first: int
    seen: bytearray
    timed: bool
    received: int = 0
    duplicates: int = 0
    strangers: int = 0
    latencies_ns: list[int] = field(default_factory=list)
    last_ns: int = 0


class Load:
    """Publishers, a subscriber and what they count."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bytes_in = 0
        self._next_id = 0
        self._window = threading.Semaphore(0)
        self._per_permit = plan.batch
        self._owed = 0
        self._tally = Tally(0, bytearray(), False)
        self._changed = threading.Condition()
        self._reader = Connection(plan.subscribe)
        self._publishers = [Connection(plan.publish) for _ in range(plan.publishers)]
        self._dice = random.Random(plan.seed)
        self._failure = ""

    # -- subscribing -------------------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        """Subscribe to everything the load publishes, and begin to read once the interest is where it has to be."""
        sock = self._reader.socket
        wait = f"&wait=mesh&wait_timeout=20s{f'&regions={self.plan.regions}' if self.plan.regions else ''}"
        if self.plan.protocol == "sse":
            sock.sendall(
                f"GET /v1/events?filter=bench/%23{wait} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n".encode()
            )
        else:
            opening = (
                "GET /v1/ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mesh.v1.json\r\nSec-WebSocket-Key: {_WS_KEY}\r\n\r\n"
            )
            op: dict[str, Any] = {
                "op": "subscribe",
                "sid": 1,
                "filter": "bench/#",
                "wait": "mesh",
                "wait_timeout": "20s",
            }
            if self.plan.regions:
                op["regions"] = self.plan.regions.split(",")
            sock.sendall(opening.encode() + masked_text(json.dumps(op).encode()))
        data = b""
        while not (found := re.search(rb'"complete": ?(true|false)', data)):
            data += self._reader._more()
            if b" 200 " not in data[:20] and b" 101 " not in data[:20]:
                raise RuntimeError(data[:300].decode("latin-1"))
        if found[1] != b"true":
            raise RuntimeError(f"the subscription is not installed everywhere: {data[-300:]!r}")
        sock.settimeout(None)
        threading.Thread(target=self._read, name="subscriber", daemon=True).start()

    def _read(self) -> None:
        sock = self._reader.socket
        rest = b""
        while data := sock.recv(READ_BYTES):
            now_ns = time.monotonic_ns()
            self.bytes_in += len(data)
            rest += data
            end = 0
            tally = self._tally
            for found in _EVENT.finditer(rest):
                end = found.end()
                at = int(found[1]) - tally.first
                if not 0 <= at < len(tally.seen):
                    tally.strangers += 1
                    continue
                if tally.seen[at]:
                    tally.duplicates += 1
                    continue
                tally.seen[at] = 1
                tally.received += 1
                self._owed += 1
                if tally.timed:
                    tally.latencies_ns.append(now_ns - int(found[2]))
            rest = rest[max(end, len(rest) - _KEEP) :]
            tally.last_ns = now_ns
            while self._owed >= self._per_permit:
                self._owed -= self._per_permit
                self._window.release()
            with self._changed:
                self._changed.notify_all()
        self._failure = "the node ended the subscription"

    def _begin(self, events: int, *, timed: bool) -> Tally:
        if self.plan.protocol == "ws":
            self._reader.socket.sendall(
                _PONG
            )  # a client that is silent for too long is asked whether it is there
        tally = Tally(self._next_id, bytearray(events), timed)
        self._next_id += events
        self._tally = tally
        return tally

    def _finish(self, tally: Tally) -> None:
        """Wait until everything has arrived, or nothing has for QUIET_S."""
        with self._changed:
            while tally.received < len(tally.seen) and not self._failure:
                if not self._changed.wait(QUIET_S):
                    break

    # -- publishing --------------------------------------------------------------------------------------------------

    def closed(self, events: int) -> dict[str, Any]:
        """Publish `events` in batches, with at most a window of them under way. Returns: what came of it."""
        plan = self.plan
        batches = max(1, events // plan.batch)
        self._window = threading.Semaphore(max(plan.publishers, plan.window // plan.batch))
        self._per_permit, self._owed = plan.batch, 0
        tally = self._begin(batches * plan.batch, timed=False)
        numbers = iter(range(tally.first, tally.first + batches * plan.batch, plan.batch))
        lock = threading.Lock()

        def work(connection: Connection) -> None:
            body = Body(self._topics(plan.batch), plan.payload, plan.publish, single=False, path=plan.path)
            while not self._failure:
                with lock:
                    first = next(numbers, None)
                if first is None:
                    return
                if not self._window.acquire(timeout=QUIET_S):
                    self._failure = f"no event arrived for {QUIET_S:g} s"
                    return
                connection.call(body.number(first))

        cpu_s, begun_ns = time.process_time(), time.monotonic_ns()
        self._run(work)
        self._finish(tally)
        seconds = ((tally.last_ns or time.monotonic_ns()) - begun_ns) / 1e9
        return {**self._told(tally), "seconds": seconds, "load_cpu_s": time.process_time() - cpu_s}

    def open(self, rate: float, seconds: float) -> dict[str, Any]:
        """Publish single events at a fixed rate. Returns: what came of it, with latencies from the moment each was due."""
        plan = self.plan
        events = max(1, int(rate * seconds))
        tally = self._begin(events, timed=True)
        late_ns: list[int] = []
        begin_ns = time.monotonic_ns() + 20_000_000
        topics = self._topics(events)

        def work(connection: Connection) -> None:
            bodies: dict[str, Body] = {}
            share = self._publishers.index(connection)
            for number in range(share, events, plan.publishers):
                topic = topics[number]
                body = bodies.get(topic)
                if body is None:
                    body = bodies[topic] = Body(
                        [topic], plan.payload, plan.publish, single=True, path=plan.path
                    )
                due_ns = begin_ns + int(number * 1e9 / rate)
                left_ns = due_ns - time.monotonic_ns()
                if left_ns > 0:
                    time.sleep(left_ns / 1e9)
                body.stamp(due_ns)
                data = body.number(tally.first + number)
                late_ns.append(time.monotonic_ns() - due_ns)
                connection.call(data)

        cpu_s = time.process_time()
        self._run(work)
        self._finish(tally)
        return {
            **self._told(tally),
            "seconds": (time.monotonic_ns() - begin_ns) / 1e9,
            "load_cpu_s": time.process_time() - cpu_s,
            "latency_us": quantiles_us(tally.latencies_ns),
            "late_us": quantiles_us(late_ns),
        }

    def acked(self, events: int) -> dict[str, Any]:
        """One publisher that waits for each answer before the next event. Returns: what came of it, and how long each answer took."""
        plan = self.plan
        tally = self._begin(events, timed=False)
        took_ns: list[int] = []
        topics = self._topics(events)

        def work(connection: Connection) -> None:
            if connection is not self._publishers[0]:
                return
            for number, topic in enumerate(topics, tally.first):
                data = Body([topic], plan.payload, plan.publish, single=True, path=plan.path).number(number)
                begun_ns = time.monotonic_ns()
                connection.call(data)
                took_ns.append(time.monotonic_ns() - begun_ns)

        self._run(work)
        self._finish(tally)
        return {**self._told(tally), "ack_us": quantiles_us(took_ns)}

    def _topics(self, count: int) -> list[str]:
        return [f"bench/{self._dice.randrange(self.plan.topics)}" for _ in range(count)]

    def _run(self, work: Any) -> None:
        """Run the publishers to their end. Raises: the first failure of one of them."""
        failures: list[BaseException] = []

        def guarded(connection: Connection) -> None:
            try:
                work(connection)
            except (OSError, RuntimeError) as error:
                failures.append(error)

        threads = [
            threading.Thread(target=guarded, args=(one,), name="publisher") for one in self._publishers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError(str(failures[0]))

    def _told(self, tally: Tally) -> dict[str, Any]:
        return {
            "published": len(tally.seen),
            "received": tally.received,
            "lost": len(tally.seen) - tally.received,
            "duplicates": tally.duplicates,
            "failure": self._failure,
        }


def quantiles_us(values_ns: list[int]) -> dict[str, float]:
    """p50, p99, p99.9 and the largest, in microseconds."""
    ranked = sorted(values_ns) or [0]
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ranked[min(len(ranked) - 1, int(len(ranked) * share))] / 1e3 for name, share in at.items()}


def masked_text(text: bytes) -> bytes:
    """One WebSocket text frame from a client; the mask is zero, so the text stays as it is (RFC 6455 section 5.3)."""
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0xFE)) + size.to_bytes(2, "big")
    return head + bytes(4) + text


def main() -> None:
    """Read the plan from the command line, then one command a line; answer each with a line."""
    load = Load(Plan(**json.loads(sys.argv[1])))
    load.subscribe()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            match command["do"]:
                case "closed":
                    told = load.closed(command["events"])
                case "open":
                    told = load.open(command["rate"], command["seconds"])
                case "acked":
                    told = load.acked(command["events"])
                case other:
                    raise RuntimeError(f"no command {other}")
        except RuntimeError as error:
            told = {"failure": str(error)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
