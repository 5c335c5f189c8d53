"""Nacos 2.x and 3.x as a registry, by its gRPC protocol and without its SDKs.

| module     | noun                                                                                   |
|------------|----------------------------------------------------------------------------------------|
| settings   | where the servers are and how to speak to them                                          |
| payload    | the envelope as bytes                                                                   |
| requests   | requests and answers as JSON                                                            |
| instance   | a node's entry as an instance that a person finds in the console                        |
| login      | user and password for a token                                                           |
| connection | one connection to one server                                                            |
| session    | keeps a connection: fail-over, reconnecting, doing again what a connection carried      |
| claims     | who has a name, of all instances that claim one                                         |
| leases     | what this process registered, and until when                                            |
| carried    | what the connection carries of that                                                     |
| directory  | the regions, in the configuration service                                               |
| registry   | the registry made of these                                                              |
"""

from registry.nacos.registry import NacosRegistry
from registry.nacos.settings import NacosSettings

__all__ = ["NacosRegistry", "NacosSettings"]
