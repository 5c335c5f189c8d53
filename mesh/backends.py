"""Which registry a node uses and how it is reached: the same keys for nodes (`[registry]`) and for the regions' directory.

Decides which keys belong to which kind, and what can be known to be wrong without a server: a key of another kind, a missing
one, half a login, half a certificate, TLS files for plain endpoints, files that cannot be used. Never opens a connection.
Invariant: a `Backend` without problems can be handed to its kind.
Source: design page "What a person sees", section Configuration.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from mesh.model.errors import MeshError
from mesh.model.quantity import Address

_SERVICE: Final = ("endpoints", "user", "password_file", "ca", "cert", "key")
Kind: TypeAlias = Literal["none", "file", "etcd", "nacos", "nacos-v1"]
BELONGS: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "file": ("path",),
    "etcd": ("prefix", *_SERVICE),
    "nacos": ("namespace", "group", *_SERVICE),
    "nacos-v1": ("namespace", "group", "endpoints", "user", "password_file"),
}
"""Keys of each kind."""
NEEDED: Final[dict[str, str]] = {
    "file": "path",
    "etcd": "endpoints",
    "nacos": "endpoints",
    "nacos-v1": "endpoints",
}
_FORMS: Final[dict[str, tuple[tuple[str, re.Pattern[str], str], ...]]] = {
    "etcd": (
        (
            "prefix",
            re.compile(r"/(?!.*/\Z)[^\s\x00-\x1f]{1,200}"),
            'one that begins with "/" and ends without it',
        ),
    ),
    "nacos": (
        ("namespace", re.compile(r"[\w-]{0,64}", re.ASCII), "its id, as the console shows it"),
        ("group", re.compile(r"[A-Za-z0-9_:.-]{1,128}"), "1 to 128 letters, digits, '-', '_', ':' or '.'"),
    ),
}
"""What a kind takes, as far as it can be told without a server."""
PASSWORD_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Backend:
    """How one registry is reached. Keys that do not belong to the kind have their defaults."""

    kind: Kind
    path: Path | None = None
    endpoints: tuple[str, ...] = ()
    prefix: str = "/hopmesh"
    namespace: str = ""
    group: str = "HOPMESH"
    user: str = ""
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def is_secure(self) -> bool:
        """Whether servers are reached by TLS."""
        return any(endpoint.startswith("https://") for endpoint in self.endpoints)

    @property
    def files(self) -> tuple[tuple[str, Path], ...]:
        """The files it names, whose content may change while their names stay."""
        named = (
            ("password_file", self.password_file),
            ("ca", self.ca),
            ("cert", self.cert),
            ("key", self.key),
        )
        return tuple((name, path) for name, path in named if path is not None)


def backend_problems(
    table: str, backend: Backend, given: Collection[str], where: Callable[[str], str]
) -> Iterator[MeshError]:
    """What contradicts itself. Args: table: "registry" or "registry.directory". given: full names of the keys that were set."""
    for name in _all_keys():
        if f"{table}.{name}" in given and name not in BELONGS[backend.kind]:
            kinds = " or ".join(kind for kind, names in BELONGS.items() if name in names)
            yield MeshError(
                "MESH-C020",
                where(f"{table}.{name}"),
                f'it is set, but {table}.kind is "{backend.kind}"',
                f"Remove it, or set kind to {kinds}: it belongs there.",
            )
    needed = NEEDED.get(backend.kind, "")
    if needed and not getattr(backend, needed):
        yield MeshError("MESH-C011", f"{table}.{needed}", f"kind is {backend.kind}, so it is needed")
    if "endpoints" not in BELONGS[backend.kind]:
        return
    for one, other in (
        ("user", "password_file"),
        ("password_file", "user"),
        ("cert", "key"),
        ("key", "cert"),
    ):
        if getattr(backend, one) and not getattr(backend, other):
            yield MeshError(
                "MESH-C011", where(f"{table}.{one}"), f"{table}.{other} is missing", f"Add {other}."
            )
    if backend.kind == "nacos-v1" and backend.is_secure:
        yield MeshError(
            "MESH-C020", where(f"{table}.endpoints"), "kind nacos-v1 knows no https", "Use kind nacos."
        )
    plain = [endpoint for endpoint in backend.endpoints if endpoint.startswith("http://")]
    if backend.is_secure and plain:
        yield MeshError(
            "MESH-C020",
            where(f"{table}.endpoints"),
            f"{plain[0]} is plain and others are https",
            "Use one of them for all.",
        )
    if backend.endpoints and not backend.is_secure:
        for name in ("ca", "cert", "key"):
            if getattr(backend, name) is not None:
                what = f"it is for https, and {backend.endpoints[0]} is plain"
                yield MeshError(
                    "MESH-C020", where(f"{table}.{name}"), what, "Write https:// in endpoints, or remove it."
                )
    for name, form, says in _FORMS.get(backend.kind.removesuffix("-v1"), ()):
        text = getattr(backend, name)
        if form.fullmatch(text) is None:
            yield MeshError(
                "MESH-C006", where(f"{table}.{name}"), f"{text[:80]!r} is no {name}", f"Write {says}."
            )


def backend_warnings(table: str, backend: Backend) -> Iterator[str]:
    """What is possible and not good."""
    if backend.user and not backend.is_secure:
        open_to = [e for e in backend.endpoints if not Address.parse(e.partition("://")[2]).is_loopback]
        if open_to:
            yield f"the password of {table}.user crosses the network to {open_to[0]} in clear text"


def file_problems(table: str, backend: Backend, where: Callable[[str], str]) -> Iterator[MeshError]:
    """Files that are not there, cannot be read or hold something else. Reads them; never tells what a secret says."""
    bad = False
    for name, path in backend.files:
        try:
            content = path.read_bytes()
        except OSError as error:
            bad = True
            yield _file_error(f"{where(f'{table}.{name}')}", f"{path}: {error.strerror or error}")
            continue
        if name == "password_file" and (not content.strip() or len(content) > PASSWORD_BYTES):
            bad = True
            size = "it is empty" if not content.strip() else f"it is larger than {PASSWORD_BYTES} bytes"
            yield _file_error(where(f"{table}.{name}"), f"{path}: {size}")
    if bad:
        return
    try:
        if backend.ca is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(backend.ca)
    except ssl.SSLError as error:
        yield _file_error(where(f"{table}.ca"), f"{backend.ca}: no PEM certificates ({_reason(error)})")
    try:
        if backend.cert is not None and backend.key is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
                backend.cert, backend.key, password=_no_password
            )
    except (ssl.SSLError, ValueError) as error:
        yield _file_error(where(f"{table}.cert"), f"{backend.cert} and {backend.key}: {_reason(error)}")


def read_password(backend: Backend) -> str:
    """The password, without the line's end. Raises: MeshError MESH-C026."""
    if backend.password_file is None:
        return ""
    try:
        return backend.password_file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _file_error("registry.password_file", f"{backend.password_file}: {_reason(error)}") from None


def _all_keys() -> list[str]:
    return sorted({name for names in BELONGS.values() for name in names})


def _file_error(where: str, what: str) -> MeshError:
    return MeshError("MESH-C026", where, what)


def _reason(error: Exception) -> str:
    return (getattr(error, "reason", None) or str(error) or "unreadable").replace("_", " ").lower()


def _no_password() -> str:
    raise ValueError("the key is encrypted: a node cannot ask for its password")
