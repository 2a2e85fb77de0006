"""What a running deployment tells: metrics, readiness, log lines, and the trace it carries on."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from pixtide.schemas import topics
from pixtide.schemas.queries import SearchReply
from pixtide.streams.kafka import clients as kafka_clients
from tests.contracts.proxy import BrokerProxy
from tests.faults.oracle import read_topic
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.runners import free_ports
from tests.support.deployments import OnServers, on_servers
from tests.support.pictures import jpeg

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = ("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01".encode())
PORTS = dict(zip(("ingest", "query"), map(str, free_ports(2)), strict=True))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def way_to_kafka(kafka: KafkaServer) -> Iterator[BrokerProxy]:
    """The ingest worker's."""
    with BrokerProxy(kafka.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory,
    kafka: KafkaServer,
    weaviate: WeaviateServer,
    way_to_kafka: BrokerProxy,
) -> Iterator[OnServers]:
    """Both workers, seen by HTTP and by their logs."""
    folder = tmp_path_factory.mktemp("seen")
    made = on_servers(
        folder,
        kafka,
        weaviate,
        real_model=False,
        PIXTIDE_LOG="json",
    )
    made.run("topics", "create")
    made.run("index", "create", "v1")
    try:
        ways = {"ingest": f"127.0.0.1:{way_to_kafka.port}", "query": kafka.bootstrap}
        for name, port in PORTS.items():
            profile = ("--profile",) if name == "ingest" else ()
            arguments = (name, name, *profile, "--ready-file", str(made.home / name))
            changed = {"PIXTIDE_HEALTH_PORT": port, "PIXTIDE_KAFKA": ways[name]}
            made.spawn(*arguments, ready=made.home / name, **changed)
        publish(made)
        yield made
    finally:
        made.stop()
    assert "\nbound by " in made.log("ingest").rpartition("\nprofile: ")[2]


def publish(seen: OnServers) -> None:
    """Three pictures, what is none, and a delete; in a trace all but the delete."""
    head = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/test")]
    head += [("ce_type", b"pixtide.image.uploaded.v1"), ("content-type", b"image/jpeg"), TRACED]
    values = {f"{n}.jpg": jpeg(n) for n in range(3)} | {"text.jpg": b"this is text"}
    settings = seen.settings()
    producer = kafka_clients.producer(settings.kafka_connection(), linger_ms=5)
    for key, value in values.items():
        producer.produce(settings.named(topics.UPLOADED), value, key.encode(), headers=list(head))
    producer.produce(settings.named(topics.UPLOADED), None, b"0.jpg")
    assert producer.flush(30) == 0


