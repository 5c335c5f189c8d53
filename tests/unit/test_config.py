from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesh.backends import Backend
from mesh.config import Config, check, check_files, data_folder, load
from mesh.keys import BY_NAME
from mesh.model.errors import MeshError
from mesh.model.limits import Limits
from mesh.model.quantity import Address
from mesh.model.topic_rules import Level, SpoolPolicy, TopicRule
from registry.etcd.settings import EtcdSettings
from registry.nacos.settings import NacosSettings


def config(tmp_path: Path, text: str = "", flags: dict[str, Any] | None = None, **environ: str) -> Config:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    return load(path, flags=flags, environ=environ)


def problem(tmp_path: Path, text: str, flags: dict[str, Any] | None = None, **environ: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        config(tmp_path, text, flags, **environ)
    return caught.value


def test_a_node_without_any_file_runs_on_loopback() -> None:
    found = load(environ={})
    assert found.node.region == "local"
    assert found.node.id is None
    assert (found.listen.events, found.listen.link, found.listen.admin) == (
        Address("127.0.0.1", 7222),
        Address("127.0.0.1", 7946),
        Address("127.0.0.1", 8222),
    )
    assert found.registry.kind == "none"
    assert found.federation.accept == "any"
    assert found.bridges == ()
    assert found.limits == Limits()
    assert found.warnings() == ()


def test_the_example_of_the_design_without_parts_to_come(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        """
        [node]
        id = "eu-1"
        region = "eu"
        data = "data/eu-1"
        location = [50.0, 8.6]
        labels = { rack = "7" }
        [listen]
        admin = "none"
        [registry]
        kind = "file"
        path = "shared"
        seeds = ["127.0.0.1:7947"]
        lease = "10s"
        [[bridge]]
        to = "us"
        seeds = ["127.0.0.1:7948", "localhost:7949"]
        role = "transit"
        transport = "ws"
        cost = 5
        """,
    )
    assert found.node.location == (50.0, 8.6)
    assert found.node.labels == {"rack": "7"}
    assert found.listen.admin is None
    assert (found.registry.kind, found.registry.path, found.registry.lease_s) == (
        "file",
        Path("shared"),
        10.0,
    )
    [bridge] = found.bridges
    assert bridge.to == "us"
    assert bridge.seeds == (Address("127.0.0.1", 7948), Address("localhost", 7949))
    assert (bridge.links, bridge.role, bridge.transport, bridge.cost) == (2, "transit", "ws", 5)


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(tmp_path: Path) -> None:
    text = '[node]\nid = "file"\nregion = "file"\ndata = "file"\n'
    found = config(tmp_path, text, {"node.id": "flag"}, MESH_NODE__ID="env", MESH_NODE__REGION="env")
    assert (found.node.id, found.node.region, found.node.data) == ("flag", "env", Path("file"))
    origins = {setting.key: setting.origin for setting in found.settings}
    assert [origins[name] for name in ("node.id", "node.region", "node.data", "listen.link")] == [
        "flag",
        "env",
        "file",
        "default",
    ]


def test_bridges_of_a_flag_replace_those_of_the_file_as_a_whole(tmp_path: Path) -> None:
    text = '[[bridge]]\nto = "us"\ncost = 9\n[[bridge]]\nto = "ap"\n'
    found = config(tmp_path, text, {"bridge": [{"to": "af"}]})
    assert [(bridge.to, bridge.cost) for bridge in found.bridges] == [("af", 0)]


def test_settings_show_every_key_as_toml_with_its_origin(tmp_path: Path) -> None:
    rows = {
        setting.key: (setting.value, setting.origin)
        for setting in config(tmp_path, '[listen]\nadmin = "none"').settings
    }
    assert rows["listen.admin"] == ('"none"', "file")
    assert rows["registry.lease"] == ('"10s"', "default")
    assert rows["federation.accept"] == ('"any"', "default")
    assert rows["limits.frame_bytes"] == ('"1MiB"', "default")
    assert rows["node.id"] == ("-", "default")
    assert not [key for key in rows if key.startswith(("topic", "bridge"))]


def test_who_may_dial_in_depends_on_where_the_link_port_is(tmp_path: Path) -> None:
    assert config(tmp_path, '[listen]\nlink = "127.0.0.1:1"').federation.accept == "any"
    assert config(tmp_path, '[listen]\nlink = "none"').federation.accept == "listed"
    assert (
        config(tmp_path, '[listen]\nlink = "0.0.0.0:1"', MESH_INSECURE_LINKS="1").federation.accept
        == "listed"
    )
    assert config(tmp_path, '[federation]\naccept = "listed"').federation.accept == "listed"


AUTH = '[auth]\nacl = "mesh.acl"\ntokens_file = "tokens"\n'


def test_ports_off_loopback_need_both_a_proof_of_clients_and_a_word_about_clear_text(tmp_path: Path) -> None:
    open_ports = AUTH + '[listen]\nevents = "0.0.0.0:1"\nadmin = "0.0.0.0:2"'
    assert problem(tmp_path, open_ports).code == "MESH-C017"
    assert problem(tmp_path, AUTH + '[listen]\nadmin = "0.0.0.0:2"').code == "MESH-C018"
    found = config(tmp_path, open_ports, MESH_INSECURE_CLIENTS="1")
    assert found.warnings() == ("tokens cross the network in clear text (--insecure-clients)",)
    without = open_ports.removeprefix(AUTH)
    assert problem(tmp_path, without, MESH_INSECURE_CLIENTS="1").code == "MESH-C018"


def test_access_is_what_auth_says(tmp_path: Path) -> None:
    assert config(tmp_path, "").access is None
    found = config(tmp_path, AUTH).access
    assert found is not None
    assert (found.acl, found.tokens_file, found.tokens, found.certificates) == (
        Path("mesh.acl"),
        Path("tokens"),
        None,
        False,
    )
    found = config(
        tmp_path, '[auth]\nacl = "a"\njwks = "k"\nissuer = "i"\naudience = "u"\nleeway = "5s"'
    ).access
    assert found is not None
    assert found.tokens is not None
    assert (found.jwks, found.tokens.issuer, found.tokens.audience, found.tokens.leeway_s) == (
        "k",
        "i",
        "u",
        5.0,
    )


def test_the_hop_limit_has_one_key(tmp_path: Path) -> None:
    assert config(tmp_path, "[federation]\nhop_limit = 5").limits.hop_limit == 5


def test_limits_are_keys_of_their_own(tmp_path: Path) -> None:
    limits = config(
        tmp_path, '[limits]\nframe_bytes = "2MiB"\nhello_interval_s = "500ms"\nregions = 7'
    ).limits
    assert (limits.frame_bytes, limits.hello_interval_s, limits.regions) == (2 << 20, 0.5, 7)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('[listen]\nlink = "0.0.0.0:7946"', "MESH-C016", "0.0.0.0:7946 is not on loopback"),
        ('[listen]\nevents = "10.0.0.1:7222"', "MESH-C017", "listen.events"),
        ('[listen]\nadmin = "0.0.0.0:8222"', "MESH-C018", "listen.admin"),
        ('[registry]\nseeds = ["eu-2:7946"]', "MESH-C016", "eu-2:7946"),
        ('[[bridge]]\nto = "us"\nseeds = ["us-1:7946"]', "MESH-C016", "bridge.0.seeds"),
        (
            '[listen]\nevents = "127.0.0.1:9"\nadmin = "127.0.0.1:9"',
            "MESH-C006",
            "127.0.0.1:9 is also listen.events",
        ),
        ('[node]\nregion = "us"\n[[bridge]]\nto = "us"', "MESH-C019", "own region"),
        ('[[bridge]]\nto = "us"\n[[bridge]]\nto = "us"', "MESH-C019", "already"),
        ('[listen]\nlink = "none"\n[[bridge]]\nto = "us"', "MESH-C019", "nothing can dial in"),
        ('[[bridge]]\nseeds = ["127.0.0.1:1"]', "MESH-C011", "bridge.0.to"),
        ('[registry]\nkind = "etcd"', "MESH-C011", "registry.endpoints"),
        ('[registry]\nkind = "nacos"\nendpoints = []', "MESH-C011", "registry.endpoints"),
        ('[registry]\nkind = "etcd"\nendpoints = ["etcd:2379"]', "MESH-C005", "http://HOST:PORT"),
        ('[registry]\nkind = "etcd"\nendpoints = ["http://etcd"]', "MESH-C005", "etcd"),
        ('[registry]\nkind = "etcd"\nendpoints = ["http://e:1"]\ngroup = "x"', "MESH-C020", "registry.group"),
        ('[registry]\nkind = "etcd"\nendpoints = ["http://e:1"]\npath = "x"', "MESH-C020", "kind to file"),
        ('[registry]\nkind = "nacos"\nendpoints = ["http://e:1"]\nprefix = "x"', "MESH-C020", "kind to etcd"),
        ('[registry]\nkind = "file"\npath = "x"\nuser = "u"', "MESH-C020", "etcd or nacos or nacos-v1"),
        ('[registry]\nkind = "nacos-v1"\nendpoints = ["https://e:1"]', "MESH-C020", "https"),
        ('[registry]\nkind = "nacos-v1"\nendpoints = ["http://e:1"]\nca = "x"', "MESH-C020", "registry.ca"),
        ('[registry]\nendpoints = ["http://e:1"]', "MESH-C020", "registry.endpoints"),
        ('[registry]\nkind = "etcd"\nendpoints = ["http://e:1"]\nuser = "u"', "MESH-C011", "password_file"),
        ('[registry]\nkind = "etcd"\nendpoints = ["https://e:1"]\ncert = "c"', "MESH-C011", "registry.key"),
        ('[registry]\nkind = "etcd"\nendpoints = ["http://e:1"]\nca = "c"', "MESH-C020", "https"),
        ('[registry]\nkind = "etcd"\nendpoints = ["https://e:1", "http://f:1"]', "MESH-C020", "http://f:1"),
        (
            '[registry]\nkind = "etcd"\nendpoints = ["http://e:1"]\nprefix = "/"',
            "MESH-C006",
            "registry.prefix",
        ),
        (
            '[registry]\nkind = "etcd"\nendpoints = ["http://e:1"]\nprefix = "mesh"',
            "MESH-C006",
            "registry.prefix",
        ),
        (
            '[registry]\nkind = "etcd"\nendpoints = ["http://e:1"]\nprefix = "/a/"',
            "MESH-C006",
            "registry.prefix",
        ),
        (
            '[registry]\nkind = "nacos"\nendpoints = ["http://e:1"]\ngroup = "a b"',
            "MESH-C006",
            "registry.group",
        ),
        (
            '[registry]\nkind = "nacos"\nendpoints = ["http://e:1"]\nnamespace = "a/b"',
            "MESH-C006",
            "registry.namespace",
        ),
        ('[registry]\nlease = "500ms"', "MESH-C006", "registry.lease"),
        ('[limits]\nbody_bytes = "9MiB"', "MESH-C006", "4 times limits.body_bytes"),
        ('[limits]\njournal_pending_bytes = "31MiB"', "MESH-C006", "limits.journal_pending_bytes"),
        ('[registry.directory]\nkind = "file"', "MESH-C011", "registry.directory.path"),
        ('[registry.directory]\npath = "x"', "MESH-C011", "registry.directory.kind"),
        ('[registry.directory]\nkind = "file"\npath = "x"\nlease = "5s"', "MESH-C020", "directory.lease"),
        ('[registry.directory]\nkind = "file"\npath = "x"\nseeds = ["a:1"]', "MESH-C020", "directory.seeds"),
        (
            '[registry.directory]\nkind = "etcd"\nendpoints = ["http://e:1"]\npath = "x"',
            "MESH-C020",
            "registry.directory.path",
        ),
        ('[registry]\nendpoint = "x"', "MESH-C001", "registry.endpoints"),
        ('[registry.director]\nkind = "file"', "MESH-C001", "director"),
        ('[registry]\nkind = "file"', "MESH-C011", "registry.path"),
        ('[registry]\npath = "x"', "MESH-C020", "registry.path"),
        ('[membership]\nprobe_timeout = "2s"', "MESH-C006", "probe_interval"),
        ('[limits]\nframe_bytes = "1KiB"', "MESH-C006", "limits.batch_target_bytes"),
        ('[limits]\nevent_bytes = "2MiB"', "MESH-C006", "it is more than limits.frame_bytes"),
        (
            "[federation]\nhop_limit = 33",
            "MESH-C006",
            "federation.hop_limit: it is more than limits.path_regions",
        ),
    ],
)
def test_keys_that_contradict_each_other_stop_the_start(
    tmp_path: Path, text: str, code: str, words: str
) -> None:
    error = problem(tmp_path, text)
    assert error.code == code
    assert words in str(error)


