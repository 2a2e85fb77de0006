"""Dead letters tried again: they heal what they can, and never beat newer data."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from PIL import Image

from pixtide.schemas import topics
from pixtide.schemas.codec import encode_event
from pixtide.schemas.dead_letters import SourceRecord
from pixtide.schemas.events import ImageUploaded, PictureAt
from pixtide.schemas.identity import original_folder
from pixtide.schemas.outcomes import Outcome, OutcomeKind
from pixtide.search.port import RowState
from pixtide.streams.dead_letters.letters import EVERY_LETTER, DeadLetter, LetterState, Selection
from pixtide.streams.dead_letters.retry import RetryPlan
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.wiring.clients import dead_letters, retrier
from tests.faults.members import shares
from tests.faults.oracle import check_against_the_log, read_topic, topic
from tests.faults.test_ingest_faults import (
    home_of,
    publish,
    upload,
    wait_until,
    wait_until_read,
)
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, on_servers
from tests.support.pictures import jpeg


@contextmanager
def deployed(folder: Path, kafka: KafkaServer, weaviate: WeaviateServer) -> Iterator[OnServers]:
    """With a worker; pictures may lie in a folder, and each one fetched is kept."""
    made = on_servers(
        folder,
        kafka,
        weaviate,
        real_model=False,
        PIXTIDE_FILE_ROOTS=str(folder / "pictures"),
        PIXTIDE_KEEP_ORIGINALS="all",
        PIXTIDE_BREAKER_WINDOW="0",
    )
    (folder / "pictures").mkdir()
    made.run("topics", "create")
    made.run("index", "create", "v1")
    made.start_process("ingest")
    try:
        yield made
        made.stop()
    finally:
        for name in list(made.processes):
            made.kill(name)


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> Iterator[OnServers]:
    with deployed(tmp_path_factory.mktemp("dead-letters"), kafka, weaviate) as made:
        yield made


def folder(stack: OnServers) -> Path:
    return stack.folder / "pictures"


def publish_missing(stack: OnServers, *image_ids: str) -> None:
    """Uploads of files that aren't there, each of the image id's name."""
    at = {image_id: PictureAt(uri=(folder(stack) / image_id).as_uri()) for image_id in image_ids}
    publish_events(stack, [upload(i, b"").model_copy(update={"picture": at[i]}) for i in image_ids])


def publish_events(stack: OnServers, events: list[ImageUploaded]) -> None:
    producer = kafka_clients.producer(stack.settings().kafka_connection(), linger_ms=5)
    for event in events:
        key, value, headers = encode_event(event)
        producer.produce(topic(stack), value, key, headers=list(headers))
    assert producer.flush(30) == 0


def put(stack: OnServers, *image_ids: str) -> None:
    """The files that were missing."""
    for seed, image_id in enumerate(image_ids):
        (folder(stack) / image_id).write_bytes(jpeg(seed))


def found_letters(stack: OnServers, selection: Selection = EVERY_LETTER) -> list[DeadLetter]:
    source = dead_letters(stack.settings())
    try:
        return source.letters(selection)
    finally:
        source.close()


def letters(stack: OnServers) -> dict[str, DeadLetter]:
    """The letters by image id."""
    return {letter.image_id: letter for letter in found_letters(stack)}


def retry_all(stack: OnServers, chosen: list[DeadLetter]) -> None:
    """Send these whatever has become of them."""
    source = dead_letters(stack.settings())
    try:
        result = retrier(stack.settings(), source).send(RetryPlan(tuple(chosen), {}))
    finally:
        source.close()
    assert (len(result.sent), result.refused) == (len(chosen), ())


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def outcomes_of(stack: OnServers, image_id: str) -> list[OutcomeKind]:
    """The outcomes of one picture, in order."""
    return [outcome.outcome for outcome in told(stack) if outcome.image_id == image_id]


def told(stack: OnServers) -> list[Outcome]:
    """All outcomes, repeated ones too."""
    return [Outcome.from_json(r.value or b"") for r in read_topic(stack, topics.INDEXED)]


def test_a_retry_heals_and_never_beats_newer_data(stack: OnServers) -> None:
    ids = ("healed", "replaced", "deleted", "still-bad")
    publish_missing(stack, *ids)
    publish(stack, {"good": jpeg(50)})
    wait_until_read(stack)
    found = letters(stack)
    assert {i: found[i].state for i in ids} == dict.fromkeys(ids, "waiting")
    publish(stack, {"replaced": jpeg(60), "deleted": None})
    wait_until_read(stack)
    put(stack, "healed", "replaced", "deleted")

    # what is known before: two letters are history
    groups = {g["code"]: g for g in lines(stack.run("dlq", "list", "--json"))}
    group = groups["SOURCE_GONE"]
    assert (group["waiting"], group["superseded"], group["healed"]) == (2, 2, 0)
    assert {e["image_id"] for e in group["examples"]} == {"healed", "still-bad"}
    [shown] = lines(
        stack.run("dlq", "show", "healed", "--thumbnail", str(stack.folder / "t"), "--json")
    )
    assert shown["event"]["picture"]["uri"].endswith("/pictures/healed")
    assert shown["headers"]["ce_subject"] == "healed"
    assert not any(name.startswith("pixtide-") for name in shown["headers"])
    assert shown["thumbnail"] is None, "the picture isn't in the letter"
    planned = lines(stack.run("dlq", "retry", "--code", "SOURCE_GONE", "--json"))
    assert {e["image_id"]: e["sent"] for e in planned} == {"healed": False, "still-bad": False}
    assert read_topic(stack, topics.RETRY) == [], "a preview sends nothing"

    # all are sent, those that are history too
    uploaded = read_topic(stack, topics.UPLOADED)
    before = letters(stack)
    retry_all(stack, [before["replaced"], before["deleted"]])
    sent = lines(stack.run("dlq", "retry", "--all", "--execute", "--json"))
    assert {e["image_id"]: e["sent"] for e in sent} == {"healed": True, "still-bad": True}
    wait_until(
        lambda: all(len(outcomes_of(stack, i)) == n for i, n in zip(ids, (2, 3, 3, 2), strict=True))
    )
    assert outcomes_of(stack, "healed") == ["dead_lettered", "indexed"]
    assert outcomes_of(stack, "replaced") == ["dead_lettered", "indexed", "superseded"]
    assert outcomes_of(stack, "deleted") == ["dead_lettered", "deleted", "superseded"]
    assert outcomes_of(stack, "still-bad") == ["dead_lettered", "dead_lettered"]
    assert all(outcome.topic == topic(stack) for outcome in told(stack) if outcome.image_id in ids)
    check_against_the_log(stack, poisoned=frozenset(["still-bad"]))
    originals = stack.settings().home / "originals"
    assert not list((originals / original_folder("deleted")).glob("*")), "a retry brought it back"
    assert list((originals / original_folder("healed")).glob("*"))

    after = letters(stack)
    assert {i: after[i].state for i in ids} == {
        "healed": LetterState.HEALED,
        "replaced": LetterState.SUPERSEDED,
        "deleted": LetterState.SUPERSEDED,
        "still-bad": LetterState.WAITING,
    }
    assert after["still-bad"].source == before["still-bad"].source
    assert after["still-bad"].place != before["still-bad"].place
    assert len(read_topic(stack, topics.UPLOADED)) == len(uploaded)


def test_a_retry_of_no_record_of_this_log_changes_nothing(stack: OnServers) -> None:
    publish(stack, {"a": jpeg(1)})
    wait_until_read(stack)
    before = stack.rows()
    log = kafka_topics.log_identity(
        kafka_clients.admin(stack.settings().kafka_connection()), topic(stack)
    )
    partition = home_of(b"a")

    def said_to_be(**changes: Any) -> list[tuple[str, bytes | None]]:
        true = SourceRecord(
            topic=log.topic,
            topic_id=log.topic_id,
            partition=partition,
            offset=0,
            timestamp_ms=0,
        )
        return true.model_copy(update=changes).headers()

    wrong = {
        "no coordinates": [],
        "another log": said_to_be(topic_id="AAAAAAAAAAAAAAAAAAAAAQ"),
        "not written yet": said_to_be(offset=1_000_000),
        "another partition": said_to_be(partition=(partition + 1) % log.partitions),
        "no partition": said_to_be(partition=99),
        "no number": [*said_to_be()[:-1], ("pixtide-source-timestamp-ms", b"soon")],
    }
    producer = Producer({"bootstrap.servers": stack.settings().bootstrap()})
    for headers in wrong.values():
        producer.produce(
            topic(stack, topics.RETRY),
            None,  # of a valid record, this would delete
            b"a",
            partition,
            headers=headers,  # type: ignore[arg-type]
        )
    assert producer.flush(30) == 0
    refused = Selection(codes=frozenset(["INVALID_RETRY"]))
    wait_until(lambda: len(found_letters(stack, refused)) == len(wrong))
    assert {letter.state for letter in found_letters(stack, refused)} == {LetterState.ORPHANED}
    assert stack.rows() == before


@pytest.mark.slow
def test_a_letter_shows_its_picture_small(stack: OnServers) -> None:
    mismatch = {"sha256": "0" * 64}
    publish_events(stack, [upload("another", jpeg(7, 600)).model_copy(update=mismatch)])
    publish(stack, {"torn": jpeg(8, 600)[:-500]})
    wait_until(lambda: letters(stack).keys() >= {"another", "torn"})
    small = stack.folder / "small.jpg"
    [shown] = lines(stack.run("dlq", "show", "another", "--thumbnail", str(small), "--json"))
    assert (shown["code"], shown["thumbnail"]) == ("DIGEST_MISMATCH", str(small))
    with Image.open(small) as picture:
        assert (picture.format, picture.size) == ("JPEG", (256, 256))
    [shown] = lines(stack.run("dlq", "show", "torn", "--thumbnail", str(small), "--json"))
    assert shown["thumbnail"] is None
    assert shown["thumbnail_error"].startswith("TRUNCATED_IMAGE")


@pytest.mark.fault("a dead letter larger than its topic takes")
@pytest.mark.slow
def test_a_value_too_large_for_a_letter_is_tried_again_whole(stack: OnServers) -> None:
    client = kafka_clients.admin(stack.settings().kafka_connection())
    largest = topics.topics(embedded=False)[0].max_message_bytes + topics.DEAD_LETTER_ROOM
    value = b"no picture" * 2000
    set_largest(client, topic(stack, topics.DEAD_LETTERS), 8192)
    try:
        publish(stack, {"large": value})
        wait_until(lambda: "large" in letters(stack))
    finally:
        set_largest(client, topic(stack, topics.DEAD_LETTERS), largest)
    assert letters(stack)["large"].size == 0
    [shown] = lines(stack.run("dlq", "show", "large", "--json"))
    assert (shown["code"], shown["value"]["bytes"]) == ("UNIDENTIFIED_FORMAT", len(value))
    stack.run("dlq", "retry", "--id", "large", "--execute")
    [sent] = [r for r in read_topic(stack, topics.RETRY) if r.key == b"large"]
    assert sent.value == value
    assert "pixtide-value-uri" not in dict(sent.headers)


def set_largest(client: AdminClient, name: str, max_bytes: int) -> None:
    entry = ConfigEntry(
        "max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    client.incremental_alter_configs([resource])[resource].result()


@pytest.mark.slow
def test_retries_follow_their_partitions_and_outlive_retention(
    tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer
) -> None:
    """Two workers, one leaves; then retention removes retries that nobody has read."""
    with deployed(tmp_path, kafka, weaviate) as stack:
        move_and_expire(stack)


def move_and_expire(stack: OnServers) -> None:
    first, second = ([f"{name}-{n}" for n in range(30)] for name in ("first", "second"))
    ready = stack.home / "ingest-2"
    stack.spawn("ingest-2", "ingest", "--ready-file", str(ready), ready=ready)
    wait_until(lambda: shares(stack) == [3, 3])  # retries don't count
    publish_missing(stack, *first, *second)
    wait_until_read(stack)
    put(stack, *first, *second)
    found = letters(stack)
    assert set(found) == {*first, *second}
    retry_all(stack, [found[i] for i in first[:15]])
    stack.stop_process("ingest")  # and so its partitions move, in the middle of it
    retry_all(stack, [found[i] for i in first[15:]])
    wait_until(lambda: all(stack.rows()[i].state is RowState.LIVE for i in first))
    stack.stop_process("ingest-2")

    retry_all(stack, [found[i] for i in second[:15]])
    client = kafka_clients.admin(stack.settings().kafka_connection())
    retries = topic(stack, topics.RETRY)
    ends = kafka_offsets.ends(client, retries, range(kafka_topics.partitions_of(client, retries)))
    gone = [TopicPartition(retries, p, end) for p, end in ends.items()]
    for removed in client.delete_records(gone).values():
        removed.result()
    retry_all(stack, [found[i] for i in second[15:]])
    stack.start_process("ingest")
    wait_until(lambda: all(stack.rows()[i].state is RowState.LIVE for i in second[15:]))
    assert "is read from its beginning" in stack.log("ingest")
    check_against_the_log(stack, poisoned=frozenset(second[:15]))
