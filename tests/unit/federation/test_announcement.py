"""What one neighbour is told of one source, or the reason why it is not."""

from __future__ import annotations

from federation.core.announcement import Announcements, withheld
from federation.core.feasible import Distance
from federation.core.neighbour import Neighbour
from federation.core.policy.roles import OpenPolicy, Role, RoutePolicy, Ruling
from federation.core.route_settings import RouteSettings
from federation.core.source import Source
from mesh.model.limits import Limits
from mesh.model.reasons import RouteReason
from mesh.wire.frames import RouteUpdate

ORIGIN, KEY = ("h", "n0"), ("z", "o")


def neighbour(region: str = "q", role: Role = Role.TRANSIT, link: int = 2) -> Neighbour:
    return Neighbour(link, region, f"{region}1", role, 0, 0.0, RouteSettings(), Limits(), 0.0)


def announcements(
    path: tuple[str, ...] = ("m", "z"),
    learned: Role = Role.TRANSIT,
    policy: RoutePolicy | None = None,
    limits: Limits | None = None,
) -> Announcements:
    source = Source(KEY)
    source.learn(1, "m1", Distance(4, 9, 10), path, learned, 5, None, 0.0)
    source.evaluate()
    return Announcements(ORIGIN, 7, {KEY: source}, policy or OpenPolicy(), limits or Limits())


def test_the_selected_route_leaves_with_the_own_region_in_front_and_the_own_distance() -> None:
    assert announcements().to(neighbour(), KEY) == RouteUpdate("z", "o", 4, 9, 15, ("h", "m", "z"))


def test_the_own_origin_is_at_distance_nought() -> None:
    it = announcements()
    it.seqno = 12
    assert it.to(neighbour(), ORIGIN) == RouteUpdate("h", "n0", 7, 12, 0, ("h",))


def test_an_unknown_source_is_not_announced_and_not_withheld() -> None:
    to = neighbour()
    assert announcements().to(to, ("y", "o")) is None
    assert to.withheld == {}


def test_a_route_is_not_told_to_the_region_it_leads_through() -> None:
    for to in (neighbour("m"), neighbour("q", link=1), neighbour("z")):
        assert announcements().to(to, KEY) is None
        assert to.withheld[KEY][0] is RouteReason.SPLIT_HORIZON


def test_a_path_that_would_grow_too_long_stays_here() -> None:
    to = neighbour()
    assert announcements(limits=Limits(path_regions=2)).to(to, KEY) is None
    assert to.withheld[KEY] == (RouteReason.PATH_TOO_LONG, "3 > 2")


def test_a_peer_is_told_of_the_own_region_and_of_stubs_only() -> None:
    to = neighbour(role=Role.PEER)
    assert announcements(learned=Role.STUB).to(to, KEY) is not None
    assert announcements().to(to, ORIGIN) is not None
    assert announcements().to(to, KEY) is None
    (row,) = withheld(to)
    assert (row.region, row.bridge, row.link, row.to_region) == ("z", "o", 2, "q")
    assert (row.reason, row.detail) == (RouteReason.VALLEY_FREE, "learned over transit, link is peer")


class NoZ(OpenPolicy):
    def export_route(self, role: Role, neighbour: str, region: str, path: tuple[str, ...]) -> Ruling:
        return Ruling(region != "z", "no-z")


def test_an_export_rule_withholds_with_its_name() -> None:
    to = neighbour()
    assert announcements(policy=NoZ()).to(to, KEY) is None
    assert to.withheld[KEY] == (RouteReason.EXPORT_DENIED, "no-z")


def test_over_a_dmz_link_not_even_the_own_region_is_announced() -> None:
    to = neighbour(role=Role.DMZ)
    assert announcements().to(to, ORIGIN) is None
    assert to.withheld[ORIGIN][0] is RouteReason.EXPORT_DENIED


def test_the_reason_goes_when_the_route_may_leave_again() -> None:
    to = neighbour(role=Role.PEER)
    announcements().to(to, KEY)
    announcements(learned=Role.STUB).to(to, KEY)
    assert withheld(to) == []


def test_once_closed_nothing_is_announced() -> None:
    it = announcements()
    it.closed = True
    assert it.to(neighbour(), KEY) is None
    assert it.to(neighbour(), ORIGIN) is None
