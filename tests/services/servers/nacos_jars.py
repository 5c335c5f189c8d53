"""The class paths of the Nacos servers: jars fetched by Maven, and our launcher compiled against them.

Nacos's makers do not publish the server as a library; others do, with the class names unchanged. Which repositories Maven
asks is the machine's own configuration.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from services.servers.cache import cached
from services.servers.packages import program
from services.servers.process import LOG_LINES, ServerFailed

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
SOURCES = Path(__file__).resolve().parent.parent / "java"
JAVA_PACKAGE = "default-jdk-headless"
FETCH_S = 900
COMPILE_S = 120


@dataclass(frozen=True, slots=True)
class Line:
    """A line of Nacos.

    Attributes:
        name: nacos2 or nacos3; also the folder of its launcher.
        version: what the cache is keyed by.
        artifacts: group:artifact:version of each published module that is needed.
    """

    name: str
    version: str
    artifacts: tuple[str, ...]


NACOS2 = Line(
    "nacos2",
    "2.3.1",
    (
        "vip.xiaonuo.nacos:nacos-naming:2.3.1",
        "vip.xiaonuo.nacos:nacos-config:2.3.1",
        "vip.xiaonuo.nacos:default-auth-plugin:2.3.1",
    ),
)
NACOS3 = Line(
    "nacos3",
    "3.1.0",
    (
        "io.github.pig-mesh.nacos:nacos-server:3.1.0-bugfix",
        "io.github.pig-mesh.nacos:nacos-console:3.1.0-bugfix",
    ),
)


def class_path(line: Line) -> str:
    """What `java -cp` needs; fetched and compiled the first time (a minute or two), then from the cache.

    Raises:
        ServerFailed: with Maven's or the compiler's last lines.
    """
    jars = cached(f"{line.name}-{line.version}-jars", lambda folder: _fetch(line, folder))
    libraries = ":".join(str(jars / name) for name in (jars / "order.txt").read_text().split())
    source = SOURCES / line.name / "NacosLauncher.java"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]

    def compile_launcher(folder: Path) -> None:
        javac = program("javac", JAVA_PACKAGE)
        classes = folder / "classes"
        _run([javac, "-nowarn", "-proc:none", "-cp", libraries, "-d", str(classes), str(source)], COMPILE_S)
        # A jar, because Java shares loaded classes between runs only from jars.
        with zipfile.ZipFile(folder / "launcher.jar", "w") as jar:
            for made in sorted(classes.iterdir()):
                jar.write(made, made.name)
        shutil.rmtree(classes)

    launcher = cached(f"{line.name}-{line.version}-launcher-{digest}", compile_launcher)
    return f"{launcher / 'launcher.jar'}:{libraries}"


def _fetch(line: Line, folder: Path) -> None:
    """The jars, and `order.txt` with their names in the order Maven gives: it decides which of two equal classes counts."""
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *artifact.split(":")
        )
        for artifact in line.artifacts
    )
    pom = folder / "pom.xml"
    pom.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        f"<groupId>hopmesh.tests</groupId><artifactId>{line.name}</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
    )
    listed = folder / "classpath.txt"
    mvn = program("mvn", "maven")
    # The file's own name, not a module that happens to be in the current folder.
    _run(
        [mvn, "-B", "-q", "-f", str(pom), f"{PLUGIN}:build-classpath", f"-Dmdep.outputFile={listed}"], FETCH_S
    )
    names = []
    for number, path in enumerate(listed.read_text().strip().split(":")):
        name = f"{number:03d}-{Path(path).name}"
        try:
            os.link(path, folder / name)
        except OSError:
            shutil.copy(path, folder / name)
        names.append(name)
    (folder / "order.txt").write_text("\n".join(names) + "\n")


def _run(command: list[str], within_s: float) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=within_s,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as slow:
        raise ServerFailed(f"{Path(command[0]).name} took longer than {within_s:.0f} s") from slow
    if done.returncode != 0:
        lines = "\n".join(done.stdout.splitlines()[-LOG_LINES:])
        raise ServerFailed(f"{Path(command[0]).name} failed:\n{lines}")
