"""Who is in the region: one view for each member ever met and not yet forgotten, and the links to them.

Decides whom to probe next, whom to pick by dice, to whom a link is missing, and which dead are forgotten. Never decides
what to believe: `membership` puts views here.
Invariant: `root` is the exclusive or of the marks of all live members, `live` their number, and `missing` those not left
to whom there is no link; all three are kept with every change, so that asking costs nothing.
Bounds: settings.max_members views, the dead among them; settings.max_hints hints.
Source: SWIM (Das, Gupta, Motivala 2002) section 4.3 (round-robin); design page "Routing", Membership.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from mesh.core.members import MembershipSettings, MemberView
from mesh.model.dice import Dice
from mesh.wire.frames import MemberState


class Hint(NamedTuple):
    """A node that something other than the region spoke of: the registry, a seed. epoch 0: not known."""

    epoch: int
    addresses: tuple[str, ...]
    until: float


class Wanted(NamedTuple):
    """A node to which there should be a link and is none. state None: only hinted at."""

    node: str
    addresses: tuple[str, ...]
    state: MemberState | None


class Roster:
    """Views, links and hints of one node's region. The own view is among `views`."""

    __slots__ = (
        "_at",
        "_listed",
        "_live_names",
        "_missing",
        "_order",
        "_settings",
        "gone",
        "hints",
        "links",
        "live",
        "own",
        "root",
        "views",
    )

    def __init__(self, own: MemberView, settings: MembershipSettings) -> None:
        self._settings = settings
        self.own = own
        self.views: dict[str, MemberView] = {own.node: own}
        self.links: dict[str, int] = {}  # name -> epoch of the process at the other end
        self.hints: dict[str, Hint] = {}
        self.gone: dict[str, None] = {}  # dead and left, in the order they went
        self.root = own.mark()
        self.live = 1
        # A lazily shuffled round: names before _at were visited in this round. Members that went stay until they are
        # met, so that nothing is ever searched.
        self._order: list[str] = []
        self._listed: set[str] = set()
        self._at = 0
        self._missing: dict[str, None] = {}
        self._live_names: tuple[str, ...] | None = None

    # -- views -------------------------------------------------------------------------------------------------

    def put(self, view: MemberView) -> None:
        """Believe this of its node from now on. Cost: O(1)."""
        node = view.node
        old = self.views.get(node)
        if old is not None and old.live:
            self.root ^= old.mark()
            self.live -= 1
        self.views[node] = view
        if old is None or old.live != view.live:
            self._live_names = None
        if view.live:
            self.root ^= view.mark()
            self.live += 1
            self.gone.pop(node, None)
        elif node not in self.gone:
            self.gone[node] = None
        if node == self.own.node:
            self.own = view
            return
        if view.live and node not in self._listed:
            # At the end: somewhere in what is left of this round, because the rest is drawn by dice.
            self._listed.add(node)
            self._order.append(node)
        if node in self.links or view.state is MemberState.LEFT:
            self._missing.pop(node, None)
        else:
            self._missing[node] = None

    def forget(self, node: str) -> None:
        """Drop a dead or left member: the next word about it is the first."""
        assert not self.views[node].live, "a live member is never forgotten"
        del self.views[node]
        del self.gone[node]
        self._missing.pop(node, None)

    def room(self, now: float) -> bool:
        """Whether one more member may be taken in; makes room from the dead that were kept long enough."""
        if len(self.views) < self._settings.max_members:
            return True
        oldest = next(iter(self.gone), None)
        if (
            oldest is None
            or now - self.views[oldest].since < self._settings.dead_keep_s
            or oldest == self.own.node
        ):
            return False
        self.forget(oldest)
        return True

    def sweep(self, now: float) -> None:
        """Forget the dead, the left and the hints whose time is over. Cost: O(dead and hints); called seldom."""
        keep_s, announce_s = self._settings.dead_keep_s, self._settings.announce_s
        surplus = len(self.gone) - self._settings.dead_max
        for node in list(self.gone):
            view = self.views[node]
            age_s = now - view.since
            old = age_s >= (announce_s if view.state is MemberState.DEAD else keep_s)
            if node != self.own.node and (old or (surplus > 0 and age_s >= keep_s)):
                self.forget(node)
                surplus -= 1
        for node in [node for node, hint in self.hints.items() if hint.until <= now]:
            del self.hints[node]

    def live_names(self) -> tuple[str, ...]:
        """Names of the live members, this node included, sorted. Cost: O(1) until one comes or goes."""
        if self._live_names is None:
            self._live_names = tuple(sorted(name for name, view in self.views.items() if view.live))
        return self._live_names

    # -- links -------------------------------------------------------------------------------------------------

    def link(self, node: str, epoch: int) -> None:
        """A link to `node` stands."""
        self.links[node] = epoch
        self.hints.pop(node, None)
        self._missing.pop(node, None)

    def unlink(self, node: str) -> bool:
        """The link to `node` is gone. Returns whether there was one."""
        if self.links.pop(node, None) is None:
            return False
        view = self.views.get(node)
        if view is not None and view.state is not MemberState.LEFT:
            self._missing[node] = None
        return True

    def hint(self, node: str, hint: Hint) -> bool:
        """Remember a hint about `node`; False when there are too many."""
        if node not in self.hints and len(self.hints) >= self._settings.max_hints:
            return False
        self.hints[node] = hint
        return True

    def wanted(self, now: float) -> list[Wanted]:
        """Nodes to which a link is missing. Cost: O(those missing and hints)."""
        found: list[Wanted] = []
        for node in self._missing:
            view = self.views[node]
            hint = self.hints.get(node)
            more = tuple(a for a in hint.addresses if a not in view.addresses) if hint is not None else ()
            found.append(Wanted(node, view.addresses + more, view.state))
        for node, hint in self.hints.items():
            known = self.views.get(node)
            returned = known is None or (known.state is MemberState.LEFT and hint.epoch > known.epoch)
            if returned and hint.until > now and node not in self.links and node != self.own.node:
                found.append(Wanted(node, hint.addresses, None))
        return found

    # -- choosing ----------------------------------------------------------------------------------------------

    def next_target(self, dice: Dice, now: float) -> str | None:
        """The next live member of this round in random order; each comes once a round (round length: live others).

        A member just learned of and not linked yet is passed over for settings.link_grace_s: it is not known to have
        had the time. Cost: O(1) amortised.
        """
        order = self._order
        for _ in range(len(order)):
            if self._at >= len(order):
                self._at = 0
            at = self._at
            drawn = at + int(dice.random() * (len(order) - at))
            name = order[drawn]
            view = self.views.get(name)
            if view is None or not view.live:
                order[drawn] = order[-1]
                order.pop()
                self._listed.discard(name)
                if not order:
                    return None
                continue
            order[at], order[drawn] = name, order[at]
            self._at = at + 1
            if (
                name in self.links
                or view.state is MemberState.SUSPECT
                or now - view.since >= self._settings.link_grace_s
            ):
                return name
        return None

    def pick(self, count: int, dice: Dice, excluded: Container[str] = ()) -> list[str]:
        """Up to `count` different live members with a link, by dice. Cost: O(count), O(members) where links are few."""
        order = self._order
        picked: list[str] = []
        if len(order) > 3 * count:
            for _ in range(4 * count + 4):
                name = order[int(dice.random() * len(order))]
                if name not in picked and self._useful(name, excluded):
                    picked.append(name)
                    if len(picked) == count:
                        return picked
        useful = [name for name in order if self._useful(name, excluded)]
        return useful if len(useful) <= count else dice.sample(useful, count)

    def _useful(self, name: str, excluded: Container[str]) -> bool:
        view = self.views.get(name)
        return view is not None and view.live and name in self.links and name not in excluded

    # -- start in the middle -------------------------------------------------------------------------------------

    def assume(self, model: Roster) -> None:
        """Hold what `model`, another node's roster, holds, with the links it has. Cost: O(members), a few copies."""
        node, other = self.own.node, model.own.node
        assert len(self.views) == 1, "only a new roster can assume another"
        assert model.views[node].order == self.own.order, "the model must know this node"
        self.views = {**model.views, node: self.own}
        self._order = [other if name == node else name for name in model._order]
        self._listed = set(self._order)
        self.links = {**model.links, other: model.own.epoch}
        self.links.pop(node, None)
        self._missing = {name: None for name in model._missing if name != node}
        self.gone = dict(model.gone)
        self.root, self.live = model.root, model.live
        self._live_names = model._live_names
