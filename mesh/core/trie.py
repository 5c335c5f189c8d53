"""The trie of filters, with one leaf value for each filter: what two indexes and the region summary search.

Decides which stored filters match a topic, which cover a filter, and which are covered by one. Never looks into a leaf,
never counts subscribers, and takes filters as already checked (`mesh.model.topic`).
Invariant: every node but the two tops holds a leaf or leads to one, so removing all filters leaves nothing behind.

A filter ends in the node its levels lead to; one that ends in `#` is the tail of the node before, which makes `a/#` match
`a` without a rule of its own. Filters whose first level begins with `$` live under a top of their own, so that a wildcard
on the first level cannot meet a `$`-topic (MQTT 5.0 section 4.7.2).
Source: design page "Routing", section Interest; MQTT 5.0 section 4.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

from mesh.model.topic import has_wildcard

Leaf = TypeVar("Leaf")
Value = TypeVar("Value")


class TopicCache(dict[str, Value]):
    """Answers by topic, bounded by their summed weight. Full: all are forgotten, because that is cheaper than an order
    of use on every hit, and a busy topic is back after one search."""

    __slots__ = ("_limit", "_room")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = self._room = limit

    def keep(self, topic: str, value: Value, weight: int) -> None:
        """Remember `value`. weight: how much of the bound it takes, at least 1; heavier than the bound: not kept.

        An answer kept again counts twice until the next clearing: the bound holds, it is only reached earlier.
        """
        if weight > self._limit:
            self.pop(topic, None)
            return
        if weight > self._room:
            self.clear()
            self._room = self._limit
        self._room -= weight
        self[topic] = value


_NOTHING: Final[dict[str, Any]] = {}
"""What a node without literal levels below shares with the others: most nodes have none. Never written to."""


class Node(Generic[Leaf]):
    """A place in the trie, to read only. leaf: of the filter that ends here. tail: of the one that ends here with `#`.
    plus: the node below `+`. below: the nodes below literal levels."""

    __slots__ = ("below", "leaf", "plus", "tail")

    def __init__(self) -> None:
        self.leaf: Leaf | None = None
        self.tail: Leaf | None = None
        self.plus: Node[Leaf] | None = None
        self.below: dict[str, Node[Leaf]] = _NOTHING

    def width(self) -> int:
        """Leaves here and nodes directly below. 0: the node can go. Cost: constant."""
        return len(self.below) + (self.plus is not None) + (self.leaf is not None) + (self.tail is not None)

    def children(self) -> Iterator[tuple[str, Node[Leaf]]]:
        """(level, node) of every node directly below, `+` included."""
        if self.plus is not None:
            yield "+", self.plus
        yield from self.below.items()

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf here and further below. The trie must not change meanwhile."""
        nodes = [self]
        while nodes:
            node = nodes.pop()
            if node.leaf is not None:
                yield node.leaf
            if node.tail is not None:
                yield node.tail
            if node.plus is not None:
                nodes.append(node.plus)
            nodes.extend(node.below.values())


