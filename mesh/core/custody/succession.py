"""Durable clients whose home is gone: who they are at the mirror, that the mirror becomes their home, and that the old home gives them up.

Decides which clients a mirror is told of (those that a `[[topic]]` with copies = 2 concerns), when one is adopted or given up, and
who gets what was meant for a home that is no more. Never decides when a node is gone (`mirror` does).
Invariants: whoever takes a node's clients over says so in its table only after their interest is there, and for as long as that node
may not know. What was owed to a client that moved goes to its new home, flagged `redelivered`, as a batch with the flag MOVED: past
the dedupe window of others, who may have had the same events before.
Source: design page "Routing", Delivery (home nodes of durable clients); decision 0019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.consumers import Consumers
from mesh.core.custody.copies import Copies
from mesh.core.custody.durable import DurableClient, Settings
from mesh.core.custody.keeping import Keeping
from mesh.core.custody.record import NODE, Held
from mesh.core.custody.store import Store, StoreRefusedError
from mesh.core.plan import Planner
from mesh.core.subscriptions import Transition
from mesh.model.event import Event
from mesh.model.reasons import Drop, Refuse
from mesh.model.topic import overlaps
from mesh.model.topic_rules import TopicRules
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

ADOPTED_NOTE: Final = "adopted/"
"""adopted/NAME: the home that a durable client of this node had before."""
TAKEN_NOTE: Final = "taken/"
"""taken/NODE: this node took its clients over, and it may not know yet."""
LEARN_S: Final = 5.0
"""A node whose journal is new takes nothing for its clients for so long: it may have had some, with a disk that is lost, and whoever
took them over has to say so first."""
RETRY_S: Final = 1.0
"""What the store would not take of what a client is to have elsewhere is tried again after so long."""
SENT_ON: Final = 100_000
FORGET_S: Final = 60.0
"""A node that is back and keeps none of its former clients is told for so long that they are here."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[Settings, list[tuple[int, str, str]]]).decode


class Heir(NamedTuple):
    """Who took over a node's clients. since: monotonic seconds, when this node heard of it."""

    node: str
    since: float


