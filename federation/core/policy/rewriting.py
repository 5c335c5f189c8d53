"""An event as it leaves a boundary: what a rule takes out, masks, renames, encrypts or decrypts.

Decides the order: decrypt, fields, rename, encrypt. Never decides which rule; an event of a rule that changes nothing is not
touched, byte by byte.
Invariant: the result is a valid CloudEvent in the binary form, with nothing in it that the rule takes out; where that cannot be
promised, it does not cross.
Source: design page "Routing", Boundary; CloudEvents 1.0.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from federation.core.policy.documents import MASKED, NotJson, taken_out
from federation.core.policy.filters import moved
from federation.core.policy.rules import Rule
from federation.core.policy.sealing import Unsealable, seal, unseal
from mesh.model.event import Event
from mesh.model.reasons import PolicyReason
from mesh.wire.attributes import CloudEventError, is_json_type, media_type
from mesh.wire.cloudevents import JSON_TYPE, to_binary

_CONTENT_TYPE = "datacontenttype"
_TOPIC = "topic"
"""The extension attribute in which publishers may have named the topic."""


class CannotCross(ValueError):
    """What the rule promises cannot be kept for this event. reason: why."""

    def __init__(self, reason: PolicyReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def in_clear(event: Event) -> tuple[dict[str, str], bytes]:
    """(attributes, data) of an event in either form. Raises: CannotCross."""
    try:
        attributes, data = to_binary(event)
        return dict(zip(attributes[::2], attributes[1::2], strict=True)), data
    except (CloudEventError, ValueError):
        raise CannotCross(PolicyReason.UNREADABLE) from None


class Rewriting:
    """Args: keys: by id. nonce: 12 fresh bytes a call. Cost: nothing for a rule that changes nothing; else about 10 to 40 us."""

    def __init__(self, keys: Mapping[str, bytes], nonce: Callable[[], bytes]) -> None:
        self._keys = keys
        self._nonce = nonce

    def of(self, event: Event, rule: Rule) -> Event:
        """The event as the rule lets it cross. Raises: CannotCross."""
        if not rule.changes:
            return event
        topic = event.topic
        if rule.rename is not None:
            topic = moved(topic, rule.rename.old, rule.rename.new)
        attributes, data = in_clear(event)
        if rule.decrypt:
            try:
                attributes, data = unseal(attributes, data, self._keys)
            except Unsealable as error:
                raise CannotCross(error.reason) from None
        if rule.fields:
            attributes, data = _taken_out(attributes, data, rule)
        if topic != event.topic and _TOPIC in attributes:
            attributes[_TOPIC] = topic
        if rule.encrypt:
            key = self._keys.get(rule.encrypt)
            if key is None:
                raise CannotCross(PolicyReason.UNKNOWN_KEY)
            attributes, data = seal(attributes, data, rule.encrypt, key, self._nonce())
        flat = tuple(part for pair in attributes.items() for part in pair)
        return event._replace(topic=topic, attributes=flat, data=data)


def _taken_out(attributes: dict[str, str], data: bytes, rule: Rule) -> tuple[dict[str, str], bytes]:
    for field in rule.fields:
        if field.of == "attribute" and field.what in attributes:
            if field.mask:
                attributes[field.what] = MASKED
            else:
                del attributes[field.what]
    paths = [(field.what, field.mask) for field in rule.fields if field.of == "data"]
    if paths and data:
        if not is_json_type(media_type(attributes.get(_CONTENT_TYPE, JSON_TYPE))):
            raise CannotCross(PolicyReason.NOT_JSON)
        try:
            data = taken_out(data, paths)
        except NotJson:
            raise CannotCross(PolicyReason.NOT_JSON) from None
    return attributes, data
