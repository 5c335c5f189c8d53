"""What must be true of a world that was left in peace: tables agree, interest is the truth, events get where they ought.

Decides whether a world has settled (P1), whether summaries are honest (P10), whether events published in peace were
delivered exactly (P6, P9 and the oracle), and whether losses in bad times were all counted. Safety at every step is
`mesh.testing.monitor`'s. Never changes a world.
Source: design page "Routing", Properties every simulation checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from federation.core.reach import FILTER_KEY
from mesh.model.ids import NodeKey
from mesh.model.reasons import Drop
from mesh.model.topic import matches
from mesh.testing.monitor import Violation
from mesh.testing.oracle import Oracle
from mesh.testing.walk import Walk
from mesh.testing.world import MeshId, SimNode, Taken, World
from mesh.wire.frames import Leg

NOT_LOST: Final = frozenset({Drop.DUPLICATE.value, Drop.UNKNOWN_INBOX.value})
"""Counted, and yet nothing that a client wanted was lost."""

# -- P1: everybody agrees, and with the truth --------------------------------------------------------------------------


def sessions_returned(world: World) -> bool:
    """Whether every link that may exist is open at both ends."""
    return next(_missing_links(world), None) is None


def _missing_links(world: World) -> Iterator[str]:
    for node in world.live_nodes():
        machine = node.machine
        near = {n.key.node for n in world.live_nodes() if n.key.region == node.key.region} - {node.key.node}
        if set(machine.links.peers) != near:
            yield f"{node.key} is linked to {sorted(machine.links.peers)}, not {sorted(near)}"
        far = [machine.sessions[link].peer_key for link in machine.links.bridges if link in machine.sessions]
        for key, _ in node.targets:
            if key.region != node.key.region and world.nodes[key].up and key not in far:
                yield f"{node.key} has no bridge to {key}"


def unsettled(world: World, oracle: Oracle, topics: Sequence[str]) -> str:
    """The first thing that keeps a world from having settled, or "".

    topics: probes for interest. Cost: O(nodes * topics); the cheap conditions come first.
    """
    for problems in (
        _missing_links(world),
        _wrong_members(world),
        _wrong_routes(world, oracle),
        _unequal_tables(world, oracle),
        _wrong_interest(world, oracle, topics),
    ):
        problem = next(problems, None)
        if problem is not None:
            return problem
    return ""


def _wrong_members(world: World) -> Iterator[str]:
    for node in world.live_nodes():
        truth = {n.key.node for n in world.live_nodes() if n.key.region == node.key.region}
        believed = node.machine.control.live_members()
        if believed != truth:
            yield f"{node.key} believes in {sorted(believed)}, alive are {sorted(truth)}"


def _wrong_routes(world: World, oracle: Oracle) -> Iterator[str]:
    for node in world.live_nodes():
        truth = oracle.reachable(node.key.region) - {node.key.region}
        routes = set(node.machine.control.routes.fib)
        if routes != truth:
            lacks, invents = sorted(truth - routes), sorted(routes - truth)
            yield f"{node.key} lacks routes to {lacks} and has some to {invents}"


def _unequal_tables(world: World, oracle: Oracle) -> Iterator[str]:
    """Live owners' tables must be the same at everybody who can hear of them."""
    live = {str(node.key): node for node in world.live_nodes()}
    for node in world.live_nodes():
        control = node.machine.control
        for other in world.live_nodes():
            if other.key.region == node.key.region:
                truth = other.machine.control.tables.position(other.key.node)
                if control.tables.position(other.key.node) != truth:
                    yield f"{node.key} holds the table of {other.key} at another version than its owner"
        heard = oracle.reachable(node.key.region)
        for owner, at in live.items():
            world_table = at.machine.control.world
            if at.key.region in heard and control.world.position(owner) != world_table.position(owner):
                yield f"{node.key} holds the summary {owner} at another version than its owner"


def roots_differ(world: World) -> str:
    """Tables with everything in them, those of the dead included: the first pair of a region that differs, or ""."""
    first: dict[str, tuple[NodeKey, int, int]] = {}
    for node in world.live_nodes():
        control = node.machine.control
        roots = (control.tables.digest(full=False).root, control.world.digest(full=False).root)
        key, *known = first.setdefault(node.key.region, (node.key, *roots))
        if tuple(known) != roots:
            return f"{key} and {node.key} have different roots"
    return ""


def _wrong_interest(world: World, oracle: Oracle, topics: Sequence[str]) -> Iterator[str]:
    exact = world.merge_budget is None
    for topic in topics:
        wanting = {node.key.region for node in world.live_nodes() if oracle.wants(node.key.region, topic)}
        for node in world.live_nodes():
            region = node.key.region
            plan = node.machine.planner.plan(topic)
            truth = wanting & oracle.reachable(region) - {region}
            found = set(plan.regions)
            if found != truth if exact else not truth <= found:
                yield f"{node.key} sends {topic!r} to {sorted(found)}, wanted by {sorted(truth)}"
            near = {
                key.node
                for key, filter in oracle.filters(region)
                if key != node.key and matches(filter, topic)
            }
            if set(plan.nodes) != near:
                yield f"{node.key} sends {topic!r} to members {plan.nodes}, wanted by {sorted(near)}"


# -- P10: honest summaries ---------------------------------------------------------------------------------------------


