"""Fetch or build the servers into the user's cache: once, whole or not at all, checked."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from tests.servers.runners import bound_to_parent

KAFKA_VERSION = "4.1.1"
WEAVIATE_VERSION = "1.35.2"
TOXIPROXY_VERSION = "2.12.0"

Say = Callable[[str], None]

_JAVA_AT_LEAST = 17  # Kafka 4's servers; https://kafka.apache.org/41/documentation.html#java
_GO_AT_LEAST = (1, 21)  # from here on Go fetches the newer toolchain that Weaviate asks for
_REPORT_EVERY_S = 15
_KAFKA = f"kafka-{KAFKA_VERSION}"
_WEAVIATE = f"weaviate-{WEAVIATE_VERSION}"
_BINARY = "weaviate-server"
_TOXIPROXY = f"toxiproxy-{TOXIPROXY_VERSION}"
_TOXIPROXY_BINARY = "server"  # as its package's folder is called
_JARS = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")
# slf4j-simple only so that the broker's log isn't thrown away.
_POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>pixtide</groupId><artifactId>kafka</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""
MAVEN = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "-DincludeScope=runtime"]
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class SetupError(RuntimeError):
    """A server can't be had on this machine; the message says what would help."""


def check_kafka() -> None:
    """Raises SetupError where `kafka_jars` is bound to fail, or its jars couldn't be run."""
    helps = "start Docker, or set PIXTIDE_TEST_KAFKA=host:port to a Kafka of yours"
    if shutil.which("java") is None:
        raise SetupError(
            f"Kafka {KAFKA_VERSION} needs Java, and there is no `java`: install a Debian package "
            f"such as `openjdk-17-jre-headless` or `default-jre-headless`, or {helps}"
        )
    found = re.search(r'version "(\d+)', _output(["java", "-version"]))
    if found and int(found[1]) < _JAVA_AT_LEAST:
        raise SetupError(
            f"Kafka {KAFKA_VERSION} can't run on Java {found[1]}: install Java 17 or newer "
            f"(the Debian package `openjdk-17-jre-headless`), or {helps}"
        )
    if not complete(_KAFKA, _jar_digests()) and shutil.which("mvn") is None:
        raise SetupError(
            "Kafka is fetched by Maven, and there is no `mvn`: install the Debian package "
            f"`maven`, or {helps}"
        )


def kafka_jars(say: Say) -> Path:
    """The folder of Kafka's jars, fetched from Maven Central where it is missing.

    Raises:
        SetupError: no Java, no Maven, no network, or jars other than the pinned ones.
    """
    check_kafka()
    return kept_as(_KAFKA, _jar_digests(), _fetch_kafka, say)


def check_weaviate() -> None:
    """Raises SetupError where `weaviate_binary` is bound to fail."""
    if not complete(_WEAVIATE, [_BINARY]):
        check_go(
            "Weaviate",
            ", or start Docker, or set PIXTIDE_TEST_WEAVIATE_URL and "
            "PIXTIDE_TEST_WEAVIATE_GRPC_PORT to a Weaviate of yours",
        )


def weaviate_binary(say: Say) -> Path:
    """The Weaviate server, built by Go where it is missing (3 to 7 minutes on 2 cores).

    Raises:
        SetupError: no Go, or the build failed.
    """
    check_weaviate()
    return kept_as(_WEAVIATE, [_BINARY], _build_weaviate, say) / _BINARY


def check_toxiproxy() -> None:
    """Raises SetupError where `toxiproxy_binary` is bound to fail."""
    if not complete(_TOXIPROXY, [_TOXIPROXY_BINARY]):
        check_go("Toxiproxy")


def toxiproxy_binary(say: Say) -> Path:
    """The proxy that makes networks fail, built by Go where it is missing (10 s).

    Raises:
        SetupError: no Go, or the build failed.
    """
    check_toxiproxy()
    return kept_as(_TOXIPROXY, [_TOXIPROXY_BINARY], _build_toxiproxy, say) / _TOXIPROXY_BINARY


