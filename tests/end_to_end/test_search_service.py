"""The search service as other programs see it: plain Kafka records with Spring's header names."""

import asyncio
import base64
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cramjam
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # as its docs say
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from pixtide.schemas import topics
from pixtide.schemas.queries import Filters, SearchReply, SearchRequest, Term
from pixtide.streams.client.asynchronous import AsyncSearchClient
from pixtide.streams.client.blocking import SearchClient
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import records as kafka_records
from pixtide.streams.publish.publisher import Description, Publisher
from pixtide.streams.publish.sources import Source
from pixtide.streams.wiring.clients import search_client
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.runners import free_ports
from tests.support.deployments import OnServers, on_servers
from tests.support.pictures import jpeg
from tests.support.raw_records import Headers, RawRecord, batch, packed, produce

#: Where a server is that accepts and never answers.
[SLOW_PORT] = free_ports(1)
EXAMPLE = Path(__file__).parents[2] / "docs" / "clients" / "python" / "search_over_kafka.py"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> Iterator[OnServers]:
    """A running service over twenty pictures."""
    folder = tmp_path_factory.mktemp("service")
    made = on_servers(
        folder,
        kafka,
        weaviate,
        PIXTIDE_ALLOWED_HOSTS=f"127.0.0.1:{SLOW_PORT}",
        PIXTIDE_FETCH_TIMEOUT_S="5",
    )
    try:
        made.start()
        for number in range(20):
            (folder / f"{number}.jpg").write_bytes(jpeg(number))
        names = [str(folder / f"{n}.jpg") for n in range(20)]
        made.publish(*names[:10], "--prefix", "p", "--tag", "low", "--caption", "one of ten")
        made.publish(*names[10:], "--prefix", "p", "--tag", "high")
        yield made
    finally:
        made.stop()


@pytest.fixture
def client(service: OnServers) -> Iterator[SearchClient]:
    with search_client(service.settings()) as made:
        yield made


def test_a_plain_script_with_springs_headers_is_answered(service: OnServers) -> None:
    settings = service.settings()
    names = [settings.named(name) for name in (topics.REQUESTS, topics.REPLIES)]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), settings.bootstrap(), *names, "a red square"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reply = SearchReply.from_json(done.stdout.encode())
    assert [r.image_id for r in reply.results or ()] == [
        r["image_id"] for r in service.search("a red square", "-k", "5")
    ]


def test_filters_limits_and_what_a_result_says(client: SearchClient) -> None:
    low = client.search(
        SearchRequest(text="anything", limit=100, filters=Filters(tags_all=("low",)))
    )
    assert low.results is not None and len(low.results) == 10
    first = low.results[0]
    assert (first.caption, first.tags, first.width, first.format) == (
        "one of ten",
        ("low",),
        48,
        "JPEG",
    )
    similarities = [r.similarity for r in low.results]
    assert similarities == sorted(similarities, reverse=True)
    assert all(-1 <= s <= 1 for s in similarities)
    assert low.generation == "v1" and low.took_ms
    assert client.search(SearchRequest(text="anything", min_similarity=1.0)).results == ()


def test_many_requests_keep_their_order(client: SearchClient) -> None:
    limits = [1 + n % 20 for n in range(150)]
    asked = (SearchRequest(text=f"query {limit}", limit=limit) for limit in limits)
    replies = list(client.search_many(asked))
    assert [len(reply.results or ()) for reply in replies] == limits


@pytest.mark.parametrize(
    ("code", "value", "changed"),
    [
        ("MALFORMED_REQUEST", b"{", {}),
        ("EMPTY_QUERY", b'{"text": " "}', {}),
        ("QUERY_TOO_LONG", json.dumps({"text": "word " * 500}).encode(), {}),
        ("INVALID_LIMIT", b'{"text": "a", "limit": 0}', {}),
        ("INVALID_FILTER", b'{"text": "a", "filters": {"colour": 1}}', {}),
        ("INVALID_CURSOR", b'{"text": "a", "cursor": "x"}', {}),
        ("UNKNOWN_IMAGE", b'{"terms": [{"image_id": "nobody"}]}', {}),
        ("BAD_PICTURE", b'{"terms": [{"data_base64": "aGVsbG8="}]}', {}),
        ("BAD_PICTURE", b'{"terms": [{"data_base64": "?"}]}', {}),
        ("BAD_PICTURE", b'{"terms": [{"uri": "http://127.0.0.1:1/a.jpg"}]}', {}),
        ("BAD_PICTURE", b'{"terms": [{"uri": "file:///etc/passwd"}]}', {}),
        ("BAD_CORRELATION_ID", b'{"text": "a"}', {"kafka_correlationId": b"x" * 257}),
        ("BAD_DEADLINE", b'{"text": "a"}', {"pixtide-deadline": b"soon"}),
    ],
)
def test_what_is_wrong_is_answered_with_its_code(
    service: OnServers, code: str, value: bytes, changed: dict[str, bytes]
) -> None:
    headers, reply = ask(service, value, changed)
    assert headers["kafka_correlationId"] == changed.get("kafka_correlationId", b"\x00id\xff")
    assert headers["kafka_nest-is-disposed"] == b"\x00"
    assert reply.error is not None and reply.error.code == code and not reply.error.retryable