def get(name: str, path: str) -> tuple[int, str]:
    """Status and body of a process's answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[name]}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(name: str) -> dict[tuple[str, ...], float]:
    """Each sample's value, by its name and the values of its labels in the order of their names."""
    status, text = get(name, "/metrics")
    assert status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def wait_for(what: Callable[[], Any], *, seconds: float = 60) -> Any:
    """What it gives when that is true at last."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def log_lines(seen: OnServers, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (seen.folder / f"{name}.log").read_text().splitlines()]


@pytest.mark.usefixtures("seen")
def test_a_worker_counts_what_became_of_its_records() -> None:
    def outcomes() -> dict[str, float]:
        found = scrape("ingest")
        name = "pixtide_ingest_outcomes_total"
        return {key[2]: value for key, value in found.items() if key[0] == name}

    wait_for(lambda: sum(outcomes().values()) == 5)
    counted = {kind: count for kind, count in outcomes().items() if count}
    assert counted == {"indexed": 3, "dead_lettered": 1, "deleted": 1}
    wait_for(lambda: scrape("ingest")["pixtide_ingest_in_flight_records", "v1"] == 0)
    found = scrape("ingest")
    assert found["pixtide_ingest_dead_letters_total", "UNIDENTIFIED_FORMAT", "v1"] == 1
    assert found["pixtide_ingest_in_flight_bytes", "v1"] == 0
    stages = {
        "fetch": 4,
        "look_up": 5,
        "decode": 4,
        "store": 3,
        "encode": 3,
        "write": 5,
        "report": 5,
    }
    for stage, count in stages.items():
        assert found["pixtide_ingest_stage_seconds_count", "v1", stage] == count, stage
    assert found["pixtide_ingest_batch_pictures_sum", "v1"] == 3
    assert found["pixtide_ingest_paused", "v1", "full"] == 0
    assert found["pixtide_ingest_retrying", "v1", "write"] == 0

    def lags() -> list[float]:
        return [v for key, v in scrape("ingest").items() if key[0] == "pixtide_ingest_lag_records"]

    wait_for(lambda: lags() == [0] * topics.topics(embedded=False)[0].partitions)


def test_a_trace_goes_on_to_outcomes_dead_letters_and_log_lines(seen: OnServers) -> None:
    outcomes = wait_for(lambda: len(found := read_topic(seen, topics.INDEXED)) == 5 and found)
    traced = {(r.key, b"deleted" in (r.value or b"")): r.headers for r in outcomes}
    assert traced.pop((b"0.jpg", True)) == []
    assert list(traced.values()) == [[TRACED]] * 4
    [letter] = read_topic(seen, topics.DEAD_LETTERS)
    assert TRACED in letter.headers
    [line] = [one for one in log_lines(seen, "ingest") if one.get("image_id") == "text.jpg"]
    assert line["level"] == "WARNING" and "UNIDENTIFIED_FORMAT" in line["message"]
    assert (line["partition"], line["offset"]) == origin(letter.headers)
    assert line["generation"] == "v1" and line["code"] == "UNIDENTIFIED_FORMAT"
    assert (line["trace_id"], line["span_id"]) == (TRACE_ID, SPAN_ID)


def origin(headers: list[tuple[str, bytes | None]]) -> tuple[int, int]:
    named = dict(headers)
    return tuple(int(named[f"__connect.errors.{x}"] or b"") for x in ("partition", "offset"))  # type: ignore[return-value]


def test_a_consumer_counts_its_replies_and_a_trace_goes_on_to_them(seen: OnServers) -> None:
    settings = seen.settings()
    for words in ("a red square", "a red square", "a blue one"):
        seen.search(words)
    late = str(int(time.time() * 1000) - 1).encode()
    send(seen, b'{"text": " "}', TRACED)
    send(seen, b'{"text": "too late"}', ("pixtide-deadline", late))
    producer = Producer({"bootstrap.servers": settings.bootstrap()})
    forbidden = [("kafka_replyTopic", b"elsewhere"), TRACED]
    producer.produce(settings.named(topics.REQUESTS), b"{}", headers=list(forbidden))
    assert producer.flush(30) == 0

    def counted() -> dict[tuple[str, ...], float]:
        return scrape("query")

    wait_for(lambda: counted()["pixtide_query_forbidden_reply_topics_total",] == 1)
    wait_for(lambda: counted()["pixtide_query_expired_total",] == 1)
    wait_for(lambda: counted().get(("pixtide_query_replies_total", "EMPTY_QUERY")) == 1)
    wait_for(lambda: counted()["pixtide_query_texts_cached",] == 2)
    found = counted()
    assert found["pixtide_query_replies_total", "OK"] == 3
    assert found["pixtide_query_stage_seconds_count", "v1", "search"] >= 2
    assert found["pixtide_query_queue_requests",] == 0
    assert [k[2] for k in found if k[0] == "pixtide_query_snapshot"] == ["v1"]

    replies = read_topic(seen, topics.REPLIES)
    [refused] = [r for r in replies if SearchReply.from_json(r.value or b"").error is not None]
    assert TRACED in refused.headers
    assert [r for r in replies if TRACED in r.headers] == [refused]
    [line] = [each for each in log_lines(seen, "query") if "reply topic" in each["message"]]
    assert line["trace_id"] == TRACE_ID and line["offset"] >= 0


def send(seen: OnServers, value: bytes, *more: tuple[str, bytes]) -> None:
    settings = seen.settings()
    producer = Producer({"bootstrap.servers": settings.bootstrap()})
    headers = [("kafka_replyTopic", settings.named(topics.REPLIES).encode())]
    headers += [("kafka_correlationId", b"id"), *more]
    producer.produce(settings.named(topics.REQUESTS), value, headers=list(headers))
    assert producer.flush(30) == 0


def test_they_are_ready_while_the_index_is_there(seen: OnServers, weaviate: WeaviateServer) -> None:
    for name in PORTS:
        assert get(name, "/ready") == (200, '{"ready": true, "problems": {}}\n')
        assert (seen.home / name).exists()
        assert get(name, "/elsewhere")[0] == 404
    weaviate.stop()
    try:
        for name in PORTS:
            wait_for(lambda: get(name, "/ready")[0] == 503)  # noqa: B023  # waited for here
            problems = json.loads(get(name, "/ready")[1])["problems"]
            assert "Weaviate" in problems["index"]
            assert not (seen.home / name).exists()
            assert get(name, "/live")[0] == 200
    finally:
        weaviate.start()
    for name in PORTS:
        wait_for(lambda: get(name, "/ready")[0] == 200)  # noqa: B023  # waited for here
        assert (seen.home / name).exists()


@pytest.mark.slow
def problems(name: str) -> dict[str, str]:
    """What keeps a process from being ready."""
    told: dict[str, str] = json.loads(get(name, "/ready")[1]).get("problems", {})
    return told


def test_a_worker_is_ready_while_the_broker_is_there(
    seen: OnServers, way_to_kafka: BrokerProxy
) -> None:
    assert get("ingest", "/ready")[0] == 200
    way_to_kafka.cut()
    try:
        wait_for(lambda: get("ingest", "/ready")[0] == 503)
        wait_for(lambda: "Kafka" in problems("ingest").get("log", ""))
        assert get("ingest", "/live")[0] == 200
        assert not (seen.home / "ingest").exists()
    finally:
        way_to_kafka.mend()
    wait_for(lambda: get("ingest", "/ready")[0] == 200)