def dishonest_summaries(world: World, oracle: Oracle, topics: Sequence[str]) -> Iterator[Violation]:
    """What a bridge exports matches at least what its region wants, and just that when nothing was merged."""
    for node in world.live_nodes():
        control = node.machine.control
        if not control.is_bridge:
            continue
        table = {
            key[1:]: msgspec.msgpack.decode(value)
            for key, value in control.world.items(control.world_owner)
            if key[0] == FILTER_KEY
        }
        merged = any(table.values())
        for topic in topics:
            wanted = oracle.wants(node.key.region, topic)
            exported = any(matches(filter, topic) for filter in table)
            if wanted and not exported:
                yield Violation(
                    "P10", world.now, f"{node.key} does not export {topic!r}, wanted in its region"
                )
            if exported and not wanted and not merged:
                yield Violation(
                    "P10", world.now, f"{node.key} exports {topic!r}, wanted by nobody, without merging"
                )


# -- events published in peace -----------------------------------------------------------------------------------------


def delivered_to(world: World, mesh_id: MeshId, since: int = 0) -> Counter[tuple[NodeKey, int, int]]:
    """(node, session, sid) -> how often an event was delivered there. since: index into the world's deliveries."""
    return Counter(
        (one.node, one.session, sid)
        for one in world.delivered[since:]
        if one.mesh_id == mesh_id
        for sid in one.delivery.sids
    )


def inexact(
    world: World, oracle: Oracle, taken: Taken, got: Counter[tuple[NodeKey, int, int]]
) -> Iterator[Violation]:
    """An event published in peace reaches exactly whom it ought to (P6 for queue groups, the oracle for the rest)."""
    truth = oracle.receivers(taken.topic, taken.node)
    left = Counter(got)
    for (node, session), sids in truth.clients.items():
        for sid in sids:
            if left.pop((node, session, sid), 0) != 1:
                count = got[node, session, sid]
                yield Violation(
                    "exact", world.now, f"{taken.mesh_id} {taken.topic!r} came {count} times to {node}"
                )
    for group, members in truth.groups.items():
        served = sum(left.pop((*client, sid), 0) for client, sid in sorted(members))
        if served != 1:
            yield Violation(
                "P6", world.now, f"{taken.mesh_id} {taken.topic!r} came {served} times to group {group}"
            )
    for who, count in left.items():
        yield Violation(
            "exact", world.now, f"{taken.mesh_id} {taken.topic!r} came {count} times to {who}, unwanted"
        )


def unexplained(
    world: World,
    walk: Walk,
    taken: Taken,
    got: Counter[tuple[NodeKey, int, int]],
    copies: Iterable[tuple[NodeKey, NodeKey, Leg]],
) -> Iterator[Violation]:
    """P9: what the nodes explained beforehand is what happened: the same copies, deliveries and group members."""
    told = Counter(walk.copies)
    seen = Counter(copies)
    if told != seen:
        yield Violation(
            "P9", world.now, f"{taken.mesh_id}: explained {sorted(told - seen)}, sent {sorted(seen - told)}"
        )
    clients = {(*client, sid) for client, sids in walk.clients.items() for sid in sids}
    groups = Counter((node, group) for group, nodes in walk.groups.items() for node in nodes)
    for who in got:
        held = world.nodes[who[0]].subscriptions.get((who[1], who[2]))
        if who in clients:
            clients.discard(who)
        elif held is not None and held[1] and groups[who[0], (held[1], held[0])] > 0:
            groups[who[0], (held[1], held[0])] -= 1
        else:
            yield Violation("P9", world.now, f"{taken.mesh_id} came to {who}, which nobody explained")
    missing = [*clients, *(+groups)]
    if missing:
        yield Violation("P9", world.now, f"{taken.mesh_id} was explained to reach {missing}, and did not")


# -- events published in bad times -------------------------------------------------------------------------------------


def lost(world: World, taken: Iterable[Taken]) -> int:
    """How many promises were not kept: for each event, each other region and member that its ingress node planned for and
    that saw nothing of it, or whose share for a queue group reached no member of the group anywhere.

    A drop is counted once for an event and a destination, whatever was wanted there; so is a promise.
    """
    by_id: dict[MeshId, list[tuple[NodeKey, tuple[int, int]]]] = {}
    for one in world.delivered:
        by_id.setdefault(one.mesh_id, []).extend((one.node, (one.session, sid)) for sid in one.delivery.sids)
    promises = 0
    for event in taken:
        got = by_id.get(event.mesh_id, [])
        regions = {node.region for node, _ in got}
        nodes = {node.node for node, _ in got if node.region == event.node.region}
        plan = event.plan
        # Where a group's share goes, one count may stand for all: nobody there knows whether plain interest was meant.
        groups = {one.region if not one.node else one.node for one in event.assigned}
        missing = {(region, "") for region in set(plan.regions) - regions - groups}
        missing |= {("", node) for node in set(plan.nodes) - nodes - groups}
        missing |= {
            ("", u.node) if u.node else (u.region, "")
            for u in plan.unreached
            if (u.node not in nodes if u.node else u.region not in regions)
        }
        for assigned in event.assigned:
            group = (assigned.filter, assigned.group)
            if not any(world.nodes[node].asked.get(who) == group for node, who in got):
                missing.add(("", assigned.node) if assigned.node else (assigned.region, ""))
        promises += len(missing)
    return promises


def counted(world: World) -> int:
    """Drops that stand for something a client wanted, of all processes there ever were."""
    return sum(events for reason, events in world.drops(buried=True).items() if reason not in NOT_LOST)


def waiting(world: World) -> int:
    """Batches that still wait in links: nothing may wait for ever."""
    return sum(_queued(node) for node in world.live_nodes())


def _queued(node: SimNode) -> int:
    return sum(len(session.queue) for session in node.machine.sessions.values())