def test_a_picture_finds_itself_by_its_bytes_its_address_and_its_id(
    service: OnServers, client: SearchClient
) -> None:
    path = service.folder / "3.jpg"
    data = base64.b64encode(path.read_bytes()).decode()
    by_bytes = client.search(SearchRequest(terms=(Term(data_base64=data),), limit=1))
    assert by_bytes.results is not None, by_bytes.error
    assert by_bytes.results[0].image_id == "p/3.jpg"
    assert by_bytes.results[0].similarity == pytest.approx(1, abs=1e-3)
    by_address = client.search(SearchRequest(terms=(Term(uri=by_bytes.results[0].uri),), limit=1))
    assert by_address.results == by_bytes.results
    like = client.search(SearchRequest(terms=(Term(image_id="p/3.jpg"),), limit=3))
    near = client.search(SearchRequest(terms=(Term(data_base64=data),), limit=4))
    assert near.results is not None
    assert like.results is not None
    assert [r.image_id for r in like.results] == [r.image_id for r in near.results][1:]
    assert service.search("", "--picture", str(path), "-k", "1")[0]["image_id"] == "p/3.jpg"


async def _ask_at_once(service: OnServers, texts: list[str]) -> list[SearchReply]:
    settings = service.settings()
    async with AsyncSearchClient(
        settings.kafka_connection(),
        request_topic=settings.named(topics.REQUESTS),
        reply_topic=settings.named(topics.REPLIES),
    ) as client:
        abandoned = asyncio.create_task(client.search(SearchRequest(text="never mind")))
        await asyncio.sleep(0)
        abandoned.cancel()
        asked = (client.search(SearchRequest(text=text, limit=1)) for text in texts)
        replies = await asyncio.gather(*asked)
        assert abandoned.cancelled()
        return replies


def test_many_searches_at_once_from_asyncio(service: OnServers, client: SearchClient) -> None:
    texts = [f"query {n}" for n in range(50)]
    replies = asyncio.run(_ask_at_once(service, texts))
    expected = client.search_many(SearchRequest(text=text, limit=1) for text in texts)
    for reply, same in zip(replies, expected, strict=True):
        assert reply.results and same.results
        assert reply.results[0].similarity == pytest.approx(same.results[0].similarity, abs=1e-4)


def test_a_slow_picture_holds_up_nobody(service: OnServers, client: SearchClient) -> None:
    with socket.create_server(("127.0.0.1", SLOW_PORT)) as never_answers:
        never_answers.listen(8)
        term = json.dumps({"terms": [{"uri": f"http://127.0.0.1:{SLOW_PORT}/a.jpg"}]}).encode()
        for _ in range(6):
            send(service, term, {})
        replies = client.search_many(SearchRequest(text=f"quick {n}") for n in range(20))
        assert all(reply.error is None for reply in replies)


def test_pages_over_kafka(client: SearchClient) -> None:
    seen: list[str] = []
    cursor = None
    while len(seen) < 20:
        reply = client.search(SearchRequest(text="anything", limit=7, cursor=cursor))
        assert reply.results, reply.error
        seen += [r.image_id for r in reply.results]
        cursor = reply.next_cursor
    assert cursor is None
    assert len(set(seen)) == 20


def test_a_reply_larger_than_its_topic_takes(service: OnServers) -> None:
    settings = service.settings()
    small = settings.named("search.replies.small")
    topic = NewTopic(small, 1, 1, config={"max.message.bytes": "2000"})
    admin = kafka_clients.admin(settings.kafka_connection())
    admin.create_topics([topic])[small].result(20)
    changed = {"kafka_replyTopic": small.encode()}
    _, reply = ask(service, b'{"text": "a", "limit": 20}', changed)
    assert reply.error is not None
    assert reply.error.code == "REPLY_TOO_LARGE"
    _, reply = ask(service, b'{"text": "a", "limit": 1}', changed)
    assert reply.error is None


