"""Another model, without an outage: the whole journey of a generation, with faults on the way.

All the while a client searches and a publisher updates and deletes.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from pixtide.streams.wiring.adapters import load_encoder, open_catalog
from tests.faults.oracle import check_originals
from tests.faults.test_ingest_faults import publish
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import Deployment, Embedded, OnServers
from tests.support.models import tiny_clip
from tests.support.pictures import jpeg
from tests.support.traffic import Publishing, Searching

#: As many in `make faults` as an operator might have, and few in every day's tests.
PICTURES = 3000 if os.environ.get("PIXTIDE_TEST_CHAOS") == "full" else 300
#: So slow that there is time to kill the worker on its way.
RATE = str(max(60, PICTURES // 25))


class Journey:
    """A deployment of two models, and how the workers of its second generation are run."""

    def __init__(self, stack: Deployment, models: dict[str, str]) -> None:
        self.stack = stack
        self.models = models

    def start_v2(self) -> None:
        """Run a worker for the new generation, where nobody else does."""
        if isinstance(self.stack, OnServers):
            ready = self.stack.home / "v2"
            self.stack.spawn(
                "v2",
                *("ingest", "--generation", "v2", "--background", "--max-rate", RATE),
                *("--ready-file", str(ready)),
                ready=ready,
            )

    def kill_v2(self) -> None:
        """SIGKILL it in the middle of its work."""
        if isinstance(self.stack, OnServers):
            self.stack.kill("v2")

    def rows(self, name: str) -> int:
        """How many rows that generation has."""
        with contextlib.closing(open_catalog(self.stack.settings())) as catalog:
            generation = catalog.get(name)
            assert generation is not None
            return sum(catalog.open(generation).count().values())

    def verify(self, name: str) -> None:
        """Zero differences, though the publisher goes on."""
        found = json.loads(self.stack.run("index", "verify", name, "--json"))
        assert found["differences"] == {}
        assert found["images"] >= PICTURES


@pytest.fixture(params=["servers", "embedded"])
def journey(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journey]:
    models = {
        "v1": tiny_clip(tmp_path / "first"),
        "v2": tiny_clip(tmp_path / "second", seed=7, dimension=48),
    }
    stack: Deployment
    if request.param == "embedded":
        stack = Embedded(tmp_path / "home", PIXTIDE_MODEL=models["v1"])
    else:
        kafka: KafkaServer = request.getfixturevalue("kafka")
        weaviate: WeaviateServer = request.getfixturevalue("weaviate")
        stack = OnServers(
            tmp_path / "home",
            kafka=kafka.bootstrap,
            weaviate_url=weaviate.http_url,
            grpc_port=weaviate.grpc_port,
            PIXTIDE_MODEL=models["v1"],
        )
    try:
        yield Journey(stack, models)
    finally:
        for name in list(stack.processes):
            if isinstance(stack, Embedded):
                stack.stop_process(name)
            else:
                stack.kill(name)


def await_rows(journey: Journey, name: str, least: int) -> None:
    deadline = time.monotonic() + 120 + PICTURES / 10
    while journey.rows(name) < least:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def event(stack: Deployment) -> Callable[[int], None]:
    """The n-th update, delete or new picture; every third is of one and the same id."""

    def send(n: int) -> None:
        image_id = "picture-0" if n % 3 == 0 else f"picture-{n * 7 % (PICTURES + 50)}"
        publish(stack, {image_id: None if n % 5 == 1 else jpeg(1000 + n)})

    return send


@pytest.mark.fault("a reindex is killed repeatedly, with live updates and deletes")
@pytest.mark.fault("rollback after new writes")
@pytest.mark.fault("queries all through a promotion")
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_model_is_changed_without_an_outage(
    journey: Journey, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = journey.stack
    stack.start()
    publish(stack, {f"picture-{n}": jpeg(n) for n in range(PICTURES)})
    await_rows(journey, "v1", PICTURES)
    settings = stack.settings()
    encoders = {name: load_encoder(settings, model) for name, model in journey.models.items()}
    with Searching(settings, encoders) as searching, contextlib.ExitStack() as busy:
        searching.await_searches(PICTURES // 10, within_s=300)
        searching.phase = "during the reindex"
        publishing = busy.enter_context(Publishing(event(stack), every_s=0.1))
        stack.run("index", "create", "v2", "--model", journey.models["v2"])
        journey.start_v2()
        for least in (PICTURES // 4, PICTURES // 2):
            await_rows(journey, "v2", least)
            journey.kill_v2()
            journey.start_v2()
        stack.run("index", "promote", "v2", code=1)  # nobody has verified it
        assert set(searching.heard.by_generation) == {"v1"}
        journey.verify("v2")
        searching.phase = "afterwards"

        stack.run("index", "promote", "v2")
        searching.await_generation("v2")
        stack.run("index", "retire", "v1", code=1)  # within its grace
        written = publishing.published
        while publishing.published < written + 10:
            time.sleep(0.1)
        stack.run("index", "rollback")
        searching.await_generation("v1")
        journey.verify("v1")  # what was written after the promotion is there, too
        stack.run("index", "promote", "v2")
        searching.await_generation("v2")
        stack.run("index", "retire", "v1", "--grace", "0")
        stack.run("index", "retire", "v1", "--grace", "0")  # safe to repeat
        journey.verify("v2")
        if isinstance(stack, OnServers):  # it ended by itself
            assert stack.processes.pop("ingest").wait(120) == 0, stack.log("ingest")
    heard = searching.heard
    assert (heard.failed, heard.mixed) == ([], [])
    assert min(heard.by_generation.values()) > 10
    with capsys.disabled():
        click.echo(f"\n{type(stack).__name__}, {PICTURES:,} pictures: {heard.latencies()}")

    journey.verify("v2")
    standings = [json.loads(s) for s in stack.run("index", "status", "--json").splitlines()]
    assert [(s["generation"], s["state"], s["is_live"]) for s in standings] == [
        ("v2", "ready", True)
    ]
    assert standings[0]["workers"] == 1
    check_originals(stack, "v2")
    stack.run("index", "create", "v1", code=2)  # a name is used once
    stack.run("ingest", "--generation", "v1", code=2)


@pytest.mark.fault("a generation's model is gone")
@pytest.mark.slow
def test_a_generation_that_cant_be_built_leaves_the_rest_of_the_stack_running(
    tmp_path: Path,
) -> None:
    stack = Embedded(tmp_path / "home", PIXTIDE_MODEL=tiny_clip(tmp_path / "model"))
    stack.start()
    try:
        with contextlib.closing(open_catalog(stack.settings())) as catalog:
            live = catalog.live()
            assert live is not None
            changes = {"name": "v2", "model": "local-dir:/nowhere", "collection": "images_v2"}
            changes |= {"group": "ingest.v2"}
            catalog.create(live.model_copy(update=changes))
        deadline = time.monotonic() + 60
        while "the rest goes on" not in stack.log("up"):
            assert time.monotonic() < deadline, stack.log("up")
            time.sleep(0.1)
        assert "ingest-v2 ended" in stack.log("up")
        publish(stack, {"a": jpeg(1)})
        await_rows(Journey(stack, {}), "v1", 1)
        assert [found["image_id"] for found in stack.search("anything")] == ["a"]
    finally:
        stack.stop()
