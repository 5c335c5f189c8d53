"""What a client says of how it receives: its name, whether it is kept while it is away, and how it acknowledges.

Decides which of these parameters go together. Never opens anything.
Invariant: a durable client has a name; whoever acknowledges by ops speaks a protocol that has them.
Source: design page "What a person sees", Publishing and subscribing (durable clients).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mesh.model.ids import BadName, MeshId, SessionId, check_name
from mesh.node.service import Acks, Receivers, Resumed
from mesh.protocols.parameters import Parameters
from mesh.protocols.problem import Problem
from mesh.protocols.session import ClientSession

RECEIVING: Final = ("client", "durable", "acks", "ack_timeout", "max_deliveries")
ACK_TIMEOUT_S: Final = (0.1, 86_400.0)
MOST_DELIVERIES: Final = 1_000


class Receiving(NamedTuple):
    """client: its name, or "". acks: None for a live client that acknowledges nothing."""

    client: str
    durable: bool
    acks: Acks | None


def read_receiving(parameters: Parameters, *, ops: bool) -> Receiving:
    """The parameters of RECEIVING. ops: the protocol has `ack` and `nack`; without them only `acks=auto` may be asked for.

    Raises: Problem MESH-E011.
    """
    client = parameters.text("client")
    durable = parameters.choice("durable", ("false", "true")) == "true"
    if "client" in parameters:
        try:
            check_name(client, "client")
        except BadName as error:
            raise Problem("MESH-E011", str(error)[:200], where="client") from None
    if durable and not client:
        raise Problem("MESH-E011", "durable=true needs client=NAME: by that name it is known", where="client")
    how = parameters.choice("acks", ("", "explicit", "auto"))
    if not ops and how == "explicit":
        raise Problem(
            "MESH-E011", "acks=explicit needs a WebSocket (/v1/ws): here nothing can be said", where="acks"
        )
    if not how and durable:
        how = "explicit" if ops else "standing"
    if how in ("", "auto") and not durable:
        for name in ("ack_timeout", "max_deliveries"):
            if name in parameters:
                raise Problem(
                    "MESH-E011", f"{name} is for clients that acknowledge (acks=explicit)", where=name
                )
        return Receiving(client, False, None)
    timeout_s = parameters.duration_s("ack_timeout", 0.0, ACK_TIMEOUT_S[1])
    if "ack_timeout" in parameters and timeout_s < ACK_TIMEOUT_S[0]:
        raise Problem("MESH-E011", f"ack_timeout: at least {ACK_TIMEOUT_S[0]:g}s", where="ack_timeout")
    most = parameters.text("max_deliveries", "0")
    if "max_deliveries" in parameters and not (most.isdecimal() and 1 <= int(most[:9]) <= MOST_DELIVERIES):
        raise Problem(
            "MESH-E011", f"max_deliveries: a number from 1 to {MOST_DELIVERIES}", where="max_deliveries"
        )
    return Receiving(client, durable, Acks(how, timeout_s, int(most)))


def read_mesh_id(text: str, where: str) -> MeshId:
    """The id of a delivered event. Raises: Problem MESH-E011."""
    try:
        return MeshId.parse(text)
    except ValueError as error:
        raise Problem("MESH-E011", str(error)[:200], where=where) from None


def resumed_object(client: str, resumed: Resumed) -> dict[str, object]:
    """What a durable client that connected is told."""
    subscriptions = [
        {"sid": sid, "filter": filter} | ({"group": group} if group else {})
        for sid, filter, group in resumed.subscriptions
    ]
    return {"client": client, "subscriptions": subscriptions, "waiting": resumed.waiting}


def tell_written(session: ClientSession, receivers: Receivers, number: SessionId) -> None:
    """From here on the node hears of what the session's writer took."""
    session.written = lambda deliveries: receivers.written(number, deliveries)