def test_requests_that_can_not_be_answered_hold_up_nobody(
    service: OnServers, client: SearchClient
) -> None:
    past = str(int(time.time() * 1000) - 1).encode()
    for changed in (
        {"kafka_replyTopic": b"images.uploaded"},
        {"kafka_replyTopic": b""},
        {"pixtide-deadline": past},
        {"kafka_replyTopic": service.settings().named("search.replies.missing").encode()},
    ):
        send(service, b'{"text": "a"}', changed)
    assert client.search(SearchRequest(text="still there")).error is None


def test_what_gets_no_reply_gets_none(service: OnServers) -> None:
    """What is past its deadline, though nothing else is wrong with it, or names another topic."""
    settings = service.settings()
    replies = settings.named(topics.REPLIES)
    past = str(int(time.time() * 1000) - 1).encode()
    with contextlib.closing(kafka_clients.tail_consumer(settings.kafka_connection())) as consumer:
        _, end = consumer.get_watermark_offsets(TopicPartition(replies, 0), timeout=20)
        consumer.assign([TopicPartition(replies, 0, end)])
        for changed in ({"pixtide-deadline": past}, {"kafka_replyTopic": b"images.uploaded"}):
            send(service, b'{"text": "a"}', {"kafka_correlationId": b"in vain"} | changed)
        # Of one partition, as they have one key: read after them, and answered.
        send(service, b'{"text": "a"}', {"kafka_correlationId": b"served"})
        message = consumer.poll(20)
    assert message is not None
    assert dict(kafka_records.record_of(message).headers)["kafka_correlationId"] == b"served"


def test_smallryes_headers_are_answered_in_kind(service: OnServers) -> None:
    settings = service.settings()
    replies = settings.named(topics.REPLIES)
    headers = {
        "REPLY_TOPIC": replies.encode(),
        "REPLY_PARTITION": (2).to_bytes(4, "big"),
        "REPLY_CORRELATION_ID": b"\x00\xfe",
    }
    with contextlib.closing(kafka_clients.tail_consumer(settings.kafka_connection())) as consumer:
        _, end = consumer.get_watermark_offsets(TopicPartition(replies, 2), timeout=20)
        consumer.assign([TopicPartition(replies, 2, end)])
        producer = Producer({"bootstrap.servers": settings.bootstrap()})
        producer.produce(settings.named(topics.REQUESTS), b'{"text": "a"}', headers=dict(headers))
        assert producer.flush(20) == 0
        message = consumer.poll(20)
    assert message is not None
    record = kafka_records.record_of(message)
    assert record.headers == [("REPLY_CORRELATION_ID", b"\x00\xfe")]
    assert SearchReply.from_json(record.value or b"").results


def test_a_picture_published_by_its_file_is_found_at_its_original(
    service: OnServers, client: SearchClient
) -> None:
    path = service.folder / "17.jpg"
    publisher = Publisher(service.settings())
    publisher.upload(Source("p/17.jpg", path), Description(tags=("again",)))
    publisher.flush()
    deadline = time.monotonic() + 60
    request = SearchRequest(text="anything", filters=Filters(tags_all=("again",)))
    while not (found := client.search(request).results):
        assert time.monotonic() < deadline
    assert Path(found[0].uri.removeprefix("file://")).read_bytes() == path.read_bytes()


def send(service: OnServers, value: bytes, changed: dict[str, bytes]) -> None:
    settings = service.settings()
    headers = {
        "kafka_replyTopic": settings.named(topics.REPLIES).encode(),
        "kafka_replyPartition": b"0",
        "kafka_correlationId": b"\x00id\xff",
    } | changed
    producer = Producer({"bootstrap.servers": settings.bootstrap()})
    producer.produce(settings.named(topics.REQUESTS), value, b"k", headers=dict(headers))
    assert producer.flush(20) == 0


