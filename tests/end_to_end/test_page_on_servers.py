"""The page's API on real Kafka and real Weaviate: a picture's whole life through it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers
from tests.support.pictures import jpeg

pytestmark = pytest.mark.slow


@pytest.fixture
def page(kafka: KafkaServer, weaviate: WeaviateServer, tmp_path: Path) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    deployment = OnServers(
        tmp_path / "home",
        kafka=kafka.bootstrap,
        weaviate_url=weaviate.http_url,
        grpc_port=weaviate.grpc_port,
        PIXTIDE_WEB_PORT=port,
    )
    try:
        deployment.start()
        ready = tmp_path / "web.ready"
        deployment.spawn("web", "web", "--ready-file", str(ready), ready=ready)
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=60) as client:
            yield client
    finally:
        deployment.stop()


def outcome_of(lines: Iterator[str], image_id: str) -> dict[str, Any]:
    for line in lines:
        if line.startswith("data: "):
            outcome: dict[str, Any] = json.loads(line.removeprefix("data: "))
            if outcome["image_id"] == image_id:
                return outcome
    raise AssertionError("the stream ended")


def test_a_picture_is_published_found_shown_and_deleted(page: httpx.Client) -> None:
    with page.stream("GET", "/api/outcomes") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry")
        sent = page.post("/api/images", files={"picture": ("a b.jpg", jpeg(5))})
        assert sent.status_code == 202, sent.text
        assert outcome_of(lines, "web/a b.jpg")["outcome"] == "indexed"
        [found] = page.post("/api/search", json={"text": "anything"}).json()["results"]
        assert found["image_id"] == "web/a b.jpg"
        row = page.get("/api/images/web%2Fa%20b.jpg").json()
        assert (row["partition"], row["offset"]) == (
            sent.json()["partition"],
            sent.json()["offset"],
        )
        small = page.get("/thumbnails/web%2Fa%20b.jpg", params={"sha256": found["sha256"]})
        assert small.headers["content-type"] == "image/jpeg"
        assert page.get("/originals/web%2Fa%20b.jpg").content == jpeg(5)
        [generation] = page.get("/api/status").json()["generations"]
        assert (generation["live"], generation["is_live"]) == (1, True)
        assert page.get("/ready").is_success
        assert page.delete("/api/images/web%2Fa%20b.jpg").status_code == 202
        assert outcome_of(lines, "web/a b.jpg")["outcome"] == "deleted"
    assert page.get("/thumbnails/web%2Fa%20b.jpg").status_code == 404
    assert page.get("/originals/web%2Fa%20b.jpg").status_code == 404
    assert page.post("/api/search", json={"text": "anything"}).json()["results"] == []
