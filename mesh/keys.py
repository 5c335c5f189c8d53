"""Every configuration key: its form, its default, what it is for, and whether its part is built yet.

Decides how one value is read from TOML or from the text of a flag or environment variable, and how it is written back.
The table is the only list: the reader, `mesh config show`, the nearest-spelling hints and docs/operating.md come from it.
Never decides which source wins, nor what several keys mean together: `mesh.config` does.
Source: design page "What a person sees", section Configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from mesh.model.ids import BadName, check_name
from mesh.model.limits import Limits
from mesh.model.quantity import Address, format_duration, format_size, parse_duration, parse_size
from mesh.model.topic import TopicError, check_filter


class BadValue(ValueError):
    """A value that a form does not accept. code: the row of the error table."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of some keys are written.

    says: the form for a person. read: the value of a TOML value; raises BadValue. write: the TOML literal of a value.
    from_text: the TOML value of a flag's or environment variable's text; raises BadValue.
    """

    says: str
    read: Callable[[Any], Any]
    write: Callable[[Any], str]
    from_text: Callable[[str], Any] = str


@dataclass(frozen=True, slots=True)
class Key:
    """One key. name: dotted, as in `config show`, list tables without their index. default: as read. built: False means
    that any other value than the default stops the start."""

    name: str
    form: Form
    default: Any
    about: str
    built: bool = True
    needed: bool = False

    @property
    def table(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    def default_text(self) -> str:
        """The default as TOML, or "-" where there is none."""
        return "-" if self.default is None else self.form.write(self.default)


# -- forms --------------------------------------------------------------------------------------------------------


def _typed(value: Any, kind: type | tuple[type, ...], says: str) -> Any:
    """`value` if it is of the TOML type; a bool is no number here."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        shown = json.dumps(value, default=str)
        raise BadValue("MESH-C002", f"{shown} is not {says}")
    return value


def _text(says: str, check: Callable[[str], Any] | None = None) -> Form:
    def read(value: Any) -> Any:
        text = _typed(value, str, says)
        return check(text) if check else text

    return Form(says, read, lambda value: json.dumps(str(value), ensure_ascii=False))


def _name(text: str) -> str:
    try:
        return check_name(text, "its")
    except BadName:
        raise BadValue("MESH-C007", f"{text!r} is not a name") from None


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise BadValue("MESH-C002", f"{text!r} is not a path")
    return Path(text).expanduser()


def _listen(text: str) -> Address | None:
    return None if text.lower() == "none" else _address(text, 0)


def _address(text: str, lowest_port: int) -> Address:
    try:
        return Address.parse(text, lowest_port=lowest_port)
    except ValueError as error:
        raise BadValue("MESH-C005", str(error)) from None