def check_go(server: str, instead: str = "") -> None:
    """Raises SetupError where that server can't be built."""
    helps = (
        "install Go 1.21 or newer (the Debian package `golang-go` of Debian 13, or of "
        f"bookworm-backports){instead}"
    )
    if shutil.which("go") is None:
        raise SetupError(f"{server} is built by Go, and there is no `go`: {helps}")
    found = re.search(r"go(\d+)\.(\d+)", _output(["go", "version"]))
    if found and (int(found[1]), int(found[2])) < _GO_AT_LEAST:
        raise SetupError(f"{server} can't be built by Go {found[1]}.{found[2]}: {helps}")


def _cached(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pixtide" / "servers" / name


def complete(name: str, files: Iterable[str]) -> bool:
    return all((_cached(name) / file).is_file() for file in files)


def kept_as(name: str, files: Iterable[str], make: Callable[[Path, Say], None], say: Say) -> Path:
    """`servers/<name>` of the user's cache, made under a lock and put there by one rename."""
    kept = _cached(name)
    if complete(name, files):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(kept.with_name(f"{name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{name}: another run is preparing it; waiting")
        lock.acquire()
    try:
        if not complete(name, files):
            with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f"{name}.") as temporary:
                made = Path(temporary) / "made"
                made.mkdir()
                make(made, say)
                if kept.exists():
                    kept.rename(Path(temporary) / "incomplete")
                made.rename(kept)
    finally:
        lock.release()
    return kept


def _fetch_kafka(into: Path, say: Say) -> None:
    pom = into.with_name("pom.xml")
    pom.write_text(_POM)
    run_slowly(
        f"Apache Kafka {KAFKA_VERSION} from Maven Central (46 jars, 45 MB)",
        [*MAVEN, "--file", str(pom), COPY_JARS, f"-DoutputDirectory={into}"],
        {},
        say,
    )
    for name, expected in _jar_digests().items():
        jar = into / name
        if not jar.is_file() or hashlib.sha256(jar.read_bytes()).hexdigest() != expected:
            raise SetupError(f"Kafka: Maven brought no {name} with SHA-256 {expected}")


def _build_weaviate(into: Path, say: Say) -> None:
    package = f"github.com/weaviate/weaviate/cmd/weaviate-server@v{WEAVIATE_VERSION}"
    run_slowly(
        f"Weaviate {WEAVIATE_VERSION} by go install (3 to 7 minutes on 2 cores)",
        ["go", "install", "-v", package],
        {"CGO_ENABLED": "0", "GOBIN": str(into)},
        say,
    )


def _build_toxiproxy(into: Path, say: Say) -> None:
    package = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{TOXIPROXY_VERSION}"
    run_slowly(
        f"Toxiproxy {TOXIPROXY_VERSION} by go install",
        ["go", "install", "-v", package],
        {"CGO_ENABLED": "0", "GOBIN": str(into)},
        say,
    )


def _jar_digests() -> dict[str, str]:
    lines = (line.split() for line in _JARS.read_text().splitlines())
    return {name: digest for digest, name in lines}


def _output(command: list[str]) -> str:
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


def run_slowly(what: str, command: list[str], environment: dict[str, str], say: Say) -> None:
    """Run a slow command, saying now and then that it still goes on."""
    say(f"{what}: started")
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(
            bound_to_parent(command),
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                while process.poll() is None:
                    try:
                        process.wait(_REPORT_EVERY_S)
                    except subprocess.TimeoutExpired:
                        say(f"{what}: {time.monotonic() - began:.0f} s{_progress(output.fileno())}")
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            output.seek(0)
            tail = "".join(output.readlines()[-20:])
            raise SetupError(f"{what}: `{command[0]}` failed ({process.returncode}):\n{tail}")
    say(f"{what}: done in {time.monotonic() - began:.0f} s")


def _progress(log: int) -> str:
    lines = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace").splitlines()
    return f", {len(lines)} steps, now {lines[-1][:80]}" if lines else ""
