from __future__ import annotations

import pytest

from mesh.model.ids import MeshId, SessionId
from mesh.node.service import Acks, Resumed
from mesh.protocols.parameters import Parameters
from mesh.protocols.problem import Problem
from mesh.protocols.receiving import RECEIVING, Receiving, read_mesh_id, read_receiving, resumed_object


def read(*, ops: bool = True, **given: str) -> Receiving:
    return read_receiving(Parameters(list(given.items()), RECEIVING), ops=ops)


def test_nothing_given_is_a_live_client_that_acknowledges_nothing() -> None:
    assert read() == Receiving("", False, None)
    assert read(client="shop", acks="auto") == Receiving("shop", False, None)


def test_a_durable_client_acknowledges_as_its_protocol_can() -> None:
    assert read(client="shop", durable="true") == Receiving("shop", True, Acks("explicit", 0.0, 0))
    assert read(client="shop", durable="true", ops=False) == Receiving("shop", True, Acks("standing", 0.0, 0))
    assert read(client="shop", durable="true", acks="auto").acks == Acks("auto", 0.0, 0)
    assert read(acks="explicit", ack_timeout="2s", max_deliveries="9").acks == Acks("explicit", 2.0, 9)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"durable": "true"}, "client"),
        ({"client": "a/b"}, "client"),
        ({"client": ""}, "client"),
        ({"durable": "yes", "client": "a"}, "durable"),
        ({"acks": "none"}, "acks"),
        ({"ack_timeout": "1s"}, "ack_timeout"),
        ({"acks": "explicit", "ack_timeout": "10ms"}, "ack_timeout"),
        ({"acks": "explicit", "ack_timeout": "2d"}, "ack_timeout"),
        ({"acks": "explicit", "max_deliveries": "0"}, "max_deliveries"),
        ({"acks": "explicit", "max_deliveries": "1001"}, "max_deliveries"),
        ({"acks": "explicit", "max_deliveries": "9" * 5_000}, "max_deliveries"),
        ({"acks": "explicit", "max_deliveries": "-1"}, "max_deliveries"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, str], where: str) -> None:
    with pytest.raises(Problem) as refused:
        read(**given)
    assert (refused.value.code, refused.value.where) == ("MESH-E011", where)


def test_a_stream_cannot_acknowledge_by_ops() -> None:
    with pytest.raises(Problem, match="WebSocket"):
        read(acks="explicit", ops=False)


def test_a_mesh_id_is_read_or_refused() -> None:
    assert read_mesh_id("eu/n1/7/3", "x") == MeshId("eu", "n1", 7, 3)
    for wrong in ("", "eu/n1/7", "eu/n1/7/x", "e u/n1/7/3", "eu/n1/7/" + "9" * 400):
        with pytest.raises(Problem):
            read_mesh_id(wrong, "x")


def test_a_durable_client_is_told_what_is_kept_of_it() -> None:
    resumed = Resumed(SessionId(9), ((1, "a", ""), (2, "b", "g")), 3)
    assert resumed_object("shop", resumed) == {
        "client": "shop",
        "subscriptions": [{"sid": 1, "filter": "a"}, {"sid": 2, "filter": "b", "group": "g"}],
        "waiting": 3,
    }
