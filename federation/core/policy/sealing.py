"""The data of an event, encrypted for whoever has the key and readable to nobody on the way.

Decides the form: AES-256-GCM; the key's id and the type of the data stand in extension attributes; the event's id is bound in, so
that data cannot be moved to another event. Attributes and topic stay in clear: a rule may strip or mask them.
Never decides which events, and never makes its own chance: the nonce comes from the caller and must not come twice under a key.
Source: NIST SP 800-38D; CloudEvents 1.0.2 (extension attributes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mesh.model.reasons import PolicyReason

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
KEY_ID: Final = "meshkeyid"
"""Extension attribute: the id of the key that the data is encrypted with."""
INNER_TYPE: Final = "meshdatatype"
"""Extension attribute: datacontenttype of the data in clear; absent where there was none."""
SEALED_TYPE: Final = "application/octet-stream"
_CONTENT_TYPE: Final = "datacontenttype"


class Unsealable(ValueError):
    """It cannot be decrypted here. reason: why."""

    def __init__(self, reason: PolicyReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def read_key(raw: bytes) -> bytes:
    """A key from its file: 32 bytes as they are, or as 64 hexadecimal digits. Raises: ValueError saying what is wrong."""
    if len(raw) == KEY_BYTES:
        return raw
    try:
        key = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("a key is 32 bytes, or 64 hexadecimal digits (openssl rand -hex 32)")
    return key


def seal(
    attributes: dict[str, str], data: bytes, key_id: str, key: bytes, nonce: bytes
) -> tuple[dict[str, str], bytes]:
    """(attributes, data) of the event with its data encrypted. Cost: about 10 us."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    sealed = dict(attributes)
    inner = sealed.pop(_CONTENT_TYPE, None)
    sealed.pop(INNER_TYPE, None)
    if inner is not None:
        sealed[INNER_TYPE] = inner
    sealed[_CONTENT_TYPE] = SEALED_TYPE
    sealed[KEY_ID] = key_id
    return sealed, nonce + AESGCM(key).encrypt(nonce, data, _bound(sealed))


def unseal(
    attributes: dict[str, str], data: bytes, keys: Mapping[str, bytes]
) -> tuple[dict[str, str], bytes]:
    """The reverse of `seal`. Raises: Unsealable."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if KEY_ID not in attributes:
        raise Unsealable(PolicyReason.NOT_ENCRYPTED)
    key = keys.get(attributes[KEY_ID])
    if key is None:
        raise Unsealable(PolicyReason.UNKNOWN_KEY)
    try:
        clear = AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _bound(attributes))
    except (InvalidTag, ValueError):
        raise Unsealable(PolicyReason.BROKEN_SEAL) from None
    opened = {
        name: text for name, text in attributes.items() if name not in (KEY_ID, _CONTENT_TYPE, INNER_TYPE)
    }
    if INNER_TYPE in attributes:
        opened[_CONTENT_TYPE] = attributes[INNER_TYPE]
    return opened, clear


def _bound(attributes: Mapping[str, str]) -> bytes:
    """What cannot be changed without breaking the seal."""
    return "\n".join((attributes[KEY_ID], attributes.get("id", ""), attributes.get(INNER_TYPE, ""))).encode()
