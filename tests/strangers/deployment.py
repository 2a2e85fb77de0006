"""A running deployment that strangers send to, and what must hold whatever they sent."""

import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from pixtide.schemas import topics
from pixtide.schemas.identity import partition_of
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from tests.strangers.generated import STORE, Sent
from tests.support.deployments import Deployment
from tests.support.pictures import jpeg
from tests.support.raw_records import RawRecord, batch, produce

#: Nothing here depends on how fast the machine is: only what is stuck takes so long.
PATIENCE_S = 120.0
#: In every process's environment; nobody outside may ever read it.
SECRET = "hush-this-is-nobodys-business"

Place = tuple[int, int]


class Besieged:
    """What is sent to a deployment, and what comes of it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        settings = deployment.settings()
        self.bootstrap = settings.bootstrap()
        self._uploads = settings.named(topics.UPLOADED)
        self._requests = settings.named(topics.REQUESTS)
        self._replies = settings.named(topics.REPLIES)
        self._store = settings.image_store_url.encode()
        self._connection = settings.kafka_connection()
        client = kafka_clients.admin(self._connection)
        self.partitions = kafka_topics.partitions_of(client, self._uploads)
        self._producers: dict[tuple[str, bool], Producer] = {}
        self._outcomes = self._tail(settings.named(topics.INDEXED))
        self._answers = self._tail(self._replies)
        self._done: set[Place] = set()
        self._replied: dict[bytes, bytes] = {}

    def upload(self, sent: Sequence[Sent]) -> list[Place]:
        """Send these to the log; where each came to stand that the broker took and readers see."""
        places = []
        for one in sent:
            record = one.record
            value = record.value and record.value.replace(STORE.encode(), self._store)
            right = partition_of(record.key or b"", self.partitions, "murmur2") or 0
            partition = (right + one.astray) % self.partitions
            made = RawRecord(record.key, value, record.headers)
            places += self._send(self._uploads, partition, one, made)
        return places

    def upload_good(self) -> list[Place]:
        """A picture for each partition, from a neighbour who does nothing wrong."""
        places: dict[int, list[Place]] = {}
        while len(places) < self.partitions:
            key = f"good/{uuid.uuid4().hex}.jpg".encode()
            partition = partition_of(key, self.partitions, "murmur2") or 0
            if partition not in places:
                headers = [
                    (b"ce_specversion", b"1.0"),
                    (b"ce_type", b"pixtide.image.uploaded.v1"),
                    (b"ce_id", b"1"),
                    (b"ce_source", b"/good"),
                    (b"content-type", b"image/jpeg"),
                ]
                record = RawRecord(key, jpeg(partition), headers)
                places[partition] = self._send(self._uploads, partition, Sent(record), record)
        return [place for sent in places.values() for place in sent]

    def ask(self, sent: Sequence[Sent]) -> list[bytes]:
        """Send these as requests; the correlation ids of those that must be answered."""
        asked = []
        for one in sent:
            correlation = uuid.uuid4().bytes
            headers = [*self._address(correlation), *one.record.headers]
            record = RawRecord(one.record.key, one.record.value, headers)
            partition = correlation[0] % self.partitions
            taken = self._send(self._requests, partition, one, record)
            if taken and not one.is_raw and not _changes_the_address(one.record.headers):
                asked.append(correlation)
        return asked

    def ask_good(self) -> list[bytes]:
        """A request in each partition, from a neighbour who does nothing wrong."""
        asked = []
        for partition in range(self.partitions):
            correlation = uuid.uuid4().bytes
            record = RawRecord(None, b'{"text": "a red square"}', self._address(correlation))
            assert self._send(self._requests, partition, Sent(record), record)
            asked.append(correlation)
        return asked

    def await_outcomes(self, places: Iterable[Place]) -> None:
        """Each record has an outcome."""
        missing = set(places) - self._done
        deadline = time.monotonic() + PATIENCE_S
        while missing:
            self._check(deadline, f"no outcome of {sorted(missing)[:5]}")
            for message in _some(self._outcomes):
                outcome = strict_json(message.value() or b"")
                self._done.add((outcome["partition"], outcome["offset"]))
            missing -= self._done

    def await_replies(self, asked: Iterable[bytes]) -> list[dict[str, Any]]:
        """Each request has a reply; all that came on the topic is strict JSON without secrets."""
        asked = list(asked)
        deadline = time.monotonic() + PATIENCE_S
        while missing := [each for each in asked if each not in self._replied]:
            self._check(deadline, f"no reply to {len(missing)} of {len(asked)} requests")
            for message in _some(self._answers):
                value = message.value() or b""
                strict_json(value)
                for private in (SECRET, "Traceback", 'File "'):
                    assert private not in value.decode()
                named: dict[str, bytes] = dict(message.headers() or ())  # type: ignore[arg-type]
                self._replied[named["kafka_correlationId"]] = value
        return [strict_json(self._replied[each]) for each in asked]

    def await_read(self, topic: str, group: str) -> None:
        """The group has read this topic to its end, and said so."""
        settings = self.deployment.settings()
        client = kafka_clients.admin(self._connection)
        name, numbers = settings.named(topic), range(self.partitions)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            ends = kafka_offsets.ends(client, name, numbers)
            read = kafka_offsets.committed_offsets(
                self._connection, settings.named(group), name, numbers
            )
            behind = {p: (read.get(p), end) for p, end in ends.items() if read.get(p, 0) < end}
            if not behind:
                return
            self._check(deadline, f"{group} has not read to the end: {behind}")
            time.sleep(0.2)

    def _check(self, deadline: float, what: str) -> None:
        for name, process in self.deployment.processes.items():
            assert process.poll() is None, f"{name} ended:\n{self.deployment.log(name)}"
        if time.monotonic() > deadline:
            logs = "\n".join(map(self.deployment.log, self.deployment.processes))
            raise AssertionError(f"{what}\n{logs}")

    def _address(self, correlation: bytes) -> list[tuple[bytes, bytes | None]]:
        until = int((time.time() + 2 * PATIENCE_S) * 1000)
        return [
            (b"kafka_replyTopic", self._replies.encode()),
            (b"kafka_correlationId", correlation),
            (b"pixtide-deadline", str(until).encode()),
        ]

    def _tail(self, topic: str) -> Consumer:
        client = kafka_clients.admin(self._connection)
        numbers = range(kafka_topics.partitions_of(client, topic))
        ends = kafka_offsets.ends(client, topic, numbers)
        consumer = kafka_clients.tail_consumer(self._connection)
        consumer.assign([TopicPartition(topic, p, end) for p, end in ends.items()])
        return consumer

    def _send(self, topic: str, partition: int, how: Sent, record: RawRecord) -> list[Place]:
        if how.is_raw:
            code, offset = produce(self.bootstrap, topic, partition, batch([record]))
            return [(partition, offset)] if code == 0 else []
        places: list[Place] = []

        def told(error: object, message: Message) -> None:
            if error is None and how.transaction != "abort":
                places.append((partition, message.offset() or 0))

        producer = self._producer(how)
        if how.transaction != "none":
            producer.begin_transaction()
        with contextlib.suppress(KafkaException):  # too large: the client refuses it
            producer.produce(
                topic,
                record.value,
                record.key,
                partition,
                headers=[(name.decode(), value) for name, value in record.headers],
                on_delivery=told,
            )
        if how.transaction == "commit":
            producer.commit_transaction(PATIENCE_S)
        elif how.transaction == "abort":
            producer.flush(PATIENCE_S)
            producer.abort_transaction(PATIENCE_S)
        assert producer.flush(PATIENCE_S) == 0
        return places

    def _producer(self, how: Sent) -> Producer:
        in_transactions = how.transaction != "none"
        known = self._producers.get((how.codec, in_transactions))
        if known is not None:
            return known
        made = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "compression.type": how.codec,
                "linger.ms": 0,
                **({"transactional.id": uuid.uuid4().hex} if in_transactions else {}),
            }
        )
        if in_transactions:
            made.init_transactions(PATIENCE_S)
        self._producers[how.codec, in_transactions] = made
        return made


def _changes_the_address(headers: Sequence[tuple[bytes, bytes | None]]) -> bool:
    """Whether one of these says anew where a reply goes, or until when."""
    return any(
        name.lower().startswith((b"kafka_", b"reply", b"pixtide-", b"nest")) for name, _ in headers
    )


def _some(consumer: Consumer) -> list[Message]:
    return [m for m in consumer.consume(500, timeout=0.2) if m.error() is None]


def strict_json(data: bytes) -> Any:
    """Its value. Raises ValueError as a strict reader would: NaN, infinities, half surrogates."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    value = json.loads(data.decode(), parse_constant=refuse)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value
