"""A planner over tables made for the test, for the tests of what asks it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.core.interest import Destinations, InterestIndex
from mesh.core.plan import Links, Planner
from mesh.core.subscriptions import SubscriptionIndex


@dataclass
class Way:
    """A next hop of a FIB line."""

    link: int | None = None
    node: str | None = None


@dataclass
class Line:
    """A FIB line."""

    hops: tuple[Way, ...]
    alternates: tuple[Way, ...] = ()
    metric: int = 10


@dataclass
class Bench:
    """A planner of node r0/me with its tables in reach."""

    fib: dict[str, Line] = field(default_factory=dict)
    exits: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.links = Links()
        self.destinations = Destinations()
        self.interest = InterestIndex()
        self.subscriptions = SubscriptionIndex()
        self.planner = Planner(
            "r0",
            "me",
            destinations=self.destinations,
            interest=self.interest,
            subscriptions=self.subscriptions,
            links=self.links,
            fib=lambda: self.fib,
            exits=lambda region: self.exits.get(region, []),
        )

    def want(self, name: str, filter: str) -> None:
        self.interest.add(filter, self.destinations.bit(name))

    def group(self, name: str, members: int) -> None:
        self.interest.set_group("g", "t", self.destinations.bit(name), members)
