"""The envelope against protobuf's own encoder, and against bytes that are none."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from registry.nacos.payload import HEADERS, BadPayload, Payload, decode, encode

texts = st.text(max_size=40)


def oracle() -> Any:
    """`Payload` as protobuf makes it from the protocol's own numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="oracle.proto", package="oracle", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    metadata = file.message_type.add(name="Metadata")
    metadata.field.add(name="type", number=3, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    metadata.field.add(name="clientIp", number=8, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    pair = metadata.nested_type.add(name="HeadersEntry")
    pair.options.map_entry = True
    pair.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    pair.field.add(name="value", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    metadata.field.add(name="headers", number=7, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED,
                       type_name=".oracle.Metadata.HeadersEntry")  # fmt: skip
    body = file.message_type.add(name="Any")
    body.field.add(name="type_url", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    body.field.add(name="value", number=2, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
    payload = file.message_type.add(name="Payload")
    payload.field.add(name="metadata", number=2, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL,
                      type_name=".oracle.Metadata")  # fmt: skip
    payload.field.add(name="body", number=3, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL,
                      type_name=".oracle.Any")  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("oracle.Payload"))


Oracle = oracle()


@given(texts, st.binary(max_size=400), st.dictionaries(texts, texts, max_size=5), texts)
def test_protobuf_reads_what_is_written(kind: str, body: bytes, headers: dict[str, str], ip: str) -> None:
    found = Oracle.FromString(encode(Payload(kind, body, headers, ip)))
    assert (found.metadata.type, found.body.value, found.metadata.clientIp) == (kind, body, ip)
    assert dict(found.metadata.headers) == headers


@given(texts.filter(bool), st.binary(max_size=400), st.dictionaries(texts, texts, max_size=5), texts, texts)
def test_what_protobuf_writes_is_read(
    kind: str, body: bytes, headers: dict[str, str], ip: str, url: str
) -> None:
    made = Oracle()
    made.metadata.type, made.metadata.clientIp, made.body.value, made.body.type_url = kind, ip, body, url
    made.metadata.headers.update(headers)
    assert decode(made.SerializeToString()) == Payload(kind, body, headers, ip)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_refused(raw: bytes) -> None:
    with contextlib.suppress(BadPayload):
        assert decode(raw).type


@given(st.data())
def test_a_cut_envelope_is_refused_or_shorter(data: st.DataObject) -> None:
    raw = encode(Payload("ServerCheckRequest", b"{}" * 20, {"accessToken": "x" * 30}))
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with contextlib.suppress(BadPayload):
        assert len(decode(cut).body) < 40


def test_what_has_no_type_or_too_many_headers_is_refused() -> None:
    with pytest.raises(BadPayload, match="type"):
        decode(encode(Payload("", b"{}")))
    with pytest.raises(BadPayload, match="headers"):
        decode(encode(Payload("A", b"", {str(n): "" for n in range(HEADERS + 1)})))


def test_fields_that_are_not_known_are_passed_over() -> None:
    raw = encode(Payload("A", b"{}"))
    varint, fixed64, fixed32, text = b"\x08\x05", b"\x09" + b"8" * 8, b"\x0d4444", b"\x22\x03abc"
    assert decode(varint + fixed64 + raw + fixed32 + text) == Payload("A", b"{}")
    with pytest.raises(BadPayload):
        decode(raw + b"\x0b")
