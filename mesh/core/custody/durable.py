"""Durable clients: who they are, kept in the journal's notes, so that they and their interest are there after a restart.

Decides how a client is written down. Never delivers.
Invariants: a client has one session number, negative, as long as it exists in this process; its subscriptions in the
`SubscriptionIndex` under that number equal its notes.
Source: design page "Routing", Delivery (durable subscriptions by client name).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from mesh.core.custody.store import Store, StoreRefusedError

CLIENT_NOTE: Final = "client/"
SUBSCRIPTION_NOTE: Final = "subscription/"

_encode = msgspec.msgpack.encode
_subscription = msgspec.msgpack.Decoder(tuple[str, str])


class Settings(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a client beside its subscriptions. away_s: how long it had been away when this was written."""

    auto: bool
    ack_timeout_s: float
    max_deliveries: int
    away_s: float = 0.0


_settings = msgspec.msgpack.Decoder(Settings)


@dataclass(slots=True, eq=False)
class DurableClient:
    """A durable client. away_since: None while it is connected; monotonic seconds, and in the past by what earlier processes
    counted."""

    name: str
    number: int
    settings: Settings
    away_since: float | None


class DurableClients:
    """Cost: O(1) a change; loading costs the notes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_name: dict[str, DurableClient] = {}
        self._by_number: dict[int, DurableClient] = {}
        self._next = 0
        self.changed: set[str] = set()
        """Names of clients whose settings or subscriptions changed, until somebody takes them."""

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[DurableClient]:
        return iter(list(self._by_name.values()))

    def of_name(self, name: str) -> DurableClient | None:
        return self._by_name.get(name)

    def of_number(self, number: int) -> DurableClient | None:
        return self._by_number.get(number)

    def load(self, now: float) -> Iterator[tuple[DurableClient, int, str, str]]:
        """Make the clients of the notes; yields (client, sid, filter, group) of each of their subscriptions. Notes that do not
        decode are left alone and make nothing."""
        notes: Mapping[str, bytes] = dict(self._store.notes)
        for key in sorted(key for key in notes if key.startswith(CLIENT_NOTE)):
            try:
                settings = _settings.decode(notes[key])
            except msgspec.DecodeError:
                continue
            self._add(key[len(CLIENT_NOTE) :], settings, now - settings.away_s)
        for key in sorted(key for key in notes if key.startswith(SUBSCRIPTION_NOTE)):
            name, _, sid = key[len(SUBSCRIPTION_NOTE) :].partition("/")
            client = self._by_name.get(name)
            if client is None or not sid.isdecimal():
                continue
            try:
                filter, group = _subscription.decode(notes[key])
            except msgspec.DecodeError:
                continue
            yield client, int(sid), filter, group

    def _add(self, name: str, settings: Settings, away_since: float | None) -> DurableClient:
        self._next -= 1
        client = DurableClient(name, self._next, settings, away_since)
        self._by_name[name] = self._by_number[client.number] = client
        return client

    def admit(self, name: str, settings: Settings) -> None:
        """Note a client that is about to connect. Raises: StoreRefusedError: no room for its note; state unaffected."""
        self._write(CLIENT_NOTE + name, _encode(settings))

    def _write(self, key: str, value: bytes) -> None:
        """Note what is not noted so already."""
        if self._store.notes.get(key) != value:
            self._store.note(key, value)

    def connect(self, name: str, settings: Settings) -> DurableClient:
        """The client, made when it is new, connected from now on with these settings. Raises: StoreRefusedError, as `admit`."""
        self.admit(name, settings)
        client = self._by_name.get(name)
        if client is None:
            client = self._add(name, settings, None)
        client.settings = settings
        client.away_since = None
        self.changed.add(name)
        return client

    def note_away(self, client: DurableClient, now: float) -> None:
        """Write down how long the client has been away, so that a restart does not begin to count again."""
        if client.away_since is None:
            return
        client.settings = msgspec.structs.replace(client.settings, away_s=now - client.away_since)
        with suppress(StoreRefusedError):  # no room now: a restart counts from what was noted before
            self._store.note(CLIENT_NOTE + client.name, _encode(client.settings))

    def subscribing(self, client: DurableClient, sid: int, filter: str, group: str) -> None:
        """Note a subscription that is about to be made. Raises: StoreRefusedError: no room for it; state unaffected."""
        self._write(f"{SUBSCRIPTION_NOTE}{client.name}/{sid}", _encode((filter, group)))
        self.changed.add(client.name)

    def unsubscribed(self, client: DurableClient, sid: int) -> None:
        self.changed.add(client.name)
        self._store.note(f"{SUBSCRIPTION_NOTE}{client.name}/{sid}", None)

    def remove(self, client: DurableClient, sids: Iterator[int]) -> None:
        """The client is no more."""
        for sid in sids:
            self.unsubscribed(client, sid)
        self._store.note(CLIENT_NOTE + client.name, None)
        del self._by_name[client.name]
        del self._by_number[client.number]
