"""Faults of the ingest path, on real servers, each ending in: the index is what the log says."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition

from schemas import topics
from schemas.codec import decode_event, encode_event
from schemas.events import ImageUploaded, InlinePicture
from schemas.identity import Version, partition_of
from schemas.outcomes import Outcome
from search.port import RowState
from streams import kafka as kafka_clients
from streams.kafka import Record, record_of
from streams.publish import Description, Publisher, Source
from streams.reindex import lag_of
from streams.wiring import generation_to_work_for, open_catalog
from tests.deployments import Deployment, OnServers
from tests.models import tiny_clip
from tests.pictures import jpeg
from tests.servers import KafkaServer, WeaviateServer

PARTITIONS = topics.topics(embedded=False)[0].partitions


@pytest.fixture
def stack(tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer) -> Iterator[OnServers]:
    made = OnServers(
        tmp_path / "home",
        kafka=kafka.bootstrap,
        weaviate_url=weaviate.http_url,
        grpc_port=weaviate.grpc_port,
        PIXTIDE_MODEL=tiny_clip(tmp_path / "model"),
    )
    made.create()
    try:
        yield made
    finally:
        for name in list(made.processes):
            made.kill(name)


def publish(stack: Deployment, pictures: dict[str, bytes | None]) -> None:
    """Inline uploads, or deletes where there is no picture."""
    producer = kafka_clients.producer(stack.settings().kafka_connection(), linger_ms=5)
    for image_id, data in pictures.items():
        if data is None:
            producer.produce(topic(stack), None, image_id.encode())
            continue
        key, value, headers = encode_event(upload(image_id, data))
        producer.produce(topic(stack), value, key, headers=list(headers))
    assert producer.flush(30) == 0


def publish_raw(stack: OnServers, key: bytes, value: bytes, partition: int) -> None:
    """A record as some other program might send it."""
    refused: list[object] = []
    producer = Producer({"bootstrap.servers": stack.settings().bootstrap()})
    producer.produce(
        topic(stack), value, key, partition, on_delivery=lambda error, _: refused.append(error)
    )
    assert producer.flush(30) == 0
    assert refused == [None]


def home_of(key: bytes) -> int:
    """The partition that a key belongs to."""
    partition = partition_of(key, PARTITIONS, "murmur2")
    assert partition is not None
    return partition


def upload(image_id: str, data: bytes) -> ImageUploaded:
    decoded = decode_event(
        image_id.encode(),
        data,
        [
            ("ce_specversion", b"1.0"),
            ("ce_id", image_id.encode()),
            ("ce_source", b"/test"),
            ("ce_type", b"pixtide.image.uploaded.v1"),
            ("content-type", b"image/jpeg"),
        ],
        int(time.time() * 1000),
    )
    assert isinstance(decoded, ImageUploaded)
    assert isinstance(decoded.picture, InlinePicture)
    return decoded


def topic(stack: Deployment, name: str = topics.UPLOADED) -> str:
    return stack.settings().named(name)


def wait_until_read(stack: OnServers, *, seconds: float = 120) -> None:
    settings = stack.settings()
    with contextlib.closing(open_catalog(settings)) as catalog:
        generation = generation_to_work_for(catalog, None)
    deadline = time.monotonic() + seconds
    while lag := lag_of(settings, generation):
        assert time.monotonic() < deadline, f"lag is still {lag}: {stack.log('ingest')}"
        time.sleep(0.2)


def read_topic(stack: OnServers, name: str) -> list[Record]:
    """Everything that a topic holds now."""
    connection, full = stack.settings().kafka_connection(), topic(stack, name)
    client = kafka_clients.admin(connection)
    numbers = range(kafka_clients.partitions_of(client, full))
    first = kafka_clients.beginnings(client, full, numbers)
    wanted = {p: e for p, e in kafka_clients.ends(client, full, numbers).items() if e > first[p]}
    records: list[Record] = []
    with contextlib.closing(kafka_clients.tail_consumer(connection)) as consumer:
        consumer.assign([TopicPartition(full, p, first[p]) for p in wanted])
        deadline = time.monotonic() + 30
        while wanted and time.monotonic() < deadline:
            for message in consumer.consume(500, timeout=0.2):
                assert message.error() is None
                records.append(record_of(message))
                if records[-1].offset >= wanted.get(records[-1].partition, 0) - 1:
                    wanted.pop(records[-1].partition, None)
    assert not wanted
    return records


def fold(stack: OnServers) -> dict[str, tuple[Version, bool]]:
    """What the log says of each id: its latest version, and whether that is an upload."""
    latest: dict[str, tuple[Version, bool]] = {}
    for record in sorted(read_topic(stack, topics.UPLOADED), key=lambda r: r.offset):
        image_id = (record.key or b"").decode()
        latest[image_id] = (Version(1, record.partition, record.offset), record.value is not None)
    return latest


def check_against_the_log(stack: OnServers, *, poisoned: frozenset[str] = frozenset()) -> None:
    """The oracle: one row for each key of the log, at its latest record's version and state."""
    rows = stack.rows()
    expected = {
        image_id: (
            version,
            RowState.DELETED
            if not uploaded
            else RowState.DEAD_LETTERED
            if image_id in poisoned
            else RowState.LIVE,
        )
        for image_id, (version, uploaded) in fold(stack).items()
    }
    assert {i: (row.version, row.state) for i, row in rows.items()} == expected