def _endpoint(text: str) -> str:
    """A server's URL, without a path; the port is said, because it differs from kind to kind."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("http", "https"):
        raise BadValue("MESH-C005", f'{text!r} is not "http://HOST:PORT" or "https://HOST:PORT"')
    return f"{scheme}://{_address(rest.removesuffix('/'), 1)}"


def choice(*allowed: str) -> Form:
    """One of a few words."""
    says = "one of " + ", ".join(f'"{word}"' for word in allowed)

    def check(text: str) -> str:
        if text not in allowed:
            raise BadValue("MESH-C006", f"{text!r} is not {says}")
        return text

    return _text(says, check)


def _number_text(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise BadValue("MESH-C002", f"{text!r} is not a number") from None


def integer(low: int, high: int, *, says: str = "") -> Form:
    """A whole number inside bounds, both included."""
    says = says or f"a whole number from {low} to {high}"

    def read(value: Any) -> int:
        number: int = _typed(value, int, says)
        if not low <= number <= high:
            raise BadValue("MESH-C006", f"{number} is not {says}")
        return number

    return Form(says, read, str, _number_text)


def _positive(value: Any) -> float:
    number = float(_typed(value, (int, float), "a number above 0"))
    if not 0 < number < 1e12:
        raise BadValue("MESH-C006", f"{value} is not a number above 0")
    return number


def _duration(value: Any) -> float:
    try:
        seconds = parse_duration(_typed(value, str, 'a duration such as "5s"'))
    except BadValue:
        raise
    except ValueError as error:
        raise BadValue("MESH-C003", str(error)) from None
    if not 0.001 <= seconds <= 31_536_000:
        raise BadValue("MESH-C006", f"{value!r} is not between 1ms and 365d")
    return seconds


def _size(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = parse_size(value)
        except ValueError as error:
            raise BadValue("MESH-C004", str(error)) from None
    size: int = _typed(value, int, 'a size such as "64KiB"')
    if not 1 <= size <= 1 << 40:
        raise BadValue("MESH-C006", f"{size} is not between 1B and 1024GiB")
    return size


def _list_of(says: str, read_one: Callable[[str], Any]) -> Form:
    def read(value: Any) -> tuple[Any, ...]:
        return tuple(read_one(_typed(one, str, says)) for one in _typed(value, list, says))

    def write(values: Sequence[Any]) -> str:
        return "[" + ", ".join(json.dumps(str(one), ensure_ascii=False) for one in values) + "]"

    return Form(
        says, read, write, lambda text: [part.strip() for part in text.split(",")] if text.strip() else []
    )


def _place(value: Any) -> tuple[float, float]:
    says = "[latitude, longitude] in degrees"
    pair = _typed(value, list, says)
    if len(pair) != 2:
        raise BadValue("MESH-C002", f"{pair} is not {says}")
    latitude, longitude = (float(_typed(part, (int, float), says)) for part in pair)
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise BadValue("MESH-C006", f"{pair} is not {says}: latitude -90 to 90, longitude -180 to 180")
    return latitude, longitude


def _labels(value: Any) -> dict[str, str]:
    says = "a table of strings"
    table = _typed(value, dict, says)
    if len(table) > 64:
        raise BadValue("MESH-C006", f"{len(table)} labels are more than 64")
    return {name: _typed(text, str, says) for name, text in table.items()}


def _labels_text(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise BadValue("MESH-C002", f"{text!r} is not NAME=VALUE,NAME=VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _write_labels(labels: dict[str, str]) -> str:
    pairs = (f"{json.dumps(name)} = {json.dumps(text, ensure_ascii=False)}" for name, text in labels.items())
    return "{ " + ", ".join(pairs) + " }" if labels else "{}"


def _boolean_text(text: str) -> bool:
    if text not in ("true", "false"):
        raise BadValue("MESH-C002", f"{text!r} is not true or false")
    return text == "true"


def _size_or_count_text(text: str) -> Any:
    return int(text) if text.isascii() and text.isdigit() else text


def _filter(text: str) -> str:
    try:
        return check_filter(text)
    except TopicError as error:
        raise BadValue("MESH-C006", str(error)) from None


NAME: Final = _text("a name", _name)
PATH: Final = _text("a path", _path)
STRING: Final = _text("a string")
FILTER: Final = _text("a topic filter", _filter)
LISTEN: Final = Form(
    '"HOST:PORT" or "none"',
    lambda value: _listen(_typed(value, str, '"HOST:PORT" or "none"')),
    lambda value: '"none"' if value is None else json.dumps(str(value)),
)
SEEDS: Final = _list_of('a list of "HOST:PORT"', lambda text: _address(text, 1))
ENDPOINTS: Final = _list_of('a list of "http://HOST:PORT" or "https://..."', _endpoint)
STRINGS: Final = _list_of("a list of strings", str)
DURATION: Final = Form('a duration such as "5s"', _duration, lambda value: f'"{format_duration(value)}"')
SIZE: Final = Form(
    'a size such as "64KiB"', _size, lambda value: f'"{format_size(value)}"', _size_or_count_text
)
BOOLEAN: Final = Form(
    "true or false",
    lambda value: _typed(value, bool, "true or false"),
    lambda value: "true" if value else "false",
    _boolean_text,
)
RATE: Final = Form(
    'a size such as "64KiB", of each second',
    lambda value: float(_size(value)),
    lambda value: f'"{format_size(int(value))}"',
    _size_or_count_text,
)
COUNT: Final = integer(1, 10**9, says="a whole number above 0")
NUMBER: Final = Form("a number above 0", _positive, lambda value: f"{value:g}", _number_text)
PLACE: Final = Form(
    "[latitude, longitude]",
    _place,
    lambda value: f"[{value[0]:g}, {value[1]:g}]",
    lambda text: [_number_text(part) for part in text.split(",")],
)
LABELS: Final = Form("a table of strings", _labels, _write_labels, _labels_text)


# -- the table ----------------------------------------------------------------------------------------------------


def _limit_key(name: str, default: float) -> Key:
    """A limit's key is its field in `Limits`; the unit in its name tells the form."""
    if name.endswith("_bytes_per_s"):
        form = RATE
    elif name.endswith("_s") and not name.endswith("_per_s"):
        form = DURATION
    elif name.endswith("_bytes"):
        form = SIZE
    elif isinstance(default, int):
        form = COUNT
    else:
        form = NUMBER
    return Key(f"limits.{name}", form, default, "")


