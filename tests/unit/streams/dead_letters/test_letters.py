"""What has become of a dead letter, what is worth trying again, and what is in one."""

import contextlib
import hashlib
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from pixtide.schemas.dead_letters import (
    VALUE_MISSING,
    VALUE_URI,
    SourceRecord,
    dead_letter_headers,
    original_headers,
)
from pixtide.schemas.errors import ReasonCode
from pixtide.schemas.events import ImageDeleted, ImageUploaded
from pixtide.schemas.identity import Version
from pixtide.schemas.outcomes import DeadLetterReason
from pixtide.search.generations import Generation, LogIdentity
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.port import GenerationCatalog, RowState, StoredImage
from pixtide.streams.dead_letters.letters import (
    DeadLetter,
    DeadLetters,
    LetterState,
    Selection,
    by_code,
    letter_of,
    state_of,
)
from pixtide.streams.dead_letters.retry import plan_retry
from pixtide.streams.generations.originals_check import StoreSide
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.records import Record
from pixtide.streams.originals.store import VALUES, ImageStore

GENERATION = Generation(
    name="v1",
    model="starter",
    fingerprint="sha256:abc",
    dimension=8,
    collection="images_v1",
    group="ingest.v1",
    log=LogIdentity(topic="images.uploaded", topic_id="T", partitions=6, epoch=2),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
SOURCE = SourceRecord(
    topic="images.uploaded", topic_id="T", partition=3, offset=42, timestamp_ms=1_767_323_045_000
)
EVENT = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/test"),
    ("ce_type", b"pixtide.image.uploaded.v1"),
    ("content-type", b"image/jpeg"),
]


def record(value: bytes | None = b"picture", code: ReasonCode = ReasonCode.SOURCE_GONE) -> Record:
    reason = DeadLetterReason(code=code, stage="fetch", exception="a.B", message="no such file")
    headers = dead_letter_headers(SOURCE, reason, "v1", EVENT)
    return Record("images.uploaded.dlq", 1, 5, 1_800_000_000_000, b"id", value, headers)


def letter(**changes: Any) -> DeadLetter:
    fields: dict[str, Any] = {**vars(letter_of(record())), **changes}
    return DeadLetter(**fields)


def row(offset: int, state: RowState, *, epoch: int = 2, partition: int = 3) -> StoredImage:
    return StoredImage("id", state, Version(epoch, partition, offset))


def test_a_letter_says_what_was_written_into_it() -> None:
    read = letter_of(record())
    assert (read.place, read.image_id, read.size) == ("1@5", "id", 7)
    assert (read.code, read.stage, read.exception) == ("SOURCE_GONE", "fetch", "a.B")
    assert (read.message, read.generation, read.source) == ("no such file", "v1", SOURCE)
    assert original_headers(record().headers) == EVENT


def test_another_programs_record_is_a_letter_without_reasons() -> None:
    read = letter_of(Record("images.uploaded.dlq", 0, 0, 1, None, None, [("x", b"\xff")]))
    assert (read.image_id, read.code, read.source) == ("", "", None)
    assert state_of(read, GENERATION, None) is LetterState.ORPHANED


@pytest.mark.parametrize(
    ("stored", "state"),
    [
        (None, LetterState.WAITING),
        (row(42, RowState.DEAD_LETTERED), LetterState.WAITING),
        (row(41, RowState.LIVE), LetterState.WAITING),
        (row(42, RowState.LIVE), LetterState.HEALED),
        (row(42, RowState.DELETED), LetterState.HEALED),
        (row(43, RowState.LIVE), LetterState.SUPERSEDED),
        (row(43, RowState.DELETED), LetterState.SUPERSEDED),
        (row(43, RowState.DEAD_LETTERED), LetterState.SUPERSEDED),
        (row(99, RowState.LIVE, epoch=1), LetterState.WAITING),
        (row(99, RowState.LIVE, partition=4), LetterState.WAITING),
    ],
)
def test_the_row_tells_what_became_of_it(stored: StoredImage | None, state: LetterState) -> None:
    assert state_of(letter(), GENERATION, stored) is state


@pytest.mark.parametrize("other", [{"topic_id": "U"}, {"topic": "images.uploaded.retry"}], ids=str)
def test_a_letter_of_another_log_is_orphaned(other: dict[str, str]) -> None:
    foreign = letter(source=SOURCE.model_copy(update=other))
    assert state_of(foreign, GENERATION, None) is LetterState.ORPHANED


def test_letters_are_chosen_by_code_and_id() -> None:
    assert Selection().takes(letter())
    assert Selection(codes=frozenset(["SOURCE_GONE"])).takes(letter())
    assert not Selection(codes=frozenset(["TOO_LARGE"])).takes(letter())
    assert not Selection(frozenset(["SOURCE_GONE"]), frozenset(["other"])).takes(letter())


