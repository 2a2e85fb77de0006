"""Apache Kafka: one node that is broker and controller (KRaft), or several that are one cluster.

The one listens three times: plainly, where everybody may do everything; secured, with SCRAM or
OAuth tokens over TLS, where everybody may do what an ACL allows; and plainly once more, but for
clients of a proxy.
"""

import os
import socket
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.install import KAFKA_VERSION, Say, check_kafka, kafka_jars
from tests.servers.runners import (
    ChildProcess,
    Container,
    Elsewhere,
    NotOurServerError,
    Runner,
    ServerError,
    docker,
    docker_answers,
    free_ports,
)
from tests.servers.server import Server

ADDRESS = "PIXTIDE_TEST_KAFKA"
IMAGE = f"apache/kafka:{KAFKA_VERSION}"

_LOGGING = {
    "defaultLogLevel": "info",
    "log.org.apache.kafka.common.config.AbstractConfig": "warn",
    "log.kafka.server.KafkaConfig": "warn",
    "showDateTime": "true",
    "dateTimeFormat": "HH:mm:ss.SSS",
}


@dataclass(frozen=True)
class SecuredListener:
    """Where SCRAM-SHA-512 or OAUTHBEARER over TLS is spoken, and who vouches for the broker."""

    bootstrap: str
    authority: Path


@dataclass(frozen=True)
class ProxiedListener:
    """Where the broker listens at `port` and tells its clients to come to `advertised` instead."""

    port: int
    advertised: int


class KafkaServer(Server):
    """A Kafka for tests; `bootstrap` is its address, `port` the port of that."""

    def __init__(
        self,
        bootstrap: str,
        runner: Runner,
        secured: SecuredListener | None = None,
        proxied: ProxiedListener | None = None,
    ):
        super().__init__(f"Kafka at {bootstrap}", runner)
        self.bootstrap = bootstrap
        self._secured = secured
        self._proxied = proxied
        self.port = int(bootstrap.split(",")[0].rpartition(":")[2])

    @property
    def secured(self) -> SecuredListener:
        """Its other listener. Raises NotOurServerError where the environment gave the server."""
        if self._secured is None:
            raise NotOurServerError(f"this test needs a secured Kafka of ours: unset {ADDRESS}")
        return self._secured

    @property
    def proxied(self) -> ProxiedListener:
        """Its listener for a proxy. Raises NotOurServerError as `secured`."""
        if self._proxied is None:
            raise NotOurServerError(f"this test needs a Kafka of ours: unset {ADDRESS}")
        return self._proxied

    def _serves(self) -> bool:
        # A bare connection first: the client writes of every one refused.
        host = self.bootstrap.split(",")[0].rpartition(":")[0]
        try:
            socket.create_connection((host, self.port), timeout=2).close()
            client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            return len(client.list_topics(timeout=2).brokers) > 0
        except (OSError, KafkaException):
            return False


def check() -> None:
    """Raises SetupError where Kafka can't be had."""
    if ADDRESS not in os.environ and not docker_answers():
        check_kafka()


def prepare(say: Say) -> None:
    """Do what takes long: nothing with an address, else pull the image or fetch the jars."""
    if ADDRESS in os.environ:
        say(f"Kafka: the one at {ADDRESS}")
    elif docker_answers():
        say(f"Kafka: {docker(['docker', 'pull', '--quiet', IMAGE])}")
    else:
        say(f"Kafka: {kafka_jars(say)}")


def kafka_server(folder: Path, say: Say) -> KafkaServer:
    """A Kafka that isn't launched yet, with its data and log in `folder`."""
    if address := os.environ.get(ADDRESS):
        return KafkaServer(address, Elsewhere(ADDRESS))
    ports = _Ports(*free_ports(5))
    bootstrap = f"127.0.0.1:{ports.plain}"
    certificates = make_certificates(folder)
    secured = SecuredListener(f"127.0.0.1:{ports.secured}", certificates.authority)
    proxied = ProxiedListener(ports.proxied, ports.advertised)
    if docker_answers():
        properties = _properties("0.0.0.0", ports, "/var/lib/kafka/data") | _secured(certificates)
        environment = {_variable(name): value for name, value in properties.items()}
        environment["KAFKA_HEAP_OPTS"] = "-Xmx512m"
        published = {port: port for port in (ports.plain, ports.secured, ports.proxied)}
        container = Container(IMAGE, environment, published)
        return KafkaServer(bootstrap, container, secured, proxied)
    settings = _properties("127.0.0.1", ports, str(folder / "data")) | _secured(certificates)
    return KafkaServer(bootstrap, _child(folder, settings, say, _new_id()), secured, proxied)


