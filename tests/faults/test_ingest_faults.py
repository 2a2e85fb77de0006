"""Faults of the ingest path, on real servers, each ending in: the index is what the log says."""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]  # not in __all__

from pixtide.schemas import topics
from pixtide.schemas.codec import decode_event, encode_event
from pixtide.schemas.events import ImageUploaded, InlinePicture
from pixtide.schemas.identity import partition_of
from pixtide.schemas.outcomes import Outcome
from pixtide.search.generations import Generation
from pixtide.search.port import RowState
from pixtide.streams.generations.progress import lag_behind
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.publish.publisher import Description, Publisher
from pixtide.streams.publish.sources import Source
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for
from tests.faults.oracle import check_against_the_log, check_commits, read_topic, topic
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import Deployment, OnServers, killed_in_the_end, on_servers
from tests.support.pictures import jpeg

PARTITIONS = topics.topics(embedded=False)[0].partitions


@pytest.fixture
def stack(tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer) -> Iterator[OnServers]:
    made = on_servers(
        tmp_path,
        kafka,
        weaviate,
        real_model=False,
        PIXTIDE_SESSION_TIMEOUT_S="9",  # so that a killed worker's partitions are soon another's
    )
    made.create()
    with killed_in_the_end(made):
        yield made


def publish(stack: Deployment, pictures: Mapping[str, bytes | None]) -> None:
    """Inline uploads, or deletes where there is no picture."""
    producer = kafka_clients.producer(stack.settings().kafka_connection(), linger_ms=5)
    for image_id, data in pictures.items():
        produce(producer, topic(stack), image_id, data)
    assert producer.flush(30) == 0


def produce(
    producer: Producer,
    uploaded: str,
    image_id: str,
    data: bytes | None,
    reported: Callable[[KafkaError | None, Message], None] | None = None,
) -> None:
    """An inline upload, or a delete."""
    if data is None:
        producer.produce(uploaded, None, image_id.encode(), on_delivery=reported)
        return
    key, value, headers = encode_event(upload(image_id, data))
    producer.produce(uploaded, value, key, headers=list(headers), on_delivery=reported)


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


def lag_of(settings: Settings, generation: Generation) -> int:
    """How many records of the log its group has not committed yet."""
    log = generation.log
    admin = kafka_clients.admin(settings.kafka_connection())
    ends = kafka_offsets.ends(admin, log.topic, range(log.partitions))
    return lag_behind(settings, generation, ends)


def wait_until_read(stack: OnServers, *, seconds: float = 120) -> None:
    settings = stack.settings()
    with contextlib.closing(open_catalog(settings)) as catalog:
        generation = generation_to_work_for(catalog, None)
    deadline = time.monotonic() + seconds
    while lag := lag_of(settings, generation):
        assert time.monotonic() < deadline, f"lag is still {lag}: {stack.log('ingest')}"
        time.sleep(0.2)


