"""The restore drill of docs/day-two.md: the index's disk is lost after a backup that is not new."""

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployments import killed_in_the_end, on_servers
from tests.faults.oracle import check_against_the_log
from tests.faults.test_ingest_faults import publish, wait_until, wait_until_read
from tests.pictures import jpeg
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.weaviate import weaviate_server

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
    stack = on_servers(tmp_path, kafka, own_weaviate)
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
