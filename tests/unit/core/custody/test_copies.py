from __future__ import annotations

from unit.core.custody.memory_store import MemoryStore, event, header

from mesh.core.counters import Counters
from mesh.core.custody.copies import AVOID_S, RECOPY_S, TELL_S, Copies, CopyingStore
from mesh.core.custody.record import Head, decode_head, encode_head
from mesh.core.effects import Send
from mesh.model.limits import Limits
from mesh.model.reasons import Refuse, Short
from mesh.wire.codec import encode_body
from mesh.wire.frames import CopiedClient, CopiesHeld, CopiesOwed, Copy, CopyAck

EPOCH = 50
PARTS = ("r/us", "c/shop")


class Owner:
    """An owner of records with siblings `peers`, and what it said to them."""

    def __init__(self, *peers: str, limits: Limits | None = None, journal: MemoryStore | None = None) -> None:
        self.journal = journal or MemoryStore()
        self.store = CopyingStore(self.journal)
        self.peers = {peer: at for at, peer in enumerate(peers)}
        self.counters = Counters()
        self.limits = limits or Limits()
        self.copies = Copies(
            self.store, "o", EPOCH, peers=self.peers, limits=self.limits, counters=self.counters
        )

    def keep(self, *parts: str, now: float = 0.0, ttl_ms: int = 0) -> int:
        """A record is stored and synced."""
        body = encode_body([event(1)])
        head = encode_head(Head(header(), ttl_ms, "", EPOCH))
        lsn = self.store.append(parts, head, body)
        self.copies.added(lsn, parts, head, body, header(), now)
        self.journal.sync()
        return lsn

    def said(self, kind: type[object]) -> list[tuple[str | int, object]]:
        """Frames of a kind said since the last call, whoever to."""
        found = [
            (one.to, one.frame)
            for one in self.copies.effects
            if isinstance(one, Send) and isinstance(one.frame, kind)
        ]
        self.copies.effects[:] = [
            one for one in self.copies.effects if not (isinstance(one, Send) and isinstance(one.frame, kind))
        ]
        return found

    def copied(self) -> list[int]:
        return [one.id[1] for _, one in self.said(Copy)]  # type: ignore[attr-defined]


def test_a_record_counts_as_synced_when_the_mirror_has_it() -> None:
    owner = Owner("m")
    first, second = owner.keep(*PARTS), owner.keep(*PARTS)
    assert owner.copied() == [first, second]
    assert (owner.journal.synced, owner.store.synced) == (second, 0)
    owner.copies.acked("m", CopyAck(((EPOCH, second),)), 0.1)
    assert owner.store.synced == 0, "in the order of the records"
    owner.copies.acked("m", CopyAck(((EPOCH, first),)), 0.2)
    assert owner.store.synced == second
    assert owner.copies.take_moved()
    assert not owner.counters.copies_short


def test_without_a_sibling_one_copy_is_accepted_and_counted_and_the_second_is_made_when_one_comes() -> None:
    owner = Owner()
    lsn = owner.keep(*PARTS)
    assert owner.store.synced == lsn
    assert owner.counters.copies_short == {Short.NO_SIBLING: 1}
    assert owner.copies.alone()[0] == 1
    owner.peers["m"] = 1
    owner.copies.peer_opened("m", 1.0)
    assert owner.copied() == [], "it may have it already"
    owner.copies.handle_deadline(1.0 + RECOPY_S)
    assert owner.copied() == [lsn]
    owner.copies.acked("m", CopyAck(((EPOCH, lsn),)), 3.0)
    assert owner.copies.alone()[0] == 0


def test_a_mirror_that_is_late_or_refuses_is_not_waited_for() -> None:
    owner = Owner("m")
    lsn = owner.keep(*PARTS)
    due = owner.copies.next_deadline()
    assert due == owner.limits.copies_wait_s
    owner.copies.handle_deadline(due)
    assert owner.store.synced == lsn
    assert owner.keep(*PARTS, now=due) == owner.store.synced
    assert owner.counters.copies_short == {Short.LATE: 2}
    later = due + AVOID_S
    third = owner.keep(*PARTS, now=later)
    assert owner.store.synced < third
    owner.copies.acked("m", CopyAck((), (((EPOCH, third), Refuse.FULL.value),)), later)
    assert owner.store.synced == third
    assert owner.counters.copies_short == {Short.LATE: 2, Short.REFUSED: 1}


def test_the_mirror_stays_while_it_is_linked_and_another_one_gets_everything_that_is_open() -> None:
    owner = Owner("m", "n", "p")
    lsn = owner.keep(*PARTS)
    mirror = owner.copies.mirror
    owner.copies.acked(mirror, CopyAck(((EPOCH, lsn),)), 0.1)
    owner.peers["aaa"] = owner.peers["zzz"] = 9
    owner.copies.links_changed(0.2)
    assert owner.copies.mirror == mirror
    owner.said(Copy)
    del owner.peers[mirror]
    owner.copies.links_changed(1.0)
    assert owner.copies.mirror not in ("", mirror)
    owner.copies.handle_deadline(1.0 + RECOPY_S)
    assert owner.copied() == [lsn]


