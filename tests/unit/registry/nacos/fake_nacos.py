"""A Nacos small enough for unit tests: the two gRPC methods in this process, with faults on demand.

It is what the protocol says where that matters to a client: it knows connections by their stream, forgets what one carried with
it, refuses unknown ones, and may lie about lost comparisons as 2.3 does. Real servers are tested in tests/services.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from registry.nacos.payload import Payload, decode, encode

END = b""


class FakeNacos:
    """Attributes: asked: types of requests, in order. answers: what clients answered to its own requests.
    tokens: those that are good; None: all. lies: 2.3's answer to who lost. hangs: answer nothing."""

    def __init__(self, lies: bool = False) -> None:
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.setups: list[dict[str, Any]] = []
        self.streams: dict[str, queue.Queue[bytes]] = {}
        self.services: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.configs: dict[str, str] = {}
        self.tokens: set[str] | None = None
        self.lies = lies
        self.hangs = False
        self.garbage = False
        self._server = grpc.server(ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((_Methods(self),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def close(self) -> None:
        self.forget()
        self._server.stop(None).wait(5)

    def forget(self) -> None:
        """End all streams, and with them what they carried."""
        with self.lock:
            streams, self.streams = list(self.streams.values()), {}
            self.services.clear()
        for stream in streams:
            stream.put(END)

    def tell(self, kind: str, **body: object) -> None:
        """Send a request of the server's own to every client."""
        raw = encode(Payload(kind, json.dumps(body).encode()))
        for stream in list(self.streams.values()):
            stream.put(raw)

    def hosts(self, service: str) -> list[dict[str, Any]]:
        with self.lock:
            return [host for hosts in self.services.get(service, {}).values() for host in hosts]

    # -- methods -------------------------------------------------------------------------------------------------

    def stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        peer, out = context.peer(), queue.Queue[bytes]()

        def read() -> None:
            try:
                for raw in requests:
                    payload = decode(raw)
                    body = json.loads(payload.body)
                    if payload.type == "ConnectionSetupRequest":
                        self.setups.append(body)
                        with self.lock:
                            self.streams[peer] = out
                    else:
                        self.answers.append((payload.type, body))
            except grpc.RpcError:
                pass
            out.put(END)

        threading.Thread(target=read, daemon=True).start()
        while raw := out.get():
            yield raw
        with self.lock:
            if self.streams.get(peer) is out:
                del self.streams[peer]
            for carried in self.services.values():
                carried.pop(peer, None)

    def request(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        payload = decode(raw)
        body = json.loads(payload.body)
        if self.hangs:
            time.sleep(1.5)
        if self.garbage:
            return b"not an envelope"
        with self.lock:
            answer = self._answer(payload, body, context.peer())
        return encode(Payload("Response", json.dumps({"resultCode": 200, "errorCode": 0, **answer}).encode()))

    def _answer(self, payload: Payload, body: dict[str, Any], peer: str) -> dict[str, Any]:
        self.asked.append(payload.type)
        if payload.type == "ServerCheckRequest":
            return {"connectionId": peer}
        if peer not in self.streams:
            return _failed(301, "Connection is unregistered.")
        if payload.type == "HealthCheckRequest":
            return {}
        if self.tokens is not None and payload.headers.get("accessToken") not in self.tokens:
            return _failed(403, "token invalid!")
        if payload.type.startswith("Config"):
            return self._config(payload.type, body)
        return self._service(payload.type, body, peer)

    def _service(self, kind: str, body: dict[str, Any], peer: str) -> dict[str, Any]:
        name = body["serviceName"]
        if kind == "ServiceListRequest":
            names = sorted(name for name, carried in self.services.items() if carried)
            return {"count": len(names), "serviceNames": names}
        carried = self.services.setdefault(name, {})
        if kind == "BatchInstanceRequest":
            carried[peer] = body["instances"]
        elif kind == "InstanceRequest":
            carried.pop(peer, None)
        else:
            hosts = [host for hosts in carried.values() for host in hosts]
            return {"serviceInfo": {"name": name, "groupName": body["groupName"], "hosts": hosts}}
        return {}

    def _config(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        if kind == "ConfigBatchListenRequest":
            contexts = body["configListenContexts"]
            changed = [c for c in contexts if c["md5"] != _md5(self.configs.get(c["dataId"]))]
            return {"changedConfigs": [{"dataId": c["dataId"]} for c in changed]}
        name = body["dataId"]
        now = self.configs.get(name)
        if kind == "ConfigQueryRequest":
            return (
                _failed(300, "config data not exist") if now is None else {"content": now, "md5": _md5(now)}
            )
        if now is None or _md5(now) == body["casMd5"]:
            self.configs[name] = body["content"]
            return {}
        return {} if self.lies else _failed(500, "Cas publish fail, server md5 may have changed.")


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, nacos: FakeNacos) -> None:
        self._nacos = nacos

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method == "/Request/request":
            return grpc.unary_unary_rpc_method_handler(self._nacos.request)
        return grpc.stream_stream_rpc_method_handler(self._nacos.stream)


def _md5(content: str | None) -> str:
    return "" if content is None else hashlib.md5(content.encode()).hexdigest()


def _failed(code: int, message: str) -> dict[str, Any]:
    return {"resultCode": 500, "errorCode": code, "message": message}
