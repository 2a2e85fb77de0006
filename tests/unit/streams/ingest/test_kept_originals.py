"""Who stores an original and who removes it: decided by the newest record, whoever is live."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pixtide.schemas.dead_letters import SourceRecord
from pixtide.schemas.events import ImageUploaded, InlinePicture, PictureAt
from pixtide.schemas.identity import Version
from pixtide.search.generations import GenerationState, LogIdentity
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.port import RowState, StoredImage, Written
from pixtide.streams.ingest.kept_originals import Originals
from pixtide.streams.ingest.other_generations import OtherGenerations
from pixtide.streams.ingest.work import Work
from pixtide.streams.kafka.later_records import LaterRecords
from pixtide.streams.kafka.records import Record
from pixtide.streams.originals.store import ImageStore
from tests.contracts.samples import generation, live, poisoned

A, B = b"picture A", b"picture B"
NOW = datetime.now(UTC)
HOURS = timedelta(hours=1)


class Later(LaterRecords):
    """What a log would say whose later records are of these pictures."""

    def __init__(self, ids: set[str]) -> None:
        self.ids = ids

    def of(self, places: Mapping[str, Version]) -> set[str]:
        """Those of them that are asked for."""
        return self.ids & places.keys()


class Bench:
    """Two generations over one log, an image store, and workers of them."""

    def __init__(self, folder: Path) -> None:
        self.url = (folder / "originals").as_uri()
        self.catalog = LanceCatalog(folder=folder / "index")
        for name in ("v1", "v2"):
            self.catalog.create(self.generation(name))
        self.later: set[str] = set()
        self.publisher = ImageStore(self.url)
        self.stores = {name: ImageStore(self.url) for name in ("v1", "v2")}

    def generation(self, name: str, **changes: Any) -> Any:
        times = {"v1": NOW - 9 * HOURS, "v2": NOW - 8 * HOURS, "v3": NOW}
        return generation(name, created_at=times[name], **changes)

    def originals(self, name: str, *, keep_all: bool = False) -> Originals:
        mine = self.generation(name)
        others = OtherGenerations(mine, self.catalog)
        return Originals(self.stores[name], others, Later(self.later), keep_all=keep_all)

    def restart(self, name: str) -> None:
        """A worker that remembers nothing."""
        self.stores[name] = ImageStore(self.url)

    def upload(self, name: str, offset: int, data: bytes, image_id: str = "x") -> str:
        """An inline upload, applied by that generation; its original's URI."""
        upload = uploaded(InlinePicture(data=data, content_type=None), image_id)
        uri = self.originals(name).keep(upload, Version(1, 0, offset), "JPEG", data)
        self.apply(name, live(image_id, offset, uri=uri), upload)
        return uri

    def apply(
        self,
        name: str,
        row: StoredImage,
        upload: ImageUploaded | None = None,
        at: datetime | None = None,
    ) -> Written:
        """Write the row of a record of that time, and remove what it makes obsolete."""
        (result,) = self.catalog.open(self.generation(name)).write([row])
        at_ms = int((at or datetime.now(UTC) + timedelta(milliseconds=2)).timestamp() * 1000)
        record = Record("images.uploaded", 0, row.version.offset, at_ms, b"x", None, [])
        source = SourceRecord(
            topic="images.uploaded",
            topic_id="t0",
            partition=0,
            offset=row.version.offset,
            timestamp_ms=at_ms,
        )
        work = Work(record, source, 1, image_id=row.image_id, upload=upload, row=row)
        self.originals(name).remove_obsolete({work: result})
        return result

    def delete(self, name: str, offset: int, at: datetime | None = None) -> None:
        """A delete of x, applied by that generation."""
        self.apply(name, StoredImage("x", RowState.DELETED, Version(1, 0, offset)), at=at)

    def files(self) -> set[str]:
        """All originals that lie in the store."""
        return {each.uri for each in self.publisher.files() if "/" in each.key[10:]}


def uploaded(picture: InlinePicture | PictureAt, image_id: str = "x") -> ImageUploaded:
    return ImageUploaded(
        image_id=image_id, event_id="1", source="/t", uploaded_at=NOW, picture=picture
    )


