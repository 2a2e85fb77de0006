"""`pixtide doctor` on real servers: each mistake made on purpose is found, and its mend named."""

import asyncio
import contextlib
import http.server
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, not in __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from pixtide.schemas import topics
from pixtide.streams.doctor import checks
from pixtide.streams.doctor.checks import LOOKS, Finding, Seen
from pixtide.streams.doctor.run import examine, findings
from pixtide.streams.generations.create import create_generation
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.adapters import open_catalog
from tests.contracts.proxy import BrokerProxy
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.runners import free_ports
from tests.support.deployments import OnServers, on_servers
from tests.support.models import tiny_clip


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> OnServers:
    """Topics and a generation; no workers."""
    folder = tmp_path_factory.mktemp("doctor")
    made = on_servers(
        folder,
        kafka,
        weaviate,
    )
    settings = made.settings()
    table = [(settings.named(topic.name), topic) for topic in topics.topics(embedded=False)]
    kafka_topics.create_topics(
        kafka_clients.admin(settings.kafka_connection()), table, replication=1
    )
    with contextlib.closing(open_catalog(settings)) as catalog:
        create_generation(settings, catalog, "v1", model=settings.model)
    return made


def examined(settings: Settings) -> dict[str, Finding]:
    return {look.what: finding for look, finding in findings(settings)}


def bad(found: dict[str, Finding]) -> set[str]:
    return {what for what, finding in found.items() if finding.seen is Seen.BAD}


def test_the_bootstrap_address_is_asked_itself(stack: OnServers, kafka: KafkaServer) -> None:
    [elsewhere] = free_ports(1)
    with BrokerProxy(kafka.port, advertised=elsewhere) as proxy:
        connection = stack.settings().changed(kafka=f"127.0.0.1:{proxy.port}").kafka_connection()
        [broker] = asyncio.run(checks._advertised(connection))
    assert broker.port == elsewhere


