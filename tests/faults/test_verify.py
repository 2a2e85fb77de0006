"""Verification finds whatever is wrong with an index, and repair mends it, on real servers."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pixtide.schemas.identity import Version
from pixtide.search.generations import GenerationState
from pixtide.search.port import RowState, StoredImage
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.publish.publisher import Description, Publisher
from pixtide.streams.publish.sources import Source
from pixtide.streams.wiring.adapters import open_catalog
from tests.faults.oracle import check_against_the_log
from tests.faults.test_ingest_faults import publish, wait_until_read
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, killed_in_the_end, on_servers
from tests.support.pictures import jpeg

POISONED = frozenset({"bad.jpg"})


@pytest.fixture
def stack(tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer) -> Iterator[OnServers]:
    made = on_servers(
        tmp_path,
        kafka,
        weaviate,
        real_model=False,
    )
    made.run("topics", "create")
    made.run("index", "create", "v1")
    with killed_in_the_end(made):
        yield made


def verify(stack: OnServers, *arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        stack.run("index", "verify", "v1", "--json", *arguments, code=code)
    )
    return found


def moved(row: StoredImage, by: int, **changes: Any) -> StoredImage:
    version = Version(row.version.epoch, row.version.partition, row.version.offset + by)
    return replace(row, version=version, **changes)


@pytest.mark.slow
def test_every_kind_of_difference_is_found_and_mended(stack: OnServers) -> None:
    stack.start_process("ingest")
    names = [f"picture-{n}" for n in range(30)]
    publish(stack, {name: jpeg(n) for n, name in enumerate(names)})
    publish(stack, {"picture-0": None, "picture-1": jpeg(100), "bad.jpg": b"no picture"})
    clean = verify(stack)
    assert (clean["clean"], clean["images"], clean["rows"]) == (True, 31, 31)
    assert clean["records"] == 33
    assert clean["dead_letters"] == {"UNIDENTIFIED_FORMAT": 1}

    with stack.index() as index:
        rows = index.get(names)
        index.remove({name: rows[name].version for name in names[:6]})
        resurrected = replace(rows["picture-9"], image_id="picture-0")
        index.write(
            [
                replace(resurrected, version=rows["picture-0"].version),
                moved(rows["picture-1"], -1),
                moved(rows["picture-2"], 10_000),
                StoredImage("picture-3", RowState.DELETED, rows["picture-3"].version),
                replace(rows["picture-9"], image_id="stranger"),
                StoredImage("long gone", RowState.DELETED, Version(1, 0, 3)),
            ]
        )
    found = verify(stack, code=1)
    assert found["differences"] == {
        "missing": 2,
        "stale": 1,
        "ahead": 1,
        "wrong_state": 2,
        "extra": 1,
    }
    kinds = {each["image_id"]: each["kind"] for each in found["examples"]}
    assert kinds == {
        "picture-0": "wrong_state",
        "picture-1": "stale",
        "picture-2": "ahead",
        "picture-3": "wrong_state",
        "picture-4": "missing",
        "picture-5": "missing",
        "stranger": "extra",
    }
    assert stack.run("index", "promote", "v1", "--json")  # live already: nothing to refuse

    old, new = leftovers(stack, "picture-0")
    stray, _ = leftovers(stack, "nobody knows it")
    for path in (old, stray):
        os.utime(path, (time.time() - 7200,) * 2)
    lost = Path(urlsplit(rows["picture-12"].uri).path)
    lost.unlink()
    differences = verify(stack, code=1)["differences"]
    assert (differences["original_left"], differences["original_missing"]) == (2, 1)
    assert "original_left" not in verify(stack, "--no-originals", code=1)["differences"]
    assert verify(stack, "--repair")["clean"]
    assert (old.exists(), new.exists(), stray.exists()) == (False, True, False)
    assert lost.read_bytes() == jpeg(12)
    assert verify(stack)["clean"]
    check_against_the_log(stack, poisoned=POISONED)
    assert "long gone" not in stack.rows()
    stack.stop_process("ingest")


def leftovers(stack: OnServers, image_id: str) -> list[Path]:
    """Two originals of that picture which no row names."""
    store = ImageStore(stack.settings().image_store_url)
    uris = [store.put(image_id, data, "jpg") for data in (jpeg(201), jpeg(202))]
    return [Path(urlsplit(uri).path) for uri in uris]


@pytest.mark.slow
def test_content_is_compared_where_the_event_names_it(stack: OnServers) -> None:
    stack.start_process("ingest")
    path = stack.folder / "a.jpg"
    path.write_bytes(jpeg(1))
    stack.run("publish", str(path), "--prefix", "p")  # our publisher names the sha256
    publish(stack, {"unnamed": jpeg(2)})
    wait_until_read(stack)
    with stack.index() as index:
        rows = index.get(["p/a.jpg", "unnamed"])
        index.remove({name: row.version for name, row in rows.items()})
        index.write([replace(row, sha256="0" * 64) for row in rows.values()])
    assert verify(stack, code=1)["differences"] == {"wrong_content": 1}
    assert verify(stack, "--repair")["clean"]
    assert stack.rows()["p/a.jpg"].sha256 != "0" * 64

    # whose original is lost keeps its place, as a dead letter
    with stack.index() as index:
        index.remove({"p/a.jpg": index.get(["p/a.jpg"])["p/a.jpg"].version})
    for original in (stack.home / "originals").rglob("*.jpg"):
        original.unlink()
    assert verify(stack, code=1)["differences"] == {"missing": 1, "original_missing": 1}
    repaired = verify(stack, "--repair")
    assert (repaired["clean"], repaired["dead_letters"]) == (True, {"SOURCE_GONE": 1})

    # one that no record holds can't be made again: that is told, and hinders no promotion; and a
    # store that is also another log's is not swept
    publisher = Publisher(stack.settings())
    publisher.upload(Source("q/a.jpg", path), Description())
    publisher.flush()
    wait_until_read(stack)
    for original in (stack.home / "originals").rglob("*.jpg"):
        original.unlink()
    old, _ = leftovers(stack, "whoever")
    os.utime(old, (time.time() - 7200,) * 2)
    ImageStore(stack.settings().image_store_url).put_raw("logs/another.log@t9", b"")
    told = verify(stack, "--repair", code=1)
    assert told["differences"] == {"original_missing": 1}
    assert "logs/another.log@t9" in told["notes"][0] and old.exists()
    assert stack.rows()["q/a.jpg"].state is RowState.LIVE
    with contextlib.closing(open_catalog(stack.settings())) as catalog:
        assert [each.state for each in catalog.list()] == [GenerationState.READY]
    stack.stop_process("ingest")


@pytest.mark.fault("deletes during a replay")
@pytest.mark.slow
def test_an_upload_replayed_after_its_delete_stays_deleted(stack: OnServers) -> None:
    """A worker that replays the log from its beginning meets uploads whose deletes come later."""
    stack.start_process("ingest")
    publish(stack, {f"picture-{n}": jpeg(n) for n in range(20)})
    publish(stack, {f"picture-{n}": None for n in range(10)})
    wait_until_read(stack)
    stack.run("index", "create", "v2")
    arguments = ("ingest", "--generation", "v2", "--max-rate", "20")
    stack.spawn("v2", *arguments, "--ready-file", str(stack.home / "v2"), ready=stack.home / "v2")
    publish(stack, {f"picture-{n}": None for n in range(10, 15)})  # during the replay
    found = json.loads(stack.run("index", "verify", "v2", "--json"))
    assert (found["clean"], found["rows"]) == (True, 20)
    stack.run("index", "promote", "v2")
    live = {name for name, row in stack.rows().items() if row.state is RowState.LIVE}
    assert live == {f"picture-{n}" for n in range(15, 20)}
    stack.stop_process("v2")
    stack.stop_process("ingest")