def age(uri: str, by: timedelta) -> None:
    """As if it had been put so long ago."""
    then = (datetime.now(UTC) - by).timestamp()
    os.utime(uri.removeprefix("file://"), (then, then))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_every_generation_stores_and_the_first_to_read_a_delete_erases(bench: Bench) -> None:
    uri = bench.upload("v2", 1, A)
    assert bench.upload("v1", 1, A) == uri and bench.files() == {uri}
    bench.delete("v2", 2)
    assert bench.files() == set()
    bench.delete("v1", 2)
    assert bench.files() == set()


def test_who_is_behind_brings_nothing_back_that_is_erased(bench: Bench) -> None:
    bench.upload("v1", 1, A)
    bench.delete("v1", 2)
    bench.upload("v2", 1, A)
    assert bench.files() == set()
    bench.delete("v2", 2)
    replaced = bench.upload("v1", 4, B)
    bench.upload("v2", 3, A)
    assert bench.files() == {replaced}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_picture_that_came_back_survives_who_is_behind(bench: Bench, restarts: bool) -> None:
    """A, B and A again: the slower generation replaces its first A when the last one is there."""
    first = bench.upload("v1", 1, A)
    bench.upload("v2", 1, A)
    second = bench.upload("v1", 2, B)
    assert bench.files() == {second}
    assert bench.upload("v1", 3, A) == first
    if restarts:
        bench.restart("v2")
    bench.upload("v2", 2, B)
    assert bench.files() == {first}
    bench.upload("v2", 3, A)
    assert bench.files() == {first}


def test_a_delete_that_comes_late_spares_what_was_uploaded_since(bench: Bench) -> None:
    bench.upload("v1", 1, A)
    bench.upload("v2", 1, A)
    bench.delete("v1", 2)
    again = bench.upload("v1", 3, A)
    bench.delete("v2", 2)
    assert bench.files() == {again}


def test_what_is_put_for_a_record_on_its_way_stays(bench: Bench) -> None:
    """A publisher puts the same picture again, and a worker comes to the delete only then."""
    uri = bench.publisher.put("x", A, "jpg")
    at = uploaded(PictureAt(uri=uri))
    assert bench.stores["v1"].get(uri, 100) == A
    bench.apply("v1", live("x", 1, uri=uri), at)
    deleted_at = datetime.now(UTC)
    bench.publisher.put("x", A, "jpg")
    age(uri, timedelta(seconds=-5))
    bench.later.add("x")
    bench.delete("v1", 2, at=deleted_at)
    assert bench.files() == {uri}


def test_what_was_put_again_before_a_worker_read_it_stays(bench: Bench) -> None:
    """A, then B, then A again: the worker that reads the first A late sees the last one's file."""
    uri = bench.publisher.put("x", A, "jpg")
    replaced_at = datetime.now(UTC)
    bench.publisher.put("x", A, "jpg")
    age(uri, timedelta(seconds=-5))
    assert bench.stores["v1"].get(uri, 100) == A
    bench.apply("v1", live("x", 1, uri=uri), uploaded(PictureAt(uri=uri)))
    bench.later.add("x")
    other = bench.publisher.put("x", B, "jpg")
    bench.apply("v1", live("x", 2, uri=other), uploaded(PictureAt(uri=other)), at=replaced_at)
    assert bench.files() == {uri, other}


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(days=2)])
def test_a_publishers_clock_that_is_ahead_erases_nothing_new(
    bench: Bench, ahead: timedelta
) -> None:
    uri = bench.publisher.put("x", A, "jpg")
    bench.apply("v1", live("x", 1, uri=uri), uploaded(PictureAt(uri=uri)))
    bench.later.add("x")  # whose original this is by now
    bench.delete("v1", 2, at=datetime.now(UTC) + ahead)
    assert bench.files() == {uri}


def test_after_a_restart_what_was_put_before_the_last_record_goes(bench: Bench) -> None:
    bench.upload("v1", 1, A)
    bench.restart("v1")
    bench.delete("v1", 2)
    assert bench.files() == set()


def test_after_a_restart_what_is_old_goes_whatever_comes_later(bench: Bench) -> None:
    uri = bench.upload("v1", 1, A)
    age(uri, 2 * HOURS)
    bench.restart("v1")
    bench.later.add("x")
    bench.delete("v1", 2)
    assert bench.files() == set()


