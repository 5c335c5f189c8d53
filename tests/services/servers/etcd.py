"""One etcd server (Debian's `etcd-server`), alone or as a member of an `EtcdGroup`.

Options fixed at construction are kept in the folder (`server.json`), so that `Etcd.open` gives the same server in another
process. Users are made over etcd's own JSON interface: root has the password given, `mesh` a role over everything.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from services.servers.certificates import Authority, Certificate
from services.servers.packages import program
from services.servers.ports import HOST, free_port
from services.servers.process import PortTaken, ServerFailed, ServerProcess
from services.servers.web import Refused, fetch

READY_S = 30.0
CALL_S = 5.0
PORT_TRIES = 5


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """How a server differs from the plain one.

    Attributes:
        tls: serves https with a certificate of the folder's own authority.
        client_certificates: asks clients for a certificate of that authority (needs tls).
        password: of `root`; turns authentication on. "" leaves it off.
        token: "simple" tokens live on while they are used; a "jwt" ends token_ttl_s after it was made.
        token_ttl_s: life of a token, seconds.
        flags: further command line flags.
        binary: another etcd than Debian's; "" is that.
    """

    tls: bool = False
    client_certificates: bool = False
    password: str = ""
    token: Literal["simple", "jwt"] = "simple"
    token_ttl_s: int = 300
    flags: tuple[str, ...] = ()
    binary: str = ""


class Etcd:
    """A server in `folder`. Not started by construction."""

    kind = "etcd"

    def __init__(self, folder: Path, options: EtcdOptions | None = None, name: str = "etcd") -> None:
        self.folder = folder.absolute()
        self.options = options or EtcdOptions()
        self.name = name
        self.process = ServerProcess(self.folder, name)
        self.client_port = free_port()
        self.peer_port = free_port()
        # A group tells all its members, and may put relays before their peer ports.
        self.peers: dict[str, str] = {}
        self.advertised_peer_port = 0
        self.choose_ports_again = True
        self._keep()

    @classmethod
    def open(cls, folder: Path) -> Etcd:
        """The server that was made in this folder, perhaps by another process."""
        kept = json.loads((folder / "server.json").read_text())
        kept["options"]["flags"] = tuple(kept["options"]["flags"])
        server = cls.__new__(cls)
        server.folder = folder.absolute()
        server.options = EtcdOptions(**kept.pop("options"))
        for name, value in kept.items():
            setattr(server, name, value)
        server.process = ServerProcess(server.folder, server.name)
        return server

    def _keep(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("name", "client_port", "peer_port", "peers", "advertised_peer_port", "choose_ports_again")
        kept = {name: getattr(self, name) for name in names}
        text = json.dumps({**kept, "options": asdict(self.options)}, indent=1)
        (self.folder / "server.json").write_text(text)

    # Where it is

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"{HOST}:{self.client_port}"

    @property
    def addresses(self) -> list[str]:
        return [self.address]

    @property
    def url(self) -> str:
        return f"{'https' if self.options.tls else 'http'}://{self.address}"

    @property
    def authority(self) -> Authority:
        """The authority of this server's certificates; `authority.issue(name)` makes one for a client."""
        return Authority(self.folder / "certificates")

    @property
    def client_certificate(self) -> Certificate:
        return self.authority.issue("client")

    # Its life

    def start(self) -> None:
        """Start it and wait until it answers; nothing when it runs.

        Raises:
            ServerFailed: with the log's last lines.
        """
        for attempt in range(PORT_TRIES):
            try:
                self.begin()
                self.wait_ready()
                return
            except PortTaken:
                # Ports once served on are never exchanged: clients look there.
                if not self.choose_ports_again or self.peers or attempt == PORT_TRIES - 1:
                    raise
                self.client_port, self.peer_port = free_port(), free_port()

    def begin(self) -> None:
        """Start without waiting: the members of a group are ready only together."""
        if self.process.pid() is None:
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD", "GODEBUG"))}
            self._keep()
            self.process.start(self._command(), environment)

    def wait_ready(self) -> None:
        self.process.wait_ready(self.ready, READY_S)
        if self.options.password and not self.peers:
            self.enable_auth()
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
        """kill -9 and come back on the same ports, empty (users, if any, are made again)."""
        self.kill()
        self.remove_data()
        self.start()

    def remove_data(self) -> None:
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def running(self) -> bool:
        return self.process.pid() is not None

    def rss_bytes(self) -> int:
        return self.process.rss_bytes()

    # Talking to it

    def ready(self) -> bool:
        """Whether it says of itself that it is healthy (it has a leader and can write)."""
        try:
            return self.call("/health", None).get("health") == "true"
        except (OSError, ValueError):
            return False

    def call(self, path: str, body: dict[str, Any] | None, token: str = "") -> dict[str, Any]:
        """POST `body` (GET for None) to etcd's JSON interface, and its answer.

        Raises:
            OSError: not reached, or refused (then `web.Refused`).
        """
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
        headers = {"Authorization": token} if token else {}
        text = fetch(method, self.address, path, body=data, headers=headers, within_s=CALL_S, tls=self._tls())
        found: dict[str, Any] = json.loads(text)
        return found

    def status(self) -> dict[str, Any]:
        """The answer of Maintenance.Status: leader, revision (in header), dbSize ..."""
        return self.call("/v3/maintenance/status", {}, self._token())

    def etcdctl(self, *arguments: str, user: str = "") -> str:
        """Run Debian's etcdctl against it, as root unless `user` ("name:password") is given; its output.

        Raises:
            ServerFailed: it failed, with what it said.
        """
        options = self.options
        command = [program("etcdctl", "etcd-client"), "--endpoints", self.url]
        if options.tls:
            mine = self.client_certificate
            command += ["--cacert", str(self.authority.certificate)]
            command += ["--cert", str(mine.certificate), "--key", str(mine.key)]
        if user or options.password:
            command += ["--user", user or f"root:{options.password}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")} | {"ETCDCTL_API": "3"}
        done = subprocess.run(
            [*command, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            text=True,
        )
        if done.returncode != 0:
            raise ServerFailed(f"etcdctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def enable_auth(self) -> None:
        """Make root (the options' password) and the user `mesh` (same password, all keys); nothing when that was done."""
        try:
            self.call("/v3/auth/user/list", {})
        except Refused:
            return
        for user in ("root", "mesh"):
            self.call("/v3/auth/user/add", {"name": user, "password": self.options.password})
            self.call("/v3/auth/role/add", {"name": user})
            self.call("/v3/auth/user/grant", {"user": user, "role": user})
        # Key and range end of one zero byte: every key there is.
        everything = {"permType": "READWRITE", "key": "AA==", "range_end": "AA=="}
        self.call("/v3/auth/role/grant", {"name": "mesh", "perm": everything})
        self.call("/v3/auth/enable", {})

    def _token(self) -> str:
        if not self.options.password:
            return ""
        answer = self.call("/v3/auth/authenticate", {"name": "root", "password": self.options.password})
        return str(answer["token"])

    def _tls(self) -> ssl.SSLContext | None:
        if not self.options.tls:
            return None
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        # Without a name: the JSON interface refuses callers whose certificate names a user.
        mine = self.authority.issue("caller", named=False)
        context.load_cert_chain(mine.certificate, mine.key)
        return context

    def _command(self) -> list[str]:
        options = self.options
        peer = f"http://{HOST}:{self.advertised_peer_port or self.peer_port}"
        members = self.peers or {self.name: peer}
        command = [
            options.binary or program("etcd", "etcd-server"),
            *("--name", self.name, "--data-dir", str(self.folder / "data"), "--log-level", "warn"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", f"http://{HOST}:{self.peer_port}", "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", ",".join(f"{name}={url}" for name, url in members.items())),
            *("--initial-cluster-state", "new", "--logger", "zap", "--log-outputs", "stderr"),
            *("--auth-token-ttl", str(options.token_ttl_s), "--bcrypt-cost", "4"),
        ]
        if options.tls:
            server = self.authority.issue("server", named=False)
            command += ["--cert-file", str(server.certificate), "--key-file", str(server.key)]
        if options.client_certificates:
            # Either of the two alone makes etcd ask clients for a certificate.
            command += ["--trusted-ca-file", str(self.authority.certificate), "--client-cert-auth"]
        if options.token == "jwt":
            private, public = self.authority.signing_keys("token")
            keys = f"pub-key={public},priv-key={private},sign-method=RS256,ttl={options.token_ttl_s}s"
            command += ["--auth-token", f"jwt,{keys}"]
        return [*command, *options.flags]
