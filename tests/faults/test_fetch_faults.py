"""Where pictures lie: buckets that are read and written, and a host that never answers."""

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from pixtide.schemas import topics
from pixtide.search.port import RowState
from pixtide.streams.kafka import clients as kafka_clients
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.s3 import S3Server
from tests.support.deployments import OnServers, on_servers
from tests.support.hostile import HostileServer, hostile_server
from tests.support.pictures import jpeg

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    with hostile_server() as server:
        yield server


@pytest.fixture(scope="module")
def name() -> str:
    return f"pictures-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    kafka: KafkaServer,
    weaviate: WeaviateServer,
    s3: S3Server,
    hostile: HostileServer,
    name: str,
) -> Iterator[OnServers]:
    folder = tmp_path_factory.mktemp("fetching")
    port = hostile.server_address[1]
    made = on_servers(
        folder,
        kafka,
        weaviate,
        real_model=False,
        PIXTIDE_IMAGE_STORE=f"s3://{name}-originals/kept",
        PIXTIDE_ALLOWED_BUCKETS=f"s3://{name}",
        PIXTIDE_ALLOWED_HOSTS=f"127.0.0.1:{port},localhost:{port}",
        PIXTIDE_FETCH_TIMEOUT_S="120",
        **s3.environment,
    )
    made.run("topics", "create")
    made.run("index", "create", "v1")
    made.start_process("ingest")
    try:
        yield made
    finally:
        made.kill("ingest")


def test_originals_and_pictures_in_buckets(
    stack: OnServers, s3: S3Server, name: str, tmp_path: Path
) -> None:
    theirs, ours = s3.create_bucket(name), s3.create_bucket(f"{name}-originals")
    obstore.put(theirs, "a b.jpg", jpeg(1))
    (tmp_path / "inline.jpg").write_bytes(jpeg(2))
    (tmp_path / "large.jpg").write_bytes(jpeg(3))
    uri = f"s3://{name}/a%20b.jpg"
    assert stack.publish(uri)["outcomes"] == {"indexed": 1}
    for arguments in (("large.jpg",), ("inline.jpg", "--inline")):
        path, *options = arguments
        summary = stack.publish(str(tmp_path / path), "--prefix", "p", *options)
        assert summary["outcomes"] == {"indexed": 1}
    rows = stack.rows()
    assert rows[f"{name}/a%20b.jpg"].uri == uri
    kept = {rows[f"p/{file}"].uri for file in ("inline.jpg", "large.jpg")}
    base = f"s3://{name}-originals/"
    assert {base + key for key in s3.keys(ours)} == kept

    refused = stack.publish(f"s3://{name}/missing.jpg", f"s3://{name}-other/a.jpg", code=1)
    reasons = {letter["image_id"]: letter["reason"] for letter in refused["dead_letters"]}
    assert reasons == {
        f"{name}/missing.jpg": "SOURCE_GONE",
        f"{name}-other/a.jpg": "BUCKET_NOT_ALLOWED",
    }
    gone = json.loads(stack.run("delete", "p/inline.jpg", "p/large.jpg", "--wait", "--json"))
    assert gone["outcomes"] == {"deleted": 2}
    assert s3.keys(ours) == []
    assert s3.keys(theirs) == ["a b.jpg"], "what isn't ours is never removed"


def send(stack: OnServers, events: dict[str, dict[str, str]]) -> None:
    """Upload events by id, each with this data."""
    settings = stack.settings()
    producer = kafka_clients.producer(settings.kafka_connection(), linger_ms=0)
    headers: dict[str, str | bytes | None] = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": "/test",
        "ce_type": "pixtide.image.uploaded.v1",
    }
    for image_id, data in events.items():
        topic = settings.named(topics.UPLOADED)
        producer.produce(topic, json.dumps(data), image_id, headers=headers)
    assert producer.flush(30) == 0


def test_a_picture_other_than_the_event_meant_is_not_indexed(
    stack: OnServers, hostile: HostileServer
) -> None:
    base = f"http://{hostile.address}"
    events = {
        "digest": {"uri": f"{base}/picture/1", "sha256": "0" * 64},
        "changed": {"uri": f"{base}/ok", "etag": '"v0"'},
    }
    send(stack, events)
    deadline = time.monotonic() + 60
    while not (rows := stack.rows()).keys() >= events.keys():
        assert time.monotonic() < deadline, stack.log("ingest")
    assert rows["digest"].reason == "DIGEST_MISMATCH"
    assert rows["changed"].reason == "SOURCE_CHANGED"


@pytest.mark.fault("a slow image server")
def test_a_host_that_never_answers_holds_up_nobody_else(
    stack: OnServers, hostile: HostileServer
) -> None:
    """More pictures of the slow host than there are fetchers, and none of them done meanwhile."""
    settings = stack.settings()
    port = hostile.server_address[1]
    slow = [f"slow-{number}" for number in range(2 * settings.fetchers)]
    send(stack, {each: {"uri": f"http://127.0.0.1:{port}/silent/{each}"} for each in slow})
    quick = [f"http://localhost:{port}/picture/{number}" for number in range(20)]
    summary = stack.publish(*quick, "--prefix", "quick")
    assert summary["outcomes"] == {"indexed": 20}
    rows = stack.rows()
    assert all(rows[f"quick/{number}"].state is RowState.LIVE for number in range(20))
    assert not rows.keys() & set(slow)
    asked = sum(count for path, count in hostile.asked.items() if path.startswith("/silent"))
    assert asked == settings.fetchers_per_host
