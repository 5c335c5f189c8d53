"""Clients that acknowledge, and durable ones: `mesh.node.service.Receivers` over the machine.

Decides which connection speaks for a durable client: the newest. Everything about events is decided by the machine's consumers.
Invariant: a durable client has at most one connection; a connection that was taken over changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from mesh.core.custody.consumers import event_id
from mesh.core.custody.custody import DISK_FAILS
from mesh.core.custody.store import StoreRefusedError
from mesh.core.custody.window import AckTerms
from mesh.model.event import Delivery
from mesh.model.ids import BadName, MeshId, NodeKey, SessionId, check_name
from mesh.model.reasons import Close, Refuse
from mesh.node.service import Acks, DurableItem, Home, RefusedError, Resumed, Sink

if TYPE_CHECKING:
    from mesh.node.clients import Clients
    from mesh.node.runner import Node

NOTED_S: Final = 30.0
"""A disk that needs longer than this for a note has not taken it, as far as the client is told."""
STANDING_S: Final = 30.0
"""A connection that stood so long since an event was written acknowledged it, where it has no other way to."""


class NodeReceivers:
    """Not safe to call from other threads. Cost: that of the machine's consumers."""

    def __init__(self, node: Node, clients: Clients) -> None:
        self._node = node
        self._machine = node.machine
        self._clients = clients
        self._numbers: dict[int, int] = {}
        """Connection of a durable client -> the client's number in the machine, while it speaks for it."""
        self._connections: dict[int, int] = {}

    # -- connections ---------------------------------------------------------------------------------------------

    def connect(
        self, sink: Sink, *, protocol: str, client: str, acks: Acks, resume_after: MeshId | None = None
    ) -> Resumed:
        """See Receivers."""
        try:
            check_name(client, "client")
        except BadName as error:
            raise RefusedError("MESH-E011", str(error)[:200]) from None
        self._clients.check_room()
        terms = self._terms(acks)
        try:
            self._machine.consumers.admit(client, terms)
        except ValueError as error:
            raise RefusedError("MESH-E043", str(error), status=503) from None
        except StoreRefusedError as refused:
            raise self.not_noted(refused.reason) from None
        created = self._machine.consumers.durable.of_name(client) is None
        self._close_older(client, Close.TAKEN_OVER, "another connection of this client came after this one")
        session = self._clients.open_session(sink, protocol=protocol, name=client)
        now = trio.current_time()
        last = None if resume_after is None else event_id(resume_after)
        connected = self._machine.connect_client(client, terms, now, last)
        self._numbers[session] = connected.number
        self._connections[connected.number] = session
        held = self._machine.subscriptions.of_session(connected.number)
        subscriptions = tuple(
            (sid, one, "") if isinstance(one, str) else (sid, one[1], one[0])
            for sid, one in sorted(held.items())
        )
        self._node.flush_soon()  # what waits is handed over behind what the caller says first
        return Resumed(session, subscriptions, connected.waiting, created)

    def not_noted(self, reason: Refuse) -> RefusedError:
        """What a client is told whose subscriptions cannot be noted; it is counted."""
        self._clients.count_refusal("events", reason.value)
        why = {
            Refuse.NO_JOURNAL: "this node keeps no journal",
            Refuse.NOTES_FULL: "the journal has no room for more notes ([limits] journal_notes_bytes)",
            Refuse.TIMEOUT: "it is not on the disk in time; it may be there all the same",
        }
        return RefusedError("MESH-E044", why.get(reason, f"the journal says {reason.value}"), status=503)

    def is_durable(self, session: SessionId) -> bool:
        """See Receivers."""
        return session in self._numbers

    async def noted(self) -> None:
        """See Receivers."""
        store = self._machine.custody.store
        made = store.notes_made
        with trio.move_on_after(NOTED_S):
            while store.notes_synced < made:
                why = store.refusal(0)
                if why in DISK_FAILS:
                    raise self.not_noted(why)
                await self._clients.moved()
        if store.notes_synced < made:
            raise self.not_noted(Refuse.TIMEOUT)

    def _close_older(self, client: str, reason: Close, detail: str) -> None:
        known = self._machine.consumers.durable.of_name(client)
        older = None if known is None else self._connections.pop(known.number, None)
        if known is None or older is None:
            return
        self._numbers.pop(older, None)
        self._machine.consumers.disconnect(known.number, trio.current_time())
        session = self._clients.sessions.pop(older, None)
        if session is not None:
            session.sink.close(reason, detail)

    def closed(self, session: int) -> bool:
        """A connection ended. True: it was a durable client's, who is away from now on."""
        number = self._numbers.pop(session, None)
        if number is None:
            return False
        self._connections.pop(number, None)
        self._machine.consumers.disconnect(number, trio.current_time())
        self._node.after_call()
        return True

    def number_of(self, session: int) -> int:
        """The number under which the machine knows a session."""
        return self._numbers.get(session, session)

    def connection_of(self, number: int) -> int:
        """The session that speaks for a durable client; 0 while it is away."""
        return self._connections.get(number, 0)

    def acknowledge(self, session: SessionId, acks: Acks) -> None:
        """See Receivers."""
        self._machine.consumers.open(session, self._terms(acks))

    def _terms(self, acks: Acks) -> AckTerms:
        limits = self._node.settings.limits
        most = limits.max_deliveries if not acks.max_deliveries else acks.max_deliveries
        if acks.how == "standing":
            return AckTerms(
                False,
                STANDING_S,
                most,
                max(limits.max_unacked, limits.session_queue_events),
                standing=True,
                unwritten=limits.max_unacked,
            )
        timeout_s = acks.ack_timeout_s or limits.ack_timeout_s
        return AckTerms(acks.how == "auto", timeout_s, most, limits.max_unacked)

    # -- acknowledgements ----------------------------------------------------------------------------------------

    def ack(self, session: SessionId, ids: Sequence[MeshId], *, up_to: bool = False) -> int:
        """See Receivers."""
        number = self.number_of(session)
        found = self._machine.consumers.ack(number, map(event_id, ids), trio.current_time(), up_to=up_to)
        self._node.after_call()
        return found

    def nack(self, session: SessionId, mesh_id: MeshId) -> bool:
        """See Receivers."""
        found = self._machine.consumers.nack(self.number_of(session), event_id(mesh_id), trio.current_time())
        self._node.after_call()
        return found

    def written(self, session: SessionId, deliveries: Sequence[Delivery]) -> None:
        """See Receivers. Called while deliveries are being handed over, too: what this makes room for comes in the next turn."""
        number = self.number_of(session)
        self._machine.consumers.written(number, deliveries, trio.current_time())
        self._node.flush_soon()

    # -- durable clients -----------------------------------------------------------------------------------------

    def remove(self, client: str) -> None:
        """See Receivers."""
        self._close_older(client, Close.CLIENT_REMOVED, "this client was removed")
        try:
            self._machine.remove_client(client, trio.current_time())
        except KeyError:
            raise RefusedError(
                "MESH-E040", f"no durable client {client[:64]!r} on this node", status=404
            ) from None
        self._node.after_call()

    def clients(self) -> list[DurableItem]:
        """See Receivers."""
        index = self._machine.subscriptions
        durable = self._machine.consumers.durable
        found = []
        for view in self._machine.consumers.clients(trio.current_time()):
            known = durable.of_name(view.name)
            held = 0 if known is None else len(index.of_session(known.number))
            found.append(
                DurableItem(
                    view.name,
                    view.connected,
                    held,
                    view.waiting,
                    view.waiting_bytes,
                    view.unacked,
                    view.oldest_s,
                    view.away_s,
                )
            )
        return found

    def moved(self, client: str, detail: str) -> None:
        """A durable client is at home elsewhere by now: its connection here ends."""
        self._close_older(client, Close.TAKEN_OVER, detail)

    def home(self, client: str) -> Home | None:
        """See Receivers."""
        found = self._machine.home_of(client)
        if found is None:
            return None
        secure = self._clients.home_secure(NodeKey(self._node.key.region, found[0]))
        return Home(*found, secure)
