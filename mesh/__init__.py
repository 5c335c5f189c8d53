"""Hopmesh: a federated event mesh. `ARCHITECTURE.md` tells the life of one event, with a link to each step."""

__version__ = "0.1.0"
