from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.ids import NAME_MAX, BadName, MeshId, NodeKey, Version, check_name

NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
NUMBER = st.integers(0, (1 << 64) - 1)


@given(NAME, NAME, NUMBER, NUMBER)
@settings(max_examples=200, derandomize=True)
def test_text_and_parsing_are_inverse(region: str, node: str, epoch: int, seq: int) -> None:
    key, mesh_id = NodeKey(region, node), MeshId(region, node, epoch, seq)
    assert str(key) == f"{region}/{node}"
    assert NodeKey.parse(str(key)) == key
    assert str(mesh_id) == f"{region}/{node}/{epoch}/{seq}"
    assert MeshId.parse(str(mesh_id)) == mesh_id


@given(
    st.text(max_size=12)
    | st.lists(st.text("aB9._-/ \n+٣", max_size=5) | st.sampled_from(["0", "1", "01", "-1"]), max_size=5).map(
        "/".join
    )
)
@settings(max_examples=400, derandomize=True)
def test_every_id_that_was_parsed_prints_back_to_the_same_text(text: str) -> None:
    for kind in (NodeKey, MeshId):
        try:
            found = kind.parse(text)
        except ValueError:
            continue
        assert str(found) == text


@pytest.mark.parametrize("number", ["01", "+1", "-1", " 1", "1 ", "1_0", "٣", "0x1", "", "1.0", "\n1"])
def test_a_number_written_in_another_way_is_no_mesh_id(number: str) -> None:
    """Or two texts would be one event, and what dedupes by text would see two."""
    for text in (f"eu/n/{number}/1", f"eu/n/1/{number}"):
        with pytest.raises(ValueError, match="mesh id"):
            MeshId.parse(text)


@pytest.mark.parametrize("text", ["", "/", "eu", "eu/", "/n", "eu/n/", "eu/n/1", "eu//1/1", "eu/n/1/1/1"])
def test_what_has_too_few_or_too_many_parts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mesh id|name"):
        MeshId.parse(text)
    with pytest.raises(BadName):
        NodeKey.parse(text if text.count("/") != 1 else f"{text} ")


@pytest.mark.parametrize(
    "name",
    ["", ".a", "-a", "_a", "a b", "a/b", "a\n", "é", "a" * (NAME_MAX + 1), "$mesh", "a+", "#", None, 7, b"a"],
)
def test_a_bad_name_is_refused_with_what_is_allowed(name: object) -> None:
    with pytest.raises(BadName, match=r"group name .*letters, digits"):
        check_name(name, "group")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a", "9", "eu-1", "Eu_1.x", "a" * NAME_MAX])
def test_a_good_name_comes_back_as_it_is(name: str) -> None:
    assert check_name(name, "node") == name


def test_versions_compare_by_epoch_first_and_nodes_by_region_first() -> None:
    assert Version(2, 0) > Version(1, 1 << 40) > Version(1, 0)
    assert NodeKey("a", "z") < NodeKey("b", "a") < NodeKey("b", "b")