def outcomes(stack: OnServers) -> dict[tuple[int, int], Outcome]:
    """The outcomes by source coordinates, repetitions folded."""
    read = [Outcome.from_json(r.value or b"") for r in read_topic(stack, topics.INDEXED)]
    return {(o.partition, o.offset): o for o in read}


def test_kill_9_in_the_middle_of_500_pictures(stack: OnServers) -> None:
    stack.start_process("ingest")
    publish(stack, {f"picture-{n}": jpeg(n) for n in range(500)})
    deadline = time.monotonic() + 60
    while not 50 <= len(outcomes(stack)) < 450:
        assert time.monotonic() < deadline
    stack.kill("ingest")
    done_before = len(stack.rows())
    assert 0 < done_before < 500, "the kill was meant to come in the middle"
    stack.start_process("ingest")
    wait_until_read(stack)
    check_against_the_log(stack)
    found = outcomes(stack)
    assert len(found) == 500
    assert Counter(o.outcome for o in found.values()) == {"indexed": 500}
    stack.stop_process("ingest")


def test_an_upload_delivered_again_after_its_delete_leaves_it_deleted(stack: OnServers) -> None:
    stack.start_process("ingest")
    publish(stack, {"kept": jpeg(1), "gone": jpeg(2)})
    publish(stack, {"gone": None})
    wait_until_read(stack)
    stack.stop_process("ingest")
    assert stack.rows()["gone"].state is RowState.DELETED

    settings = stack.settings()
    with contextlib.closing(open_catalog(settings)) as catalog:
        generation = generation_to_work_for(catalog, None)
    beginning = dict.fromkeys(range(generation.log.partitions), 0)
    kafka_clients.commit_beginning(
        settings.kafka_connection(), generation.group, generation.log.topic, beginning
    )
    assert lag_of(settings, generation) == 3
    stack.start_process("ingest")
    wait_until_read(stack)
    check_against_the_log(stack)
    gone = stack.rows()["gone"]
    assert (gone.state, gone.uri, gone.caption, gone.sha256) == (RowState.DELETED, "", "", "")
    stack.stop_process("ingest")


