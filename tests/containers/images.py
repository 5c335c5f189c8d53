"""The images of a run: a local base instead of a public one, the product on it, and stand-ins for the two registries' images.

No image registry is asked. The base is Debian's own smallest system with Python; what this machine needs to reach its package
index (authorities, pip's settings) is put into the base, so that the product's Dockerfile knows nothing of it. The stand-ins are
real servers: Debian's etcd, and the Nacos that tests run against (`services.servers`), started as the public images start.
What took long is kept in the user's cache folder, `hopmesh/containers`, keyed by what it was made of.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from services.servers.nacos_jars import NACOS2, class_path

from containers.commands import run
from containers.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv"
SYSTEM, BASE, SERVERS = "hopmesh-test/system", "hopmesh-test/base", "hopmesh-test/servers"
PRODUCT, ETCD, NACOS = "hopmesh:local", "hopmesh-test/etcd", "hopmesh-test/nacos"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
BOOTSTRAP_S = 1800.0
BUILD_S = 1200.0
LOAD_S = 300.0

SERVERS_FILE = f"""\
FROM {SYSTEM}
RUN apt-get update -q \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \\
      etcd-server etcd-client default-jre-headless \\
 && rm -rf /var/lib/apt/lists/*
"""

NACOS_FILE = f"""\
FROM {SERVERS}
COPY jars /opt/nacos
COPY start application.properties /home/nacos/
CMD ["bash", "/home/nacos/start"]
"""

# Ports and paths as in the public image. The home folder is a file system of its own there, too: nothing of it is kept.
NACOS_START = """\
mkdir -p /tmp/nacos/conf /tmp/nacos/tmp && cp /home/nacos/application.properties /tmp/nacos/conf/ || exit 1
own="$(hostname -i | cut -d' ' -f1)"
exec java -Xms128m -Xmx"${JVM_XMX:-512m}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData \\
  -Dnacos.standalone=true -Dnacos.server.ip="$own" -Dnacos.home=/tmp/nacos -Dnacos.logs.path=/tmp/nacos/logs \\
  -Duser.home=/tmp/nacos -Djava.io.tmpdir=/tmp/nacos/tmp -cp "$(cat /opt/nacos/class-path)" NacosLauncher \\
  --spring.config.additional-location=file:/tmp/nacos/conf/
"""

NACOS_PROPERTIES = """\
server.port=8848
server.servlet.contextPath=/nacos
server.tomcat.basedir=file:/tmp/nacos
nacos.core.auth.system.type=nacos
nacos.core.auth.enabled=false
nacos.core.auth.server.identity.key=hopmesh
nacos.core.auth.server.identity.value=test
nacos.core.auth.plugin.nacos.token.secret.key=b2YgYSB0ZXN0J3Mgc2VydmVyLCB0aHJvd24gYXdheSB3aXRoIGl0cyBmb2xkZXI=
"""


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hopmesh" / "containers"


def kept(name: str, made_of: str, make: Callable[[Path], None]) -> Path:
    """The cached file of this name and content; `make` writes it the first time. It is whole or not there."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.tar"
    if not file.exists():
        part = Path(tempfile.mkdtemp(prefix=f"{file.name}.part-", dir=folder))
        try:
            make(part / "made.tar")
            (part / "made.tar").rename(file)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return file


def make_base(engine: Engine) -> None:
    """SYSTEM: Debian with Python. BASE: the same with what this machine's package index needs.

    Raises:
        Failed: with debootstrap's or docker's last lines.
    """
    file = kept("system", f"{RELEASE} {PACKAGES}", _bootstrap)
    engine.docker("import", file, SYSTEM, within_s=LOAD_S)
    context = engine.folder / "base"
    context.mkdir()
    shutil.copy(_authorities(), context / "ca-certificates.crt")
    (context / "pip.conf").write_text(pip_settings())
    (context / "Dockerfile").write_text(
        f"FROM {SYSTEM}\nCOPY ca-certificates.crt {AUTHORITIES}\nCOPY pip.conf /etc/pip.conf\n"
    )
    engine.build(BASE, context, within_s=BUILD_S)


def _bootstrap(file: Path) -> None:
    system = file.parent / "system"
    run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, system],
        BOOTSTRAP_S,
    )
    shutil.rmtree(system / "var/cache/apt/archives", ignore_errors=True)
    run(["tar", "--numeric-owner", "-C", system, "-cf", file, "."], LOAD_S)


def _authorities() -> str:
    """This machine's bundle of certificate authorities."""
    named = (os.environ.get(name, "") for name in ("PIP_CERT", "SSL_CERT_FILE"))
    return next((path for path in (*named, AUTHORITIES) if path and Path(path).is_file()), AUTHORITIES)


def pip_settings() -> str:
    """pip.conf with what pip is told here by files and by variables, without paths that an image does not have."""
    done = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=False
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, equals, value = line.partition("=")
        table, _, key = name.rpartition(".")
        if equals and table in ("global", "user", "site", ":env:", "install"):
            found[key] = value.strip("'\"")
    found["cert"] = AUTHORITIES
    lines = [f"{key} = {value}" for key, value in found.items() if key not in ("find-links", "cache-dir")]
    return "\n".join(["[global]", *lines, ""])


def build_product(engine: Engine) -> float:
    """The image of this source tree, as a user builds it but for the base; the seconds it took."""
    return engine.build(PRODUCT, ROOT, "--build-arg", f"BASE={BASE}", within_s=BUILD_S)


def make_registries(engine: Engine) -> None:
    """ETCD and NACOS.

    Raises:
        Failed: with apt-get's, Maven's or docker's last lines.
    """
    file = kept("servers", f"{RELEASE} {PACKAGES}\n{SERVERS_FILE}", lambda part: _make_servers(engine, part))
    if not engine.has([SERVERS]):
        engine.docker("load", "--input", file, within_s=LOAD_S)
    engine.docker("tag", SERVERS, ETCD)
    context = engine.folder / "nacos"
    jars = context / "jars"
    jars.mkdir(parents=True)
    names = []
    for number, path in enumerate(class_path(NACOS2).split(":")):
        name = f"{number:03d}-{Path(path).name}"
        try:
            os.link(path, jars / name)
        except OSError:
            shutil.copy(path, jars / name)
        names.append(f"/opt/nacos/{name}")
    (jars / "class-path").write_text(":".join(names))
    (context / "start").write_text(NACOS_START)
    (context / "application.properties").write_text(NACOS_PROPERTIES)
    (context / "Dockerfile").write_text(NACOS_FILE)
    engine.build(NACOS, context, within_s=BUILD_S)


def _make_servers(engine: Engine, file: Path) -> None:
    context = engine.folder / "servers"
    context.mkdir()
    (context / "Dockerfile").write_text(SERVERS_FILE)
    engine.build(SERVERS, context, within_s=BUILD_S)
    engine.docker("save", "--output", file, SERVERS, within_s=LOAD_S)