def test_each_record_is_tried_once_however_many_generations_gave_up_on_it() -> None:
    other = SOURCE.model_copy(update={"offset": 43})
    plan = plan_retry(
        [
            letter(generation="v1"),
            letter(generation="v2", place="0@7"),
            letter(source=other),
            letter(state=LetterState.HEALED),
            letter(state=LetterState.HEALED),
            letter(state=LetterState.SUPERSEDED),
        ]
    )
    assert [each.source for each in plan.letters] == [SOURCE, other]
    assert plan.left_out == {LetterState.HEALED: 2, LetterState.SUPERSEDED: 1}


def test_a_record_that_waits_in_one_generation_is_tried_though_healed_in_another() -> None:
    plan = plan_retry([letter(state=LetterState.HEALED), letter(generation="v2")])
    assert [each.generation for each in plan.letters] == ["v2"]


def test_codes_are_counted_with_the_latest_that_wait() -> None:
    many = [letter(place=f"0@{n}") for n in range(5)]
    few = [letter(code="TOO_LARGE", state=LetterState.HEALED)]
    groups = by_code([*few, *many])
    assert [(g.code, g.counts) for g in groups] == [
        ("SOURCE_GONE", {LetterState.WAITING: 5}),
        ("TOO_LARGE", {LetterState.HEALED: 1}),
    ]
    assert [e.place for e in groups[0].examples] == ["0@4", "0@3", "0@2"]
    assert groups[1].examples == ()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore((tmp_path / "store").as_uri())


def letters_of(store: ImageStore) -> DeadLetters:
    catalog: GenerationCatalog = None  # type: ignore[assignment]  # what is read needs no index
    return DeadLetters(connection=KafkaConnection(""), topic="", catalog=catalog, store=store)


def test_what_is_in_a_letter(store: ImageStore) -> None:
    letters = letters_of(store)
    content = letters.content_of(record(), letter())
    assert (content.value, content.key, content.headers) == (b"picture", b"id", EVENT)
    assert isinstance(content.event, ImageUploaded)
    assert content.event.uploaded_at == datetime.fromtimestamp(1_767_323_045, UTC)
    assert letters.picture_of(content) == b"picture"
    assert letters.content_of(record(None), letter()).event == ImageDeleted(image_id="id")


def test_a_letter_that_is_no_event_says_so(store: ImageStore) -> None:
    bad = record()
    bad.headers[:] = [h for h in bad.headers if h[0] != "ce_id"]
    content = letters_of(store).content_of(bad, letter())
    assert content.event is None
    assert content.event_error.startswith("INVALID_CLOUDEVENT")
    assert content.value == b"picture", "it can be tried again all the same"


def test_a_value_that_was_too_large_is_fetched_back(store: ImageStore) -> None:
    large = record(None)
    digest = hashlib.sha256(b"large").hexdigest()
    uri = store.put_raw(f"{VALUES}/{digest}", b"large")
    large.headers.append((VALUE_URI, uri.encode()))
    assert letters_of(store).content_of(large, letter()).value == b"large"

    gone = record(None)
    gone.headers.append((VALUE_URI, uri.encode() + b"0"))
    content = letters_of(store).content_of(gone, letter())
    assert content.value is None
    assert "no longer" in content.value_missing
    assert content.event is None, "a value that is missing is no delete"


def test_a_value_that_was_not_kept_is_no_delete(store: ImageStore) -> None:
    """Or a retry of it would delete its picture."""
    large = record(None)
    large.headers.append((VALUE_MISSING, b"it has 600000000 bytes; at most 4194304 are kept"))
    content = letters_of(store).content_of(large, letter())
    assert (content.event, content.value) == (None, None)
    assert "600000000" in content.value_missing
    assert content.headers == EVENT


def test_values_that_were_put_longer_ago_than_letters_are_kept_expire(
    store: ImageStore, tmp_path: Path
) -> None:
    old, young = (store.put_raw(f"{VALUES}/{name}", b"value") for name in ("old", "young"))
    original = store.put("id", b"picture", "jpg")
    long_ago = time.time() - 15 * 86_400
    for uri in (old, original):
        os.utime(unquote(urlsplit(uri).path), (long_ago, long_ago))
    with contextlib.closing(LanceCatalog(folder=tmp_path / "index")) as catalog:
        catalog.create(GENERATION)
        side = StoreSide(store, GENERATION, catalog)
        claim = store.put_raw("logs/moving", b"")
        side.expire_values(timedelta(days=14))
        assert {f.uri for f in store.files(VALUES)} == {old, young}, "they may be another's"
        Path(unquote(urlsplit(claim).path)).unlink()
        side.expire_values(timedelta(days=14))
    assert {file.uri for file in store.files(VALUES)} == {young}
    assert store.holds(original)


def test_a_part_that_is_larger_than_any_picture_is_let_go() -> None:
    small = record(b"v" * 10)
    assert small.bounded(1000) is small
    most = sum(len(name) + len(value or b"") for name, value in small.headers)
    large = replace(small, value=b"v" * (most + 1), key=b"k" * (most + 1)).bounded(most)
    assert (large.key, large.value, large.headers) == (None, None, small.headers)
    assert large.unreadable.keys() == {"key", "value"}
    headed = small.bounded(most - 1)
    assert (headed.value, len(headed.headers)) == (small.value, 0)
    assert headed.unreadable.keys() == {"headers"}
