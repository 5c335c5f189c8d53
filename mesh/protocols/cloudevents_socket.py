"""The WebSocket subprotocol cloudevents.json: every text frame is one structured CloudEvent, both ways.

Decides what ends the connection of a publisher that breaks a rule: the binding has no answer to an event, so the close frame
says which rule (code and reason), and what came before it was published. Never changes an event.
Invariant: the events of one read are published in order, up to the first refused one.
Source: CloudEvents 1.0.2 WebSocket binding sections 1.5 and 3; RFC 6455 section 7.4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from mesh.model.event import Delivery
from mesh.model.limits import Limits
from mesh.model.topic_rules import Level
from mesh.node.service import AckLevel, RefusedError, Service
from mesh.protocols.problem import close_reason
from mesh.protocols.publishing import Envelope, Taken, take_structured
from mesh.protocols.render import Renderer
from mesh.protocols.websocket import CloseSocket
from mesh.protocols.websocket_frames import CloseCode

SUBPROTOCOL: Final = "cloudevents.json"
_EACH_ITS_OWN: Final = Envelope()
_CODES: Final = {
    "MESH-E003": CloseCode.INVALID_PAYLOAD,
    "MESH-E004": CloseCode.INVALID_PAYLOAD,
    "MESH-E005": CloseCode.INVALID_PAYLOAD,
    "MESH-E007": CloseCode.TOO_BIG,
    "MESH-E016": CloseCode.GOING_AWAY,
}


class CloudEventsSocket:
    """One client's events (a `mesh.protocols.websocket.Application`). Cost: about 4 us an event published."""

    def __init__(self, service: Service, renderer: Renderer, limits: Limits) -> None:
        self._service = service
        self._limits = limits
        self.render: Callable[[Sequence[Delivery]], bytes] = renderer.cloudevents_frames

    def receive(self, texts: Sequence[bytes]) -> None:
        """Publish, each event on the topic of its extension `topic`. Raises: CloseSocket."""
        taken: list[Taken] = []
        refused: RefusedError | None = None
        try:
            for text in texts:
                taken.append(take_structured(text, _EACH_ITS_OWN, self._limits))
        except RefusedError as first:
            refused = first
        try:
            events = [one.event for one in taken]
            if events and self._service.level(events, "") is Level.AT_LEAST_ONCE:
                self._service.keep(
                    events, AckLevel.ACCEPTED
                )  # the binding has no word to say when it is on the disk
            elif events:
                self._service.publish(events)
        except RefusedError as first:
            refused = first
        if refused is not None:
            code = _CODES.get(refused.code, CloseCode.POLICY)
            raise CloseSocket(code, close_reason(refused), refused.code)
