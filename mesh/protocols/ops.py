"""The ops of the WebSocket subprotocol mesh.v1.json as values, and how a text becomes one.

Decides which fields an op has and how a wrong one is told, with the nearest spelling. Never does what an op says.
Invariant: the events inside an op keep their bytes. Source: design page "What a person sees", Publishing and subscribing.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from mesh.node.service import Wait
from mesh.protocols.problem import Problem, unknown_name

SUBPROTOCOL: Final = "mesh.v1.json"
SID_MAX: Final = (1 << 31) - 1

Id = (
    Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
    | Annotated[str, msgspec.Meta(max_length=128)]
    | None
)
Seconds = float | str


class _Op(msgspec.Struct, tag_field="op", forbid_unknown_fields=True, kw_only=True, gc=False):
    id: Id = None


class Subscribe(_Op, tag="subscribe"):
    sid: int
    filter: str
    group: str = ""
    wait: Wait | None = None
    regions: list[str] = []
    wait_timeout: Seconds = 5.0
    since: str = msgspec.field(default="", name="from")


class Unsubscribe(_Op, tag="unsubscribe"):
    sid: int


class Publish(_Op, tag="publish"):
    topic: str = ""
    key: str = ""
    deadline: Seconds = 0.0
    level: str = ""
    ack: str = "accepted"
    event: msgspec.Raw = msgspec.Raw(b"")
    events: list[msgspec.Raw] | None = None


class Request(_Op, tag="request"):
    event: msgspec.Raw
    topic: str = ""
    key: str = ""
    timeout: Seconds = 5.0


class Reply(_Op, tag="reply"):
    reply_to: str
    correlation: str
    event: msgspec.Raw
    topic: str = ""


class Credit(_Op, tag="credit"):
    events: int


class Ping(_Op, tag="ping"):
    pass


class Ack(_Op, tag="ack"):
    mesh_id: str
    upto: bool = False


class Nack(_Op, tag="nack"):
    mesh_id: str


Op = Subscribe | Unsubscribe | Publish | Request | Reply | Credit | Ping | Ack | Nack
_KINDS: Final = (Subscribe, Unsubscribe, Publish, Request, Reply, Credit, Ping, Ack, Nack)
OPS: Final[dict[str, tuple[str, ...]]] = {
    str(kind.__struct_config__.tag): ("op", *kind.__struct_encode_fields__) for kind in _KINDS
}
"""Every op and its fields, for spelling proposals and the docs."""
_decode: Final = msgspec.json.Decoder(Op).decode


class _Loose(msgspec.Struct):
    """What can still be read of an op that is wrong."""

    op: str = ""
    id: Id = None


_decode_loose: Final = msgspec.json.Decoder(_Loose).decode


class BadOp(Exception):
    """A text that is no op. problem: what to answer; op_id: the id it carried as far as it could be read."""

    def __init__(self, problem: Problem, op_id: Id) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.op_id = op_id


_OF_THE_CONNECTION: Final = {"subscribe": ("client", "durable")}
"""Fields that are parameters of the connection's address: said so, no spelling proposal."""
_UNKNOWN_FIELD: Final = re.compile(r"unknown field `([^`]*)`")


def read_op(text: bytes) -> Op:
    """The op a text frame carries. Cost: about 1 us for a publish. Raises: BadOp with MESH-E010, E021 or E022."""
    try:
        op: Op = _decode(text)
        return op
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error) if not isinstance(error, RecursionError) else "nested too deep"
    try:
        loose = _decode_loose(text)
    except (msgspec.DecodeError, RecursionError):
        raise BadOp(Problem("MESH-E022", reason), None) from None
    if not loose.op:
        raise BadOp(Problem("MESH-E022", "the field 'op' is missing", where="op"), loose.id)
    if loose.op not in OPS:
        raise BadOp(unknown_name("op", loose.op, list(OPS), code="MESH-E021"), loose.id)
    unknown = _UNKNOWN_FIELD.search(reason)
    if unknown is not None and unknown[1] in _OF_THE_CONNECTION.get(loose.op, ()):
        where = f"{unknown[1]} belongs to the connection: /v1/ws?client=NAME&durable=true"
        raise BadOp(Problem("MESH-E010", where, where=unknown[1]), loose.id)
    if unknown is not None:
        raise BadOp(unknown_name(f"field of {loose.op}", unknown[1], OPS[loose.op]), loose.id)
    raise BadOp(Problem("MESH-E022", f"{loose.op}: {reason}"), loose.id)
