"""What a login and its grants allow, and what is said where they don't, on a secured Kafka."""

import asyncio
import gc
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from pixtide.schemas import topics
from pixtide.schemas.errors import FatalError, TransientError
from pixtide.streams.client.blocking import SearchClient
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import errors as kafka_errors
from pixtide.streams.kafka import groups as kafka_groups
from pixtide.streams.kafka import requests as kafka_requests
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection, Tls, Tokens
from pixtide.streams.kafka.errors import KafkaDeniedError
from pixtide.streams.query.faust_app import faust_app
from tests.servers import KafkaServer
from tests.servers.certificates import make_certificates
from tests.servers.tls import TlsFront
from tests.servers.tokens import SECRET, TokenServer
from tests.support.principals import Principals

NAMESPACE = f"t{uuid.uuid4().hex[:10]}"


def named(name: str) -> str:
    return f"{NAMESPACE}.{name}"


@pytest.fixture(scope="module")
def principals(kafka: KafkaServer) -> Principals:
    made = Principals(kafka, NAMESPACE)
    table = [(named(topic.name), topic) for topic in topics.topics(embedded=False)]
    created = kafka_topics.create_topics(
        kafka_clients.admin(made.connection("operator")), table, replication=1
    )
    assert all(new for new, _ in created.values()) and len(created) == len(table)
    return made


@pytest.fixture(autouse=True)
def _what_aiokafka_leaves_is_collected() -> Iterator[None]:
    """It doesn't wait until TLS has said goodbye; a later test would be blamed for the socket."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def partitions(connection: KafkaConnection, topic: str) -> int:
    return kafka_topics.partitions_of(kafka_clients.admin(connection), named(topic))


def test_a_wrong_password_is_told_at_once(
    principals: Principals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_requests, "REQUEST_TIMEOUT_S", 200.0)
    started = time.monotonic()
    with pytest.raises(KafkaDeniedError, match=r"(?s)uthentication.*PIXTIDE_KAFKA_SECURITY"):
        partitions(principals.connection("client", password="wrong"), topics.REQUESTS)
    assert time.monotonic() - started < 60  # a broker that is away is asked on for longer


def test_a_broker_that_nobody_vouches_for_is_not_spoken_to(principals: Principals) -> None:
    unknown = replace(principals.connection("client"), tls=Tls())
    with pytest.raises(KafkaDeniedError, match="certificate verify failed"):
        partitions(unknown, topics.REQUESTS)


def test_a_plain_client_is_told_what_may_be_wrong(
    principals: Principals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_requests, "REQUEST_TIMEOUT_S", 1.0)
    plain = KafkaConnection(principals.connection("client").bootstrap)
    with pytest.raises(TransientError, match="PIXTIDE_KAFKA_SECURITY"):
        partitions(plain, topics.REQUESTS)


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda p: partitions(p.connection("stranger"), topics.UPLOADED),
        lambda p: partitions(p.connection("client"), topics.UPLOADED),
        lambda p: partitions(p.connection("publisher"), topics.REQUESTS),
        lambda p: partitions(p.connection("query"), topics.INDEXED),
        lambda p: partitions(p.connection("ingest"), topics.REQUESTS),
        lambda p: kafka_groups.require_group(
            kafka_clients.admin(p.connection("client")), named("query")
        ),
        lambda p: SearchClient(
            p.connection("ingest"),
            request_topic=named(topics.REQUESTS),
            reply_topic=named(topics.REPLIES),
        ),
    ],
)
def test_a_missing_grant_is_told(
    principals: Principals, forbidden: Callable[[Principals], object]
) -> None:
    with pytest.raises(KafkaDeniedError, match=r"refuse|authorization.*docs/security\.md"):
        forbidden(principals)


def test_a_worker_that_loses_its_grants_stops(principals: Principals) -> None:
    consumer = kafka_clients.ingest_consumer(principals.connection("stranger"), named("ingest.v1"))
    consumer.subscribe([named(topics.UPLOADED)])
    deadline = time.monotonic() + 60
    try:
        while (message := consumer.poll(0.5)) is None:
            assert time.monotonic() < deadline
        error = message.error()
        assert error is not None
        problem = kafka_errors.verdict(error)
        assert isinstance(problem, FatalError) and "docs/security.md" in str(problem)
    finally:
        consumer.close()


def test_aiokafka_comes_in_by_the_same_settings(principals: Principals) -> None:
    assert visible_to_query(principals.connection("query")) == {topics.REQUESTS, topics.REPLIES}


def visible_to_query(connection: KafkaConnection) -> set[str]:
    """The topics that the query consumer sees of ours, as Faust would look."""

    async def look() -> set[str]:
        app = faust_app(connection, named("query"), buffered=1)
        auth = credentials_to_aiokafka_auth(app.conf.broker_credentials)
        consumer = AIOKafkaConsumer(
            named(topics.REQUESTS), bootstrap_servers=connection.bootstrap, **auth
        )
        try:
            await consumer.start()
            found: set[str] = await consumer.topics()
            return found
        finally:
            await consumer.stop()

    prefix = named("")
    return {t.removeprefix(prefix) for t in asyncio.run(look()) if t.startswith(prefix)}


@pytest.mark.slow
def test_tokens_bring_both_libraries_in(principals: Principals, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with TokenServer() as server, TlsFront(server.port, certificates) as front:
        url = f"https://127.0.0.1:{front.port}/token"
        tokens = Tokens(url, "kafka", certificates.authority)
        connection = principals.by_token("query", tokens, SECRET)
        assert partitions(connection, topics.REQUESTS) > 1
        with pytest.raises(KafkaDeniedError, match="refuses access"):
            partitions(connection, topics.INDEXED)
        by_librdkafka = len(server.asked)
        assert visible_to_query(connection) == {topics.REQUESTS, topics.REPLIES}
        assert len(server.asked) == by_librdkafka + 1, "one token for all its connections"
        wanted = {"grant_type": ["client_credentials"], "scope": ["kafka"]}
        assert server.asked == [wanted] * len(server.asked)
        for refused in (
            principals.by_token("query", tokens, "wrong"),
            principals.by_token("query", Tokens(url), SECRET),  # which nobody vouches for
        ):
            with pytest.raises(KafkaDeniedError, match="_TOKEN_URL"):
                partitions(refused, topics.REQUESTS)
            with pytest.raises(KafkaConnectionError):
                visible_to_query(refused)