def test_groups_without_members_are_all_that_is_wrong(
    stack: OnServers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not examine(stack.settings(), as_json=True, quiet=False)
    found = {line["what"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(found) == [look.what for look in LOOKS]
    assert {what for what, line in found.items() if line["seen"] != "well"} == {"workers"}
    assert found["workers"]["mend"] == "start `pixtide ingest --generation v1`"
    assert stack.env["PIXTIDE_MODEL"] in found["model"]["said"]
    assert "pixtide reindex --model MODEL" in found["model"]["said"]
    assert not examine(stack.settings(), as_json=True, quiet=True)
    assert [json.loads(line)["what"] for line in capsys.readouterr().out.splitlines()] == [
        "workers"
    ]
    assert not examine(stack.settings(), as_json=False, quiet=True)
    assert "→ start `pixtide ingest --generation v1`" in capsys.readouterr().err


def test_no_broker(stack: OnServers) -> None:
    [port] = free_ports(1)
    found = examined(stack.settings().changed(kafka=f"127.0.0.1:{port}"))
    assert bad(found) == {"broker"}
    assert "PIXTIDE_KAFKA" in found["broker"].mend
    assert found["topics"] == Finding(Seen.UNSEEN, "not looked at; mend first: broker")
    assert found["model"].seen is Seen.WELL, "what needs no broker is looked at all the same"


def test_a_listener_that_leads_elsewhere(stack: OnServers, kafka: KafkaServer) -> None:
    [elsewhere] = free_ports(1)
    with BrokerProxy(kafka.port, advertised=elsewhere) as proxy:
        found = examined(stack.settings().changed(kafka=f"127.0.0.1:{proxy.port}"))
    assert bad(found) == {"listener"}
    assert f":{elsewhere}, where nobody answers" in found["listener"].said
    assert "advertised.listeners" in found["listener"].mend


def test_topics_that_are_missing(stack: OnServers) -> None:
    found = examined(stack.settings().changed(namespace="nosuch"))
    assert bad(found) == {"topics", "index"}
    assert found["topics"].mend == "pixtide topics create"
    assert "pixtide index create v1" in found["index"].mend


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [("topics", "cleanup.policy", "delete"), ("message size", "max.message.bytes", "1000")],
)
def test_topics_that_are_configured_otherwise(
    stack: OnServers, what: str, key: str, value: str
) -> None:
    settings = stack.settings()
    name = settings.named(topics.UPLOADED)
    client = kafka_clients.admin(settings.kafka_connection())
    right = kafka_topics.topic_config(client, name)[key]

    def set_to(wanted: str) -> None:
        entry = ConfigEntry(key, wanted, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        client.incremental_alter_configs([resource])[resource].result()
        deadline = time.monotonic() + 60
        while kafka_topics.topic_config(client, name)[key] != wanted:
            assert time.monotonic() < deadline

    set_to(value)
    try:
        found = examined(settings)
    finally:
        set_to(right)
    assert bad(found) == ({what} if what == "topics" else {what, "workers"})
    assert f"--entity-name {name} --add-config {key}={right}" in found[what].mend


@pytest.fixture
def old_weaviate() -> Iterator[str]:
    class Old(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = b'{"version": "1.30.0"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_weaviate_that_is_too_old(stack: OnServers, old_weaviate: str) -> None:
    found = examined(stack.settings().changed(weaviate_url=old_weaviate))
    assert bad(found) == {"index"}
    assert "is 1.30.0; pixtide needs 1.34 or newer" in found["index"].said
    assert "upgrade" in found["index"].mend


def test_a_model_that_is_gone_or_another(stack: OnServers, tmp_path: Path) -> None:
    model = Path(stack.env["PIXTIDE_MODEL"].removeprefix("local-dir:"))
    shutil.move(model, tmp_path / "kept")
    try:
        found = examined(stack.settings())
        assert "model" in bad(found)
        assert str(model) in found["model"].said
        assert "pixtide reindex --model MODEL" in found["model"].mend
        assert found["fingerprint"].seen is Seen.UNSEEN
        tiny_clip(model, seed=2)
        found = examined(stack.settings())
        assert found["model"].seen is Seen.WELL
        assert "fingerprint" in bad(found)
        assert "pixtide reindex --model MODEL" in found["fingerprint"].mend
    finally:
        shutil.rmtree(model, ignore_errors=True)
        shutil.move(tmp_path / "kept", model)


def test_an_image_store_and_a_disk_that_take_nothing(
    stack: OnServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    store = (tmp_path / "file" / "originals").as_uri()
    found = examined(stack.settings().changed(image_store=store))
    assert {"image store", "disk"} <= bad(found)
    assert "PIXTIDE_IMAGE_STORE" in found["image store"].mend
    assert "free some space" in found["disk"].mend


def test_a_clock_that_is_ahead(stack: OnServers) -> None:
    settings = stack.settings()
    producer = kafka_clients.producer(settings.kafka_connection(), linger_ms=0)
    soon_ms = int((time.time() + 600) * 1000)  # Kafka takes nothing from beyond an hour
    producer.produce(settings.named(topics.REQUESTS), b"{}", timestamp=soon_ms)
    assert producer.flush(30) == 0
    found = examined(settings)
    assert bad(found) == {"clock", "workers"}
    assert re.search(r"of 5\d\d s from now", found["clock"].said)
    assert "NTP" in found["clock"].mend


@pytest.mark.fault("a group's offsets have expired, or were moved by hand")
def test_positions_that_expired_or_were_moved(stack: OnServers) -> None:
    settings = stack.settings()
    connection = settings.kafka_connection()
    client = kafka_clients.admin(connection)
    log, group = settings.named(topics.UPLOADED), settings.named("ingest.v1")
    first = kafka_offsets.beginnings(client, log, range(kafka_topics.partitions_of(client, log)))
    assert examined(settings)["positions"].seen is Seen.WELL
    try:
        producer = kafka_clients.producer(connection, linger_ms=0)
        producer.produce(log, None, b"nobody", 0)  # a delete of what never was
        assert producer.flush(30) == 0
        [end] = kafka_offsets.ends(client, log, [0]).values()
        with contextlib.closing(kafka_clients.ingest_consumer(connection, group)) as by_hand:
            by_hand.commit(offsets=[TopicPartition(log, 0, end)], asynchronous=False)
        moved = examined(settings)["positions"]
        assert moved.seen is Seen.BAD
        assert "positions of partitions [0] were moved by hand" in moved.said
        assert "pixtide index verify v1 --repair" in moved.mend
        with contextlib.closing(kafka_clients.ingest_consumer(connection, group)) as by_hand:
            by_hand.commit(offsets=[TopicPartition(log, 0, end + 9)], asynchronous=False)
        assert "the log was cut short" in examined(settings)["positions"].said
        client.delete_consumer_groups([group])[group].result(30)
        expired = examined(settings)["positions"]
        assert expired.seen is Seen.BAD
        assert f"group {group} has no position in partitions" in expired.said
        assert expired.mend.startswith("start `pixtide ingest --generation v1`")
    finally:
        kafka_offsets.commit_beginning(connection, group, log, first)