def test_open_ports_need_the_operators_word_and_are_warned_of(tmp_path: Path) -> None:
    text = '[listen]\nlink = "0.0.0.0:1"\nevents = "0.0.0.0:2"\n[registry]\nseeds = ["eu-2:7946"]'
    found = config(tmp_path, text, MESH_INSECURE_LINKS="1", MESH_INSECURE_CLIENTS="1")
    assert len(found.warnings()) == 2
    error = problem(
        tmp_path, '[listen]\nadmin = "0.0.0.0:1"', MESH_INSECURE_LINKS="1", MESH_INSECURE_CLIENTS="1"
    )
    assert error.code == "MESH-C018"


def test_the_operators_word_is_1_or_0(tmp_path: Path) -> None:
    assert problem(tmp_path, "", MESH_INSECURE_LINKS="maybe").code == "MESH-C002"


def test_check_tells_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text('[node]\nidd = "x"\n')
    found, problems = check(path, environ={"MESH_NODE__REGION": "a b"}, flags={"listen.events": "x"})
    assert found is None
    assert [each.code for each in problems] == ["MESH-C001", "MESH-C007", "MESH-C005"]


def test_the_data_folder_is_in_the_users_state_unless_it_is_set(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    assert data_folder(load(environ={}), state) == tmp_path / "hopmesh" / "local" / "default"
    assert data_folder(load(environ={}, flags={"node.id": "eu-1"}), state).name == "eu-1"
    assert data_folder(load(environ={}, flags={"node.data": "d"}), state) == Path("d")


ETCD = """
[registry]
kind = "etcd"
endpoints = ["https://e1:2379", "https://e2:2379/"]
user = "mesh"
password_file = "password"
ca = "ca.pem"
cert = "cert.pem"
key = "key.pem"
[registry.directory]
kind = "nacos"
endpoints = ["http://n:8848"]
namespace = "dev"
"""


def test_nodes_and_regions_may_be_in_different_registries(tmp_path: Path) -> None:
    found = config(tmp_path, ETCD).registry
    assert found.kind == "etcd"
    assert found.backend.endpoints == ("https://e1:2379", "https://e2:2379")
    assert [name for name, _ in found.backend.files] == ["password_file", "ca", "cert", "key"]
    assert (found.backend.prefix, found.backend.is_secure) == ("/hopmesh", True)
    assert found.directory is not None
    assert (found.directory.kind, found.directory.namespace, found.directory.group) == (
        "nacos",
        "dev",
        "HOPMESH",
    )
    assert not found.directory.is_secure


def test_the_directory_is_where_the_nodes_are_unless_it_has_a_table(tmp_path: Path) -> None:
    assert config(tmp_path, '[registry]\nkind = "file"\npath = "x"').registry.directory is None
    alone = config(tmp_path, '[registry.directory]\nkind = "file"\npath = "x"').registry
    assert (alone.kind, alone.directory and alone.directory.path) == ("none", Path("x"))


def test_every_part_of_it_is_a_variable_too(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        MESH_REGISTRY__KIND="etcd",
        MESH_REGISTRY__ENDPOINTS="http://a:1,http://b:2",
        MESH_REGISTRY__DIRECTORY__KIND="file",
        MESH_REGISTRY__DIRECTORY__PATH="x",
    ).registry
    assert found.backend.endpoints == ("http://a:1", "http://b:2")
    assert found.directory is not None


def test_a_password_that_crosses_a_network_in_clear_text_is_warned_of(tmp_path: Path) -> None:
    text = '[registry]\nkind = "etcd"\nendpoints = ["http://{}:1"]\nuser = "u"\npassword_file = "p"'
    [warning] = config(tmp_path, text.format("etcd")).warnings()
    assert "registry.user" in warning
    assert config(tmp_path, text.format("127.0.0.1")).warnings() == ()


def test_files_that_cannot_be_used_are_told_with_the_line_that_names_them(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("password", "ca.pem", "cert.pem", "key.pem")}
    text = ETCD
    for name, path in files.items():
        text = text.replace(f'"{name}"', f'"{path}"')
    found = check_files(config(tmp_path, text))
    assert [(p.code, p.where.rpartition(" ")[2]) for p in found] == [
        ("MESH-C026", f"registry.{name}") for name in ("password_file", "ca", "cert", "key")
    ]
    assert f"{tmp_path / 'mesh.toml'}:6 " in found[0].where
    files["password"].write_text("\n")
    for name in ("ca.pem", "cert.pem", "key.pem"):
        files[name].write_text("no certificate")
    [empty] = check_files(config(tmp_path, text))
    assert "it is empty" in empty.what
    files["password"].write_text("secret\n")
    found = check_files(config(tmp_path, text))
    assert [p.where.rpartition(" ")[2] for p in found] == ["registry.ca", "registry.cert"]
    assert not [p for p in found if "secret" in str(p)]


def test_defaults_are_those_of_the_kinds() -> None:
    etcd, nacos = EtcdSettings(endpoints=("e:1",)), NacosSettings(servers=("n:1",))
    for table in ("registry", "registry.directory"):
        assert BY_NAME[f"{table}.prefix"].default == Backend("etcd").prefix == etcd.prefix
        assert BY_NAME[f"{table}.group"].default == Backend("nacos").group == nacos.group
        assert BY_NAME[f"{table}.namespace"].default == Backend("nacos").namespace == nacos.namespace


@pytest.mark.parametrize("prefix", ["/a", "/a/b", "/" + "x" * 200, "/ä"])
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "https://[::1]:2", "http://etcd.example:3"])
def test_what_the_configuration_takes_the_kind_takes_too(tmp_path: Path, prefix: str, endpoint: str) -> None:
    text = f'[registry]\nkind = "etcd"\nendpoints = ["{endpoint}"]\nprefix = "{prefix}"'
    backend = config(tmp_path, text).registry.backend
    EtcdSettings(endpoints=backend.endpoints, prefix=backend.prefix, tls=backend.is_secure)
    NacosSettings(servers=tuple(e.partition("://")[2] for e in backend.endpoints), tls=backend.is_secure)


