"""What the query consumer owes its clients when it is killed, or asked more than it can serve."""

import threading
import time
from collections.abc import Iterator

import pytest

from schemas import topics
from schemas.queries import SearchReply, SearchRequest
from streams import kafka as kafka_clients
from streams.client import SearchClient
from tests.deployments import OnServers
from tests.models import tiny_clip
from tests.pictures import jpeg
from tests.servers import KafkaServer, WeaviateServer


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> Iterator[OnServers]:
    """A service over a few pictures that lets few requests wait."""
    folder = tmp_path_factory.mktemp("query-faults")
    made = OnServers(
        folder / "home",
        kafka=kafka.bootstrap,
        weaviate_url=weaviate.http_url,
        grpc_port=weaviate.grpc_port,
        PIXTIDE_MODEL=tiny_clip(folder / "model"),
        PIXTIDE_QUERY_QUEUE="64",
    )
    try:
        made.start()
        for number in range(5):
            (folder / f"{number}.jpg").write_bytes(jpeg(number))
        made.publish(*(str(folder / f"{n}.jpg") for n in range(5)), "--prefix", "p")
        yield made
    finally:
        made.stop()


def client(service: OnServers, reply_topic: str, timeout_s: float) -> SearchClient:
    settings = service.settings()
    return SearchClient(
        settings.kafka_connection(),
        request_topic=settings.named(topics.REQUESTS),
        reply_topic=settings.named(reply_topic),
        timeout_s=timeout_s,
    )


def requests(name: str, count: int) -> Iterator[SearchRequest]:
    return (SearchRequest(text=f"{name} {n}") for n in range(count))


def test_killed_in_mid_request_every_request_is_answered(service: OnServers) -> None:
    replies: list[SearchReply] = []

    def ask() -> None:
        with client(service, topics.REPLIES, timeout_s=90) as asking:
            replies.extend(asking.search_many(requests("killed", 400), window=8))

    asking = threading.Thread(target=ask)
    asking.start()
    while len(replies) < 40 and asking.is_alive():
        time.sleep(0.005)
    service.kill("query")
    service.start_process("query")
    asking.join(timeout=100)
    assert len(replies) == 400
    assert [reply.error for reply in replies if reply.error] == []


def test_too_many_requests_are_refused_at_once_and_fairly(service: OnServers) -> None:
    """One client floods the service; another, on a reply topic of its own, hardly notices."""
    settings = service.settings()
    other = "search.replies.other"
    admin = kafka_clients.admin(settings.kafka_connection())
    like = {topic.name: topic for topic in topics.topics(embedded=False)}
    table = [(settings.named(other), like[topics.REPLIES])]
    kafka_clients.create_topics(admin, table, replication=1)
    flooding: list[SearchReply] = []

    def flood() -> None:
        with client(service, topics.REPLIES, timeout_s=60) as asking:
            flooding.extend(asking.search_many(requests("flood", 1500), window=700))

    thread = threading.Thread(target=flood)
    thread.start()
    with client(service, other, timeout_s=60) as modest:
        replies = list(modest.search_many(requests("modest", 40), window=2))
    thread.join(timeout=100)
    assert len(flooding) == 1500
    refused = [reply.error for reply in flooding if reply.error]
    assert {(error.code.value, error.retryable) for error in refused} == {("OVERLOADED", True)}
    assert len(refused) < 1500
    assert [reply.error for reply in replies if reply.error] == []