class Succession:
    """Args: copies: to the mirror. consumers: of this node. Cost: nothing for nodes without durable clients that copies concern."""

    def __init__(
        self,
        region: str,
        node: str,
        *,
        store: Store,
        copies: Copies,
        consumers: Consumers,
        keeping: Keeping,
        planner: Planner,
        rules: TopicRules,
        counters: Counters,
        now: float,
    ) -> None:
        self._region = region
        self._node = node
        self._store = store
        self._copies = copies
        self._consumers = consumers
        self._keeping = keeping
        self._planner = planner
        self._counters = counters
        self._rules = tuple(rule for rule in rules.rules if rule.copies > 1)
        self._rivals: set[str] = set()
        """Clients that another node may keep, too."""
        self._learns_until = now if store.notes else now + LEARN_S
        self._sent_on: set[int] = set()
        """Records that wait for a node that is back, and that its clients' new home was sent, too."""
        self._retry_at = 0.0
        self._told: dict[str, bytes] = {}
        self._touched: set[str] = set()
        """Clients that got an event with copies = 2 though no rule here says so: the publisher's node has one."""
        notes = store.notes
        self.adopted = {
            key[len(ADOPTED_NOTE) :]: value.decode("utf-8", "replace")
            for key, value in notes.items()
            if key.startswith(ADOPTED_NOTE)
        }
        """Client -> its home before."""
        self.taken: dict[str, float | None] = {
            key[len(TAKEN_NOTE) :]: None for key in notes if key.startswith(TAKEN_NOTE)
        }
        """Nodes whose clients are here -> since when they are back and have none of them."""
        self.leaving: dict[str, str] = {}
        """Clients that this node gives up -> their new home."""
        self.heir: Callable[[str], Heir | None] = lambda node: None
        """Who of the live members took over a node's clients."""
        self.home: Callable[[str], str | None] = lambda client: None
        """The other live member that keeps a client."""
        self.is_live: Callable[[str], bool] = lambda node: False

    # -- the mirror is told --------------------------------------------------------------------------------------

    def clients(self) -> Iterator[tuple[str, bytes]]:
        """(name, settings and subscriptions) of every client that the mirror is to know of."""
        for client in self._consumers.durable:
            value = self._value(client)
            if value is not None:
                self._told[client.name] = value
                yield client.name, value

    def _value(self, client: DurableClient) -> bytes | None:
        held = self._consumers.held_by(client.number)
        concerned = client.name in self._touched or any(
            overlaps(rule.filter, filter) for rule in self._rules for _, filter, _ in held
        )
        return _encode((client.settings, held)) if concerned and held else None

    def tell(self, now: float) -> None:
        """Tell the mirror of clients that changed. Called after every burst. Cost: O(1) where none did."""
        changed = self._consumers.durable.changed
        if not changed:
            return
        self._consumers.durable.changed = set()
        if not self._rules and not self._touched:
            return
        self._rivals |= changed
        for name in changed:
            client = self._consumers.durable.of_name(name)
            value = None if client is None else self._value(client)
            if value == self._told.get(name):
                continue
            if value is None:
                del self._told[name]
                self._touched.discard(name)
            else:
                self._told[name] = value
            self._copies.client_changed(name, value, now)

    def touch(self, parts: Iterable[str]) -> None:
        """A record with the flag COPIES is owed to these."""
        for part in parts:
            if part.startswith("c/") and part[2:] not in self._told and part[2:] not in self._touched:
                self._touched.add(part[2:])
                self._consumers.durable.changed.add(part[2:])

    # -- the mirror becomes their home ---------------------------------------------------------------------------

    def adopt(self, former: str, clients: dict[str, bytes], now: float) -> list[Transition]:
        """The clients of a node that is gone are at home here from now on, but for those that are at home elsewhere by now. Returns
        what the region must be told."""
        told: list[Transition] = []
        adopted = False
        for name, value in clients.items():
            if self._consumers.durable.of_name(name) is not None or self.home(name) is not None:
                continue
            try:
                settings, held = _decode(value)
            except msgspec.DecodeError:
                self._counters.drop(Drop.MALFORMED, 1)
                continue
            told += self._consumers.adopt(name, settings, held, now)
            self.adopted[name] = former
            self._note(ADOPTED_NOTE + name, former.encode())
            adopted = True
        if adopted:
            self.taken[former] = None
            self._note(TAKEN_NOTE + former, b"")
        return told

    def _note(self, key: str, value: bytes | None) -> None:
        try:
            self._store.note(key, value)
        except StoreRefusedError:
            return  # no room for notes: known until this process ends

    def inherit(
        self,
        former: str,
        header: BatchHeader,
        events: list[Event],
        body: bytes,
        parts: Sequence[str],
        now: float,
    ) -> None:
        """A record that a node that is gone owed to these clients of its own. Raises: StoreRefusedError; nothing happened, or some of it
        comes again, and says so."""
        header = self._moved(header, former)
        mine = [part for part in parts if self._consumers.durable.of_name(part[2:]) is not None]
        homes = {self.home(part[2:]) for part in parts if part not in mine}
        for home in sorted(home for home in homes if home is not None):
            self._keeping.keep(header, body, (NODE + home,), now)
        if mine:
            self._give(header, events, body, mine, now)
        elif not homes - {None}:
            self._counters.drop(Drop.INTEREST_GONE, len(events))

    def bequeathed(
        self, former: str, header: BatchHeader, events: list[Event], body: bytes, now: float
    ) -> int:
        """What a node that is gone had for whichever of its clients want it. Returns and raises: see `deliver`."""
        return self.deliver(self._moved(header, former), events, body, now)

    def _moved(self, header: BatchHeader, former: str, client: str = "") -> BatchHeader:
        """For clients that were at home at `former`, or one of them alone, as a batch of its own."""
        if header.flags & Flag.MOVED and header.groups:
            client = header.groups[0][1]
        flags = (header.flags | Flag.REDELIVERED | Flag.MOVED) & ~(
            Flag.RECEIPT | Flag.RECEIPT_DELIVERED | Flag.GROUP_ONLY
        )
        own = (self._region,)
        groups = (("", client, self._region),) if client else ()
        return replace(header, leg=Leg.LOCAL, flags=flags, regions=own, groups=groups, to_node=former)

    def _give(
        self, header: BatchHeader, events: list[Event], body: bytes, parts: Sequence[str], now: float
    ) -> int:
        lsn, header, events = self._keeping.inherit(header, events, body, parts, now)
        if lsn:
            self._consumers.recover(lsn, header, events, parts, now)
        return lsn

    def deliver(self, header: BatchHeader, events: list[Event], body: bytes, now: float) -> int:
        """A batch with the flag MOVED. Returns its record, 0 for none. Raises: StoreRefusedError."""
        former = header.to_node
        names = self._heirs_of(former)
        if header.groups:
            client = header.groups[0][1]
            names = [client] if self._consumers.durable.of_name(client) is not None else []
            if self.adopted.get(client) == former:
                header = replace(header, groups=())  # what came with the takeover need not come again
        parts = [
            f"c/{name}" for name in names if any(self._consumers.wants(name, event.topic) for event in events)
        ]
        lsn = self._give(header, events, body, parts, now) if parts else 0
        nobody = [
            event for event in events if not any(self._consumers.wants(name, event.topic) for name in names)
        ]
        if nobody and former != self._node and not self.is_live(former):
            # Of clients that nobody told of: they come back with their home.
            kept = replace(header, flags=header.flags & ~Flag.MOVED, to_node="", count=len(nobody))
            lsn = max(lsn, self._keeping.keep(kept, encode_body(nobody), (NODE + former,), now))
        elif nobody:
            self._counters.drop(Drop.INTEREST_GONE, len(nobody))
        return lsn

    def _heirs_of(self, former: str) -> list[str]:
        if former == self._node:
            return [client.name for client in self._consumers.durable if client.name not in self.adopted]
        return [name for name, home in self.adopted.items() if home == former]

    # -- what waits for a home that is gone ----------------------------------------------------------------------

    def is_due(self, former: str, held: Held) -> bool:
        """Whether a record that waits for a node has to go to the new home of its clients, too."""
        heir = self.heir(former)
        return heir is not None and held.lsn not in self._sent_on and held.since <= heir.since

    def redirect(
        self, former: str, header: BatchHeader, events: list[Event], body: bytes, held: Held, now: float
    ) -> bool:
        """A batch waits for a node whose clients are at home elsewhere. True: it need not wait any longer. Raises: StoreRefusedError."""
        heir = self.heir(former) if header.flags & Flag.COPIES else None
        if heir is None:
            return False
        back = self.is_live(former)  # with sessions of its own
        if back and not self.is_due(former, held):
            return False
        if heir.node == self._node:
            names = self._heirs_of(former)
            if not any(self._consumers.wants(name, event.topic) for name in names for event in events):
                return False
            self.deliver(self._moved(header, former), events, body, now)
        else:
            bit = self._planner.destinations.find(NODE + heir.node)
            match = self._planner.interest.match
            if held.since > heir.since and all(match(event.topic).mask & bit for event in events):
                return True  # it was planned for the new home, too
            self._keeping.keep(self._moved(header, former), body, (NODE + heir.node,), now)
        if back:
            if len(self._sent_on) >= SENT_ON:
                self._sent_on.clear()  # some comes twice, and says so
            self._sent_on.add(held.lsn)
        return not back

    def unwanted(self, header: BatchHeader, events: list[Event], now: float) -> int:
        """Events of a batch for this node that nobody here wants: to who took its clients over. Returns their record, 0 for none.

        Raises: StoreRefusedError: this node has just started and does not know yet whether somebody did."""
        if now < self._learns_until:
            raise StoreRefusedError(Refuse.STARTING)
        nobody = [event for event in events if not self._keeping.plan_of(event.topic).local]
        if not nobody or header.groups:
            return 0
        heir = self.heir(self._node)
        if heir is not None:
            moved = replace(self._moved(header, self._node), count=len(nobody))
            return self._keeping.keep(moved, encode_body(nobody), (NODE + heir.node,), now)
        return 0

    # -- the old home comes back ---------------------------------------------------------------------------------

    def look(self, rivals: Iterable[str], now: float) -> list[str]:
        """Tables or members changed. rivals: clients that other members named as their own since the last call. Returns those that
        this node has to give up: close their connections, then `give_up`. Cost: O(clients that two nodes keep)."""
        for former in list(self.taken):
            self._still_taken(former, now)
        self._rivals.update(name for name in rivals if name in self._told)
        heir = self.heir(self._node) if self._rivals else None
        found = []
        for name in sorted(self._rivals):
            known = self._consumers.durable.of_name(name) is not None and name not in self.leaving
            home = self.home(name) if known else None
            if home is None:
                self._rivals.discard(name)
                continue
            if (heir is None or heir.node != home) and not self._yields(name, home):
                continue
            self.leaving[name] = home
            found.append(name)
        return found

    def restored(self) -> None:
        """Clients of an earlier process are back."""
        self._told = dict(self.clients())

    def _yields(self, name: str, home: str) -> bool:
        """Two nodes made the same client while neither knew of the other: the first by name keeps it."""
        return home < self._node and not (home in self.taken and self.adopted.get(name) == home)

    def _still_taken(self, former: str, now: float) -> None:
        if not self.is_live(former):
            self.taken[former] = None
        elif self.taken[former] is None:
            self.taken[former] = now

    def forget(self, keeps: Callable[[str, str], bool], now: float) -> list[str]:
        """Nodes that know by now that their clients are here. keeps: (node, client): whether its table still names the client."""
        found = []
        for former, since in list(self.taken.items()):
            if since is None or now - since < FORGET_S:
                continue
            if any(home == former and keeps(former, name) for name, home in self.adopted.items()):
                self.taken[former] = now
                continue
            del self.taken[former]
            self._note(TAKEN_NOTE + former, None)
            found.append(former)
        return found

    def next_deadline(self) -> float | None:
        if self.leaving:
            return self._retry_at
        return min((since + FORGET_S for since in self.taken.values() if since is not None), default=None)

    def give_up(self, now: float) -> list[Transition]:
        """Send what is kept for clients that are at home elsewhere there, some of it at once. Returns what the region must be told."""
        told: list[Transition] = []
        if now < self._retry_at:
            return told
        for name, home in list(self.leaving.items()):

            def give(
                header: BatchHeader, events: Sequence[Event], name: str = name, home: str = home
            ) -> None:
                moved = replace(self._moved(header, self._node, name), count=len(events))
                self._keeping.keep(moved, encode_body(list(events)), (NODE + home,), now)

            try:
                more = self._consumers.give_up(name, give, now)
            except StoreRefusedError:
                self._retry_at = now + RETRY_S
                break
            if more:
                break
            del self.leaving[name]
            told += self._consumers.remove(name, now)
            if self.adopted.pop(name, None) is not None:
                self._note(ADOPTED_NOTE + name, None)
        return told

    def removed(self, name: str) -> None:
        """A durable client is no more."""
        self.leaving.pop(name, None)
        if self.adopted.pop(name, None) is not None:
            self._note(ADOPTED_NOTE + name, None)
