"""Requests and answers of Nacos's gRPC protocol, as JSON.

Decides which fields Hopmesh writes and reads. A class is named as the protocol names it: that name is the envelope's type.
Invariant: unknown fields are passed over; what is not of this form is BadPayload. Instances stay raw: one that is wrong must
not cost the others.
Source: Nacos, api module, packages `remote`, `naming.remote` and `config.remote` (2.3.1 and 3.1.0).
"""

from __future__ import annotations

from typing import ClassVar, Final, TypeVar

import msgspec

from registry.nacos.payload import BadPayload

OK: Final = 200
UNREGISTERED: Final = 301
"""The server does not know this connection (any more)."""
NO_RIGHT: Final = 403
NOT_FOUND: Final = 300
"""Of a configuration."""
BUSY: Final = 400
"""Of a configuration that is being written: read it again."""


class Request(msgspec.Struct, rename="camel", kw_only=True):
    """What a client asks. accepts: error codes that are an answer like others."""

    accepts: ClassVar[tuple[int, ...]] = ()


class Answer(msgspec.Struct, rename="camel", kw_only=True):
    """What every answer has. error_code: see the numbers above."""

    result_code: int = OK
    error_code: int = 0
    message: str | None = None


# -- the connection --------------------------------------------------------------------------------------------------


class ServerCheckRequest(Request):
    pass


class ServerCheckAnswer(Answer):
    connection_id: str = ""


class ConnectionSetupRequest(Request, kw_only=True):
    """Sent on the stream; the server answers with a SetupAckRequest, or not at all."""

    client_version: str
    tenant: str
    labels: dict[str, str]
    ability_table: dict[str, bool] = {}


class HealthCheckRequest(Request):
    pass


class ServerRequest(msgspec.Struct, rename="camel", kw_only=True):
    """What the server asks on the stream. Every one is answered, with its id."""

    request_id: str | None = None


class ConnectResetRequest(ServerRequest):
    """Go to another server; to this one if it is named."""

    server_ip: str | None = None
    server_port: str | None = None


class Acknowledgement(msgspec.Struct, rename="camel", kw_only=True):
    result_code: int = OK
    request_id: str | None = None


# -- services --------------------------------------------------------------------------------------------------------


class Instance(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    ip: str
    port: int
    metadata: dict[str, str | None] = {}
    service_name: str = ""
    cluster_name: str = "DEFAULT"
    weight: float = 1.0
    healthy: bool = True
    enabled: bool = True
    ephemeral: bool = True


class ServiceInfo(msgspec.Struct, rename="camel", kw_only=True):
    """Instances of a service. last_ref_time: when the server said so, its milliseconds since 1970."""

    name: str | None = None
    group_name: str | None = None
    hosts: list[msgspec.Raw] | None = None
    last_ref_time: int = 0


class ServiceRequest(Request, kw_only=True):
    namespace: str
    group_name: str
    service_name: str


class InstanceRequest(ServiceRequest, kw_only=True):
    type: str = "deregisterInstance"
    instance: Instance


class BatchInstanceRequest(ServiceRequest, kw_only=True):
    """All instances that this connection has of the service; those it had before are replaced."""

    type: str = "batchRegisterInstance"
    instances: list[Instance]


class ServiceQueryRequest(ServiceRequest, kw_only=True):
    cluster: str = ""
    healthy_only: bool = False


class SubscribeServiceRequest(ServiceRequest, kw_only=True):
    subscribe: bool = True
    clusters: str = ""


class ServiceAnswer(Answer):
    """To a query and to a subscription."""

    service_info: ServiceInfo | None = None


class ServiceListRequest(ServiceRequest, kw_only=True):
    page_no: int
    page_size: int
    selector: str = ""


class ServiceListAnswer(Answer):
    count: int = 0
    service_names: list[str] | None = None


class NotifySubscriberRequest(ServerRequest):
    service_info: ServiceInfo | None = None


# -- configurations --------------------------------------------------------------------------------------------------


class ConfigRequest(Request, kw_only=True):
    data_id: str
    group: str
    tenant: str


class ConfigQueryRequest(ConfigRequest, kw_only=True):
    accepts: ClassVar[tuple[int, ...]] = (NOT_FOUND, BUSY)


class ConfigQueryAnswer(Answer):
    content: str | None = None
    md5: str | None = None


class ConfigPublishRequest(ConfigRequest, kw_only=True):
    """cas_md5: of the content that this one replaces. Where there is none yet, any value creates it."""

    content: str
    cas_md5: str
    addition_map: dict[str, str] = {}


class ConfigRemoveRequest(ConfigRequest, kw_only=True):
    pass


class ConfigListenContext(msgspec.Struct, rename="camel", kw_only=True):
    data_id: str
    group: str
    tenant: str
    md5: str


class ConfigBatchListenRequest(Request, kw_only=True):
    """Answered by those whose md5 is another one now."""

    listen: bool = True
    config_listen_contexts: list[ConfigListenContext]


class ConfigContext(msgspec.Struct, rename="camel", kw_only=True):
    data_id: str


class ConfigBatchListenAnswer(Answer):
    changed_configs: list[ConfigContext] | None = None


A = TypeVar("A", bound=msgspec.Struct)


def to_body(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)


def from_body(raw: bytes, kind: type[A]) -> A:
    """Raises: BadPayload, whatever the bytes are."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadPayload(f"{kind.__name__}: {error}") from error
