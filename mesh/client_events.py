"""Events as users of `mesh.client` hold them, and as structured CloudEvents on the wire.

Decides how a plain value becomes a CloudEvent and what a delivered one looks like in Python: an event of the official SDK where
that is installed (`pip install 'hopmesh[sdk]'`), a `PlainEvent` where it is not. Never validates: the node does.
Invariant: `Structured` JSON is sent byte for byte; a delivery keeps the bytes it came in (`raw`).
Source: CloudEvents 1.0.2, JSON format.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeAlias

import msgspec

RAW_TYPE: Final = "mesh.raw"


class Structured(bytes):
    """A structured CloudEvent in JSON, to be published exactly as it is."""


@dataclass(frozen=True)
class PlainEvent:
    """A CloudEvent without the SDK. attributes: context attributes by name. data: bytes, str, or anything JSON can hold."""

    attributes: Mapping[str, Any]
    data: Any = None

    def get_attributes(self) -> dict[str, Any]:
        """As of the SDK's events."""
        return dict(self.attributes)

    def get_data(self) -> Any:
        """As of the SDK's events."""
        return self.data


Publishable: TypeAlias = Any
"""bytes or str (the data of a new event), Structured, PlainEvent, an event of the SDK, or a mapping: a structured CloudEvent."""


def structured_json(event: Publishable, source: str) -> bytes:
    """The event as a structured CloudEvent in JSON.

    Args: source: of the events made around plain bytes (application/octet-stream) and text (text/plain).
    Raises: TypeError for what is no event.
    """
    if isinstance(event, Structured):
        return bytes(event)
    if isinstance(event, bytes | bytearray | memoryview | str):
        data: str | bytes = event if isinstance(event, str) else bytes(event)
        attributes = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": source,
            "type": RAW_TYPE,
            "datacontenttype": "text/plain; charset=utf-8"
            if isinstance(data, str)
            else "application/octet-stream",
        }
        event = PlainEvent(attributes, data)
    if isinstance(event, Mapping):
        return msgspec.json.encode(dict(event))
    if isinstance(event, PlainEvent):
        members: dict[str, Any] = {"specversion": "1.0", **event.attributes}
        if isinstance(event.data, bytes):
            members["data_base64"] = base64.b64encode(event.data).decode()
        elif event.data is not None:
            members["data"] = event.data
        return msgspec.json.encode(members)
    if hasattr(event, "get_attributes") and hasattr(event, "get_data"):
        from cloudevents.core.formats.json import JSONFormat

        written: bytes = JSONFormat().write(event)
        return written
    raise TypeError(f"{type(event).__name__} is no event: give bytes, str, a mapping or a CloudEvent")


def read_event(raw: bytes) -> Any:
    """A structured CloudEvent as an event of the SDK, or as a PlainEvent where the SDK is not installed.

    Raises: what the SDK raises for an event it does not accept; `Delivery.plain` reads every one.
    """
    try:
        from cloudevents.core.formats.json import JSONFormat
        from cloudevents.core.v1.event import CloudEvent
    except ImportError:
        return plain_event(raw)
    return JSONFormat().read(CloudEvent, raw)


def plain_event(raw: bytes) -> PlainEvent:
    """A structured CloudEvent as a PlainEvent. Raises: msgspec.DecodeError."""
    members: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
    encoded = members.pop("data_base64", None)
    data = members.pop("data", None)
    return PlainEvent(members, base64.b64decode(encoded) if encoded is not None else data)


@dataclass(frozen=True)
class Delivery:
    """An event that a subscription got, or the reply to a request.

    raw: the structured CloudEvent as it came. mesh_id: REGION/NODE/EPOCH/SEQ. path: regions it crossed, oldest first.
    replayed: it comes from the node's event log.
    reply_to, correlation: of a request ("" else); `Client.reply` sends them back. connection: number of the connection
    it came on, for its credit; 0: nothing is granted for it. redelivered, deliveries: it may have come before, and how often where
    the node knows.
    """

    topic: str
    raw: bytes
    mesh_id: str = ""
    path: tuple[str, ...] = ()
    redelivered: bool = False
    deliveries: int = 0
    reply_to: str = ""
    correlation: str = ""
    connection: int = field(default=0, repr=False, compare=False)
    replayed: bool = False

    @cached_property
    def event(self) -> Any:
        """See `read_event`."""
        return read_event(self.raw)

    @cached_property
    def plain(self) -> PlainEvent:
        """The event without the SDK, whatever is installed."""
        return plain_event(self.raw)

    @property
    def data(self) -> Any:
        """The event's data: bytes where it came as Base64, else what its JSON holds."""
        return self.plain.data