def test_topic_rules_keep_their_order(tmp_path: Path) -> None:
    text = '[[topic]]\nfilter = "orders/tmp/#"\n[[topic]]\nfilter = "orders/#"\nretain = "24h"\n'
    found = config(tmp_path, text)
    assert found.topics == (TopicRule("orders/tmp/#"), TopicRule("orders/#", retain_s=86_400.0))
    shown = {setting.key: setting.value for setting in found.settings if setting.key.startswith("topic")}
    unsaid = {
        "level": '"at-most-once"',
        "ordered": "false",
        "deadline": "-",
        "copies": "1",
        "spool": "-",
        "spool_policy": '"block"',
        "retain": "-",
    }
    said = ({"filter": '"orders/tmp/#"'}, {"filter": '"orders/#"', "retain": '"1d"'})
    assert shown == {
        f"topic.{index}.{key}": value
        for index, rule in enumerate(said)
        for key, value in (unsaid | rule).items()
    }


def test_everything_a_topic_rule_says_is_taken_over(tmp_path: Path) -> None:
    text = (
        '[[topic]]\nfilter = "orders/#"\nlevel = "at-least-once"\nordered = true\ndeadline = "5s"\ncopies = 2\n'
        'spool = "1GiB"\nspool_policy = "dead-letter"\nretain = "1h"\n'
    )
    rule = TopicRule(
        "orders/#",
        level=Level.AT_LEAST_ONCE,
        ordered=True,
        deadline_s=5.0,
        copies=2,
        spool_bytes=1 << 30,
        spool_policy=SpoolPolicy.DEAD_LETTER,
        retain_s=3_600.0,
    )
    assert config(tmp_path, text).topics == (rule,)


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        ('[[topic]]\nretain = "1h"', "MESH-C011", "topic.0.filter"),
        ('[[topic]]\nfilter = "a/#/b"', "MESH-C006", "mesh.toml:2 topic.0.filter"),
        ('[[topic]]\nfilter = "a"\nretain = "soon"', "MESH-C003", "mesh.toml:3 topic.0.retain"),
        ('[[topic]]\nfilter = "a"\ncopies = 2', "MESH-C006", "mesh.toml:3 topic.0.copies"),
        (
            '[[topic]]\nfilter = "a"\nlevel = "at-least-once"\ncopies = 3',
            "MESH-C006",
            "mesh.toml:4 topic.0.copies",
        ),
        ('[[topic]]\nfilter = "a"\nspool = "1GiB"', "MESH-C006", "mesh.toml:3 topic.0.spool"),
        ('[[topic]]\nfilter = "a"\nordered = true', "MESH-C006", "mesh.toml:3 topic.0.ordered"),
    ],
)
def test_a_topic_rule_that_cannot_be(tmp_path: Path, text: str, code: str, where: str) -> None:
    found = problem(tmp_path, text)
    assert found.code == code
    assert found.where.endswith(where)