def test_a_delete_erases_dead_letters_originals_and_no_neighbours(bench: Bench) -> None:
    torn = bench.publisher.put("x", b"torn", "jpg")
    assert bench.stores["v1"].get(torn, 10) == b"torn"
    bench.apply("v1", poisoned("x", 1), uploaded(PictureAt(uri=torn)))
    assert bench.files() == {torn}
    neighbour = bench.upload("v1", 1, A, "y")
    bench.delete("v1", 2)
    assert bench.files() == {neighbour}


def test_another_generations_dead_letter_keeps_its_original(bench: Bench) -> None:
    """No row says which it is, so who is behind leaves them all."""
    first = bench.publisher.put("x", A, "jpg")
    assert bench.stores["v2"].get(first, 10) == A
    bench.apply("v2", live("x", 1, uri=first), uploaded(PictureAt(uri=first)))
    bench.apply("v1", poisoned("x", 3), uploaded(PictureAt(uri=first)))
    bench.delete("v2", 2)
    assert bench.files() == {first}


def test_another_pictures_original_is_no_ones_to_remove(bench: Bench) -> None:
    """An event may name the original of another picture: it is stored again, as its own."""
    xs = bench.upload("v1", 1, A)
    borrowed = uploaded(PictureAt(uri=xs), "y")
    own = bench.originals("v1").keep(borrowed, Version(1, 0, 2), "JPEG", A)
    assert own != xs and bench.files() == {xs, own}
    bench.apply("v1", live("y", 2, uri=xs), borrowed)  # as an earlier release did
    bench.upload("v1", 3, B, "y")
    assert xs in bench.files()


def test_what_was_stored_for_a_row_that_came_too_late_goes(bench: Bench) -> None:
    """A worker that lost its partition in between: its successor has read on."""
    upload = uploaded(InlinePicture(data=A, content_type=None))
    uri = bench.originals("v1").keep(upload, Version(1, 0, 1), "JPEG", A)
    bench.catalog.open(bench.generation("v1")).write(
        [StoredImage("x", RowState.DELETED, Version(1, 0, 2))]
    )
    assert not bench.apply("v1", live("x", 1, uri=uri), upload).applied
    assert bench.files() == set()


def test_rows_over_another_log_keep_what_they_name(bench: Bench) -> None:
    other = LogIdentity(topic="images.uploaded", topic_id="t9", partitions=6)
    old = bench.generation("v3", log=other)
    bench.catalog.create(old)
    uri = bench.upload("v1", 1, A)
    index = bench.catalog.open(old)
    index.write([live("x", 999, uri=uri)])
    bench.delete("v1", 2)
    assert bench.files() == {uri}
    bench.catalog.change(
        old.name, lambda now: now.model_copy(update={"state": GenerationState.RETIRED})
    )
    bench.upload("v1", 3, A)
    bench.delete("v1", 4)
    assert bench.files() == set()


@pytest.mark.parametrize(
    ("keep_all", "stored"), [(False, False), (True, True)], ids=["inline", "all"]
)
def test_fetched_pictures_are_stored_where_all_are(
    bench: Bench, keep_all: bool, stored: bool
) -> None:
    at = "https://pictures.example/a.jpg"
    keep: Callable[..., str] = bench.originals("v1", keep_all=keep_all).keep
    uri = keep(uploaded(PictureAt(uri=at)), Version(1, 0, 1), "JPEG", A)
    assert (uri != at, bool(bench.files())) == (stored, stored)


def test_an_original_that_is_gone_is_missed_only_where_the_record_has_it(bench: Bench) -> None:
    originals = bench.originals("v1")
    inline = uploaded(InlinePicture(data=A, content_type=None))
    row = live("x", 1, uri=bench.publisher.uri_of("x", A, "jpg"))
    assert originals.lacks(inline, row)
    assert not originals.lacks(uploaded(PictureAt(uri=row.uri)), row)
    assert not originals.lacks(inline, replace(row, uri="https://pictures.example/a"))
    bench.publisher.put("x", A, "jpg")
    assert not originals.lacks(inline, row)
