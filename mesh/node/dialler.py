"""Who this node dials: its seeds, the members it has no link to, and the bridges it was told of.

Decides when to dial again (0.2 s doubling to 2 s, jittered) and when not to, because the node behind an address is linked
already. Members are dialled side by side, at most DIALS at a time and each for a bounded time, so that those who are gone hold
up nobody. Never decides whether a link may stay: that is the machine's.
Invariant: at most one dialling attempt or dialled link per target.
Source: design page "Routing", Membership (Redial) and Between regions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
import trio

from mesh.core.opening import Terms
from mesh.core.roster import Wanted
from mesh.model.errors import MeshError, close_code
from mesh.model.ids import NodeKey
from mesh.model.reasons import Close
from mesh.net.dial import dial
from mesh.net.link_listener import farewell
from mesh.net.supervise import Backoff
from mesh.net.tls import TlsFailed
from mesh.net.transport import LinkLost
from mesh.node.comparison import Tried

if TYPE_CHECKING:
    from mesh.node.runner import Node

log = structlog.get_logger("dialler")

DIAL_TIMEOUT_S: Final = 5.0
HINT_TIMEOUT_S: Final = 2.0
"""The same for a node that only a registry speaks of: it may have crashed, and its address may lead nowhere."""
DIALS: Final = 32
"""Members dialled at one time; the others wait for a turn."""
KNOCK_S: Final = 1.5
"""How long the holder of this node's name has to answer at its address."""
UNKNOWN_LINKED_S: Final = 30.0
"""An address whose node says that it is linked already is left alone so long, unless one of this node's links ends."""
LOOK_S: Final = 0.5
"""How often the list of missing members is looked through."""
WAIT_FOR_SMALLER_S: Final = 1.5
"""The smaller name dials; the larger one only when nothing came of it for so long."""

_PATIENT: Final = frozenset({Close.DUPLICATE_LINK, Close.OPEN_TIMEOUT, Close.DRAINING})
"""Ends after which dialling at once again would be refused again: the wait goes on growing."""
UNTRUSTED: Final = frozenset({Close.TLS_FAILED, Close.TLS_REQUIRED, Close.NAME_NOT_CERTIFIED})
"""One end refused the other for who it is, or is not."""
REFUSED: Final = 1_024
"""Addresses of which that is remembered."""
MISCONFIGURED: Final = frozenset(
    {
        Close.REGION_MISMATCH,
        Close.VERSION_MISMATCH,
        Close.CLOCK_SKEW,
        Close.EPOCH_AHEAD,
        Close.SAME_REGION_BRIDGE,
    }
)
"""What the first answer of a configured address may be that only a person can put right: the node does not start on it.
Once the address has worked, the same answer is retried, because then it is the other end that changed."""


@dataclass(slots=True)
class Target:
    """One address to keep a link to. where: what a person wrote, for errors. configured: a person wrote the address itself;
    one that a registry hinted at may be out of date, and whatever answers there never ends this node."""

    address: str
    terms: Terms
    transport: str = "tcp"
    where: str = ""
    configured: bool = True
    key: NodeKey | None = field(default=None)
    worked: bool = False
    timeout_s: float = DIAL_TIMEOUT_S
    state: str = "dialling"
    problem: str = ""

    def opened(self) -> None:
        """The link's opening exchange is done."""
        self.state, self.problem = "linked", ""


