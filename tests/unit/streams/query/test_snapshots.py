"""Following the alias: what is served from, and what is loaded ahead and let go of."""

import gc
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pixtide.encoders.port import Crop, Encoder, Pixels
from pixtide.schemas.errors import FatalError
from pixtide.search.answering.answer import Snapshot
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.streams.query.snapshots import Snapshots
from tests.contracts.samples import NOON, generation

READY, RETIRED = GenerationState.READY, GenerationState.RETIRED


class NoEncoder:
    """An encoder of nothing but a fingerprint."""

    crop = Crop(8, 8)
    device = "cpu"
    dimension = 8

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def warm_up(self) -> None:
        pass

    def encode_pictures(self, pixels: Pixels) -> NDArray[np.float32]:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise NotImplementedError

    def check_text(self, text: str) -> None:
        pass


class Loader:
    """Loads when it may, and remembers what."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.may = threading.Event()
        self.may.set()
        self.broken: set[str] = set()

    def __call__(self, wanted: Generation) -> Encoder:
        assert self.may.wait(60)
        if wanted.name in self.broken:
            raise FatalError("the model's files changed")
        self.loaded.append(wanted.name)
        return NoEncoder(wanted.fingerprint)


@pytest.fixture
def catalog(tmp_path: Path) -> LanceCatalog:
    made = LanceCatalog(folder=tmp_path)
    for n in (1, 2):
        made.create(numbered(n))
    made.promote("v1")
    return made


def numbered(n: int, **changes: object) -> Generation:
    at = NOON + timedelta(days=n)
    return generation(f"v{n}", fingerprint=f"sha256:{n}", created_at=at, **changes)


def served(snapshots: Snapshots) -> str:
    assert snapshots.current is not None
    return snapshots.current.generation.name


def soon(snapshots: Snapshots, condition: Callable[[], bool]) -> None:
    """Refresh until the condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        snapshots.refresh()
        time.sleep(0.01)


def test_a_verified_generation_is_loaded_ahead_and_served_at_once(catalog: LanceCatalog) -> None:
    load = Loader()
    snapshots = Snapshots(catalog, load)
    snapshots.refresh()
    snapshots.refresh()
    assert load.loaded == ["v1"]
    catalog.change("v2", lambda _: numbered(2, state=READY, previous="v1"))
    soon(snapshots, lambda: load.loaded == ["v1", "v2"])
    load.may.clear()  # nothing can be loaded from here on
    catalog.promote("v2")
    soon(snapshots, lambda: served(snapshots) == "v2")
    catalog.promote("v1")  # rolled back
    soon(snapshots, lambda: served(snapshots) == "v1")


def test_the_garbage_collector_passes_over_what_is_loaded(catalog: LanceCatalog) -> None:
    """Its full passes take as long as there is to walk, and every search waits for them."""
    gc.unfreeze()
    loaded_before = len(gc.get_objects())
    try:
        Snapshots(catalog, Loader()).refresh()
        assert gc.get_freeze_count() >= loaded_before / 2
        assert len(gc.get_objects()) < loaded_before / 10
    finally:
        gc.unfreeze()


def test_the_old_snapshot_answers_while_the_new_encoder_is_being_loaded(
    catalog: LanceCatalog,
) -> None:
    load = Loader()
    snapshots = Snapshots(catalog, load)
    snapshots.refresh()
    load.may.clear()
    catalog.promote("v2")
    snapshots.refresh()
    assert served(snapshots) == "v1"
    load.may.set()
    soon(snapshots, lambda: served(snapshots) == "v2")


def test_a_model_that_cant_be_loaded_leaves_the_old_one_serving(catalog: LanceCatalog) -> None:
    load = Loader()
    load.broken.add("v2")
    snapshots = Snapshots(catalog, load)
    snapshots.refresh()
    catalog.promote("v2")
    for _ in range(3):
        snapshots.refresh()
    assert served(snapshots) == "v1"


def test_retired_encoders_are_let_go(catalog: LanceCatalog) -> None:
    load = Loader()
    snapshots = Snapshots(catalog, load)
    snapshots.refresh()
    catalog.change("v2", lambda _: numbered(2, state=READY, previous="v1"))
    catalog.promote("v2")
    soon(snapshots, lambda: served(snapshots) == "v2")
    assert snapshots.encoder("sha256:1")  # a rollback may return to it
    catalog.change("v1", lambda _: numbered(1, state=RETIRED))
    catalog.drop(numbered(1))

    def is_gone() -> bool:
        try:
            snapshots.encoder("sha256:1")
        except KeyError:
            return True
        return False

    soon(snapshots, is_gone)
    assert served(snapshots) == "v2"


def test_a_snapshot_whose_collection_is_gone_is_resolved_again(catalog: LanceCatalog) -> None:
    load = Loader()
    snapshots = Snapshots(catalog, load)
    snapshots.refresh()
    old = snapshots.current
    assert old is not None
    catalog.promote("v2")
    catalog.drop(numbered(1))
    found = [snapshots.renewed(old) for _ in range(2)]
    assert [each.generation.name for each in found if isinstance(each, Snapshot)] == ["v2", "v2"]
    assert load.loaded == ["v1", "v2"]
