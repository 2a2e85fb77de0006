"""Originals around a promotion and a rollback, while one generation's workers are behind."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixtide.schemas.identity import Version
from pixtide.streams.generations.progress import lag_behind
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka.later_records import LaterRecords
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.publish.publisher import Description, Publisher
from pixtide.streams.publish.sources import Source
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for
from tests.faults.oracle import check_originals, originals, read_topic, topic
from tests.faults.test_ingest_faults import publish
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, killed_in_the_end, on_servers
from tests.support.pictures import jpeg


@pytest.fixture
def stack(tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer) -> Iterator[OnServers]:
    made = on_servers(tmp_path, kafka, weaviate, real_model=False, PIXTIDE_SESSION_TIMEOUT_S="9")
    made.create()
    with killed_in_the_end(made):
        yield made


def start(stack: OnServers, name: str) -> None:
    """A worker of that generation."""
    ready = stack.home / name
    stack.spawn(name, "ingest", "--generation", name, "--ready-file", str(ready), ready=ready)


def await_read(stack: OnServers, name: str) -> None:
    """Until that generation has read the log to its end."""
    settings = stack.settings()
    with contextlib.closing(open_catalog(settings)) as catalog:
        generation = generation_to_work_for(catalog, name)
    log = generation.log
    client = kafka_clients.admin(settings.kafka_connection())
    deadline = time.monotonic() + 120
    ends = kafka_offsets.ends(client, log.topic, range(log.partitions))
    while lag := lag_behind(settings, generation, ends):
        assert time.monotonic() < deadline, f"{lag} left: {stack.log(name)}"
        time.sleep(0.2)


def put_and_publish(stack: OnServers, image_id: str, data: bytes) -> None:
    """As our publisher does with a file that workers don't reach: through the image store."""
    path = stack.folder / "a.jpg"
    path.write_bytes(data)
    publisher = Publisher(stack.settings())
    publisher.upload(Source(image_id, path), Description())
    publisher.flush()


@pytest.mark.fault("a promotion and a rollback while a generation's workers are behind")
@pytest.mark.slow
def test_no_original_is_lost_or_left_whoever_is_live(stack: OnServers) -> None:
    start(stack, "v1")
    publish(stack, {f"old{n}": jpeg(n) for n in range(4)})
    put_and_publish(stack, "put", jpeg(10))
    await_read(stack, "v1")
    stack.run("index", "create", "v2")
    start(stack, "v2")
    stack.run("index", "verify", "v2")
    store = ImageStore(stack.settings().image_store_url)

    stack.kill("v1")  # which is live, and comes back only after the promotion
    publish(stack, {"new": jpeg(20), "old0": None, "old1": jpeg(21), "back": jpeg(22)})
    publish(stack, {"back": None})
    publish(stack, {"back": jpeg(22)})
    put_and_publish(stack, "put", jpeg(11))
    await_read(stack, "v2")
    stack.run("index", "promote", "v2")
    # decided by the newest record: nothing waits for who is behind
    assert {store.uri_of(f"old{n}", jpeg(n), "jpg") for n in (0, 1)} & originals(store) == set()
    start(stack, "v1")
    await_read(stack, "v1")
    check_originals(stack, "v2", "v1")

    stack.kill("v2")  # live again, and behind
    publish(stack, {"newer": jpeg(30), "new": None, "old1": jpeg(1), "back": jpeg(31)})
    publish(stack, {"back": jpeg(22)})
    await_read(stack, "v1")
    stack.run("index", "rollback")
    start(stack, "v2")
    await_read(stack, "v2")
    check_originals(stack, "v1", "v2")
    assert len(originals(store)) == len(stack.rows()) - 2  # but of what is deleted
    stack.stop()


@pytest.mark.slow
def test_whether_the_log_holds_a_later_record(stack: OnServers) -> None:
    publish(stack, {"a": jpeg(1), "b": jpeg(2)})
    publish(stack, {"a": None})
    places: dict[str, Version] = {}
    for record in read_topic(stack, "images.uploaded"):
        image_id = (record.key or b"").decode()
        places.setdefault(image_id, Version(1, record.partition, record.offset))
    connection = stack.settings().kafka_connection()
    later = LaterRecords(connection, kafka_clients.admin(connection), topic(stack))
    assert later.of(places) == {"a"}
    assert later.of({"b": places["b"]}) == set() == later.of({})
