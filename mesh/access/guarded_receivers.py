"""Durable clients and acknowledgements as one client may use them: `mesh.node.service.Receivers`, judged.

Decides whose a durable client's name is: a principal has its own name and those that begin with it and a dot, so that nobody takes
over what is kept for somebody else. An operator (scope admin) sees and removes all.
Invariant: a durable client that connects has no subscription that its principal may not have whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mesh.access.audit import Result
from mesh.access.denial import Denied
from mesh.access.held import Held
from mesh.model.event import Delivery
from mesh.model.ids import MeshId, SessionId
from mesh.node.service import Acks, DurableItem, Home, RefusedError, Resumed, Sink

if TYPE_CHECKING:
    from mesh.access.guard import Guard


class GuardedReceivers:
    """Args: guard: whose rights."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._receivers = guard.service.receivers

    def _owns(self, client: str) -> bool:
        name = self._guard.principal.name
        return client == name or client.startswith(name + ".")

    def _check_name(self, client: str, what: str) -> None:
        if not self._owns(client):
            name = self._guard.principal.name
            detail = f"{client[:80]!r} is not {name!r}, and does not begin with {name + '.'!r}"
            self._guard.use.denied += 1
            raise self._guard.refuse(what, client, Denied("MESH-E067", detail))

    def connect(
        self, sink: Sink, *, protocol: str, client: str, acks: Acks, resume_after: MeshId | None = None
    ) -> Resumed:
        """See Receivers. Subscriptions that are no longer allowed whole are removed."""
        guard = self._guard
        self._check_name(client, "connect")
        if not any(isinstance(one, type(guard)) and one.client == client for one in guard.access.sessions):
            guard.check_connections(protocol)  # else it takes the place of its older connection
        guard.client = client
        screen = guard.new_screen(sink)
        resumed = self._receivers.connect(
            screen, protocol=protocol, client=client, acks=acks, resume_after=resume_after
        )
        guard.opened(resumed.session, screen, protocol)
        kept = []
        for sid, filter, group in resumed.subscriptions:
            try:
                guard.judged(sid, filter, group)
            except RefusedError:
                guard.service.unsubscribe(resumed.session, sid)
                continue
            guard.held[sid] = Held(filter, group, {sid: filter})
            guard.use.subscriptions += 1
            if group:
                guard.groups.add(sid)
            kept.append((sid, filter, group))
        return resumed._replace(subscriptions=tuple(kept))

    def is_durable(self, session: SessionId) -> bool:
        """See Receivers."""
        return self._receivers.is_durable(session)

    async def noted(self) -> None:
        """See Receivers."""
        await self._receivers.noted()

    def acknowledge(self, session: SessionId, acks: Acks) -> None:
        """See Receivers."""
        self._receivers.acknowledge(session, acks)

    def ack(self, session: SessionId, ids: Sequence[MeshId], *, up_to: bool = False) -> int:
        """See Receivers."""
        return self._receivers.ack(session, ids, up_to=up_to)

    def nack(self, session: SessionId, mesh_id: MeshId) -> bool:
        """See Receivers."""
        return self._receivers.nack(session, mesh_id)

    def written(self, session: SessionId, deliveries: Sequence[Delivery]) -> None:
        """See Receivers."""
        self._receivers.written(session, deliveries)

    def remove(self, client: str) -> None:
        """See Receivers."""
        if not self._guard.is_operator:
            self._check_name(client, "client delete")
        try:
            self._receivers.remove(client)
        except RefusedError as refused:
            self._guard.audit(
                "client delete", client, Result.FAILED, code=refused.code, detail=refused.detail
            )
            raise
        self._guard.audit("client delete", client, Result.DONE)

    def clients(self) -> list[DurableItem]:
        """See Receivers: the principal's own, or all for an operator."""
        found = self._receivers.clients()
        return found if self._guard.is_operator else [one for one in found if self._owns(one.client)]

    def home(self, client: str) -> Home | None:
        """See Receivers."""
        return self._receivers.home(client)