def _later(table: str, *names: str) -> tuple[Key, ...]:
    return tuple(Key(f"{table}.{name}", STRING, None, "not built yet", built=False) for name in names)


def _backend(table: str, kind: Key) -> tuple[Key, ...]:
    """The keys that say which registry and how to reach it; `mesh.backends` says which belong to which kind."""
    return (
        kind,
        Key(f"{table}.path", PATH, None, "kind file: the shared folder"),
        Key(f"{table}.endpoints", ENDPOINTS, (), "kinds etcd and nacos: servers, tried in turn"),
        Key(f"{table}.prefix", STRING, "/hopmesh", "kind etcd: where its keys begin; meshes of one etcd differ in it"),
        Key(f"{table}.namespace", STRING, "", "kinds nacos: the namespace's id; empty: public"),
        Key(f"{table}.group", STRING, "HOPMESH", "kinds nacos: the group; meshes of one namespace differ in it"),
        Key(f"{table}.user", STRING, "", "kinds etcd and nacos: the user; empty: without login"),
        Key(f"{table}.password_file", PATH, None, "the file with its password, one line"),
        Key(f"{table}.ca", PATH, None, "PEM file with the authorities that servers' certificates come from; default: the system's"),
        Key(f"{table}.cert", PATH, None, "PEM file with the node's certificate, where servers ask for one"),
        Key(f"{table}.key", PATH, None, "PEM file with its private key"),
    )  # fmt: skip