# -- TLS -------------------------------------------------------------------------------------------------------------

TLS = '[tls]\nca = "ca.pem"\ncert = "cert.pem"\nkey = "key.pem"\n'


def test_links_inside_tls_may_cross_a_network_and_only_listed_regions_dial_in(tmp_path: Path) -> None:
    text = TLS + '[listen]\nlink = "0.0.0.0:7946"\n[registry]\nseeds = ["eu-2:7946"]\n'
    found = config(tmp_path, text)
    assert found.tls is not None
    assert found.federation.accept == "listed"
    assert found.warnings() == ()
    assert not found.links_exposed
    assert config(tmp_path, TLS).federation.accept == "listed", "also on loopback: TLS is meant"
    assert config(tmp_path, TLS + '[federation]\naccept = "any"').federation.accept == "any"


def test_the_word_of_the_operator_exposes_nothing_that_is_inside_tls(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(TLS + "[tls.clients]\n")
    found = load(tmp_path / "mesh.toml", environ={}, insecure_links=True, insecure_clients=True)
    assert not found.links_exposed
    assert found.clients_exposed, "an empty table sets nothing"
    assert [word for warning in found.warnings() for word in ("links", "events port") if word in warning] == [
        "events port"
    ]


def test_clients_ports_take_from_the_links_what_they_have_not(tmp_path: Path) -> None:
    def ports(text: str) -> tuple[str, str, str] | None:
        found = config(tmp_path, text).tls_clients
        return None if found is None else (str(found.ca), str(found.cert), found.certificates)

    assert ports(TLS) is None
    assert ports(TLS + '[tls.clients]\ncertificates = "none"') == ("ca.pem", "cert.pem", "none")
    assert ports(TLS + '[tls.clients]\nca = "x"') == ("x", "cert.pem", "optional")
    assert ports(TLS + '[tls.clients]\ncertificates = "required"') == ("ca.pem", "cert.pem", "required")
    own = '[tls.clients]\ncert = "c"\nkey = "k"\n'
    assert ports(own) == ("None", "c", "none")
    assert ports(TLS + own) == ("ca.pem", "c", "none")
    assert ports(own + 'ca = "x"\n') == ("x", "c", "optional")


def test_the_events_port_leaves_loopback_only_for_clients_that_are_known(tmp_path: Path) -> None:
    listen = '[listen]\nevents = "0.0.0.0:7222"\n'
    asked = TLS + '[tls.clients]\ncertificates = "{}"\n' + listen
    assert config(tmp_path, asked.format("required")).tls_clients is not None
    for certificates in ("none", "optional"):
        (tmp_path / "mesh.toml").write_text(asked.format(certificates))
        _, problems = check(tmp_path / "mesh.toml", environ={})
        assert [problem.code for problem in problems] == ["MESH-C017"]


@pytest.mark.parametrize("certificates", ["none", "optional"])
def test_inside_tls_both_ports_may_leave_loopback_where_auth_asks_who_is_there(
    tmp_path: Path, certificates: str
) -> None:
    asked = AUTH + TLS + f'[tls.clients]\ncertificates = "{certificates}"\n'
    found = config(tmp_path, asked + '[listen]\nevents = "0.0.0.0:1"\nadmin = "0.0.0.0:2"\n')
    assert found.access is not None
    assert not found.warnings()
    without = asked.removeprefix(AUTH).replace("none", "required").replace("optional", "required")
    assert problem(tmp_path, without + '[listen]\nadmin = "0.0.0.0:2"\n').code == "MESH-C018"


def test_names_in_certificates_need_ports_that_ask_for_them(tmp_path: Path) -> None:
    names = '[auth]\nacl = "mesh.acl"\ncertificates = true\n'
    assert problem(tmp_path, names).code == "MESH-C054"
    assert problem(tmp_path, names + TLS + '[tls.clients]\ncertificates = "none"\n').code == "MESH-C054"
    found = config(tmp_path, names + TLS + '[tls.clients]\ncertificates = "optional"\n').access
    assert found is not None
    assert found.certificates


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ('[tls]\nca = "a"\ncert = "b"', "tls.ca", "tls.key is missing"),
        ('[tls]\nkey = "a"', "tls.key", "tls.ca is missing"),
        (TLS + '[tls.clients]\ncert = "b"', "tls.clients.cert", "tls.clients.key is missing"),
        (
            '[tls.clients]\ncertificates = "none"',
            "tls.clients.certificates",
            "neither [tls.clients] nor [tls]",
        ),
        ('[tls.clients]\nca = "a"', "tls.clients.ca", "neither [tls.clients] nor [tls]"),
        ('[tls.clients]\ncert = "a"\nkey = "b"\ncertificates = "required"', "tls.clients.", "no CA for them"),
    ],
)
def test_half_a_table_of_tls_stops_the_start(tmp_path: Path, text: str, where: str, says: str) -> None:
    (tmp_path / "mesh.toml").write_text(text)
    _, problems = check(tmp_path / "mesh.toml", environ={})
    assert [problem.code for problem in problems] == ["MESH-C043"]
    assert where in problems[0].where
    assert says in problems[0].what
