"""What bars a route on its way in."""

from __future__ import annotations

import pytest
from unit.federation.route_tester import update

from federation.core.admission import Admission
from federation.core.feasible import Distance
from federation.core.neighbour import Neighbour
from federation.core.policy.roles import OpenPolicy, Role, RoutePolicy, Ruling
from federation.core.rib import Rib
from federation.core.route_settings import RouteSettings
from federation.core.route_views import RouteState
from federation.core.source import Source
from mesh.model.limits import Limits
from mesh.model.reasons import RouteReason
from mesh.wire.frames import RouteUpdate

SETTINGS = RouteSettings(sources=3)


class Rules(OpenPolicy):
    """Denies hr, and makes us dearer (and would make ap cheaper, which a policy may not)."""

    def import_route(self, role: Role, neighbour: str, region: str, path: tuple[str, ...]) -> Ruling:
        if region == "hr":
            return Ruling(False, 'rule "no-hr" (mesh.toml:44)')
        return Ruling(True, "", {"us": 50, "ap": -50}.get(region, 0))


class Gate:
    def __init__(self, policy: RoutePolicy | None = None, role: Role = Role.TRANSIT) -> None:
        self.rib = Rib(SETTINGS)
        self.admission = Admission(
            "h", 1_000, self.rib, policy or OpenPolicy(), SETTINGS, Limits(path_regions=4), 50.0
        )
        self.neighbour = Neighbour(1, "m", "m1", role, 9, 0.0, SETTINGS, Limits(), 50.0)

    def enter(self, told: RouteUpdate, now: float = 60.0) -> Source | None:
        key = (told.region, told.bridge)
        if not self.admission.from_neighbour(self.neighbour, key, told, now):
            return None
        source = self.rib.sources[key]
        source.evaluate()
        return source


def refusal(source: Source | None) -> tuple[RouteState, RouteReason, str]:
    assert source is not None
    assert source.selected is None
    verdict = source.candidates[1].refusal
    assert verdict is not None
    return verdict


def test_a_route_enters_at_the_cost_of_its_link() -> None:
    source = Gate().enter(update("z", 1, 5, "m,z"))
    assert source is not None
    assert source.selected is not None
    assert source.selected.metric == 15


def test_the_own_region_in_the_path_bars_a_route() -> None:
    assert refusal(Gate().enter(update("z", 1, 5, "m,h,z")))[1:] == (RouteReason.OWN_REGION_IN_PATH, "m,h,z")
    assert refusal(Gate().enter(update("h", 1, 5, "m,h", bridge="n0")))[1] is RouteReason.OWN_REGION_IN_PATH


def test_a_path_too_long_bars_a_route_and_is_cut_in_memory() -> None:
    source = Gate().enter(update("z", 1, 5, "m,a,b,c,d,z"))
    assert refusal(source)[1:] == (RouteReason.PATH_TOO_LONG, "6 > 4")
    assert source is not None
    assert len(source.candidates[1].path) == 4


def test_an_epoch_more_than_a_day_ahead_of_the_own_clock_is_refused() -> None:
    gate = Gate()
    assert refusal(gate.enter(update("z", 1, 5, "m,z", epoch=1_000 + 86_400 + 11)))[0] is RouteState.WITHHELD
    source = gate.enter(update("z", 1, 5, "m,z", epoch=1_000 + 86_400 + 10))
    assert source is not None
    assert source.selected is not None


def test_a_seqno_that_jumps_is_refused_once_one_is_known() -> None:
    gate = Gate()
    source = gate.enter(update("z", 5, 5, "m,z"))
    assert source is not None
    source.advertised(Distance(1, 5, 15))
    far = 6 + SETTINGS.seqno_jump
    assert refusal(gate.enter(update("z", far, 5, "m,z")))[2] == f"seqno jumps from 5 to {far}"
    assert gate.enter(update("z", far - 1, 5, "m,z")) is source
    assert source.selected is not None
    assert gate.enter(update("z", far, 5, "m,z", epoch=2)) is source
    assert source.selected is not None


def test_an_import_rule_withholds_with_its_name_and_raises_a_metric_but_never_lowers_it() -> None:
    gate = Gate(Rules())
    assert refusal(gate.enter(update("hr", 1, 5, "m,hr"))) == (
        RouteState.WITHHELD,
        RouteReason.IMPORT_DENIED,
        'rule "no-hr" (mesh.toml:44)',
    )
    for region, metric in (("us", 65), ("ap", 15)):
        source = gate.enter(update(region, 1, 5, f"m,{region}"))
        assert source is not None
        assert source.selected is not None
        assert source.selected.metric == metric


def test_nothing_enters_over_a_dmz_link_without_a_rule() -> None:
    assert refusal(Gate(role=Role.DMZ).enter(update("m", 1, 0, "m")))[1] is RouteReason.IMPORT_DENIED


@pytest.mark.parametrize("sibling", [False, True])
def test_without_room_for_another_source_a_route_is_not_taken_in(sibling: bool) -> None:
    gate = Gate()
    for n in range(3):
        assert gate.enter(update(f"z{n}", 1, 5, f"m,z{n}")) is not None
    if sibling:
        gate.admission.siblings.tell("n2", ("y", "o"), (1, 1, 5, ("y",), "transit"))
        assert not gate.admission.from_sibling("n2", ("y", "o"), 60.0)
    else:
        assert gate.enter(update("y", 1, 5, "m,y")) is None
        assert gate.neighbour.inbound.incomplete