def test_bad_records_reach_the_dead_letters_and_their_neighbours_the_index(
    stack: OnServers,
) -> None:
    good = {f"good-{n}": jpeg(n) for n in range(20)}
    publish(stack, {k: v for k, v in good.items() if int(k[5:]) < 10})
    publish(stack, {"truncated.jpg": jpeg(99, 256)[:-200], "text.png": b"this is text, not a PNG"})
    publish_raw(stack, b"bad-event", b"not JSON", home_of(b"bad-event"))
    publish_raw(stack, b"elsewhere", jpeg(3), (home_of(b"elsewhere") + 1) % PARTITIONS)
    publish(stack, {k: v for k, v in good.items() if int(k[5:]) >= 10})
    stack.start_process("ingest")
    wait_until_read(stack)

    letters = read_topic(stack, topics.DEAD_LETTERS)
    reasons = {r.key: dict(r.headers)["pixtide-reason"] for r in letters}
    assert reasons == {
        b"truncated.jpg": b"TRUNCATED_IMAGE",
        b"text.png": b"UNIDENTIFIED_FORMAT",
        b"bad-event": b"INVALID_CLOUDEVENT",
        b"elsewhere": b"WRONG_PARTITION",
    }
    letter = next(r for r in letters if r.key == b"text.png")
    assert letter.value == b"this is text, not a PNG"
    headers = dict(letter.headers)
    assert headers["ce_type"] == b"pixtide.image.uploaded.v1"
    assert headers["__connect.errors.topic"] == topic(stack).encode()
    assert headers["__connect.errors.stage"] == b"decode"

    rows = stack.rows()
    live = {i for i, row in rows.items() if row.state is RowState.LIVE}
    assert live == set(good)
    assert rows["text.png"].state is RowState.DEAD_LETTERED
    assert rows["text.png"].reason == "UNIDENTIFIED_FORMAT"
    found = Counter(o.outcome for o in outcomes(stack).values())
    assert found == {"indexed": 20, "dead_lettered": 4}

    # a poisoned id heals with its next good record, and a good one is poisoned by a bad record
    publish(stack, {"text.png": jpeg(5), "good-1": b"not a picture any more"})
    wait_until_read(stack)
    rows = stack.rows()
    assert rows["text.png"].state is RowState.LIVE
    assert rows["good-1"].state is RowState.DEAD_LETTERED
    stack.stop_process("ingest")


@pytest.mark.slow
def test_nothing_is_lost_while_the_index_is_away(
    stack: OnServers, weaviate: WeaviateServer
) -> None:
    stack.start_process("ingest")
    publish(stack, {f"before-{n}": jpeg(n) for n in range(20)})
    wait_until_read(stack)
    weaviate.stop()
    try:
        publish(stack, {f"during-{n}": jpeg(n + 100) for n in range(50)} | {"before-3": None})
        time.sleep(5)
        assert stack.processes["ingest"].poll() is None, stack.log("ingest")
    finally:
        weaviate.start()
    wait_until_read(stack)
    assert read_topic(stack, topics.DEAD_LETTERS) == []
    check_against_the_log(stack)
    stack.stop_process("ingest")


@pytest.mark.slow
def test_a_topic_made_anew_stops_the_worker(stack: OnServers) -> None:
    stack.start_process("ingest")
    publish(stack, {"a": jpeg(1)})
    wait_until_read(stack)
    stack.stop_process("ingest")
    client = kafka_clients.admin(stack.settings().kafka_connection())
    client.delete_topics([topic(stack)])[topic(stack)].result()
    deadline = time.monotonic() + 20
    while topic(stack) in client.list_topics(timeout=5).topics:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    stack.run_here("topics", "create")
    stack.spawn("ingest", "ingest")
    assert stack.processes.pop("ingest").wait(60) == 1
    assert "the log changed" in stack.log("ingest")
    assert "create a generation" in stack.log("ingest")


def test_only_the_original_of_the_latest_picture_is_kept(stack: OnServers) -> None:
    """Published through our store: replaced on update, removed on delete, put again and kept."""
    settings = stack.settings()
    store = settings.home / "originals"

    def originals() -> list[bytes]:
        return sorted(p.read_bytes() for p in store.rglob("*") if p.is_file())

    def send(image_id: str, data: bytes) -> None:
        path = stack.folder / "a.jpg"
        path.write_bytes(data)
        publisher = Publisher(settings)
        publisher.upload(Source(image_id, path), Description())  # no roots: into the store
        publisher.flush()

    stack.start_process("ingest")
    send("x", jpeg(1))
    send("y", jpeg(2))
    wait_until_read(stack)
    assert originals() == sorted([jpeg(1), jpeg(2)])
    send("x", jpeg(3))
    publish(stack, {"y": None})
    wait_until_read(stack)
    assert originals() == [jpeg(3)]
    # deleted and at once published again with the same content: the new original stays
    stack.stop_process("ingest")
    publish(stack, {"x": None})
    time.sleep(1.1)
    send("x", jpeg(3))
    stack.start_process("ingest")
    wait_until_read(stack)
    assert originals() == [jpeg(3)]
    assert stack.rows()["x"].state is RowState.LIVE
    publish(stack, {"x": None})
    wait_until_read(stack)
    assert originals() == []
    stack.stop_process("ingest")