def test_what_was_under_way_on_a_link_that_ended_goes_again_and_is_waited_for() -> None:
    owner = Owner("m")
    lsn = owner.keep(*PARTS)
    assert owner.copied() == [lsn]
    owner.copies.peer_opened("m", 0.5)
    assert owner.copied() == [lsn]
    assert owner.store.synced == 0


def test_settled_parts_are_told_and_a_record_that_somebody_else_has_is_not_waited_for() -> None:
    owner = Owner("m")
    lsn = owner.keep(*PARTS)
    owner.store.settle(lsn, "c/shop")
    owner.copies.handle_deadline(TELL_S)
    assert owner.said(CopiesOwed) == [("m", CopiesOwed((((EPOCH, lsn), ("r/us",)),), EPOCH))]
    owner.store.settle(lsn, "r/us")
    assert owner.store.synced == lsn
    owner.copies.handle_deadline(1.0)
    assert owner.said(CopiesOwed) == [("m", CopiesOwed((((EPOCH, lsn), ()),), EPOCH))]
    assert not owner.store.copied


def test_parts_of_sessions_have_no_copy() -> None:
    owner = Owner("m")
    assert owner.store.synced < owner.keep("s/1") == owner.store.synced
    assert owner.copied() == []


def test_a_mirror_says_what_it_has_and_is_told_what_is_over_and_what_is_lost() -> None:
    owner = Owner("m")
    lsn = owner.keep(*PARTS)
    other = (EPOCH, lsn + 7)
    lost = (EPOCH - 1, 3)
    owner.copies.held("m", CopiesHeld(((EPOCH, lsn), other, lost)), 0.5)
    assert owner.said(CopiesOwed) == [("m", CopiesOwed((((EPOCH, lsn), PARTS), (other, ())), EPOCH))]
    assert owner.store.synced == lsn


def test_records_of_an_earlier_process_keep_their_ids_and_the_time_they_have_left() -> None:
    before = Owner("m")
    lsn = before.keep(*PARTS, ttl_ms=60_000)
    owner = Owner("m", journal=before.journal)
    head = decode_head(before.journal.read(lsn)[0])
    owner.copies.recovered(lsn, PARTS, head, 10, since=-20.0)
    owner.copies.links_changed(0.0)
    owner.copies.handle_deadline(RECOPY_S)
    ((_, copy),) = owner.said(Copy)
    assert isinstance(copy, Copy)
    assert copy.id == (EPOCH, lsn)
    assert decode_head(copy.head).deadline_ms == 60_000 - 21_000
    owner.copies.held("m", CopiesHeld(((EPOCH - 1, 1),)), 2.0)
    assert owner.said(CopiesOwed)[-1] == ("m", CopiesOwed((), EPOCH)), "the journal is the one of before"


def test_the_window_bounds_what_is_under_way() -> None:
    owner = Owner("m", limits=Limits(copies_window_bytes=1))
    first, second = owner.keep(*PARTS), owner.keep(*PARTS)
    assert owner.copied() == [first]
    owner.copies.acked("m", CopyAck(((EPOCH, first),)), 0.1)
    assert owner.copied() == [second]


def test_what_fits_no_frame_has_one_copy() -> None:
    owner = Owner("m", limits=Limits(frame_bytes=4_000))
    lsn = owner.keep(*PARTS)
    assert owner.store.synced == lsn
    assert owner.counters.copies_short == {Short.TOO_LARGE: 1}


def test_a_new_mirror_is_told_of_all_clients() -> None:
    owner = Owner("m")
    owner.copies.clients = lambda: [("shop", b"x")]
    owner.copies.client_changed("shop", b"x", 0.0)
    assert owner.said(CopiedClient) == [
        ("m", CopiedClient(EPOCH, "")),
        ("m", CopiedClient(EPOCH, "shop", b"x")),
    ]
    owner.copies.client_changed("shop", None, 0.0)
    assert owner.said(CopiedClient) == [("m", CopiedClient(EPOCH, "shop", None))]


def test_a_former_mirror_is_told_to_drop_what_it_has_once_the_new_one_has_it() -> None:
    owner = Owner("m", "n")
    lsn = owner.keep(*PARTS)
    mirror = owner.copies.mirror
    other = "n" if mirror == "m" else "m"
    owner.copies.held(other, CopiesHeld(((EPOCH, lsn),)), 0.0)
    assert owner.said(CopiesOwed) == [(other, CopiesOwed((((EPOCH, lsn), PARTS),), EPOCH))]
    owner.copies.acked(mirror, CopyAck(((EPOCH, lsn),)), 0.1)
    assert owner.said(CopiesOwed) == [(other, CopiesOwed((((EPOCH, lsn), ()),), EPOCH))]
