"""Apache Kafka: one node that is broker and controller (KRaft)."""

import os
import socket
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers.install import KAFKA_VERSION, Say, check_kafka, kafka_jars
from tests.servers.runners import (
    ChildProcess,
    Container,
    Elsewhere,
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


class KafkaServer(Server):
    """A Kafka for tests; `bootstrap` is its address, `port` the port of that."""

    def __init__(self, bootstrap: str, runner: Runner):
        super().__init__(f"Kafka at {bootstrap}", runner)
        self.bootstrap = bootstrap
        self.port = int(bootstrap.split(",")[0].rpartition(":")[2])

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
    port, controller_port = free_ports(2)
    bootstrap = f"127.0.0.1:{port}"
    if docker_answers():
        properties = _properties("0.0.0.0", port, controller_port, "/var/lib/kafka/data")
        environment = {
            f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()
        }
        environment["KAFKA_HEAP_OPTS"] = "-Xmx512m"
        return KafkaServer(bootstrap, Container(IMAGE, environment, {port: port}))
    return KafkaServer(bootstrap, _child(folder, port, controller_port, say))


def _child(folder: Path, port: int, controller_port: int, say: Say) -> ChildProcess:
    classes = ["-cp", f"{kafka_jars(say)}/*"]
    properties = folder / "server.properties"
    settings = _properties("127.0.0.1", port, controller_port, str(folder / "data"))
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    format_storage = ["java", "-XX:TieredStopAtLevel=1", *classes]
    format_storage += ["kafka.tools.StorageTool", "format"]
    formatted = subprocess.run(
        [*format_storage, "--cluster-id", cluster, "--config", str(properties)],
        check=False,
        text=True,
        capture_output=True,
    )
    if formatted.returncode != 0:
        raise ServerError(f"Kafka's storage can't be set up:\n{formatted.stderr}")
    logging = [f"-Dorg.slf4j.simpleLogger.{name}={value}" for name, value in _LOGGING.items()]
    command = ["java", "-Xmx512m", *logging, *classes, "kafka.Kafka", str(properties)]
    return ChildProcess(command, {}, folder)


def _properties(host: str, port: int, controller_port: int, data: str) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        # A killed broker may not come back before its session is over: by default 9 s.
        "broker.session.timeout.ms": "5000",
        "broker.heartbeat.interval.ms": "1000",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    }