class Dialler:
    """Keeps links to targets. `targets` is for views: what is configured and not linked is shown with its problem; `tried` is
    how the last attempt at each member or hint ended (those that are wanted no more are forgotten)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.targets: list[Target] = []
        self.tried: dict[str, Tried] = {}
        self._turns = trio.CapacityLimiter(DIALS)
        self._refused: dict[str, str] = {}
        """What was told of addresses where one end did not trust the other, until one of them works."""

    async def keep(self, target: Target) -> None:
        """Dial a configured address again and again, as long as the node runs."""
        node = self._node
        self.targets.append(target)
        backoff = Backoff(dice=self._node.dice)
        while True:
            await self._until_unlinked(target)
            target.state = "dialling"
            reason, detail, key = await self._attempt(target)
            target.key = key or target.key
            if reason is Close.SELF_LINK:
                target.state, target.problem = "self", detail
                log.info("seed is this node itself", address=target.address)
                return
            if target.worked and key is not None and reason not in _PATIENT:
                backoff.reset()
            elif reason in MISCONFIGURED and target.configured and not target.worked:
                node.fail(MeshError(close_code(reason), target.where or target.address, detail))
            target.problem = f"{reason.value}: {detail}"
            if reason is Close.DUPLICATE_LINK and target.key is None:
                await self._until_a_link_ends(target)
            if reason is not Close.DUPLICATE_LINK or not self._linked(target.key):
                await trio.sleep(backoff.next())

    async def _attempt(
        self, target: Target, turns: trio.CapacityLimiter | None = None
    ) -> tuple[Close, str, NodeKey | None]:
        """Dial once, and run the link that opens until it ends. turns: dialling itself waits for one of these."""
        token = object()
        try:
            if turns is not None:
                await turns.acquire_on_behalf_of(token)
            secure = self._node.secure
            async with dial(
                target.address, target.transport, target.timeout_s, secure, farewell
            ) as transport:
                if turns is not None:
                    turns.release_on_behalf_of(token)
                    turns = None
                reason, detail, key = await self._node.attach(
                    transport, dialled=True, terms=target.terms, when_open=target.opened
                )
        except LinkLost as error:
            if isinstance(error, TlsFailed):
                self._node.count_refusal("link", error.why.counted)
                self._tell_refused(target.address, error.reason, error.detail)
            elif target.problem.partition(": ")[2] != error.detail:
                log.info("cannot dial", address=target.address, error=error.detail)
            return error.reason, error.detail, None
        finally:
            if turns is not None and token in turns.statistics().borrowers:
                turns.release_on_behalf_of(token)
        if key is not None and reason not in MISCONFIGURED:
            target.worked = True
        if reason in UNTRUSTED:
            self._tell_refused(target.address, reason, detail)
        else:
            self._refused.pop(target.address, None)
        return reason, detail, key

    def _tell_refused(self, address: str, reason: Close, detail: str) -> None:
        """Who is there, or who this node is, is not settled: a person has to look. Told once until it changes."""
        problem = str(MeshError(close_code(reason), address, detail))
        if self._refused.get(address) == problem:
            return
        while len(self._refused) >= REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[address] = problem
        log.warning("link refused", address=address, code=close_code(reason), problem=problem)

    async def knock(self, address: str, nursery: trio.Nursery) -> None:
        """Dial once, and wait at most KNOCK_S for what comes of it: another process of this node's name that answers there
        refuses the link, and that ends this node. A link to another node stays, in `nursery`."""
        done = trio.Event()
        target = Target(address, Terms(expect_region=self._node.key.region), configured=False)
        target.timeout_s = KNOCK_S

        async def attempt() -> None:
            await self._attempt(target)
            done.set()

        nursery.start_soon(attempt, name=f"knock {address}")
        with trio.move_on_after(KNOCK_S):
            while not done.is_set() and target.state != "linked":
                with trio.move_on_after(0.1):
                    await done.wait()

    def _linked(self, key: NodeKey | None) -> bool:
        if key is None:
            return False
        machine = self._node.machine
        if key.region == machine.key.region:
            return key.node in machine.links.peers
        return any(s.is_open and s.peer_key == key for s in machine.sessions.values())

    async def _until_unlinked(self, target: Target) -> None:
        while self._linked(target.key):
            target.state, target.problem = "linked", ""
            await self._node.links_changed.wait()

    async def _until_a_link_ends(self, target: Target) -> None:
        """The node behind this address did not say who it is, only that a link to it is open: which one, shows when it ends."""
        target.state, target.problem = "linked", ""
        seen: set[int] = set()
        with trio.move_on_after(UNKNOWN_LINKED_S):
            while seen <= (now_open := self._open_links()):
                seen = now_open
                await self._node.links_changed.wait()

    def _open_links(self) -> set[int]:
        """Without those that are being opened: one that is refused tells nothing of the others."""
        return {int(link) for link, session in self._node.machine.sessions.items() if session.is_open}

    # -- members -------------------------------------------------------------------------------------------------

    async def keep_members(self) -> None:
        """Dial every member of the region to which there is no link. Of two members the smaller name dials first."""
        node = self._node
        dialling: set[str] = set()
        missing_since: dict[str, float] = {}
        paces: dict[str, tuple[Backoff, float]] = {}
        async with trio.open_nursery() as nursery:
            while not node.draining:
                now = trio.current_time()
                wanted = {w.node: w for w in node.machine.control.membership.wanted_links(now)}
                for name in [name for name in missing_since if name not in wanted]:
                    del missing_since[name]
                    paces.pop(name, None)
                for name in [name for name in self.tried if name not in wanted and name not in dialling]:
                    del self.tried[name]
                for name, want in wanted.items():
                    since = missing_since.setdefault(name, now)
                    pace, due = paces.setdefault(name, (Backoff(dice=self._node.dice), now))
                    # One that only a registry speaks of may not have heard of this newcomer: it is dialled at once.
                    known = want.state is not None
                    patient = known and node.key.node > name and now - since < WAIT_FOR_SMALLER_S
                    if name in dialling or patient or now < due or not want.addresses:
                        continue
                    paces[name] = (pace, now + pace.next())
                    dialling.add(name)
                    nursery.start_soon(self._dial_member, want, dialling, name=f"dial member {name}")
                with trio.move_on_after(LOOK_S if not wanted else 0.1):
                    await node.links_changed.wait()

    async def _dial_member(self, want: Wanted, dialling: set[str]) -> None:
        """One attempt over a member's addresses; a link that opens runs here until it ends."""
        try:
            for address in want.addresses:
                target = Target(address, Terms(expect_region=self._node.key.region))
                if want.state is None:
                    target.timeout_s = HINT_TIMEOUT_S
                reason, detail, key = await self._attempt(target, self._turns)
                self.tried[want.node] = Tried(trio.current_time(), f"{reason.value}: {detail}")
                if key is not None:
                    return
        finally:
            dialling.discard(want.node)