class FilterTrie(Generic[Leaf]):
    """Filters, each with a leaf (never None).

    Args:
        flat: keep filters without wildcards in one dict by their text: less memory and time than a path of nodes.
            `covered_by` and `top` then know filters with wildcards only, so the summary turns it off.
    """

    __slots__ = ("_exact", "_flat", "_size", "dollar", "top")

    def __init__(self, *, flat: bool = True) -> None:
        self._flat = flat
        self._exact: dict[str, Leaf] = {}
        self._size = 0
        self.top: Node[Leaf] = Node()
        """Above all first levels that do not begin with `$`."""
        self.dollar: Node[Leaf] = Node()
        """Above all first levels that do."""

    def __len__(self) -> int:
        return self._size + len(self._exact)

    def get(self, filter: str) -> Leaf | None:
        """The leaf of exactly this filter. Cost: 0.1 us flat, else 0.2 us a level."""
        if self._flat and not has_wildcard(filter):
            return self._exact.get(filter)
        node: Node[Leaf] | None = self._start(filter)
        levels = filter.split("/")
        tail = levels[-1] == "#"
        for level in levels[:-1] if tail else levels:
            assert node is not None
            node = node.plus if level == "+" else node.below.get(level)
            if node is None:
                return None
        assert node is not None
        return node.tail if tail else node.leaf

    def put(self, filter: str, leaf: Leaf) -> None:
        """Set the leaf of a filter, new or known. Cost: as `get`, and 0.5 us for each new node."""
        if self._flat and not has_wildcard(filter):
            self._exact[filter] = leaf
            return
        node = self._start(filter)
        levels = filter.split("/")
        tail = levels[-1] == "#"
        for level in levels[:-1] if tail else levels:
            child = node.plus if level == "+" else node.below.get(level)
            if child is None:
                child = Node()
                if level == "+":
                    node.plus = child
                elif node.below is _NOTHING:
                    node.below = {level: child}
                else:
                    node.below[level] = child
            node = child
        if tail:
            self._size += node.tail is None
            node.tail = leaf
        else:
            self._size += node.leaf is None
            node.leaf = leaf

    def pop(self, filter: str) -> Leaf | None:
        """Take a filter out with the nodes only it needed, and return its leaf, None if it was not there."""
        if self._flat and not has_wildcard(filter):
            return self._exact.pop(filter, None)
        levels = filter.split("/")
        tail = levels[-1] == "#"
        if tail:
            levels.pop()
        path = [self._start(filter)]
        for level in levels:
            child = path[-1].plus if level == "+" else path[-1].below.get(level)
            if child is None:
                return None
            path.append(child)
        node = path.pop()
        leaf = node.tail if tail else node.leaf
        if leaf is None:
            return None
        self._size -= 1
        if tail:
            node.tail = None
        else:
            node.leaf = None
        while path and not node.width():
            node, level = path.pop(), levels.pop()
            if level == "+":
                node.plus = None
            else:
                del node.below[level]
        return leaf

    def _start(self, name: str) -> Node[Leaf]:
        return self.dollar if name[:1] == "$" else self.top

    def match(self, topic: str) -> list[Leaf]:
        """The leaves of all filters that match `topic`, those with the widest tail first.

        Cost: 1.5 us for a few filters, 3 to 4 us for a million; at worst one visit for each stored node whose levels
        are the topic's or `+`, which a set of filters made for the purpose can drive to 2 ** levels, never past the
        nodes stored.
        """
        found: list[Leaf] = []
        nodes = [self.dollar if topic[:1] == "$" else self.top]
        for level in topic.split("/"):
            further = []
            for node in nodes:
                if node.tail is not None:
                    found.append(node.tail)
                if node.plus is not None:
                    further.append(node.plus)
                if level in node.below:
                    further.append(node.below[level])
            nodes = further
            if not nodes:
                break
        for node in nodes:
            if node.tail is not None:
                found.append(node.tail)
            if node.leaf is not None:
                found.append(node.leaf)
        if topic in self._exact:
            found.append(self._exact[topic])
        return found

    def covering(self, filter: str) -> Iterator[Leaf]:
        """The leaves of the stored filters that cover `filter` (canonical, as the stored ones), itself included; those
        with the widest tail first, so that asking for one is cheap. Cost: as `match`."""
        nodes = [self._start(filter)]
        levels = filter.split("/")
        tail = levels[-1] == "#"
        for level in levels[:-1] if tail else levels:
            further = []
            for node in nodes:
                if node.tail is not None:
                    yield node.tail
                if node.plus is not None:
                    further.append(node.plus)
                if level in node.below:
                    further.append(node.below[level])
            nodes = further
        for node in nodes:
            if node.tail is not None:
                yield node.tail
            if node.leaf is not None and not tail:
                yield node.leaf
        if filter in self._exact:
            yield self._exact[filter]

    def covered_by(self, filter: str) -> Iterator[Leaf]:
        """The leaves of the stored filters that `filter` covers (canonical, as the stored ones), itself included. The trie
        must not change meanwhile.

        Cost: the answer, and for each `+` in the filter the width of the nodes it crosses.
        """
        assert not self._flat, "a flat trie has no paths for filters without wildcards"
        nodes = [self._start(filter)]
        levels = filter.split("/")
        tail = levels[-1] == "#"
        for level in levels[:-1] if tail else levels:
            further: list[Node[Leaf]] = []
            for node in nodes:
                if level == "+":
                    further.extend(child for _, child in node.children())
                elif level in node.below:
                    further.append(node.below[level])
            nodes = further
        for node in nodes:
            if tail:
                yield from node.leaves()
            elif node.leaf is not None:
                yield node.leaf

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf. The trie must not change meanwhile."""
        yield from self._exact.values()
        yield from self.top.leaves()
        yield from self.dollar.leaves()
