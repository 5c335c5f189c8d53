from __future__ import annotations

import pytest

from mesh.access.principal import Scope, Who
from mesh.access.rule_file import Right, read_rules
from mesh.model.errors import MeshError

TEXT = """\
# comment
no-hr: deny * publish,subscribe hr/#

allow role:shop * orders/{tenant}/#
scope ann read,publish
limit * events=100/s bytes=1MiB/s
limit ann connections=3
"""


def test_a_file_of_every_kind_of_rule() -> None:
    found = read_rules(TEXT, "etc/mesh.acl")
    deny, allow = found.rules
    assert (deny.allow, deny.name, deny.filter, str(deny.place)) == (False, "no-hr", "hr/#", "etc/mesh.acl:2")
    assert deny.rights == {Right.PUBLISH, Right.SUBSCRIBE}
    assert str(deny) == 'rule "no-hr" (etc/mesh.acl:2)'
    assert deny.place.short == "mesh.acl:2"
    assert allow.rights == set(Right)
    assert str(allow) == 'rule "allow role:shop * orders/{tenant}/#" (etc/mesh.acl:4)'
    assert found.scopes[0].scopes == {Scope.READ, Scope.PUBLISH}
    assert found.scopes[0].who == Who("name", "ann")
    first, second = found.limits
    assert (first.events, first.bytes, first.connections, first.subscriptions) == (100.0, 1 << 20, None, None)
    assert (second.connections, second.place.line) == (3, 7)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("allw * * #", "did you mean allow?"),
        ("allow * publish", "write: allow WHO RIGHTS FILTER"),
        ("allow * publsh #", "did you mean publish?"),
        ("allow * publish a/#/b", "'#' takes all that follows"),
        ("allow * publish {/x", "write a placeholder"),
        ("allow * publish # # trailing", "write: allow"),
        ("allow role: publish #", "names nobody"),
        ("scope * reed", "did you mean read?"),
        ("scope *", "write: scope"),
        ("limit *", "at least one"),
        ("limit * events=0/s", "above 0"),
        ("limit * events=1/s events=2/s", "at most once"),
        ("limit * connections=1.5", "above 0"),
        ("limit * bytes=fast", "above 0"),
        ("a: allow * publish #\na: deny * publish #", "taken by line"),
    ],
)
def test_a_bad_line_is_told_with_its_place(line: str, what: str) -> None:
    with pytest.raises(MeshError) as raised:
        read_rules("# first\n" + line, "x.acl")
    assert raised.value.code == "MESH-C051"
    assert what in raised.value.what
    assert raised.value.where == f"x.acl:{2 + line.count(chr(10))}"


def test_every_bad_line_is_told() -> None:
    with pytest.raises(MeshError) as raised:
        read_rules("allow\nallow * * #\ndeny\n", "x.acl")
    assert "line 3" in raised.value.what


def test_a_file_is_bounded() -> None:
    with pytest.raises(MeshError, match="rules"):
        read_rules("allow * * a\n" * 10_001, "x.acl")
    with pytest.raises(MeshError, match="bytes"):
        read_rules("#" * (1 << 21), "x.acl")
