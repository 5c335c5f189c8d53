"""Batches being filled: full at the target, in order, and the same whether events come one by one or together."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.outbox import EVENT_OVERHEAD_BYTES, Outbox
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.wire.codec import decode_body
from mesh.wire.frames import BatchHeader, Leg

HEADER = BatchHeader(Leg.BRIDGE, 0, "eu", "eu-1", 7, ("us",), 0, 16, 0, ("eu",), 0, 0)


class Offered:
    def __init__(self) -> None:
        self.batches: list[tuple[int, list[Event]]] = []

    def __call__(self, link: int, header: BatchHeader, body: bytes, now: float) -> None:
        self.batches.append((link, decode_body(body, header.count)))


def outbox(target: int = 1_000, most: int = 512) -> tuple[Outbox, Offered]:
    offered = Offered()
    return Outbox(Limits(batch_target_bytes=target, batch_events=most), offered), offered


def event(seq: int, data: bytes = b"x", key: str = "") -> Event:
    return Event(seq, "t", key, 0, None, None, data)


def test_topics_with_the_same_header_share_a_batch() -> None:
    box, offered = outbox()
    out = box.batch(1, HEADER)
    assert box.batch(1, HEADER) is out
    assert box.batch(2, HEADER) is not out
    box.join((out,), event(1), 0.0)
    box.join((out,), event(2), 0.0)
    box.flush(0.0)
    box.flush(0.0)
    assert [(link, [e.seq for e in events]) for link, events in offered.batches] == [(1, [1, 2])]


def test_a_key_whose_way_changes_is_not_overtaken() -> None:
    box, offered = outbox()
    old, new = (box.batch(1, HEADER),), (box.batch(2, HEADER),)
    box.join(old, event(1, key="k"), 0.0)
    box.join(new, event(2, key="other"), 0.0)
    assert offered.batches == []
    box.join(new, event(3, key="k"), 0.0)
    assert [e.seq for _, events in offered.batches for e in events] == [1, 2]


@given(
    st.lists(st.binary(max_size=400), min_size=1, max_size=60),
    st.integers(60, 1_500),
    st.integers(1, 9),
    st.integers(0, 8),
)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_together_or_one_by_one_the_batches_are_the_same(
    datas: list[bytes], target: int, most: int, before: int
) -> None:
    """No batch passes its target by more than its last event, or its count, and none waits that is full."""
    events = [event(seq, data) for seq, data in enumerate(datas)]
    found = []
    for together in (False, True):
        box, offered = outbox(target, most)
        outs = (box.batch(1, HEADER), box.batch(2, HEADER))
        for early in range(before):
            box.join(outs[:1], event(900 + early), 0.0)
        if together:
            box.join_many(outs, events, list(accumulate(1 + len(data) for data in datas)), 0.0)
        else:
            for each in events:
                box.join(outs, each, 0.0)
        box.flush(0.0)
        box.forget()
        found.append({link: [b for at, b in offered.batches if at == link] for link in (1, 2)})
    assert found[0] == found[1]
    for batches in found[0].values():
        for batch in batches:
            sizes = [len(e.data) + len(e.topic) + EVENT_OVERHEAD_BYTES for e in batch]
            assert len(batch) <= most
            assert sum(sizes[:-1]) < target
    assert [e.seq for b in found[0][2] for e in b] == [*range(len(datas))]
