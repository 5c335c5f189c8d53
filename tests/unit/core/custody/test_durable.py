from __future__ import annotations

from unit.core.custody.journal_twin import Twin

from mesh.core.custody.durable import DurableClients, Settings

SETTINGS = Settings(False, 30.0, 5)


def test_a_client_and_its_subscriptions_are_what_the_notes_say() -> None:
    twin = Twin()
    clients = DurableClients(twin)
    shop = clients.connect("shop", SETTINGS)
    clients.subscribing(shop, 4, "a/#", "")
    clients.subscribing(shop, 5, "b", "g")
    clients.subscribing(shop, 6, "c", "")
    clients.unsubscribed(shop, 6)
    again = DurableClients(twin)
    found = [(client.name, sid, filter, group) for client, sid, filter, group in again.load(50.0)]
    assert found == [("shop", 4, "a/#", ""), ("shop", 5, "b", "g")]
    loaded = again.of_name("shop")
    assert loaded is not None
    assert (loaded.number < 0, loaded.settings, loaded.away_since) == (True, SETTINGS, 50.0)
    assert again.of_number(loaded.number) is loaded
    again.remove(loaded, iter((4, 5)))
    assert twin.notes == {}
    assert (len(again), again.of_name("shop")) == (0, None)


def test_numbers_are_negative_and_not_given_twice() -> None:
    clients = DurableClients(Twin())
    first = clients.connect("a", SETTINGS)
    clients.remove(first, iter(()))
    second = clients.connect("a", SETTINGS)
    assert 0 > first.number > second.number
    assert clients.connect("a", SETTINGS) is second


def test_how_long_a_client_has_been_away_is_counted_across_processes() -> None:
    twin = Twin()
    clients = DurableClients(twin)
    client = clients.connect("a", SETTINGS)
    clients.note_away(client, 100.0)  # connected: nothing to note
    client.away_since = 40.0
    clients.note_away(client, 100.0)
    again = DurableClients(twin)
    list(again.load(7.0))
    loaded = again.of_name("a")
    assert loaded is not None
    assert loaded.away_since == -53.0
    assert again.connect("a", SETTINGS).away_since is None


def test_a_subscription_without_its_client_is_nobodys() -> None:
    twin = Twin(notes={"subscription/ghost/1": b"\x92\xa1a\xa0", "other": b"x"})
    assert list(DurableClients(twin).load(0.0)) == []
