"""One standalone Nacos server of the 2.x or the 3.x line, with authentication on.

Options fixed at construction are kept in the folder (`server.json`), so that `Nacos.open` gives the same server in another
process. Clients of the gRPC protocol derive their port from `port` (+1000), as Nacos's own do.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import urllib.parse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from services.servers.cache import cached
from services.servers.nacos_jars import JAVA_PACKAGE, NACOS2, NACOS3, Line, class_path
from services.servers.packages import program
from services.servers.ports import HOST, free_block, free_port
from services.servers.process import PortTaken, ServerFailed, ServerProcess
from services.servers.web import Refused, fetch

# Idle it takes 10 to 17 s; on a machine that builds at the same time, a minute has been seen.
READY_S = 180.0
CALL_S = 10.0
PORT_TRIES = 5
# HTTP; gRPC for clients; gRPC between servers; Raft.
PORT_OFFSETS = (0, 1000, 1001, -1000)
USER = "nacos"
ARCHIVE = "classes.jsa"


@dataclass(frozen=True, slots=True)
class NacosOptions:
    """How a server differs from the plain one.

    Attributes:
        password: of the user `nacos`.
        token_ttl_s: life of a login's token, seconds.
        console: 3.x only: also the console, on a port of its own.
        properties: further lines of application.properties.
    """

    password: str = "nacos"
    token_ttl_s: int = 18000
    console: bool = False
    properties: tuple[str, ...] = ()


class Nacos:
    """A server in `folder`. Not started by construction."""

    line: ClassVar[Line]
    ready_path: ClassVar[str]
    # Set for the server that makes the archive of classes.
    archive_to: Path | None = None

    def __init__(self, folder: Path, options: NacosOptions | None = None) -> None:
        self.folder = folder.absolute()
        self.options = options or NacosOptions()
        self.process = ServerProcess(self.folder, self.kind)
        self.choose_ports_again = True
        self.port = self.console_port = 0
        self._choose_ports()
        self._keep()

    @classmethod
    def open(cls, folder: Path) -> Nacos:
        """The server that was made in this folder, perhaps by another process."""
        kept = json.loads((folder / "server.json").read_text())
        line = next(each for each in (Nacos2, Nacos3) if each.line.name == kept["kind"])
        server = line.__new__(line)
        server.folder = folder.absolute()
        server.options = NacosOptions(
            **{**kept["options"], "properties": tuple(kept["options"]["properties"])}
        )
        server.port, server.console_port = kept["port"], kept["console_port"]
        server.choose_ports_again = kept["choose_ports_again"]
        server.process = ServerProcess(server.folder, server.kind)
        return server

    def _choose_ports(self) -> None:
        self.port = free_block(PORT_OFFSETS)
        self.console_port = free_port()

    def _keep(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("kind", "port", "console_port", "choose_ports_again")
        kept = {name: getattr(self, name) for name in names}
        text = json.dumps({**kept, "options": asdict(self.options)}, indent=1)
        (self.folder / "server.json").write_text(text)

    # Where it is

    @property
    def kind(self) -> str:
        return self.line.name

    @property
    def address(self) -> str:
        """host:port as Nacos's users write it (HTTP); gRPC is 1000 above."""
        return f"{HOST}:{self.port}"

    @property
    def addresses(self) -> list[str]:
        return [self.address]

    @property
    def grpc_port(self) -> int:
        return self.port + 1000

    @property
    def user(self) -> str:
        return USER

    @property
    def password(self) -> str:
        return self.options.password

    # Its life

    def start(self) -> None:
        """Start it and wait until it answers and the user can log in; nothing when it runs.

        Raises:
            ServerFailed: with the log's last lines.
        """
        for attempt in range(PORT_TRIES):
            try:
                self._start_once()
                return
            except PortTaken:
                # Ports once served on are never exchanged: clients look there.
                if not self.choose_ports_again or attempt == PORT_TRIES - 1:
                    raise
                self._choose_ports()

    def _start_once(self) -> None:
        if self.process.pid() is None:
            self._configure()
            self._keep()
            environment = {
                k: v for k, v in os.environ.items() if not k.startswith(("JAVA_TOOL", "NACOS", "SPRING"))
            }
            self.process.start(self._command(), environment)
        self.process.wait_ready(self.ready, READY_S)
        self.process.wait_ready(self._has_user, READY_S)
        self.choose_ports_again = False
        self._keep()

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: hangs, with its connections open."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def restart(self) -> None:
        """Stop and start again on the same ports with the same data."""
        self.stop()
        self.start()

    def wipe(self) -> None:
        """kill -9 and come back on the same ports, empty (the user is made again)."""
        self.kill()
        shutil.rmtree(self.folder / "home", ignore_errors=True)
        self.start()

    def running(self) -> bool:
        return self.process.pid() is not None

    def rss_bytes(self) -> int:
        return self.process.rss_bytes()

    # Talking to it

    def ready(self) -> bool:
        """Whether it says that it is ready, and takes connections of clients."""
        try:
            fetch("GET", self.address, self.ready_path, within_s=CALL_S)
            with socket.create_connection((HOST, self.grpc_port), timeout=CALL_S):
                return True
        except OSError:
            return False

    def login(self, user: str = "", password: str = "") -> str:
        """The token of a login.

        Raises:
            OSError: not reached, or refused (then `web.Refused`, with status 403 or 500).
        """
        form = {"username": user or self.user, "password": password or self.password}
        token = json.loads(self.call("POST", "/nacos/v1/auth/login", form, token=""))["accessToken"]
        return str(token)

    def call(self, method: str, path: str, form: dict[str, str], token: str | None = None) -> str:
        """The answer's text. `form` goes into the address for GET and DELETE, else into the body; logs in when token is None.

        Raises:
            OSError: not reached, or refused (then `web.Refused`).
        """
        headers = {}
        if token is None:
            token = self.login()
        if token:
            headers["accessToken"] = token
        fields = urllib.parse.urlencode(form)
        in_address = method in ("GET", "DELETE")
        if in_address:
            return fetch(method, self.address, f"{path}?{fields}", headers=headers, within_s=CALL_S)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return fetch(method, self.address, path, body=fields.encode(), headers=headers, within_s=CALL_S)

    def instances(
        self, service: str, namespace: str = "public", group: str = "DEFAULT_GROUP"
    ) -> list[dict[str, Any]]:
        """What it says about a service's instances, by its own HTTP interface."""
        raise NotImplementedError

    def _make_user(self) -> None:
        """Give `nacos` the password of the options."""
        raise NotImplementedError

    def _has_user(self) -> bool:
        try:
            self.login()
        except OSError:
            try:
                self._make_user()
                self.login()
            except OSError:
                return False
        return True

    def _specific_properties(self) -> list[str]:
        raise NotImplementedError

    def _specific_arguments(self) -> list[str]:
        return []

    def _configure(self) -> None:
        home = self.folder / "home"
        for name in ("conf", "tmp", "logs"):
            (home / name).mkdir(parents=True, exist_ok=True)
        secret = base64.b64encode(b"of a test's server, thrown away with its folder").decode()
        auth = "nacos.core.auth"
        lines = [
            *self._specific_properties(),
            f"server.address={HOST}",
            f"server.tomcat.basedir=file:{home}",
            f"nacos.inetutils.ip-address={HOST}",
            f"{auth}.system.type=nacos",
            f"{auth}.enabled=true",
            f"{auth}.caching.enabled=false",
            f"{auth}.server.identity.key=hopmesh",
            f"{auth}.server.identity.value=test",
            f"{auth}.plugin.nacos.token.secret.key={secret}",
            f"{auth}.plugin.nacos.token.expire.seconds={self.options.token_ttl_s}",
            *self.options.properties,
        ]
        (home / "conf" / "application.properties").write_text("\n".join(lines) + "\n")

    def _class_archive(self) -> Path:
        """Java's archive of the classes that this line loads: with it a start takes half the time. Made once, by a start.

        The server that makes it lives in this one's folder, so that whoever takes this one down finds it.
        """
        java = Path(program("java", JAVA_PACKAGE)).resolve()
        key = f"{java} {java.stat().st_mtime_ns} {class_path(self.line)}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]

        def make(folder: Path) -> None:
            trainer = type(self)(self.folder / "trainer")
            trainer.archive_to = folder / ARCHIVE
            try:
                trainer.start()
            finally:
                # The archive is written at the end.
                trainer.process.stop(READY_S)
                shutil.rmtree(trainer.folder, ignore_errors=True)

        return cached(f"{self.kind}-{self.line.version}-classes-{digest}", make) / ARCHIVE

    def _archive_arguments(self) -> list[str]:
        if self.archive_to is not None:
            return [f"-XX:ArchiveClassesAtExit={self.archive_to}"]
        archive = self._class_archive()
        # A Java that writes none starts without.
        return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto"] if archive.exists() else []

    def _command(self) -> list[str]:
        home = self.folder / "home"
        return [
            program("java", JAVA_PACKAGE),
            *self._archive_arguments(),
            *("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
            "-Dnacos.standalone=true",
            f"-Dnacos.server.ip={HOST}",
            f"-Dnacos.home={home}",
            f"-Dnacos.logs.path={home / 'logs'}",
            # What Nacos and its libraries would leave in the user's own folders.
            f"-Duser.home={home}",
            f"-Djava.io.tmpdir={home / 'tmp'}",
            *self._specific_arguments(),
            *("-cp", class_path(self.line), "NacosLauncher"),
            # Exactly this form: with any other it starts on its default port or ends.
            f"--spring.config.additional-location=file:{home}/conf/",
        ]


class Nacos2(Nacos):
    """Nacos 2.3.1."""

    line = NACOS2
    ready_path = "/nacos/v1/ns/operator/metrics"

    def instances(
        self, service: str, namespace: str = "public", group: str = "DEFAULT_GROUP"
    ) -> list[dict[str, Any]]:
        form = {"serviceName": service, "namespaceId": namespace, "groupName": group}
        hosts: list[dict[str, Any]] = json.loads(self.call("GET", "/nacos/v1/ns/instance/list", form))[
            "hosts"
        ]
        return hosts

    def _make_user(self) -> None:
        # It comes with nacos/nacos.
        token = self.login(USER, "nacos")
        self.call("PUT", "/nacos/v1/auth/users", {"username": USER, "newPassword": self.password}, token)

    def _specific_properties(self) -> list[str]:
        return [f"server.port={self.port}", "server.servlet.contextPath=/nacos"]


class Nacos3(Nacos):
    """Nacos 3.1.0."""

    line = NACOS3
    ready_path = "/nacos/v3/admin/core/state/readiness"

    @property
    def console_address(self) -> str:
        """host:port of the console, when the options ask for it."""
        if not self.options.console:
            raise ServerFailed("this server was made without a console")
        return f"{HOST}:{self.console_port}"

    def instances(
        self, service: str, namespace: str = "public", group: str = "DEFAULT_GROUP"
    ) -> list[dict[str, Any]]:
        form = {"serviceName": service, "namespaceId": namespace, "groupName": group}
        try:
            answer = json.loads(self.call("GET", "/nacos/v3/admin/ns/instance/list", form))
        except Refused as refused:
            # Its answer for a service without instances, and for some tenths of a second after the first one came.
            if refused.status == 404 and "is not found" in refused.text:
                return []
            raise
        found: list[dict[str, Any]] = answer["data"]
        return found

    def _make_user(self) -> None:
        self.call("POST", "/nacos/v3/auth/user/admin", {"password": self.password}, token="")

    def _specific_properties(self) -> list[str]:
        return [
            f"nacos.server.main.port={self.port}",
            "nacos.server.contextPath=/nacos",
            f"nacos.console.port={self.console_port}",
            "nacos.core.auth.admin.enabled=true",
            "nacos.core.auth.console.enabled=true",
            # Without it the makers' own SDKs cannot log in.
            "nacos.core.api.compatibility.client.enabled=true",
        ]

    def _specific_arguments(self) -> list[str]:
        return [
            f"-Dnacos.remote.grpc.listen.ip={HOST}",
            f"-Dhopmesh.console={str(self.options.console).lower()}",
        ]
