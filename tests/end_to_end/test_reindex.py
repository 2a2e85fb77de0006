"""`pixtide reindex`: the whole way to another model, and to the same one without encoding."""

import contextlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixtide.schemas.errors import TransientError
from pixtide.search.generations import GenerationState
from pixtide.search.port import RowState, StoredImage
from pixtide.streams.generations.lifecycle import promote, retire
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, killed_in_the_end
from tests.support.models import tiny_clip
from tests.support.pictures import jpeg

PICTURES, GONE = 20, 3


@pytest.fixture
def stack(tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer) -> Iterator[OnServers]:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    made = OnServers(
        tmp_path / "home",
        kafka=kafka.bootstrap,
        weaviate_url=weaviate.http_url,
        grpc_port=weaviate.grpc_port,
        PIXTIDE_MODEL=tiny_clip(tmp_path / "first"),
        PIXTIDE_FILE_ROOTS=str(pictures),
    )
    with killed_in_the_end(made):
        yield made


def rows_of(stack: OnServers, name: str) -> dict[str, StoredImage]:
    with contextlib.closing(open_catalog(stack.settings())) as catalog:
        index = catalog.open(generation_to_work_for(catalog, name))
        return {row.image_id: row for row in index.scan(with_vectors=True)}


def statuses(stack: OnServers) -> dict[str, dict[str, Any]]:
    lines = stack.run("index", "status", "--json").splitlines()
    return {standing["generation"]: standing for standing in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_another_model_and_back_by_copying(stack: OnServers) -> None:
    stack.start()
    folder = stack.folder / "pictures"
    for n in range(PICTURES):
        (folder / f"{n}.jpg").write_bytes(jpeg(n))
    assert stack.publish(str(folder))["outcomes"] == {"indexed": PICTURES}
    for n in range(GONE):  # dead links
        (folder / f"{n}.jpg").unlink()

    second = tiny_clip(stack.folder / "second", seed=5, dimension=48)
    stack.run("reindex", "--model", second, "--yes", "--max-rate", "50")
    rows = rows_of(stack, "v2")
    assert [row.state for row in rows.values()].count(RowState.LIVE) == PICTURES - GONE
    reasons = [row.reason for row in rows.values() if row.state is RowState.DEAD_LETTERED]
    assert reasons == ["SOURCE_GONE"] * GONE
    found = json.loads(stack.run("index", "list", "--json").splitlines()[1])
    assert (found["name"], found["state"], found["previous"]) == ("v2", "ready", "v1")
    assert statuses(stack)["v2"]["is_live"]
    stack.run("reindex", "--model", second, "--yes")  # nothing is left to do
    assert set(statuses(stack)) == {"v1", "v2"}

    # the first model again, otherwise compressed: copied, so that not even dead links are missed
    arguments = ("--model", stack.env["PIXTIDE_MODEL"], "--compression", "none", "--name", "v3")
    stack.run("reindex", *arguments, "--yes")
    copied, encoded = rows_of(stack, "v3"), rows_of(stack, "v1")
    assert copied == encoded
    assert all(row.state is RowState.LIVE for row in copied.values())
    for name, row in copied.items():
        ours, theirs = np.asarray(row.vector), np.asarray(encoded[name].vector)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    stack.run("reindex", "--model", second, "--name", "v1", "--yes", code=2)

    queries = stack.folder / "queries.txt"
    queries.write_text("a picture\nanother one\n")
    page = stack.folder / "page.html"
    options = ("--queries", str(queries), "-k", "5", "--html", str(page), "--json")
    *_, sums = map(json.loads, stack.run("index", "compare", "v1", "v3", *options).splitlines())
    assert (sums["queries"], sums["overlap@5"], sums["rank_change"]) == (2, 1.0, 0.0)
    assert sums["recall@5"] == [1.0, 1.0]
    assert page.read_text().count("data:image/jpeg;base64,") > 10


@pytest.mark.fault("a crash around the alias swap")
@pytest.mark.slow
def test_a_crash_around_the_alias_swap_leaves_the_old_or_the_new(
    stack: OnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.start()
    (stack.folder / "pictures" / "a.jpg").write_bytes(jpeg(1))
    stack.publish(str(stack.folder / "pictures"))
    stack.run("index", "create", "v2")
    ready = stack.home / "v2"
    stack.spawn("v2", "ingest", "--generation", "v2", "--ready-file", str(ready), ready=ready)
    stack.run("index", "verify", "v2")
    settings = stack.settings()
    with contextlib.closing(open_catalog(settings)) as catalog:

        def promote_v2() -> None:
            generation = generation_to_work_for(catalog, "v2")
            promote(
                settings,
                catalog,
                generation,
                force=False,
                timeout_s=30,
                tell=lambda *_: None,
            )

        def live() -> str:
            found = catalog.live()
            assert found is not None
            return found.name

        def crash(*_: object) -> None:
            raise TransientError("crash")

        for step in ("change", "promote"):
            with monkeypatch.context() as broken, pytest.raises(TransientError):
                broken.setattr(type(catalog), step, crash)
                promote_v2()
            assert live() == "v1"
            stack.run("index", "retire", "v1", "--grace", "0", code=1)  # it is still live
        promote_v2()
        promote_v2()
        assert live() == "v2"
        assert generation_to_work_for(catalog, "v2").previous == "v1"

        stack.stop_process("ingest")  # v1 is behind from here on
        (stack.folder / "pictures" / "b.jpg").write_bytes(jpeg(2))
        stack.publish(str(stack.folder / "pictures"))
        stack.run("index", "rollback", "--timeout", "1", code=1)
        assert live() == "v2"
        stack.run("index", "rollback", "--timeout", "1", "--force")
        assert live() == "v1"
        promote_v2()

        with monkeypatch.context() as broken, pytest.raises(TransientError):
            broken.setattr(type(catalog), "drop", crash)
            retire(settings, catalog, generation_to_work_for(catalog, "v1"), grace=timedelta())
        first = catalog.get("v1")
        assert first is not None
        assert first.state is GenerationState.RETIRED
        stack.run("index", "rollback", code=2)
        stack.run("index", "retire", "v1")  # goes on
        assert set(statuses(stack)) == {"v2"}
    stack.stop_process("v2")
    stack.stop_process("query")