KEYS: Final[tuple[Key, ...]] = (
    Key("node.id", NAME, None, "the node's name in its region; default: host name and four hex digits, kept in the data folder"),
    Key("node.region", NAME, "local", "the region it belongs to"),
    Key("node.data", PATH, None, "its folder; default: hopmesh in the user's state folder (XDG_STATE_HOME)"),
    Key("node.location", PLACE, None, "where it is, in degrees; shown with the node"),
    Key("node.labels", LABELS, {}, "free labels, shown with the node"),
    Key("listen.events", LISTEN, Address("127.0.0.1", 7222), "HTTP and WebSocket for clients"),
    Key("listen.link", LISTEN, Address("127.0.0.1", 7946), "links from other nodes; none: this node only dials out"),
    Key("listen.admin", LISTEN, Address("127.0.0.1", 8222), "admin API, metrics and health; loopback only in this release"),
    *(Key(f"listen.{name}", LISTEN, None, "not built yet", built=False) for name in ("mqtt", "grpc", "tcp")),
    *_backend("registry", Key("registry.kind", choice("none", "file", "etcd", "nacos", "nacos-v1"), "none", "where nodes find each other")),
    Key("registry.lease", DURATION, 10.0, "how long an entry lives that is not renewed"),
    Key("registry.seeds", SEEDS, (), "link addresses of nodes of the own region, tried whatever the kind"),
    *_backend("registry.directory", Key("registry.directory.kind", choice("none", "file", "etcd", "nacos", "nacos-v1"), None, "where regions find each other, if that is elsewhere; default: in [registry]")),
    Key("registry.directory.lease", DURATION, None, "not for a directory: its entries have no lease"),
    Key("registry.directory.seeds", SEEDS, (), "not for a directory: other regions' seeds are in [[bridge]]"),
    Key("federation.accept", choice("any", "listed"), None, 'which regions may dial in; default "any" while listen.link is on loopback, else "listed"'),
    Key("federation.hop_limit", integer(1, 255), 16, "bridge links an event may cross"),
    Key("federation.export_merge_budget", integer(1, 1_000_000), 4_096, "filters a region exports before it merges them"),
    Key("membership.probe_interval", DURATION, 1.0, "one member is probed in each"),
    Key("membership.probe_timeout", DURATION, 0.5, "then others are asked to probe it"),
    Key("membership.suspicion_mult", NUMBER, 2.0, "shortest suspicion: this many times log10(members), at least one, probe intervals"),
    Key("bridge.to", NAME, None, "the region expected there; another one answering is refused", needed=True),
    Key("bridge.seeds", SEEDS, (), "its nodes' link addresses; none: only accept"),
    Key("bridge.links", integer(1, 16), 2, "at most so many links, to addresses learned from the registry"),
    Key("bridge.role", choice("transit", "peer", "stub", "dmz"), "transit", "what that region is to this one; dmz: nothing crosses but what a rule of [policy] allows"),
    Key("bridge.transport", choice("tcp", "ws"), "tcp", "ws where only HTTP passes"),
    Key("bridge.cost", integer(0, 1_000_000), 0, "added to the metric"),
    *_later("bridge", "proxy", "rules"),
    Key("bridge.export", STRINGS, ("#",), "not built yet", built=False),
    Key("bridge.import", STRINGS, ("#",), "not built yet", built=False),
    Key("bridge.deny", STRINGS, (), "not built yet", built=False),
    Key("policy.file", PATH, None, "what may cross to other regions, one rule a line; default: everything, and on role dmz nothing"),
    Key("topic.filter", FILTER, None, "the topics that the rule is for; a topic follows the first rule that matches it", needed=True),
    Key("topic.level", choice("at-most-once", "at-least-once"), "at-most-once", "how hard the mesh tries, unless the publisher says it"),
    Key("topic.ordered", BOOLEAN, False, "at-least-once only: events of a key are delivered in the order in which they were published, whatever way they took"),
    Key("topic.deadline", DURATION, None, "how long an event may be under way, unless the publisher says it; default: no deadline"),
    Key("topic.copies", integer(1, 2), 1, "at-least-once only: 2: a second node of the region has an event on its disk, too, before it is acknowledged"),
    Key("topic.spool", SIZE, None, "at-least-once only: what may wait here of events published here; default: what the journal holds"),
    Key("topic.spool_policy", choice("block", "drop-oldest", "dead-letter"), "block", "when more would wait: refuse the new (503), drop the oldest, or make dead letters of them"),
    Key("topic.retain", DURATION, None, "keep events so long in this node's event log, for replays (from=); default: not at all"),
    Key("tls.ca", PATH, None, "links inside TLS: PEM file with the CA that all nodes' certificates come from"),
    Key("tls.cert", PATH, None, "PEM file with this node's certificate, which names its region and id ('mesh ca issue')"),
    Key("tls.key", PATH, None, "PEM file with its private key"),
    Key("tls.clients.ca", PATH, None, "events and admin ports inside TLS: PEM file with the CA of clients' certificates; default: that of [tls]"),
    Key("tls.clients.cert", PATH, None, "PEM file with the certificate these ports show; default: that of [tls]"),
    Key("tls.clients.key", PATH, None, "PEM file with its private key"),
    Key("tls.clients.certificates", choice("none", "optional", "required"), None, 'whether clients show certificates; default: "optional" where [tls.clients] has a ca, else "none"'),
    Key("auth.tokens_file", PATH, None, "who is there: a file of names and hashes of tokens ('mesh token new' prints a line)"),
    Key("auth.jwks", STRING, None, "the same by JWTs: the issuer's public keys, a path or an https:// URL"),
    Key("auth.issuer", STRING, None, "with jwks: the issuer (iss) that tokens must name"),
    Key("auth.audience", STRING, None, "with jwks: the audience (aud) that tokens must name"),
    Key("auth.name_claim", STRING, "sub", "with jwks: the claim that is the principal's name; one inside others is A.B"),
    Key("auth.roles_claim", STRING, "roles", "with jwks: the claim with its roles"),
    Key("auth.leeway", DURATION, 30.0, "with jwks: how far clocks may differ"),
    Key("auth.jwks_refresh", DURATION, 300.0, "how often a jwks URL is asked for new keys"),
    Key("auth.certificates", BOOLEAN, False, "take the names in clients' TLS certificates, where the ports speak TLS and ask for them"),
    Key("auth.token_in_query", BOOLEAN, False, "take ?access_token= of GET requests, for pages with EventSource; URLs are logged in many places"),
    Key("auth.acl", PATH, None, "the access file: who may do what, a rule a line (docs/access.md)"),
    Key("audit.file", PATH, None, "where the audit stream is written; default: audit.jsonl in the data folder where [auth] is set, else nowhere"),
    Key("audit.size", SIZE, 16 << 20, "a file of it is not written beyond this"),
    Key("audit.files", integer(1, 1_000), 8, "files of it that are kept, the newest included"),
    *(_limit_key(each.name, getattr(Limits(), each.name)) for each in fields(Limits) if each.name != "hop_limit"),
    Key("telemetry.log_level", choice("debug", "info", "warning", "error"), "info", "least severe log line that is written"),
    Key("telemetry.log_format", choice("text", "json"), "text", "form of the log on standard error"),
    *_later("telemetry", "otlp", "sample"),
)  # fmt: skip

BY_NAME: Final[dict[str, Key]] = {key.name: key for key in KEYS}
LISTS: Final = frozenset({"bridge", "topic"})
"""Tables written [[...]]: any number of them."""
TABLES: Final = frozenset(key.table for key in KEYS)
