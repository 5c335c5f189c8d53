"""The registry in etcd (v3 API, 3.4 and later). It is imported only where a node is configured to use it: grpcio is loaded here."""

from registry.etcd.client import EtcdRegistry
from registry.etcd.settings import EtcdSettings

__all__ = ["EtcdRegistry", "EtcdSettings"]
