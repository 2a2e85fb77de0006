"""One consumer of a topic, which does nothing with its records: how many a second it takes.

`python ingest_loop.py CONTENDER BOOTSTRAP TOPIC COUNT`, in the contender's own environment. Each
reads from the beginning in a new group, makes of each record what its users get, commits as it does
by default or, where it has none, each second, and with the last record prints a line of JSON and
ends at once: to leave in an orderly way is no part of it, and takes some of them for ever.

    drain        confluent-kafka, 500 at once: the ceiling
    poll         confluent-kafka, one by one
    pixtide      the ingest worker's main loop: polling, the order of keys, commits
    faust        an agent that takes one event after the other
    quixstreams  a dataframe with one function
"""

import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # quixstreams' environment has its own
    from confluent_kafka import Consumer, Message


class Rate:
    """Counts records from the first to the last, tells their rate and ends the process."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._count = 0
        self._begun = 0.0

    def add(self, records: int = 1) -> None:
        """Count so many; does not return from the last."""
        if not self._count:
            self._begun = time.perf_counter()
        self._count += records
        if self._count >= self._wanted:
            per_second = self._count / (time.perf_counter() - self._begun)
            os.write(1, f"{json.dumps({'per_second': per_second})}\n".encode())
            os._exit(0)


def drain(bootstrap: str, topic: str, rate: Rate) -> None:
    """`consume` in a loop."""
    _bare(bootstrap, topic, rate, lambda consumer: consumer.consume(500, 1))


def poll(bootstrap: str, topic: str, rate: Rate) -> None:
    """`poll` in a loop."""
    _bare(bootstrap, topic, rate, lambda consumer: [consumer.poll(1)])


def _bare(
    bootstrap: str, topic: str, rate: Rate, read: Callable[["Consumer"], Sequence["Message | None"]]
) -> None:
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    committed = time.perf_counter()
    while True:
        messages = [message for message in read(consumer) if message is not None]
        for message in messages:
            message.key(), message.value(), message.headers()
        if messages:
            rate.add(len(messages))
        if messages and time.perf_counter() - committed > 1:
            consumer.commit()
            committed = time.perf_counter()


def pixtide(bootstrap: str, topic: str, rate: Rate) -> None:
    """The steps 1 and 7 of streams/ingest/worker.py; what lies between is left out."""
    from pixtide.streams.ingest.assignment import Assignment
    from pixtide.streams.ingest.in_flight import InFlight
    from pixtide.streams.ingest.record_reader import RecordReader
    from pixtide.streams.ingest.start_positions import Positions
    from pixtide.streams.ingest.work import Work
    from pixtide.streams.kafka import clients as kafka_clients
    from pixtide.streams.kafka import offsets as kafka_offsets
    from pixtide.streams.kafka import topics as kafka_topics
    from pixtide.streams.kafka.connection import KafkaConnection
    from pixtide.streams.kafka.log_guard import LogGuard

    connection, group = KafkaConnection(bootstrap), uuid.uuid4().hex
    client = kafka_clients.admin(connection)
    log = kafka_topics.log_identity(client, topic)
    for name in (topic, topic + ".retry"):
        beginning = kafka_offsets.beginnings(client, name, range(log.partitions))
        kafka_offsets.commit_beginning(connection, group, name, beginning)
    guard, retries = LogGuard(client, log), kafka_topics.log_identity(client, topic + ".retry")
    reader = RecordReader(guard, retries, "murmur2", patiently=cast(Any, None))  # for `read`
    flight: InFlight[Work] = InFlight()
    assignment = Assignment(
        lambda more: kafka_clients.ingest_consumer(connection, group, **more),
        Positions(connection, client, group, guard),
        flight,
        retry_topic=retries.topic,
        settle=lambda: None,
    )
    assignment.join()
    while True:
        record = assignment.poll(0.05)
        if record is not None:
            work = reader.begin(record)
            flight.admit(work)
            flight.finish(work)
            rate.add()
        assignment.commit_now_and_then()


def faust(bootstrap: str, topic: str, rate: Rate) -> None:
    """`async for event in stream`, as its documentation has it."""
    import faust as library

    app: Any = library.App(
        uuid.uuid4().hex,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        value_serializer="raw",
        datadir=tempfile.gettempdir(),
    )

    @app.agent(app.topic(topic, value_type=bytes))  # type: ignore[untyped-decorator]
    async def read(stream: Any) -> None:
        async for _ in stream.events():
            rate.add()

    async def run() -> None:
        await app.start()
        await asyncio.Event().wait()

    asyncio.run(run())


def quixstreams(bootstrap: str, topic: str, rate: Rate) -> None:
    """`dataframe.update(function)`, as its documentation has it."""
    from quixstreams import Application  # type: ignore[import-not-found,unused-ignore]

    app = Application(
        broker_address=bootstrap,
        consumer_group=uuid.uuid4().hex,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel="ERROR",
    )
    frame = app.dataframe(app.topic(topic, key_deserializer="bytes", value_deserializer="bytes"))

    def count(_: object) -> None:
        rate.add()

    frame.update(count)
    app.run()


CONTENDERS: dict[str, Callable[[str, str, Rate], None]] = {
    "drain": drain,
    "poll": poll,
    "pixtide": pixtide,
    "faust": faust,
    "quixstreams": quixstreams,
}


if __name__ == "__main__":
    CONTENDERS[sys.argv[1]](sys.argv[2], sys.argv[3], Rate(int(sys.argv[4])))
