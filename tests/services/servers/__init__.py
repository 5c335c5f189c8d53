"""The real servers that tests run against: etcd, and Nacos of both lines.

Each kind is a class over one folder: everything a server writes, its log and its pid are there and go with it. A server is
started on ports that the system chose and keeps them for its life, so that `restart` comes back where its clients look.
All calls block until the server is what was asked for, or raise `ServerFailed` with its log's last lines; from trio call
them by `trio.to_thread.run_sync`. Standard library only, so that `scripts/services` needs no environment.
"""

from services.servers.etcd import Etcd, EtcdOptions
from services.servers.etcd_group import EtcdGroup
from services.servers.nacos import Nacos, Nacos2, Nacos3, NacosOptions
from services.servers.process import ServerFailed
from services.servers.relay import Relay
from services.servers.web import Refused

__all__ = [
    "Etcd",
    "EtcdGroup",
    "EtcdOptions",
    "Nacos",
    "Nacos2",
    "Nacos3",
    "NacosOptions",
    "Refused",
    "Relay",
    "ServerFailed",
]
