"""The restore drills of docs/day-two.md: an index is lost, and its backup isn't new; a log is made
anew from its dump, with more partitions.
"""

import json
import shutil
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka.cimpl import NewTopic

from pixtide.schemas import topics
from pixtide.schemas.errors import UsageError
from pixtide.streams.cli.main import cli
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka.records import Record
from tests.faults.oracle import POISON, check_against_the_log, read_topic, topic
from tests.faults.test_ingest_faults import publish, wait_until, wait_until_read
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.weaviate import weaviate_server
from tests.support.deployments import OnServers, killed_in_the_end, on_servers
from tests.support.pictures import jpeg

_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def own_weaviate(tmp_path: Path) -> Iterator[WeaviateServer]:
    """One that may lose its disk."""
    folder = tmp_path / "weaviate"
    (folder / "data").mkdir(parents=True)
    server = weaviate_server(folder, lambda _: None)
    server.start()
    yield server
    server.close()


def ask(server: WeaviateServer, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST where there is a body."""
    request = urllib.request.Request(
        f"{server.http_url}/v1/backups/filesystem{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with _http.open(request, timeout=30) as answer:
        said: dict[str, Any] = json.load(answer)
    return said


def done(server: WeaviateServer, path: str) -> bool:
    said = ask(server, path)
    assert said["status"] != "FAILED", said
    return bool(said["status"] == "SUCCESS")


@pytest.mark.slow
def test_a_lost_index_comes_back_from_an_old_backup_and_the_log(
    tmp_path: Path,
    kafka: KafkaServer,
    own_weaviate: WeaviateServer,
    record_property: Callable[[str, object], None],
) -> None:
    stack = on_servers(tmp_path, kafka, own_weaviate, real_model=False)
    stack.create()
    with killed_in_the_end(stack):
        stack.start_process("ingest")
        publish(stack, {f"picture-{n}": jpeg(n) for n in range(60)})
        wait_until_read(stack)
        ask(own_weaviate, "", {"id": "nightly"})
        wait_until(lambda: done(own_weaviate, "/nightly"))
        publish(stack, {f"picture-{n}": jpeg(n + 100) for n in range(20)})  # changed since
        publish(stack, {f"picture-{n}": None for n in range(20, 40)})
        publish(stack, {f"later-{n}": jpeg(n + 200) for n in range(20)})
        wait_until_read(stack)
        stack.stop_process("ingest")

        own_weaviate.kill()
        shutil.rmtree(tmp_path / "weaviate/data")
        (tmp_path / "weaviate/data").mkdir()
        own_weaviate.start()
        began = time.monotonic()
        ask(own_weaviate, "/nightly/restore", {})
        wait_until(lambda: done(own_weaviate, "/nightly/restore"))
        assert len(stack.rows()) == 60, "that of the backup"
        found = json.loads(stack.run("index", "verify", "v1", "--repair", "--json"))
        record_property("restored_s", round(time.monotonic() - began, 1))
        assert (found["clean"], found["images"]) == (True, 80)

        stack.start_process("ingest")
        publish(stack, {"picture-0": jpeg(300), "later-0": None})
        wait_until_read(stack)
        check_against_the_log(stack)
        stack.stop_process("ingest")


def create_topic(stack: OnServers, name: str, partitions: int, policy: str = "compact") -> None:
    client = kafka_clients.admin(stack.settings().kafka_connection())
    made = NewTopic(topic(stack, name), partitions, 1, config={"cleanup.policy": policy})
    client.create_topics([made])[made.topic].result(20)


@pytest.mark.slow
def test_a_log_made_of_a_dump_with_more_partitions_holds_the_same(
    tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer
) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    old = on_servers(tmp_path / "before", kafka, weaviate, real_model=False)
    new = on_servers(tmp_path / "after", kafka, weaviate, real_model=False)
    old.run_here("topics", "create")
    with killed_in_the_end(new):
        publish(old, {f"picture-{n}": jpeg(n) for n in range(60)})
        publish(old, {f"picture-{n}": jpeg(n + 100) for n in range(20)})
        publish(old, {f"picture-{n}": None for n in range(20, 30)})
        publish(old, {f"picture-{n}": POISON for n in range(30, 35)})
        lines = old.run_here("topics", "dump")

        create_topic(new, topics.UPLOADED, 12)
        said = json_lines(new.run("topics", "create", "--json"))
        counts = {each["topic"]: (each["created"], each["partitions"]) for each in said}
        assert counts[topic(new, topics.UPLOADED)] == (False, 12)
        assert counts[topic(new, topics.RETRY)] == (True, 12)
        new.run("topics", "load", stdin="no record\n", code=2)
        new.run("topics", "load", stdin=lines)
        new.run("topics", "load", stdin=lines, code=2)  # for it isn't new any more
        copied = read_topic(new, topics.UPLOADED)
        assert facts(copied) == facts(read_topic(old, topics.UPLOADED))
        assert len({record.partition for record in copied}) == 12

        new.run_here("index", "create", "v1")
        new.start_process("ingest")
        wait_until_read(new)
        check_against_the_log(new)

        *records, end = lines.splitlines(keepends=True)
        assert json.loads(end) == {"records": len(records)} == {"records": len(copied)}
        (tmp_path / "cut").mkdir()
        cut = on_servers(tmp_path / "cut", kafka, weaviate, real_model=False)
        cut.run_here("topics", "create")
        cut.run("topics", "load", stdin="".join(records), code=2)  # it may have broken off


def test_topics_of_other_partitions_are_named(
    tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer
) -> None:
    stack = on_servers(tmp_path, kafka, weaviate, real_model=False)
    create_topic(stack, topics.UPLOADED, 7)
    create_topic(stack, topics.RETRY, 6, "delete")
    log, retries = topic(stack, topics.UPLOADED), topic(stack, topics.RETRY)
    done = CliRunner().invoke(cli, ["topics", "create"], env=stack.env)
    assert f"{log}: exists, with 7 partitions instead of 6" in done.stderr
    assert f"{topic(stack, topics.INDEXED)}: created\n" in done.stderr
    assert isinstance(done.exception, UsageError)
    assert str(done.exception).startswith(f"{retries} has fewer partitions than {log}")


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def facts(records: list[Record]) -> dict[bytes | None, list[tuple[Any, ...]]]:
    """What each key's records are, in order."""
    found = defaultdict(list)
    for each in sorted(records, key=lambda each: each.offset):
        found[each.key].append((each.value, each.headers, each.timestamp_ms))
    return dict(found)