def wait_until(condition: Callable[[], bool], *, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def outcomes(stack: OnServers) -> dict[tuple[int, int], Outcome]:
    """The outcomes by source coordinates, repetitions folded."""
    read = [Outcome.from_json(r.value or b"") for r in read_topic(stack, topics.INDEXED)]
    return {(o.partition, o.offset): o for o in read}


@pytest.mark.fault("kill -9 in the middle of a batch")
def test_kill_9_in_the_middle_of_500_pictures(stack: OnServers) -> None:
    stack.start_process("ingest")
    pictures = {f"picture-{n}": jpeg(n) for n in range(500)}
    publish(stack, dict(list(pictures.items())[:250]))
    wait_until(lambda: len(outcomes(stack)) >= 50, seconds=120)
    # Only now comes the other half, so that even a fast worker can't be done with it.
    publish(stack, dict(list(pictures.items())[250:]))
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


@pytest.mark.fault("an upload is delivered again after its delete")
@pytest.mark.slow
def test_an_upload_delivered_again_after_its_delete_leaves_it_deleted(stack: OnServers) -> None:
    # with room for next to nothing: one picture after the other, and none waits for ever
    stack.env |= {"PIXTIDE_IN_FLIGHT_BYTES": "1", "PIXTIDE_IN_FLIGHT_RECORDS": "1"}
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
    kafka_offsets.commit_beginning(
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
def test_known_content_is_neither_decoded_nor_encoded_again(stack: OnServers) -> None:
    stack.start_process("ingest")
    publish(stack, {"first": jpeg(1)})
    wait_until_read(stack)
    publish(stack, {"first": jpeg(1), "second": jpeg(1), "other": jpeg(2)})
    publish(stack, {f"same-{n}": jpeg(3) for n in range(8)})
    wait_until_read(stack)
    found = list(outcomes(stack).values())
    worked = {o.image_id: set(o.took_ms) & {"decode", "encode"} for o in found}
    assert worked.pop("first") == set(), "its own content under a newer version"
    assert worked.pop("second") == set(), "content known under another id"
    assert worked.pop("other") == {"decode", "encode"}
    assert Counter(o.outcome for o in found) == {"indexed": 11, "unchanged": 1}
    with stack.index() as index:
        rows = index.get([o.image_id for o in found])
    vectors = {image_id: row.vector for image_id, row in rows.items() if row.vector is not None}
    assert len(vectors) == 11
    assert np.abs(vectors["first"] - vectors["second"]).max() < 1e-5
    assert np.abs(vectors["first"] - vectors["other"]).max() > 1e-3
    for n in range(8):
        assert np.abs(vectors["same-0"] - vectors[f"same-{n}"]).max() < 1e-5
    first, second = rows["first"], rows["second"]
    assert (first.sha256, first.width, first.format) == (second.sha256, 48, "JPEG")
    assert (second.orientation, second.bytes) == ("square", len(jpeg(1)))
    stack.stop_process("ingest")


@pytest.mark.fault("SIGSTOP past the session, a newer write elsewhere, SIGCONT")
@pytest.mark.slow
def test_a_worker_that_stood_still_past_its_session_overwrites_nothing(stack: OnServers) -> None:
    ready = stack.home / "ingest"  # so slow that it needs minutes: it is stopped in the middle
    arguments = ("ingest", "--max-rate", "2", "--ready-file", str(ready))
    stack.spawn("ingest", *arguments, ready=ready)
    publish(stack, {f"p-{n}": jpeg(n) for n in range(400)})
    wait_until(lambda: len(outcomes(stack)) >= 5)
    os.kill(stack.processes["ingest"].pid, signal.SIGSTOP)
    ready = stack.home / "ingest-2"
    stack.spawn("ingest-2", "ingest", "--ready-file", str(ready), ready=ready)
    publish(stack, {f"p-{n}": jpeg(1000 + n) if n % 3 else None for n in range(400)})
    wait_until_read(stack)
    check_against_the_log(stack)
    os.kill(stack.processes["ingest"].pid, signal.SIGCONT)
    wait_until(lambda: "the session expired" in stack.log("ingest"))
    publish(stack, {"after": jpeg(1)})
    wait_until_read(stack)
    stack.stop_process("ingest")
    stack.stop_process("ingest-2")
    check_against_the_log(stack)


@pytest.mark.fault("the topic is made anew")
@pytest.mark.slow
def test_a_topic_made_anew_stops_the_worker(stack: OnServers) -> None:
    stack.start_process("ingest")
    publish(stack, {f"old-{n}": jpeg(n) for n in range(20)})
    wait_until_read(stack)
    before = stack.rows()
    client = kafka_clients.admin(stack.settings().kafka_connection())
    client.delete_topics([topic(stack)])[topic(stack)].result()
    wait_until(lambda: topic(stack) not in client.list_topics(timeout=5).topics, seconds=60)
    stack.run_here("topics", "create")
    publish(stack, {f"new-{n}": jpeg(n) for n in range(100)})  # past where the old one ended
    stops_since_the_log_changed(stack)
    assert stack.rows() == before, "something was read as if it were in the old log"


@pytest.mark.fault("the topic is given more partitions")
@pytest.mark.slow
def test_a_topic_that_is_given_partitions_stops_the_worker(stack: OnServers) -> None:
    stack.start_process("ingest")
    publish(stack, {f"old-{n}": jpeg(n) for n in range(20)})
    wait_until_read(stack)
    client = kafka_clients.admin(stack.settings().kafka_connection())
    grown = NewPartitions(topic(stack), PARTITIONS + 2)
    client.create_partitions([grown])[topic(stack)].result()
    publish(stack, {f"new-{n}": jpeg(n) for n in range(100)})
    stops_since_the_log_changed(stack)
    check_commits(stack)


def stops_since_the_log_changed(stack: OnServers) -> None:
    """The worker ends with 1 and says why; so does one that is started then."""
    for name in ("ingest", "again"):
        if name not in stack.processes:
            stack.spawn(name, "ingest")
        assert stack.processes.pop(name).wait(90) == 1, stack.log(name)
        assert "the log changed" in stack.log(name)
        assert "create a generation" in stack.log(name)


@pytest.mark.slow
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
    # a dead letter's original waits for a retry, and goes with the delete of its picture
    send("z", b"torn")
    wait_until_read(stack)
    assert stack.rows()["z"].state is RowState.DEAD_LETTERED
    assert originals() == sorted([jpeg(3), b"torn"])
    publish(stack, {"x": None, "z": None})
    wait_until_read(stack)
    assert originals() == []
    stack.stop_process("ingest")
