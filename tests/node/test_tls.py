from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from mesh.identity.authority import Authority
from mesh.identity.credentials import Files, LinkCredentials
from mesh.model.certificate import NodeId
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Close, Tls
from mesh.net.memory import MemoryTransport, pair
from mesh.net.tls import PIECE_BYTES, TlsFailed, TlsTransport, shake_hands
from mesh.net.tls_port import Handshakes
from mesh.net.transport import LinkLost

A, B = NodeKey("a", "a-1"), NodeKey("b", "b-1")


class Certificates:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "ca", "t", time.time())

    def of(self, key: NodeKey) -> LinkCredentials:
        row = self.authority.issue(NodeId("t", key), time.time(), again=True)
        out = Path(row.folder)
        return LinkCredentials(
            Files("tls", out / "ca.pem", out / "cert.pem", out / "key.pem"), key, time.time()
        )


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def both(
    certificates: Certificates, **how: float
) -> tuple[TlsTransport, TlsTransport, MemoryTransport, MemoryTransport]:
    """Two ends that have shaken hands, dialling end first, and what is below them."""
    left, right = pair(**how)
    found: dict[str, TlsTransport] = {}

    async def shake(what: str, below: MemoryTransport, key: NodeKey, server: bool) -> None:
        found[what] = await shake_hands(below, certificates.of(key), 5, server=server)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, "dialled", left, A, False)
        nursery.start_soon(shake, "accepted", right, B, True)
    return found["dialled"], found["accepted"], left, right


async def read_all(transport: TlsTransport, most: Callable[[], int]) -> bytes:
    found = bytearray()
    while data := await transport.receive(most()):
        found += data
    return bytes(found)


async def test_each_end_knows_who_the_other_is(certificates: Certificates) -> None:
    dialled, accepted, *_ = await both(certificates)
    assert dialled.certificate is not None
    assert accepted.certificate is not None
    assert (dialled.certificate.node, accepted.certificate.node) == (B, A)
    assert dialled.version == "TLSv1.3"
    assert str(accepted.certificate) == "spiffe://t/region/a/node/a-1"


@pytest.mark.parametrize("seed", range(8))
async def test_what_is_sent_arrives_whatever_the_pieces(certificates: Certificates, seed: int) -> None:
    """`send` and `send_now` in turn, over a narrow pipe that takes and gives odd pieces: each byte once, in order."""
    dice = random.Random(seed)
    dialled, accepted, *_ = await both(
        certificates, piece_bytes=dice.choice([7, 1_000, 70_000]), buffer_bytes=dice.choice([3_000, 90_000])
    )
    size = 40_000 if dialled._below._piece_bytes == 7 else 600_000  # type: ignore[attr-defined]
    expected = dice.randbytes(size)
    partly = 0

    async def write() -> None:
        nonlocal partly
        at = 0
        while at < size:
            piece = expected[at : at + dice.choice([1, 2, 3, 500, 20_000, 150_000])]
            taken = dialled.send_now(piece) if dice.random() < 0.7 else 0
            assert 0 <= taken <= len(piece)
            partly += 0 < taken < len(piece)
            if taken < len(piece) and dice.random() < 0.5:
                await dialled.send(piece[taken:])
                taken = len(piece)
            elif taken == 0:
                await trio.lowlevel.checkpoint()
            at += taken
        await dialled.send_eof()

    found = b""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            found = await read_all(accepted, lambda: dice.choice([1, 100, 65_536, 262_144]))
    assert found == expected
    if seed == 0:
        assert partly > 0, "the case this is for did not happen"


async def test_a_byte_alone_is_not_taken_where_it_could_not_be_told_as_rest(
    certificates: Certificates,
) -> None:
    dialled, accepted, *_ = await both(certificates, buffer_bytes=100_000)
    assert dialled.send_now(b"x") == 0
    assert dialled.send_now(b"xy") == 2
    assert await accepted.receive() == b"xy"


