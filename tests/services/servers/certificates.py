"""Certificates for a test's servers and clients, made by the openssl program; valid for a day, thrown away with their folder.

One authority a folder. A certificate of another folder's authority is foreign; an expired one is made with `expired=True`.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from services.servers.packages import program
from services.servers.process import ServerFailed


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs what is asked of it. Its own certificate is `folder/ca.crt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        if not self.certificate.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._openssl(
                *(
                    "req",
                    "-x509",
                    "-nodes",
                    "-days",
                    "2",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-subj", "/CN=Hopmesh test authority", "-keyout", "ca.key", "-out", "ca.crt"),
                *("-addext", "basicConstraints=critical,CA:TRUE"),
                *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            )

    def issue(self, name: str, *, expired: bool = False, named: bool = True) -> Certificate:
        """A certificate for loopback (127.0.0.1, localhost), for servers and for clients, with `name` as its common name.

        `named=False` leaves the common name out: etcd's JSON interface refuses certificates (its caller's, and the server's,
        with which it calls etcd) whose name could be taken for a user's.
        """
        made = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        if made.certificate.exists():
            return made
        (self.folder / f"{name}.ext").write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
            "extendedKeyUsage=serverAuth,clientAuth\n"
            "basicConstraints=critical,CA:FALSE\n"
        )
        self._openssl(
            *("req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-subj", f"/CN={name}" if named else "/", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        # A negative number of days is a certificate that ended before it began: expired for everybody.
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "-1" if expired else "1", "-extfile", f"{name}.ext", "-out", f"{name}.crt"),
        )
        return made

    def signing_keys(self, name: str) -> tuple[Path, Path]:
        """An RSA key pair (private, public) for signing tokens."""
        private, public = self.folder / f"{name}.pem", self.folder / f"{name}.pub"
        if not public.exists():
            self._openssl("genrsa", "-out", private.name, "2048")
            self._openssl("rsa", "-in", private.name, "-pubout", "-out", public.name)
        return private, public

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            [program("openssl", "openssl"), *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            text=True,
        )
        if done.returncode != 0:
            raise ServerFailed(f"openssl {arguments[0]} failed:\n{done.stdout}")