def kafka_brokers(folders: Sequence[Path], say: Say) -> list[KafkaServer]:
    """A cluster with a broker in each folder that isn't launched yet; plaintext, on loopback.

    Three copies of everything, of which two must have a record before it counts as written.
    Always the kept program: containers would each have a loopback of their own.
    """
    cluster, jars = _new_id(), kafka_jars(say)
    plain, controllers = free_ports(len(folders)), free_ports(len(folders))
    voters = ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(controllers, 1))

    def broker(number: int, folder: Path, port: int, controller: int) -> KafkaServer:
        settings = _common("3", "2") | {
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(folder / "data"),
            # Six servers share a machine, and perhaps its disk is busy: the controllers, which
            # wait for the disk, would go on electing another one. By default 2 s and 1 s.
            "controller.quorum.fetch.timeout.ms": "4000",
            "controller.quorum.election.timeout.ms": "2000",
        }
        small = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        child = _child(folder, settings, lambda _: None, cluster, small)
        return KafkaServer(f"127.0.0.1:{port}", child)

    say(f"Kafka: {len(folders)} brokers of {jars}")
    with ThreadPoolExecutor() as pool:
        numbers = range(1, len(folders) + 1)
        return list(pool.map(broker, numbers, folders, plain, controllers))


def _new_id() -> str:
    """As Kafka makes them: 22 characters, of which the first is no dash, which begins options."""
    made = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return _new_id() if made.startswith("-") else made


def _child(
    folder: Path,
    settings: Mapping[str, str],
    say: Say,
    cluster: str,
    java: Sequence[str] = ("-Xmx512m",),
) -> ChildProcess:
    classes = ["-cp", f"{kafka_jars(say)}/*"]
    properties = folder / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    format_storage = ["java", "-XX:TieredStopAtLevel=1", *classes]
    format_storage += ["kafka.tools.StorageTool", "format"]
    formatted = subprocess.run(
        [*format_storage, f"--cluster-id={cluster}", "--config", str(properties)],
        check=False,
        text=True,
        capture_output=True,
    )
    if formatted.returncode != 0:
        raise ServerError(f"Kafka's storage can't be set up:\n{formatted.stderr}")
    logging = [f"-Dorg.slf4j.simpleLogger.{name}={value}" for name, value in _LOGGING.items()]
    command = ["java", *java, *logging, *classes, "kafka.Kafka", str(properties)]
    return ChildProcess(command, {}, folder)


def _variable(name: str) -> str:
    """As the image reads settings from its environment."""
    return f"KAFKA_{name.upper().replace('-', '___').replace('.', '_')}"


class _Ports(NamedTuple):
    plain: int
    secured: int
    controller: int
    proxied: int
    advertised: int


def _secured(certificates: Certificates) -> dict[str, str]:
    """Who comes by the plain listener, or is this node itself, is ANONYMOUS."""
    listener = "listener.name.secured"
    security = "org.apache.kafka.common.security"
    scram = f"{security}.scram.ScramLoginModule"
    bearer = f"{security}.oauthbearer.OAuthBearerLoginModule"
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
        f"{listener}.scram-sha-512.sasl.jaas.config": f"{scram} required;",
        # takes tokens that nobody has signed: Kafka's own default, and for tests alone
        f"{listener}.oauthbearer.sasl.jaas.config": f"{bearer} required;",
        f"{listener}.ssl.keystore.type": "PEM",
        f"{listener}.ssl.keystore.key": _one_line(certificates.key),
        f"{listener}.ssl.keystore.certificate.chain": _one_line(certificates.certificate),
    }


def _one_line(pem: Path) -> str:
    """As properties and environments take it: any white space will do in PEM."""
    return " ".join(pem.read_text().split("\n")).strip()


def _properties(host: str, ports: _Ports, data: str) -> dict[str, str]:
    return _common("1", "1") | {
        "node.id": "1",
        # A killed broker may not come back before its session is over: by default 9 s.
        "broker.session.timeout.ms": "5000",
        "broker.heartbeat.interval.ms": "1000",
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "listeners": f"PLAINTEXT://{host}:{ports.plain},SECURED://{host}:{ports.secured},"
        f"PROXIED://{host}:{ports.proxied},CONTROLLER://127.0.0.1:{ports.controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports.plain},"
        f"SECURED://127.0.0.1:{ports.secured},PROXIED://127.0.0.1:{ports.advertised}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
        "PROXIED:PLAINTEXT,SECURED:SASL_SSL",
        "log.dirs": data,
    }


def _common(replication: str, in_sync: str) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "min.insync.replicas": in_sync,
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "default.replication.factor": replication,
        "offsets.topic.replication.factor": replication,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": replication,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": replication,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    }