async def test_nothing_is_taken_twice_while_the_socket_is_full(certificates: Certificates) -> None:
    dialled, accepted, *_ = await both(certificates, buffer_bytes=20_000)
    data = bytes(range(256)) * 1_000
    taken = dialled.send_now(data)
    assert 0 < taken == PIECE_BYTES - 1 < len(data)
    assert dialled.send_now(data[taken:]) == 0
    found = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialled.send, data[taken:])
        while len(found) < len(data):
            found += await accepted.receive()
    assert bytes(found) == data


async def test_both_directions_at_once_and_reading_behind_the_goodbye(certificates: Certificates) -> None:
    dialled, accepted, *_ = await both(certificates, buffer_bytes=30_000)
    data = random.Random(1).randbytes(500_000)
    found: dict[str, bytes] = {}

    async def talk(what: str, end: TlsTransport) -> None:
        async with trio.open_nursery() as nursery:

            async def say() -> None:
                await end.send(data)
                await end.send_eof()

            nursery.start_soon(say)
            found[what] = await read_all(end, lambda: 65_536)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, "dialled", dialled)
            nursery.start_soon(talk, "accepted", accepted)
    assert found == {"dialled": data, "accepted": data}


async def test_an_end_that_is_gone_is_told_as_any_other(certificates: Certificates) -> None:
    dialled, accepted, _, right = await both(certificates)
    right.abort()
    with pytest.raises(LinkLost):
        await dialled.receive()
    dialled, accepted, left, right = await both(certificates)
    await left.send_eof()
    assert await accepted.receive() == b"", "an end without a closing alert is an end"
    dialled.abort()
    with pytest.raises(LinkLost):
        await dialled.send(b"abc")


async def test_bytes_that_somebody_changed_end_the_link(certificates: Certificates) -> None:
    dialled, accepted, left, _ = await both(certificates)
    await dialled.send(b"good")
    assert await accepted.receive() == b"good"
    await left.send(bytes.fromhex("1703030020") + bytes(32))
    with pytest.raises(TlsFailed) as failed:
        await accepted.receive()
    assert failed.value.why is Tls.BROKEN
    assert failed.value.reason is Close.TLS_FAILED
    with pytest.raises(TlsFailed):
        await accepted.receive()


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Tls.PLAIN),
        (b"\x00\x00\x00\x08", Tls.PLAIN),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", Tls.BROKEN),
        (b"", Tls.CUT_SHORT),
    ],
)
async def test_what_is_no_handshake_has_a_reason(certificates: Certificates, sent: bytes, why: Tls) -> None:
    left, right = pair()
    await left.send(sent)
    await left.send_eof()
    with pytest.raises(TlsFailed) as failed:
        await shake_hands(right, certificates.of(B), 5, server=True)
    assert failed.value.why is why


async def test_an_older_tls_is_refused(certificates: Certificates) -> None:
    left, right = pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    await left.send(outgoing.read())
    with pytest.raises(TlsFailed) as failed:
        await shake_hands(right, certificates.of(B), 5, server=True)
    assert failed.value.why is Tls.OLD_VERSION


async def test_unfinished_handshakes_are_bounded_in_number_and_time(
    certificates: Certificates, autojump_clock: trio.testing.MockClock
) -> None:
    counted: list[str] = []
    limits = Limits(half_open_clients=3, handshake_timeout_s=5)
    port = Handshakes(certificates.of(B), limits, counted.append)
    ends = [pair() for _ in range(5)]
    found: list[object] = []

    async def one(below: MemoryTransport) -> None:
        found.append(await port.shake(below))

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _, right in ends:
            nursery.start_soon(one, right)
            await trio.testing.wait_all_tasks_blocked()
    assert found == [None] * 5
    assert counted == ["tls_evicted"] * 2 + ["tls_timeout"] * 3
    assert trio.current_time() - begun == pytest.approx(5, abs=1.1)