def ask(
    service: OnServers, value: bytes, changed: dict[str, bytes]
) -> tuple[dict[str, bytes], SearchReply]:
    settings = service.settings()
    replies = changed.get("kafka_replyTopic", settings.named(topics.REPLIES).encode()).decode()
    with contextlib.closing(kafka_clients.tail_consumer(settings.kafka_connection())) as consumer:
        _, end = consumer.get_watermark_offsets(TopicPartition(replies, 0), timeout=20)
        consumer.assign([TopicPartition(replies, 0, end)])
        send(service, value, changed)
        message = consumer.poll(20)
    assert message is not None and message.error() is None
    record = kafka_records.record_of(message)
    assert record.key == b"k", "the reply keeps the request's key"
    return {n: v or b"" for n, v in record.headers}, SearchReply.from_json(record.value or b"")


@pytest.mark.fault("requests that are sent in transactions")
def test_records_that_no_client_writes_cost_themselves(service: OnServers) -> None:
    """Into each partition, between good requests; all good ones are answered, all is read."""
    settings = service.settings()
    requests, replies = (settings.named(name) for name in (topics.REQUESTS, topics.REPLIES))
    now_ms = int(time.time() * 1000)
    to = [(b"kafka_replyTopic", replies.encode()), (b"kafka_replyPartition", b"0")]

    def raw(value: bytes | None, headers: Headers = (), codec: int = 0, at: int = now_ms) -> bytes:
        return batch([RawRecord(b"key", value, headers)], codec=codec, timestamp_ms=at)

    def good(name: str, codec: int = 0) -> bytes:
        headers = [*to, (b"kafka_correlationId", name.encode())]
        value = json.dumps({"text": "a cat", "filters": {"tags_none": ["of the sea"] * 30}})
        return raw(value.encode(), headers, codec)

    odd: Headers = [(b"\xff\xfe", b"1"), *to, (b"kafka_correlationId", b"odd name")]
    hostile = [
        raw(b'{"text": "a"}', odd),
        batch([RawRecord(b"key", value) for value in (None, b"", b"\xff")]),
        raw(b"{}", [(b"kafka_replyTopic", None), (b"", None), (b"", b"")]),
        raw(b'{"text": "a"}', [*to, *to, (b"kafka_correlationId", b"old")], at=-1),
        raw(b"x", [(b"kafka_replyTopic", b"search.replies.\0")]),
        packed(bytes(cramjam.zstd.compress(bytes(100_000_000))), 4),
        packed(b"no zstd", 4),
        packed(b"no codec", 7),
    ]
    taken = 0
    wanted = {b"odd name": "MALFORMED_REQUEST", b"old": None}
    for partition in range(6):
        for codec in range(5):
            wanted[f"{partition} {codec}".encode()] = None
    with contextlib.closing(kafka_clients.tail_consumer(settings.kafka_connection())) as consumer:
        _, end = consumer.get_watermark_offsets(TopicPartition(replies, 0), timeout=20)
        consumer.assign([TopicPartition(replies, 0, end)])
        for partition in range(6):
            mixed = [each for one in hostile for each in (one, good(f"{partition} 0"))]
            sent = [*mixed, *(good(f"{partition} {codec}", codec) for codec in range(5))]
            for each in sent:
                code, _ = produce(settings.bootstrap(), requests, partition, each)
                taken += code == 0
        _transaction(settings.bootstrap(), requests)
        got = _replies(consumer, set(wanted))
    assert {name: reply.error and str(reply.error.code) for name, reply in got.items()} == wanted
    assert taken >= 6 * (13 + 5), "the broker took what is read here"
    _await_read(service)


def test_any_json_is_answered(service: OnServers) -> None:
    attributes: list[Any] = [5, True, 1.5, "x", {}, [[]]]
    words: list[Any] = [5, [], {}, [[[]]], True, 1e308]
    terms: list[Any] = [5, "x", {}, [5], [[]], [{"uri": 5}], [{"uri": "http://["}]]
    values = [
        *({"text": "a", "filters": {"attributes": odd}} for odd in attributes),
        *({"text": odd} for odd in words),
        *({"terms": odd} for odd in terms),
        {"text": "a", "filters": {"min_width": 2**63}},
        {"text": "a", "filters": {"tags_all": [0] * 100_000}},
        {"text": "a", "limit": None, "sort": None, "filters": None, "cursor": None},
        {"text": "a", "filters": {"tags_all": None, "min_width": None}},
    ]
    texts = [json.dumps(value).encode() for value in values]
    texts += [
        b"[" * 500,
        b"5",
        b'"x"',
        b'{"text": "a", "limit": 1e999}',
        b'{"text": "sun \\ud83c"}',
    ]
    settings = service.settings()
    replies = settings.named(topics.REPLIES)
    with contextlib.closing(kafka_clients.tail_consumer(settings.kafka_connection())) as consumer:
        _, end = consumer.get_watermark_offsets(TopicPartition(replies, 0), timeout=20)
        consumer.assign([TopicPartition(replies, 0, end)])
        for number, value in enumerate(texts):
            send(service, value, {"kafka_correlationId": str(number).encode()})
        got = _replies(consumer, {str(number).encode() for number in range(len(texts))})
    for reply in got.values():
        assert reply.error is None or (
            not reply.error.retryable and len(reply.error.message) < 1000
        )
    codes = [got[str(number).encode()].error for number in range(len(texts))]
    assert [code is None for code in codes].count(True) == 3, "nulls, and half a pair"
    _await_read(service)


