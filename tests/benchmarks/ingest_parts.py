"""What ingest is measured on: as many pictures as are wanted, on the embedded parts or servers."""

import itertools
import json
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from confluent_kafka import TopicPartition

from pixtide.schemas import topics
from pixtide.schemas.codec import encode_event
from pixtide.schemas.events import ImageUploaded, InlinePicture, PictureAt
from pixtide.schemas.outcomes import Outcome, OutcomeKind
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from tests.benchmarks.machine import resident_mib
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import PIXTIDE, Deployment, OnServers

#: Outcomes at the beginning and the end of a stretch that its rate leaves out.
_EDGE = 0.1
_PATIENCE_S, _LOOK_S = 120.0, 0.25
#: Contents that may be published again.
_REMEMBERED = 1000


class _WithWorker(Deployment):
    #: Where published pictures lie; None: in their events.
    pictures: Path | None = None

    def start_worker(self) -> None:
        """Start a worker that will say where its time went."""
        ready = self.home / "ingest.ready"
        self.spawn("ingest", "ingest", "--profile", "--ready-file", str(ready), ready=ready)

    def stop_worker(self) -> list[str]:
        """Stop it; the lines of its profile."""
        self.stop_process("ingest")
        said = self.log("ingest")
        return said[said.rindex("profile:") :].strip().splitlines()


class OnEmbeddedParts(_WithWorker):
    """The broker of `pixtide up` and LanceDB, without its query consumer and page.

    Pictures are files that events name, as `pixtide publish` has it there.
    """

    def create(self) -> None:
        """Start the broker, and say so as `pixtide up` does; topics and an index."""
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.program = (str(files("noida_db").joinpath("noida-db")),)
        self.spawn(
            *("broker", "start", "--only", "kafka", "--host", "127.0.0.1"),
            *("--data-dir", str(self.home / "broker"), "--kafka-port", str(port)),
        )
        self.program = PIXTIDE
        self.pictures = self.folder / "pictures"
        self.pictures.mkdir()
        roots = [str(self.pictures.resolve())]
        stack = {"pid": os.getpid(), "kafka": f"127.0.0.1:{port}", "roots": roots}
        (self.home / "stack.json").write_text(json.dumps(stack))
        self.run("topics", "create")
        self.run("index", "create", "v1")


class OnRealServers(OnServers, _WithWorker):
    """Apache Kafka and Weaviate, with an ingest worker alone. Pictures come in their events."""


Measured = OnEmbeddedParts | OnRealServers


def photographs() -> list[bytes]:
    """Those that come with the demo: JPEGs of 0.26 MP and 43 kB in the middle."""
    folder = Path(str(files("pixtide.streams.demo"))) / "pictures"
    return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same picture in bytes of its own: with a comment, after the first marker."""
    comment = f"no. {number}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def upload(image_id: str, jpeg: bytes, folder: Path | None) -> ImageUploaded:
    """The event of a picture, which lies in that folder from now on, or in the event."""
    picture: InlinePicture | PictureAt
    if folder is None:
        picture = InlinePicture(data=jpeg, content_type="image/jpeg")
    else:
        file = folder / image_id.replace("/", "-")
        file.write_bytes(jpeg)
        picture = PictureAt(uri=file.resolve().as_uri())
    return ImageUploaded(
        image_id=image_id,
        event_id=image_id,
        source="/benchmark",
        uploaded_at=datetime.now(UTC),
        picture=picture,
    )


def altered() -> Iterator[bytes]:
    """The photographs over and over, never twice the same bytes."""
    originals = photographs()
    for number in itertools.count():
        yield numbered(originals[number % len(originals)], number)


class Traffic:
    """Publishes pictures and hears what became of them.

    Args:
        pictures: all that it may publish.
    """

    def __init__(self, deployment: "Measured", pictures: Iterator[bytes]) -> None:
        self._folder = deployment.pictures
        settings = deployment.settings()
        self._uploaded = settings.named(topics.UPLOADED)
        connection = settings.kafka_connection()
        self._producer = kafka_clients.producer(connection, linger_ms=5)
        self._connection, self._client = connection, kafka_clients.admin(connection)
        self._indexed = settings.named(topics.INDEXED)
        self._partitions = kafka_topics.partitions_of(self._client, self._indexed)
        self._pictures = pictures
        self._published: list[bytes] = []
        self._number = 0
        self._random = random.Random(0)

    def rate(self, count: int, duplicates: float = 0.0) -> float:
        """Publish so many, and see how many a second are indexed.

        Args:
            duplicates: the share whose content was published before, under another id.
        """
        before = self._ends()
        self._publish(count, duplicates)
        at_ms = sorted(self._outcomes(before, count))
        first, last = int(count * _EDGE), int(count * (1 - _EDGE))
        return (last - first) / (at_ms[last] - at_ms[first]) * 1000

    def _publish(self, count: int, duplicates: float) -> None:
        for _ in range(count):
            again = self._published and self._random.random() < duplicates
            jpeg = self._random.choice(self._published) if again else next(self._pictures)
            if len(self._published) < _REMEMBERED and not again:
                self._published.append(jpeg)
            event = upload(f"photographs/{self._number}.jpg", jpeg, self._folder)
            self._number += 1
            key, value, headers = encode_event(event)
            self._producer.produce(self._uploaded, value, key, headers=list(headers))
            self._producer.poll(0)
        assert self._producer.flush(_PATIENCE_S) == 0, "the broker takes no more"

    def _ends(self) -> dict[int, int]:
        return kafka_offsets.ends(self._client, self._indexed, range(self._partitions))

    def _outcomes(self, before: dict[int, int], count: int) -> Iterator[int]:
        """When each outcome was told, in ms.

        They are read when all are there: who waits for news of the embedded broker asks it
        without a rest, and would take a core from the worker.
        """
        deadline, told = time.monotonic() + _PATIENCE_S, 0
        while told < count:
            time.sleep(_LOOK_S)
            told, last = sum(self._ends().values()) - sum(before.values()), told
            if told > last:
                deadline = time.monotonic() + _PATIENCE_S
            assert time.monotonic() < deadline, f"only {told} of {count} outcomes came"
        with closing(kafka_clients.tail_consumer(self._connection)) as consumer:
            consumer.assign([TopicPartition(self._indexed, *place) for place in before.items()])
            while told:
                for message in consumer.consume(1000, timeout=1):
                    assert message.error() is None, message.error()
                    outcome = Outcome.from_json(message.value() or b"")
                    assert outcome.outcome is OutcomeKind.INDEXED, outcome
                    told -= 1
                    yield message.timestamp()[1]


def tree_mib(process: int) -> float:
    """The resident memory of a process and of those it has started, as a worker its decoders."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return round(sum(resident_mib(int(each)) for each in (str(process), *children)), 1)


@contextmanager
def embedded(folder: Path, **settings: str) -> Iterator[Measured]:
    """A deployment on the embedded parts, with its broker running; all of it ends with this."""
    made = OnEmbeddedParts(folder / "home", **{"PIXTIDE_PRECISION": "fp32"} | settings)
    try:
        made.create()
        yield made
    finally:
        for name in list(made.processes):
            made.kill(name)


def on_servers(
    folder: Path, kafka: KafkaServer, weaviate: WeaviateServer, **settings: str
) -> OnRealServers:
    """A deployment on real servers, its topics and index created."""
    made = OnRealServers(
        folder / "home",
        kafka=kafka.bootstrap,
        weaviate_url=weaviate.http_url,
        grpc_port=weaviate.grpc_port,
        PIXTIDE_PRECISION="fp32",
        **settings,
    )
    made.create()
    return made