def test_each_codec_on_both_paths(service: OnServers, client: SearchClient) -> None:
    """As a producer packs its records, and as a broker does that packs them itself."""
    settings = service.settings()
    uploads, requests = (settings.named(name) for name in (topics.UPLOADED, topics.REQUESTS))
    admin = kafka_clients.admin(settings.kafka_connection())

    def upload(name: str, codec: str) -> None:
        producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap(),
                "compression.type": codec,
                "partitioner": "murmur2_random",
            }
        )
        event = {"ce_specversion": "1.0", "ce_id": name, "ce_source": "/t", "ce_tags": '["packed"]'}
        event |= {"ce_type": "pixtide.image.uploaded.v1", "content-type": "image/jpeg"}
        picture = jpeg(5) + bytes(5000)
        producer.produce(uploads, picture, name, headers={k: v.encode() for k, v in event.items()})
        assert producer.flush(20) == 0

    codecs = ("gzip", "snappy", "lz4", "zstd")
    for codec in codecs:
        upload(f"by-producer/{codec}", codec)
    for codec in codecs:
        for topic in (uploads, requests):
            change = ConfigEntry(
                "compression.type", codec, incremental_operation=AlterConfigOpType.SET
            )
            to = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
            admin.incremental_alter_configs([to])[to].result(20)
        upload(f"by-topic/{codec}", "none")
        assert client.search(SearchRequest(text=f"a {codec} " + "cat " * 20)).error is None
    deadline = time.monotonic() + 60
    wanted = {f"by-{whom}/{codec}" for whom in ("producer", "topic") for codec in codecs}
    request = SearchRequest(text="anything", filters=Filters(tags_all=("packed",)))
    while {found.image_id for found in client.search(request).results or ()} != wanted:
        assert time.monotonic() < deadline, service.log("ingest")
        time.sleep(0.2)
    _await_read(service)


def _replies(consumer: Consumer, wanted: set[bytes]) -> dict[bytes, SearchReply]:
    """The replies to those; each is JSON in the strict sense."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    got: dict[bytes, SearchReply] = {}
    deadline = time.monotonic() + 60
    while wanted - got.keys():
        assert time.monotonic() < deadline, f"no reply to {wanted - got.keys()}"
        if (message := consumer.poll(1)) is not None and message.error() is None:
            record = kafka_records.record_of(message)
            value = record.value or b""
            json.loads(value, parse_constant=refuse)
            got[dict(record.headers)["kafka_correlationId"] or b""] = SearchReply.from_json(value)
    return {name: reply for name, reply in got.items() if name in wanted}


def _transaction(bootstrap: str, topic: str) -> None:
    """At the end of each partition: what is left of one is a marker."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic})
    producer.init_transactions(20)
    producer.begin_transaction()
    for partition in range(6):
        producer.produce(topic, b"{}", partition=partition)
    producer.commit_transaction(20)


def _await_read(service: OnServers) -> None:
    """Until the group has committed the end of each partition."""
    settings = service.settings()
    topic, connection = settings.named(topics.REQUESTS), settings.kafka_connection()
    admin = kafka_clients.admin(connection)
    group = settings.named("query")

    def ends() -> dict[int, int]:  # a transaction's markers may come after it has returned
        return {p: end for p, end in kafka_offsets.ends(admin, topic, range(6)).items() if end}

    deadline = time.monotonic() + 60
    while (at := kafka_offsets.committed_offsets(connection, group, topic, range(6))) != (
        wanted := ends()
    ):
        assert time.monotonic() < deadline, (at, wanted)
        time.sleep(0.2)
